package client_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAsyncPause_NothingIsDeliveredUntilResume(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			e.onReceive = func(a *client.AsyncClient, _ []byte) { a.Pause() }
			_, err := peer.Write([]byte("1"))
			require.NoError(t, err)
			e.receives("1")
			_, err = peer.Write([]byte("2"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			time.Sleep(20 * time.Millisecond)
			require.Equal(t, "1", e.received())
			require.Equal(t, []string{"connect"}, e.names(), "a paused client sees no end")
			for range 3 { // the receive of "2" pauses again
				a.Resume()
				time.Sleep(5 * time.Millisecond)
			}
			require.ErrorIs(t, e.result(), io.EOF)
			require.Equal(t, "12", e.received())
		})
	}
}

// Something that arrives while OnBufferFull runs was received and waited for its end, and was
// then delivered in spite of Pause or Close.
func TestAsyncPause_InOnBufferFullNothingMoreIsDelivered(t *testing.T) {
	for name, act := range map[string]func(*client.AsyncClient){
		"pause": (*client.AsyncClient).Pause,
		"close": func(a *client.AsyncClient) { _ = a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := stream(t, "tcp", nil)
			e := newAsyncEvents(t)
			cfg := e.config()
			cfg.MaxQueue, cfg.HighWatermark = 32<<20, 1
			acted := make(chan struct{})
			cfg.OnBufferFull = func(a *client.AsyncClient) {
				e.callback("full", func() {
					_, err := peer.Write([]byte("x"))
					assert.NoError(t, err)
					time.Sleep(10 * time.Millisecond)
					act(a)
					close(acted)
				})
			}
			a, err := c.Async(cfg)
			require.NoError(t, err)
			e.client()
			require.NoError(t, a.Send(make([]byte, cfg.MaxQueue))) // more than the kernel takes
			<-acted
			time.Sleep(10 * time.Millisecond)
			require.Empty(t, e.received())
			if name == "pause" {
				a.Resume()
				e.receives("x")
			}
			closeAsync(t, a)
		})
	}
}

func TestAsyncPause_ResumeGivesBufferedPacketsFirst(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}, nil)
	e.onReceive = func(a *client.AsyncClient, _ []byte) { a.Pause() }
	_, err := peer.Write([]byte("a\nb\nc\n"))
	require.NoError(t, err)
	for _, want := range []string{"a\n", "a\nb\n", "a\nb\nc\n"} {
		e.receives(want)
		time.Sleep(5 * time.Millisecond)
		require.Equal(t, want, e.received())
		a.Resume()
	}
}

