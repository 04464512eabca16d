package tlsconn

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func isLimit(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EAGAIN)
}

func TestRecv_EndWithinARecordLosesNothing(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		c, peer, h := dial(t, server, nil)
		message := []byte("every byte of it")
		for name, flags := range map[string]int{
			"plain": 0, "all": unix.MSG_WAITALL, "now": unix.MSG_DONTWAIT, "peek": unix.MSG_PEEK,
			"peek all": unix.MSG_PEEK | unix.MSG_WAITALL, "peek now": unix.MSG_PEEK | unix.MSG_DONTWAIT,
		} {
			t.Run(name, func(t *testing.T) {
				whole := h.records(t, func() error { _, err := peer.Write(message); return err })
				for i := range len(whole) - 1 {
					_, err := h.Conn.Write(whole[i : i+1])
					require.NoError(t, err)
					n, err := c.recv(make([]byte, len(message)), flags, time.Millisecond)
					require.Zero(t, n)
					require.True(t, isLimit(err), err)
				}
				_, err := h.Conn.Write(whole[len(whole)-1:])
				require.NoError(t, err)
				got := make([]byte, len(message))
				n, err := c.recv(got, unix.MSG_PEEK|unix.MSG_WAITALL, testTimeout)
				require.NoError(t, err)
				require.Equal(t, message, got[:n])
				n, err = c.recv(got, unix.MSG_WAITALL, testTimeout)
				require.NoError(t, err)
				require.Equal(t, message, got[:n])
			})
		}
	})
}

// A limit ends a receive also if a part of the record arrives before each read. What has
// arrived before the limit is received.
func TestRecv_LimitEndsARecordThatArrivesAsFastAsItIsReceived(t *testing.T) {
	c, _, h := dial(t, nil, nil)
	_, err := h.Conn.Write([]byte("ab"))
	require.NoError(t, err)
	c.arrives(t)
	lock, err := c.sock.LockRecv(0, time.Millisecond)
	require.NoError(t, err)
	defer lock.Unlock()
	_, _ = c.Recv(&lock, nil, 0) // begins a receive
	require.Eventually(t, lock.Expired, testTimeout, time.Millisecond)
	n, err := c.transport.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = c.transport.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, isPending(err), "the next receive goes on")
	require.Zero(t, n)
}

