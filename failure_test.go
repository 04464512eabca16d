package client_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The kernel tells a socket's error once. A subscriber whose heartbeat met the reset first
// read io.EOF, as if the stream had ended in order, and took half an answer for a whole
// one. So whoever meets it, every receive after that fails with the same error.

// reset makes the peer of a stream reset it, and waits until the client's kernel knows.
func reset(t testing.TB, c *client.Client, peer net.Conn) {
	t.Helper()
	switch p := under(peer).(type) {
	case *net.TCPConn:
		require.NoError(t, p.SetLinger(0))
	case *net.UnixConn: // resets if it closes with something unread
		_, err := c.Send([]byte("unread"), 0)
		require.NoError(t, err)
	}
	require.NoError(t, under(peer).Close())
	require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
}

// under is the connection below TLS, if there is TLS.
func under(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}

// whoMeetsIt are the calls that may be first to be told of a failure.
var whoMeetsIt = map[string]func(t *testing.T, c *client.Client) error{
	"nobody": func(*testing.T, *client.Client) error { return unix.ECONNRESET },
	"Send":   func(_ *testing.T, c *client.Client) error { _, err := c.Send([]byte("x"), 0); return err },
	"Write":  func(_ *testing.T, c *client.Client) error { _, err := c.Write([]byte("x")); return err },
	"SendFile": func(t *testing.T, c *client.Client) error {
		name := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(name, make([]byte, 1000), 0o600))
		f, err := os.Open(name)
		require.NoError(t, err)
		defer f.Close()
		_, err = c.SendFile(f, 0, 0)
		return err
	},
	"Recv": func(_ *testing.T, c *client.Client) error { _, err := c.Recv(make([]byte, 1), 0); return err },
	"Peek": func(_ *testing.T, c *client.Client) error {
		_, err := c.Recv(make([]byte, 1), client.Peek)
		return err
	},
	"WaitAll and Peek": func(_ *testing.T, c *client.Client) error {
		_, err := c.Recv(make([]byte, 2), client.WaitAll|client.Peek)
		return err
	},
	"DontWait": func(_ *testing.T, c *client.Client) error {
		_, err := c.Recv(make([]byte, 1), client.DontWait)
		return err
	},
	"Select": func(_ *testing.T, c *client.Client) error {
		_, err := client.Select([]*client.Client{c}, []*client.Client{c}, []*client.Client{c}, testTimeout)
		return errors.Join(err, unix.ECONNRESET)
	},
}

func TestReset_NoReceiveReturnsEOF(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix", "tls", "tls12"} {
		for who, meet := range whoMeetsIt {
			t.Run(network+", "+who, func(t *testing.T) {
				c, peer := stream(t, network, nil)
				reset(t, c, peer)
				err := meet(t, c)
				require.Error(t, err)
				require.NotErrorIs(t, err, io.EOF)
				for _, flags := range []client.Flag{0, client.WaitAll, client.Peek, client.DontWait, 0} {
					n, err := c.Recv(make([]byte, 10), flags)
					require.Zero(t, n)
					require.ErrorIs(t, err, unix.ECONNRESET)
				}
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, unix.ECONNRESET)
			})
		}
	}
}

// Data that arrived before the reset is received first, completely, and with a framing
// too.
func TestReset_ArrivedDataIsReceived(t *testing.T) {
	for _, who := range []string{"nobody", "Send", "Peek"} {
		for _, network := range []string{"tcp", "tcp6", "tls"} {
			t.Run(network+", "+who, func(t *testing.T) {
				c, peer := stream(t, network, nil)
				want := make([]byte, 3000)
				for i := range want {
					want[i] = byte(i)
				}
				_, err := peer.Write(want)
				require.NoError(t, err)
				_, err = c.Recv(make([]byte, len(want)), client.WaitAll|client.Peek)
				require.NoError(t, err)
				reset(t, c, peer)
				if who != "nobody" {
					_ = whoMeetsIt[who](t, c)
				}
				got := make([]byte, len(want)+1)
				n, err := c.Recv(got, client.WaitAll)
				require.ErrorIs(t, err, unix.ECONNRESET)
				require.Equal(t, want, got[:n])
			})
		}
	}
	t.Run("packets", func(t *testing.T) {
		for _, network := range []string{"tcp", "tls"} {
			c, peer := stream(t, network, &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}})
			_, err := peer.Write([]byte("one\ntwo\nthr"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 11), client.WaitAll|client.Peek)
			require.NoError(t, err)
			reset(t, c, peer)
			_, err = c.SendPacket([]byte("heartbeat"))
			require.Error(t, err)
			var got []string
			for p, e := range c.Packets() {
				if err = e; err == nil {
					got = append(got, string(p))
				}
			}
			require.Equal(t, []string{"one\n", "two\n"}, got)
			require.ErrorIs(t, err, unix.ECONNRESET, "the iteration must not end as if the stream had")
		}
	})
}