// node#31106, node#40691: a paused client was never closed.
func TestAsyncPause_CloseFinishAndFailedSendsEndIt(t *testing.T) {
	for name, end := range map[string]func(a *client.AsyncClient, peer net.Conn){
		"close":  func(a *client.AsyncClient, _ net.Conn) { _ = a.Close() },
		"finish": func(a *client.AsyncClient, _ net.Conn) { _ = a.Finish() },
		"send": func(a *client.AsyncClient, peer net.Conn) {
			_ = peer.(*net.TCPConn).SetLinger(0)
			_ = peer.Close()
			for a.Send([]byte("x")) == nil {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, e, peer := asyncStream(t, "tcp", nil, nil)
			a.Pause()
			end(a, peer)
			if err := e.result(); name == "send" {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

func TestAsyncPause_PeerIsHeldUp(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	a.Pause()
	sent := randomBytes(32 << 20)
	require.NoError(t, peer.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	n, err := peer.Write(sent)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, peer.SetWriteDeadline(time.Time{}))
	before := len(e.received())
	a.Resume()
	_, err = peer.Write(sent[n:])
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	require.ErrorIs(t, e.result(), io.EOF)
	require.LessOrEqual(t, before, 64<<10)
	require.Equal(t, sha256.Sum256(sent), sha256.Sum256(e.bytes.Bytes()))
}

// netpoll#143, nbio#446, gnet#672: buffers were shared or kept.
func TestAsyncReceive_BytesAreValidUntilTheCallbackReturns(t *testing.T) {
	const clients = 8
	for range clients {
		_, e, peer := asyncStream(t, "tcp", nil, nil)
		e.onReceive = func(_ *client.AsyncClient, p []byte) {
			copied := bytes.Clone(p)
			time.Sleep(time.Millisecond)
			assert.Equal(t, copied, p)
		}
		go func() {
			for range 20 {
				_, _ = peer.Write(randomBytes(10_000))
				time.Sleep(500 * time.Microsecond)
			}
			_ = peer.Close()
		}()
		defer func() { assert.ErrorIs(t, e.result(), io.EOF) }()
	}
}

func TestAsyncReceive_NothingMoreIsReceivedDuringTheCallback(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	release := make(chan struct{})
	e.onReceive = func(*client.AsyncClient, []byte) { <-release }
	_, err := peer.Write([]byte("1"))
	require.NoError(t, err)
	e.receives("1")
	_, err = peer.Write([]byte("2"))
	require.NoError(t, err)
	require.NoError(t, a.Send([]byte("sending goes on")))
	_, err = io.ReadFull(peer, make([]byte, len("sending goes on")))
	require.NoError(t, err)
	require.Equal(t, "1", e.received())
	close(release)
	e.receives("12")
}

func TestAsyncFinish_DeliversWhatHasArrived(t *testing.T) {
	for range 20 {
		a, e, peer := asyncStream(t, "tcp", nil, nil)
		entered, release := make(chan struct{}, 2), make(chan struct{})
		e.onReceive = func(*client.AsyncClient, []byte) { entered <- struct{}{}; <-release }
		_, err := peer.Write([]byte("1"))
		require.NoError(t, err)
		<-entered
		_, err = peer.Write([]byte("2"))
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		require.NoError(t, a.Send([]byte("bye")))
		require.NoError(t, a.Finish())
		require.ErrorIs(t, a.Finish(), net.ErrClosed)
		got := make([]byte, 3)
		_, err = io.ReadFull(peer, got)
		require.NoError(t, err)
		close(release)
		require.NoError(t, e.result())
		require.Equal(t, "12", e.received())
		_, err = peer.Read(got)
		require.ErrorIs(t, err, io.EOF)
	}
}

func TestAsyncDetach_GivesTheBlockingClientBack(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}, nil)
			total := fillQueue(t, a, 100_000)
			got := make(chan *client.Client, 1)
			e.onReceive = func(a *client.AsyncClient, _ []byte) {
				assert.NoError(t, a.Detach(func(c *client.Client) {
					e.callback("detached", func() { got <- c })
				}))
			}
			_, err := peer.Write([]byte("first\n"))
			require.NoError(t, err)
			_, err = io.ReadFull(peer, make([]byte, total))
			require.NoError(t, err)
			c := <-got
			<-a.Done()
			_, err = peer.Write([]byte("second\n"))
			require.NoError(t, err)
			p, err := c.RecvPacket()
			require.NoError(t, err)
			require.Equal(t, "second\n", string(p))
			_, err = c.Send([]byte("x"), 0)
			require.NoError(t, err)
			require.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
			require.ErrorIs(t, a.Close(), net.ErrClosed)
			again, err := c.Async(newAsyncEvents(t).config())
			require.NoError(t, err)
			closeAsync(t, again)
			require.Equal(t, []string{"connect", "detached"}, removeLevels(e.names()))
		})
	}
}

func removeLevels(names []string) (others []string) {
	for _, name := range names {
		if name != "full" && name != "empty" {
			others = append(others, name)
		}
	}
	return others
}

func TestAsyncDetach_EndOfTheClientComesFirst(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	fillQueue(t, a, 1)
	require.NoError(t, a.Detach(func(*client.Client) { assert.Fail(t, "detached") }))
	require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
	require.NoError(t, peer.Close())
	require.Error(t, e.result())
}