func TestRecv_EmptyBufferReturnsAtOnce(t *testing.T) {
	c, _, _ := dial(t, nil, nil)
	n, err := c.recv(nil, 0, testTimeout)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestRecv_WaitAllReturnsThePartAtTheLimit(t *testing.T) {
	c, peer, _ := dial(t, nil, nil)
	_, err := peer.Write([]byte("half"))
	require.NoError(t, err)
	got := make([]byte, 10)
	n, err := c.recv(got, unix.MSG_WAITALL|unix.MSG_PEEK, 20*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "half", string(got[:n]))
	n, err = c.recv(got, unix.MSG_WAITALL, 20*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "half", string(got[:n]))
}

func TestRecv_LimitEndsAPeerThatKeepsSending(t *testing.T) {
	for name, flags := range map[string]int{"": unix.MSG_WAITALL, "peek": unix.MSG_WAITALL | unix.MSG_PEEK} {
		t.Run(name, func(t *testing.T) {
			c, peer, _ := dial(t, nil, nil)
			go func() {
				for {
					if _, err := peer.Write(make([]byte, 1<<14)); err != nil {
						return
					}
				}
			}()
			n, err := c.recv(make([]byte, 64<<20), flags, 20*time.Millisecond)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Positive(t, n)
			require.NoError(t, c.sock.Close())
		})
	}
}

func TestRecv_PeekSeesWhatArrivesLater(t *testing.T) {
	c, peer, _ := dial(t, nil, nil)
	got := make([]byte, 64)
	want := ""
	for _, part := range []string{"one ", "two ", "three"} {
		_, err := peer.Write([]byte(part))
		require.NoError(t, err)
		want += part
		require.Eventually(t, func() bool {
			n, err := c.recv(got, unix.MSG_PEEK, testTimeout)
			return err == nil && string(got[:n]) == want
		}, testTimeout, time.Millisecond)
	}
	n, err := c.recv(got[:len(want)], unix.MSG_WAITALL, testTimeout)
	require.NoError(t, err)
	require.Equal(t, want, string(got[:n]))
}

// Whoever is on the line can end the TCP stream. Only the peer can end TLS.
func TestRecv_EndWithoutCloseNotify(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		for name, test := range map[string]struct {
			part      int // bytes of a record before the end
			want      error
			closeRead bool
		}{
			"between records":           {0, io.ErrUnexpectedEOF, false},
			"in a header":               {3, io.ErrUnexpectedEOF, false},
			"in a record":               {10, io.ErrUnexpectedEOF, false},
			"by CloseRead":              {0, io.EOF, true},
			"by CloseRead, in a record": {10, io.EOF, true},
		} {
			t.Run(name, func(t *testing.T) {
				c, peer, h := dial(t, server.Clone(), nil)
				_, err := peer.Write([]byte("all"))
				require.NoError(t, err)
				record := h.records(t, func() error { _, err := peer.Write([]byte("more")); return err })
				_, err = h.Conn.Write(record[:test.part])
				require.NoError(t, err)
				if test.closeRead {
					c.CloseRead()
				}
				require.NoError(t, h.Conn.(*net.TCPConn).CloseWrite())
				got := make([]byte, 10)
				n, err := c.recv(got, unix.MSG_WAITALL, testTimeout)
				require.Equal(t, io.ErrUnexpectedEOF, err)
				require.Equal(t, "all", string(got[:n]))
				for _, flags := range []int{0, unix.MSG_PEEK} {
					n, err = c.recv(got, flags, testTimeout)
					require.Equal(t, test.want, err)
					require.Zero(t, n)
				}
				require.True(t, c.Ended())
				require.Equal(t, test.part > 0, c.Truncated())
			})
		}
	})
}

func TestRecv_CloseNotifyIsEOFAndSendingGoesOn(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		c, peer, _ := dial(t, server, nil)
		_, err := peer.Write([]byte("bye"))
		require.NoError(t, err)
		require.NoError(t, peer.CloseWrite())
		got := make([]byte, 3)
		_, err = c.recv(got, unix.MSG_WAITALL, testTimeout)
		require.NoError(t, err)
		for range 2 {
			_, err = c.recv(got, 0, testTimeout)
			require.Equal(t, io.EOF, err)
		}
		require.False(t, c.Truncated())
		_, _, err = c.send([]byte("?"), 0, testTimeout)
		require.NoError(t, err)
		_, err = io.ReadFull(peer, got[:1])
		require.NoError(t, err)
	})
}

// crypto/tls reads ahead for an alert behind the data that it returns. The data must not wait
// for the rest of one.
func TestRecv_DataDoesNotWaitForTheRestOfAnAlert(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		server.SessionTicketsDisabled = true
		c, peer, h := dial(t, server, nil)
		records := h.records(t, func() error {
			_, err := peer.Write([]byte("data"))
			return errors.Join(err, peer.CloseWrite())
		})
		require.NoError(t, h.SetWriteDeadline(time.Time{})) // crypto/tls has set one with its close_notify
		var tracker recordTracker                           // where the alert begins
		alert := 0
		for i := range records {
			tracker.follow(records[i : i+1])
			if !tracker.inRecord() && i+1 < len(records) {
				alert = i + 1
			}
		}
		header := alert + 5
		_, err := h.Conn.Write(records[:header])
		require.NoError(t, err)
		got := make([]byte, 10)
		n, err := c.recv(got, 0, testTimeout)
		require.NoError(t, err)
		require.Equal(t, "data", string(got[:n]))
		begin := time.Now()
		_, err = c.recv(got, 0, 10*time.Millisecond)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), 10*time.Millisecond, "without data it waits")
		_, err = h.Conn.Write(records[header:])
		require.NoError(t, err)
		_, err = c.recv(got, 0, testTimeout)
		require.Equal(t, io.EOF, err)
	})
}

