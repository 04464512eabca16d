package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fillQueue sends until the kernel takes no more and the queue has some bytes, and returns how
// many were accepted.
func fillQueue(t testing.TB, a *client.AsyncClient, atLeast int) (total int) {
	t.Helper()
	p := bytes.Repeat([]byte("q"), 32<<10)
	for last := -1; a.Queued() < atLeast || a.Queued() != last; {
		for a.Queued() < atLeast {
			require.NoError(t, a.Send(p))
			total += len(p)
		}
		last = a.Queued()
		time.Sleep(10 * time.Millisecond) // the kernel's buffers may have grown
	}
	return total
}

func TestAsyncSend_QueueTakesAllOrNothing(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, func(c *client.AsyncConfig) { c.MaxQueue = 100_000 })
			require.ErrorIs(t, a.Send(make([]byte, 100_001)), client.ErrQueueFull)
			total := 0
			p := make([]byte, 30_000)
			for {
				before := a.Queued()
				err := a.Send(p)
				if err != nil {
					require.ErrorIs(t, err, client.ErrQueueFull)
					require.Greater(t, before+len(p), 100_000)
					break
				}
				total += len(p)
			}
			require.LessOrEqual(t, a.Queued(), 100_000)
			require.NoError(t, a.Finish())
			n, err := io.Copy(io.Discard, peer)
			require.NoError(t, err)
			require.EqualValues(t, total, n)
			require.NoError(t, e.result())
			require.Zero(t, a.Queued())
		})
	}
}

// netty#4739, #1832, #13389: writability was lost or off by one. 8 goroutines send.
func TestAsyncSend_FullAndEmptyAlternate(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			const high, low = 64 << 10, 16 << 10
			a, e, peer := asyncStream(t, network, nil, func(c *client.AsyncConfig) {
				c.MaxQueue, c.HighWatermark, c.LowWatermark = 256<<10, high, low
			})
			var accepted atomic.Int64
			var senders sync.WaitGroup
			for range 8 {
				senders.Go(func() {
					p := make([]byte, 5000)
					for i := 0; i < 400; {
						err := a.Send(p)
						switch {
						case err == nil:
							accepted.Add(int64(len(p)))
							i++
						case errors.Is(err, client.ErrQueueFull):
							time.Sleep(100 * time.Microsecond)
						default:
							assert.NoError(t, err)
							return
						}
					}
				})
			}
			sum := make(chan int64)
			go func() {
				n, _ := io.Copy(io.Discard, peer)
				sum <- n
			}()
			senders.Wait()
			require.Eventually(t, func() bool { return !a.IsFull() && a.Queued() == 0 }, testTimeout, time.Millisecond)
			// Every full has its empty by now, or it is being reported.
			require.Eventually(t, func() bool { return len(e.names())%2 == 1 }, testTimeout, time.Millisecond)
			require.NoError(t, a.Finish())
			require.NoError(t, e.result())
			require.Equal(t, accepted.Load(), <-sum)
			for i, name := range e.names()[1 : len(e.names())-1] {
				require.Equal(t, [...]string{"full", "empty"}[i%2], name)
			}
		})
	}
}

func TestAsyncSend_FullAtHighAndEmptyAtLow(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, func(c *client.AsyncConfig) { c.HighWatermark = 100_000 })
	fillQueue(t, a, 1)
	for a.Queued() < 100_000 {
		require.False(t, a.IsFull())
		require.NoError(t, a.Send(make([]byte, min(1000, 100_000-a.Queued()))))
	}
	require.True(t, a.IsFull())
	require.Eventually(t, func() bool { return len(e.names()) == 2 }, testTimeout, time.Millisecond)
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	require.Eventually(t, func() bool { return len(e.names()) == 3 }, testTimeout, time.Millisecond)
	require.Equal(t, []string{"connect", "full", "empty"}, e.names())
	require.False(t, a.IsFull())
}

// The sends of many goroutines go out whole, and those of each in its order.
func TestAsyncSend_WholeAndInOrder(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			const senders, each, size = 8, 200, 1500
			go func() {
				var all sync.WaitGroup
				for s := range senders {
					all.Go(func() {
						for i := range each {
							p := bytes.Repeat([]byte{byte(s)}, size)
							binary.BigEndian.PutUint16(p[1:], uint16(i))
							for errors.Is(a.Send(p), client.ErrQueueFull) {
								time.Sleep(time.Millisecond)
							}
						}
					})
				}
				all.Wait()
				assert.NoError(t, a.Finish())
			}()
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Len(t, got, senders*each*size)
			var next [senders]int
			for ; len(got) > 0; got = got[size:] {
				s := got[0]
				require.EqualValues(t, next[s], binary.BigEndian.Uint16(got[1:]))
				next[s]++
				require.Equal(t, bytes.Repeat([]byte{s}, size-3), got[3:size])
			}
			require.NoError(t, e.result())
		})
	}
}