// libevent#1361, tokio#3876: two pipes deadlocked, and a half-close hung.
func TestAsyncPipe_TwoDirectionsEndOnTheirOwn(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			a, ea, left := asyncStream(t, network, nil, func(c *client.AsyncConfig) { c.MaxQueue = 100_000 })
			b, eb, right := asyncStream(t, network, nil, func(c *client.AsyncConfig) { c.MaxQueue = 100_000 })
			require.NoError(t, a.PipeTo(b))
			require.NoError(t, b.PipeTo(a))
			require.Error(t, a.PipeTo(b))
			there, back := randomBytes(5<<20), randomBytes(5<<20)
			closeWrite := func(c net.Conn) { assert.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite()) }
			go func() {
				_, err := left.Write(there)
				assert.NoError(t, err)
				closeWrite(left)
			}()
			got, err := io.ReadAll(right) // left's end arrives while right's direction is open
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(there), sha256.Sum256(got))
			go func() {
				_, err := right.Write(back)
				assert.NoError(t, err)
				closeWrite(right)
			}()
			got, err = io.ReadAll(left)
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(back), sha256.Sum256(got))
			require.ErrorIs(t, ea.result(), io.EOF)
			require.ErrorIs(t, eb.result(), io.EOF)
			require.Empty(t, ea.received())
		})
	}
}

// After its peer's end a client waited without a limit for those that are piped into it.
func TestAsyncPipe_IdleTimeoutHoldsAfterThePeersEnd(t *testing.T) {
	const limit = 500 * time.Millisecond
	dst, e, peer := asyncStream(t, "tcp", nil, func(c *client.AsyncConfig) { c.IdleTimeout = limit })
	src, es, from := asyncStream(t, "tcp", nil, nil)
	require.NoError(t, src.PipeTo(dst))
	require.NoError(t, peer.(*net.TCPConn).CloseWrite())
	for range 7 { // what is piped is sent, and the client is not idle
		time.Sleep(limit / 5)
		writes(t, from, "x")
	}
	_, err := io.ReadFull(peer, make([]byte, 7))
	require.NoError(t, err)
	dst.Pause()
	time.Sleep(limit * 3 / 2)
	require.Empty(t, e.ended, "a paused client is not ended")
	last := time.Now()
	dst.Resume()
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(last), limit*9/10)
	require.ErrorIs(t, es.result(), net.ErrClosed, "the target of the pipe has ended")
}

func TestAsyncPipe_BothDirectionsFullDoNotDeadlock(t *testing.T) {
	small := func(c *client.AsyncConfig) { c.MaxQueue = 10_000 }
	a, ea, left := asyncStream(t, "tcp", nil, small)
	b, eb, right := asyncStream(t, "tcp", nil, small)
	require.NoError(t, a.PipeTo(b))
	require.NoError(t, b.PipeTo(a))
	sums := make(chan int64, 2)
	for _, c := range []net.Conn{left, right} {
		go func() {
			_, _ = c.Write(make([]byte, 20<<20))
			_ = c.(*net.TCPConn).CloseWrite()
		}()
	}
	time.Sleep(50 * time.Millisecond) // both write, and nobody reads
	for _, c := range []net.Conn{left, right} {
		go func() {
			n, _ := io.Copy(io.Discard, c)
			sums <- n
		}()
	}
	require.EqualValues(t, 20<<20, <-sums)
	require.EqualValues(t, 20<<20, <-sums)
	require.ErrorIs(t, ea.result(), io.EOF)
	require.ErrorIs(t, eb.result(), io.EOF)
}

func TestAsyncPipe_ClientToItselfEchoes(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	require.NoError(t, a.PipeTo(a))
	_, err := peer.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, peer.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	require.ErrorIs(t, e.result(), io.EOF)
}

func TestAsyncPipe_EndOfTheTargetEndsTheSource(t *testing.T) {
	a, ea, _ := asyncStream(t, "tcp", nil, nil)
	b, eb, _ := asyncStream(t, "tcp", nil, nil)
	require.NoError(t, a.PipeTo(b))
	require.NoError(t, b.Close())
	require.NoError(t, eb.result())
	require.ErrorIs(t, ea.result(), net.ErrClosed)
	c, ec, _ := asyncStream(t, "tcp", nil, nil)
	require.ErrorIs(t, c.PipeTo(b), net.ErrClosed)
	require.NoError(t, c.Close())
	require.NoError(t, ec.result())
}