func TestRecv_TamperedRecordEndsTheConnection(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		c, peer, h := dial(t, server, nil)
		record := h.records(t, func() error { _, err := peer.Write([]byte("pay me")); return err })
		record[len(record)-1] ^= 1
		_, err := h.Conn.Write(record)
		require.NoError(t, err)
		for range 2 {
			_, err = c.recv(make([]byte, 10), 0, testTimeout)
			require.ErrorContains(t, err, "bad record MAC")
		}
		_, err = peer.Read(make([]byte, 1))
		require.ErrorContains(t, err, "bad record MAC") // the alert, which is sent at once
		_, _, err = c.send([]byte("x"), 0, testTimeout)
		require.Error(t, err)
	})
}

// However the stream is cut, and whatever flags receive it, the bytes are the same.
func TestRecv_AnyMixOfFlagsGivesTheSameBytes(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		c, peer, h := dial(t, server, nil)
		want := make([]byte, 100_000)
		for i := range want {
			want[i] = byte(r.Uint32())
		}
		stream := h.records(t, func() error {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+r.IntN(1<<r.IntN(16)))
				if _, err := peer.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return peer.CloseWrite()
		})
		require.NoError(t, h.SetWriteDeadline(time.Time{})) // crypto/tls has set one with its close_notify
		var sender sync.WaitGroup
		defer sender.Wait()
		cuts := rand.New(rand.NewPCG(seed, 1))
		sender.Go(func() {
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), 1+cuts.IntN(1<<cuts.IntN(16)))
				if _, err := h.Conn.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
				time.Sleep(time.Duration(cuts.IntN(300)) * time.Microsecond) // the gaps are the test
			}
		})
		flags := []int{0, unix.MSG_WAITALL, unix.MSG_PEEK, unix.MSG_DONTWAIT, unix.MSG_PEEK | unix.MSG_WAITALL, unix.MSG_PEEK | unix.MSG_DONTWAIT}
		var got []byte
		for buf, end := make([]byte, 1<<15), time.Now().Add(testTimeout); ; {
			require.True(t, time.Now().Before(end), "%d bytes of %d", len(got), len(want))
			f := flags[r.IntN(len(flags))]
			p := buf[:1+r.IntN(1<<r.IntN(15))]
			n, err := c.recv(p, f, 200*time.Microsecond)
			require.LessOrEqual(t, len(got)+n, len(want))
			require.Equal(t, want[len(got):len(got)+n], p[:n])
			if f&unix.MSG_PEEK == 0 {
				got = append(got, p[:n]...)
			}
			if len(got) == len(want) && errors.Is(err, io.EOF) {
				break
			}
			require.True(t, err == nil || isLimit(err) || errors.Is(err, io.ErrUnexpectedEOF) && f&unix.MSG_WAITALL != 0, err)
		}
	})
}

// A peer that requests answers and does not receive them must not fill this process's memory.
func TestRecv_PeerThatReadsNoAnswersIsAnError(t *testing.T) {
	var keys bytes.Buffer
	socket, raw := unixPair(t)
	require.NoError(t, socket.SetInt(unix.SOL_SOCKET, unix.SO_SNDBUF, 1))
	c, peer, h := dialOver(t, socket, raw, &tls.Config{KeyLogWriter: &keys, SessionTicketsDisabled: true}, nil)
	if peer.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("this machine prefers another cipher suite")
	}
	_, log, _ := strings.Cut(keys.String(), "SERVER_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(log)[1])
	require.NoError(t, err)
	s := &sealer{t: t}
	s.use(secret)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := h.Conn.Write(append(s.keyUpdate(), s.record(23, []byte("x"))...)); err != nil {
				return
			}
		}
	}()
	got := 0
	for err = nil; err == nil; got++ {
		_, err = c.recv(make([]byte, 1), 0, testTimeout)
	}
	require.ErrorIs(t, err, errUnreadAnswers)
	require.Greater(t, got, 100)
	require.Less(t, len(c.transport.queued()), 2*maxQueued)
	require.NoError(t, c.Close())
	<-done
}