// A sender and a receiver wait when the reset arrives. The kernel reports it to one of
// them, and the other gets 0.
func TestReset_SeenByTwoThreadsIsEOFForNeither(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		for _, polled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, a deadline was set: %v", network, polled), func(t *testing.T) {
				for range 50 {
					c, peer := stream(t, network, &client.Options{Timeout: -1})
					if polled {
						require.NoError(t, c.SetDeadline(time.Now().Add(time.Hour)))
					}
					fill(c)
					var received, sent error
					var wg sync.WaitGroup
					wg.Go(func() { _, received = c.Recv(make([]byte, 1), 0) })
					wg.Go(func() { _, sent = c.Send(make([]byte, 8<<20), 0) })
					runtime.Gosched()
					require.NoError(t, under(peer).(*net.TCPConn).SetLinger(0))
					require.NoError(t, under(peer).Close())
					wg.Wait()
					require.ErrorIs(t, received, unix.ECONNRESET)
					require.Error(t, sent)
					require.NoError(t, c.Close())
				}
			})
		}
	}
}

// An end of the stream stays one even if the peer answers later data with a reset:
// everything that the peer sent has been received.
func TestEOF_StaysEOFAfterAFailedSend(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			_, err := peer.Write([]byte("last words"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
			require.Eventually(t, func() bool {
				_, err := c.Send([]byte("x"), 0)
				return errors.Is(err, unix.EPIPE)
			}, testTimeout, time.Millisecond)
			got := make([]byte, 20)
			n, err := c.Recv(got, 0)
			require.NoError(t, err)
			require.Equal(t, "last words", string(got[:n]))
			for range 2 {
				_, err = c.Recv(got, 0)
				require.Equal(t, io.EOF, err)
			}
		})
	}
}

// The part that was received comes with the error, and the next receive returns the
// error too. On a unix stream the kernel forgets it after a receive with MSG_WAITALL
// that got a part.
func TestReset_DuringAnExactReceive(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix", "tls"} {
		for _, flags := range []client.Flag{client.WaitAll, client.WaitAll | client.Peek} {
			for _, waiting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, flags %#x, waiting %v", network, int(flags), waiting), func(t *testing.T) {
					c, peer := stream(t, network, &client.Options{Timeout: testTimeout})
					_, err := peer.Write([]byte("abc"))
					require.NoError(t, err)
					_, err = c.Recv(make([]byte, 3), client.WaitAll|client.Peek)
					require.NoError(t, err)
					type result struct {
						n   int
						err error
					}
					results := make(chan result, 1)
					recv := func() { n, err := c.Recv(make([]byte, 9), flags); results <- result{n, err} }
					if waiting {
						go recv()
						inKernel(t)
					}
					reset(t, c, peer)
					if !waiting {
						recv()
					}
					r := <-results
					require.ErrorIs(t, r.err, unix.ECONNRESET)
					require.Equal(t, 3, r.n)
					if flags&client.Peek != 0 {
						_, err = c.Recv(make([]byte, 3), client.WaitAll)
						require.NoError(t, err)
					}
					_, err = c.Recv(make([]byte, 1), 0)
					require.ErrorIs(t, err, unix.ECONNRESET)
				})
			}
		}
	}
}

// A failure after the end of the stream does not change that it ended in an orderly way.
func TestEOF_StaysEOFOnceReturned(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6"} {
		c, peer := stream(t, network, nil)
		fill(c)
		_, err := peer.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, peer.(*net.TCPConn).CloseWrite())
		got := make([]byte, 4)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		require.NoError(t, peer.Close()) // with much unread: a reset, which answers what was sent
		require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
		for range 2 {
			_, err = c.Send([]byte("x"), 0)
			require.ErrorIs(t, err, unix.EPIPE)
			_, err = c.Recv(got, 0)
			require.Equal(t, io.EOF, err)
		}
	}
}

// Code that has the descriptor may take the error from the kernel, such as a driver that
// checks whether a connection is alive.
func TestReset_SeenThroughTheDescriptorIsKept(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		for name, meet := range map[string]func(raw syscall.RawConn) error{
			"Read": func(raw syscall.RawConn) error {
				return raw.Read(func(fd uintptr) bool { _, _ = unix.Read(int(fd), make([]byte, 1)); return true })
			},
			"Write": func(raw syscall.RawConn) error {
				return raw.Write(func(fd uintptr) bool { _, _ = unix.Write(int(fd), []byte("x")); return true })
			},
			"a peek in Control": func(raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) {
					_, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
				})
			},
			"SO_ERROR": func(raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) { _, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
			},
		} {
			t.Run(network+", "+name, func(t *testing.T) {
				c, peer := stream(t, network, nil)
				raw, err := c.SyscallConn()
				require.NoError(t, err)
				reset(t, c, peer)
				require.NoError(t, meet(raw))
				for range 2 {
					_, err = c.Recv(make([]byte, 1), 0)
					require.ErrorIs(t, err, unix.ECONNRESET)
				}
			})
		}
	}
}

// CloseRead does not turn a known failure into an orderly end.
func TestReset_StaysAfterCloseRead(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "tls"} {
		c, peer := stream(t, network, nil)
		reset(t, c, peer)
		_, err := c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, unix.ECONNRESET)
		_ = c.CloseRead() // ENOTCONN, on tcp
		_, err = c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, unix.ECONNRESET)
	}
}