// The target of such a pipe waited for the source's end, and never ended itself.
func TestAsyncPipe_SourceThatEndsWithoutHavingReceivedIsForgotten(t *testing.T) {
	for name, source := range map[string]func(t *testing.T, dst *client.AsyncClient){
		"ended": func(t *testing.T, dst *client.AsyncClient) {
			src, e, _ := asyncStream(t, "tcp", nil, nil)
			require.NoError(t, src.Close())
			require.NoError(t, e.result())
			<-src.Done()
			require.ErrorIs(t, src.PipeTo(dst), net.ErrClosed)
		},
		"not connected": func(t *testing.T, dst *client.AsyncClient) {
			e := newAsyncEvents(t)
			src := e.dial("tcp", blackHole(t, "tcp", "127.0.0.1"), nil, nil)
			require.NoError(t, src.PipeTo(dst))
			require.NoError(t, src.Close())
			require.ErrorIs(t, e.result(), net.ErrClosed)
		},
		"piped already": func(t *testing.T, dst *client.AsyncClient) {
			src, _, _ := asyncStream(t, "tcp", nil, nil)
			other, _, _ := asyncStream(t, "tcp", nil, nil)
			require.NoError(t, src.PipeTo(other))
			require.ErrorIs(t, src.PipeTo(dst), unix.EALREADY)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dst, e, peer := asyncStream(t, "tcp", nil, nil)
			source(t, dst)
			require.NoError(t, peer.Close())
			require.ErrorIs(t, e.result(), io.EOF)
		})
	}
}

func TestAsyncPipe_RefusedPipeLeavesTheSourceAsItIs(t *testing.T) {
	src, e, peer := asyncStream(t, "tcp", nil, nil)
	dst := newAsyncEvents(t).dial("tcp", blackHole(t, "tcp", "127.0.0.1"), nil, nil)
	sent := make(chan int)
	go func() {
		for n := 0; ; n++ {
			if _, err := peer.Write([]byte("x")); err != nil || n == 2000 {
				sent <- n + 1
				return
			}
		}
	}()
	for {
		require.ErrorIs(t, src.PipeTo(dst), unix.ENOTCONN)
		select {
		case n := <-sent:
			e.receives(strings.Repeat("x", n))
			require.Empty(t, e.ended)
			return
		default:
		}
	}
}

// These errors of Write were taken for the client's own, and what was not written was lost.
func TestAsyncPipe_EveryErrorOfTheWriterEndsTheClient(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, failed := range []error{os.ErrDeadlineExceeded, unix.EAGAIN, unix.ECONNREFUSED, io.EOF} {
			t.Run(network+" "+failed.Error(), func(t *testing.T) {
				c, peer := stream(t, "tcp", nil)
				write := peer.Write
				if network == "udp" {
					peer := packetPeer(t, "udp")
					var err error
					c, err = client.Dial("udp", peer.LocalAddr().String(), nil)
					require.NoError(t, err)
					write = func(p []byte) (int, error) { return peer.WriteTo(p, c.LocalAddr()) }
				}
				e := newAsyncEvents(t)
				e.onConnect = func(a *client.AsyncClient) {
					assert.NoError(t, a.PipeToWriter(writerFunc(func([]byte) (int, error) { return 0, failed })))
				}
				_, err := c.Async(e.config())
				require.NoError(t, err)
				_, err = write([]byte("x"))
				require.NoError(t, err)
				require.ErrorIs(t, e.result(), failed)
			})
		}
	}
}