// Files, the end of sending and Finish take their place in the order.
func TestAsyncSend_FilesAndTheEndAreInOrder(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	content := randomBytes(1 << 20)
	require.NoError(t, os.WriteFile(name, content, 0o600))
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			f, err := os.Open(name)
			require.NoError(t, err)
			before := randomBytes(3 << 20)
			require.NoError(t, a.Send(before))
			require.NoError(t, a.SendFile(f, 10, 0))
			require.NoError(t, f.Close()) // the client has a descriptor of its own
			require.NoError(t, a.Send([]byte("after")))
			require.NoError(t, a.CloseWrite())
			require.ErrorIs(t, a.Send([]byte("x")), unix.EPIPE)
			require.ErrorIs(t, a.CloseWrite(), unix.EPIPE)
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(append(append(before, content[10:]...), "after"...)), sha256.Sum256(got))
			_, err = peer.Write([]byte("still received"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.ErrorIs(t, e.result(), io.EOF)
			require.Equal(t, "still received", e.received())
		})
	}
}

// CloseWrite on a connection that the peer had reset gave OnClose unix.ENOTCONN, which tells
// nothing.
func TestAsyncSend_CloseWriteAfterAResetLeavesTheCauseToTheReceive(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	e.onReceive = func(*client.AsyncClient, []byte) {
		assert.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		assert.NoError(t, peer.Close())
		assert.Eventually(t, func() bool {
			info, err := a.Client().TCPInfo()
			return err != nil || info.State == client.Closed
		}, testTimeout, time.Millisecond)
		assert.NoError(t, a.CloseWrite())
		time.Sleep(10 * time.Millisecond) // the goroutine that writes works on it
	}
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	require.ErrorIs(t, e.result(), unix.ECONNRESET)
}

func TestAsyncSend_FileErrors(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	var bad *client.FileError
	require.ErrorAs(t, a.SendFile(nil, 0, 0), &bad)
	require.ErrorIs(t, a.SendFile(dir, 0, 0), unix.EISDIR)
	name := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	fillQueue(t, a, 1)
	require.NoError(t, a.SendFile(f, 0, 0))
	require.NoError(t, os.Truncate(name, 1000))
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	err = e.result()
	require.ErrorAs(t, err, &bad)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	var unsent *client.UnsentError
	require.ErrorAs(t, err, &unsent)
	require.EqualValues(t, 1<<20-1000, unsent.Bytes)
}

func TestAsyncSend_CloseTellsOfUnsentBytes(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			total := fillQueue(t, a, 100_000)
			require.NoError(t, a.Close())
			err := e.result()
			var unsent *client.UnsentError
			require.ErrorAs(t, err, &unsent)
			require.ErrorIs(t, err, net.ErrClosed)
			require.Greater(t, unsent.Bytes, int64(50_000))
			n, err := io.Copy(io.Discard, peer)
			if !slices.Contains(tlsNetworks, network) { // TLS ends within a record, all of which is unsent
				require.NoError(t, err)
			}
			require.EqualValues(t, total, n+unsent.Bytes)
		})
	}
}

func TestAsyncSend_StandingQueueEndsAtSendTimeout(t *testing.T) {
	for _, network := range asyncNetworks {
		for _, paused := range []bool{false, true} {
			t.Run(network, func(t *testing.T) {
				const limit = 50 * time.Millisecond
				a, e, _ := asyncStream(t, network, &client.Options{SendTimeout: limit}, nil)
				if paused { // node#31106, node#40691: a paused client never ended
					a.Pause()
				}
				begin := time.Now()
				require.NoError(t, a.Send(make([]byte, 8<<20)))
				err := e.result()
				require.GreaterOrEqual(t, time.Since(begin), limit)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var unsent *client.UnsentError
				require.ErrorAs(t, err, &unsent)
			})
		}
	}
}

// A queue that moves slowly does not reach the limit.
func TestAsyncSend_SlowPeerIsNoTimeout(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", &client.Options{SendTimeout: 500 * time.Millisecond, SendBuffer: 4096}, nil)
	total := fillQueue(t, a, 4<<20)
	require.NoError(t, a.Finish())
	p := make([]byte, 1<<20)
	got := 0
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		n, err := peer.Read(p)
		got += n
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.Less(t, time.Since(begin), 6*testTimeout)
	}
	require.Equal(t, total, got)
	require.NoError(t, e.result())
}

// The peer ends its direction and goes on receiving.
func TestAsyncSend_QueueIsSentAfterThePeersEnd(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			total := fillQueue(t, a, 1<<20)
			require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
			time.Sleep(10 * time.Millisecond)
			n, err := io.Copy(io.Discard, peer)
			require.NoError(t, err)
			require.EqualValues(t, total, n)
			require.ErrorIs(t, e.result(), io.EOF)
		})
	}
}

func TestAsyncSend_AllocatesNothingWithoutQueue(t *testing.T) {
	if raceBuild {
		t.Skip("the race detector allocates")
	}
	a, _, peer := asyncStream(t, "tcp", nil, nil)
	p := []byte("0123456789")
	n := testing.AllocsPerRun(100, func() {
		_ = a.Send(p)
		_, _ = io.ReadFull(peer, p)
	})
	require.Zero(t, n)
}