// OnClose got nil, although what had arrived was not written.
func TestAsyncPipe_ErrorOfTheWriterDuringFinishIsReported(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	writing, goOn := make(chan struct{}, 3), make(chan struct{})
	first := true
	require.NoError(t, a.PipeToWriter(writerFunc(func(p []byte) (int, error) {
		writing <- struct{}{}
		if first {
			first = false
			<-goOn
			return len(p), nil
		}
		return 0, io.ErrNoProgress
	})))
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	<-writing
	_, err = peer.Write([]byte("y"))
	require.NoError(t, err)
	require.NoError(t, a.Finish())
	time.Sleep(20 * time.Millisecond) // Finish gets as far as it can
	close(goOn)
	require.ErrorIs(t, e.result(), io.ErrNoProgress)
	require.Len(t, writing, 1, "called after its error")
}

// A client that is kept open after its peer's end for the sake of its sources ended neither
// by Finish nor by Detach.
func TestAsyncPipe_FinishAndDetachEndTheTargetAfterItsPeersEnd(t *testing.T) {
	for name, end := range map[string]func(*asyncEvents, *client.AsyncClient) error{
		"finish": func(_ *asyncEvents, a *client.AsyncClient) error { return a.Finish() },
		"detach": func(e *asyncEvents, a *client.AsyncClient) error {
			return a.Detach(func(c *client.Client) { e.end("close", a, c.Close()) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, _, _ := asyncStream(t, "tcp", nil, nil)
			dst, e, peer := asyncStream(t, "tcp", nil, nil)
			require.NoError(t, src.PipeTo(dst))
			require.NoError(t, peer.(*net.TCPConn).CloseWrite())
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, end(e, dst))
			require.NoError(t, e.result())
		})
	}
}

func TestAsyncPipe_Writer(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, a.PipeToWriter(f))
	sent := randomBytes(1 << 20)
	_, err = peer.Write(sent)
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	require.ErrorIs(t, e.result(), io.EOF)
	got, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256(sent), sha256.Sum256(got))

	a, e, peer = asyncStream(t, "tcp", nil, nil)
	broken := errors.New("broken")
	require.NoError(t, a.PipeToWriter(writerFunc(func([]byte) (int, error) { return 0, broken })))
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	require.ErrorIs(t, e.result(), broken)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAsyncReceive_AllocatesNothing(t *testing.T) {
	if raceBuild {
		t.Skip("the race detector allocates")
	}
	lines := &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}
	for name, opts := range map[string]*client.Options{"bytes": nil, "packets": lines, "datagrams": nil} {
		t.Run(name, func(t *testing.T) {
			got := make(chan int)
			receive := func(_ *client.AsyncClient, p []byte) { got <- len(p) }
			p := []byte("a packet of some bytes\n")
			var send func()
			if name == "datagrams" {
				peer := packetPeer(t, "udp")
				e := newAsyncEvents(t)
				a := e.dial("udp", peer.LocalAddr().String(), nil, func(c *client.AsyncConfig) { c.OnReceive = receive })
				e.client()
				to := a.Client().LocalAddr().(*net.UDPAddr).AddrPort()
				send = func() { _, _ = peer.(*net.UDPConn).WriteToUDPAddrPort(p, to) }
			} else {
				_, _, peer := asyncStream(t, "tcp", opts, func(c *client.AsyncConfig) { c.OnReceive = receive })
				send = func() { _, _ = peer.Write(p) }
			}
			n := testing.AllocsPerRun(500, func() {
				send()
				if n := <-got; n != len(p) {
					t.Errorf("%d bytes", n)
				}
			})
			require.Zero(t, n)
		})
	}
}

func TestAsyncReceive_RaceBuildsOverwriteTheBytesAfterwards(t *testing.T) {
	_, e, peer := asyncStream(t, "tcp", nil, nil)
	want := byte('1')
	if raceBuild {
		want = 0xdb
	}
	var kept []byte
	e.onReceive = func(_ *client.AsyncClient, p []byte) {
		if kept == nil {
			kept = p
		} else {
			assert.Equal(t, want, kept[1])
		}
	}
	for _, s := range []string{"11", "2"} { // the second may be in the same buffer
		before := len(e.received())
		_, err := peer.Write([]byte(s))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(e.received()) == before+len(s) }, testTimeout, time.Millisecond)
	}
}
