package client_test

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Close is about the descriptor, and what becomes of the connection is up to close(2): a
// shutdown(2) that only was to wake the calls under way told the peer of Linger < 0 that a
// request which was half sent had ended in order, and cut off another process that has
// the socket too.

// busy are calls that may be under way when a client is closed.
var busy = map[string]func(c *client.Client){
	"nobody":     func(*client.Client) {},
	"Recv":       func(c *client.Client) { _, _ = c.Recv(make([]byte, 1), 0) },
	"Read":       func(c *client.Client) { _, _ = c.Read(make([]byte, 1)) },
	"WaitAll":    func(c *client.Client) { _, _ = c.Recv(make([]byte, 100), client.WaitAll) },
	"RecvPacket": func(c *client.Client) { _, _ = c.RecvPacket() },
	"Select":     func(c *client.Client) { _, _ = client.Select([]*client.Client{c}, nil, nil, -1) },
	"Recv after a deadline": func(c *client.Client) {
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		_, _ = c.Recv(make([]byte, 1), 0)
	},
	// These are over in a moment, and come again and again.
	"IsConnected": func(c *client.Client) {
		for c.IsConnected() {
		}
	},
	"SetDeadline": func(c *client.Client) {
		for c.SetWriteDeadline(time.Time{}) == nil {
		}
	},
}

func isWaiting(name string) bool {
	return name != "nobody" && name != "IsConnected" && name != "SetDeadline"
}

func TestClose_NegativeLingerResets(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6"} {
		for name, call := range busy {
			t.Run(network+", "+name, func(t *testing.T) {
				for range 5 {
					c, peer := stream(t, network, &client.Options{Linger: -1, Timeout: -1, Framing: client.Delimiter{Delim: []byte("\n")}})
					var wg sync.WaitGroup
					wg.Go(func() { call(c) })
					if isWaiting(name) {
						inKernel(t)
					}
					_, err := c.Send([]byte("half a request"), 0)
					require.NoError(t, err)
					require.NoError(t, c.Close())
					wg.Wait()
					_, err = io.ReadAll(peer)
					require.ErrorIs(t, err, unix.ECONNRESET, "the peer must not take what it got for all there was")
				}
			})
		}
	}
	t.Run("Send", func(t *testing.T) {
		c, peer := stream(t, "tcp", &client.Options{Linger: -1, Timeout: -1})
		result := make(chan error, 1)
		go func() { _, err := c.Send(tooMuch("tcp"), 0); result <- err }()
		inKernel(t)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-result, net.ErrClosed)
		_, err := io.ReadAll(peer)
		require.ErrorIs(t, err, unix.ECONNRESET)
	})
}

// A descriptor that was handed on, to a child or over a unix socket, is as good after
// Close as before.
func TestClose_DuplicateStaysConnected(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		for name, call := range busy {
			t.Run(network+", "+name, func(t *testing.T) {
				c, peer := stream(t, network, &client.Options{Timeout: -1, Framing: client.Delimiter{Delim: []byte("\n")}})
				other := duplicate(t, c)
				var wg sync.WaitGroup
				wg.Go(func() { call(c) })
				if isWaiting(name) {
					inKernel(t)
				}
				require.NoError(t, c.Close())
				wg.Wait()
				_, err := other.Write([]byte("still here"))
				require.NoError(t, err)
				got := make([]byte, 10)
				_, err = io.ReadFull(peer, got)
				require.NoError(t, err)
				_, err = peer.Write(got)
				require.NoError(t, err)
				_, err = io.ReadFull(other, got)
				require.NoError(t, err)
				require.Equal(t, "still here", string(got))
			})
		}
	}
	for _, network := range []string{"udp", "udp6", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagrams(t, network, &client.Options{Timeout: -1})
			other := duplicate(t, c)
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = c.Recv(make([]byte, 1), 0) })
			inKernel(t)
			require.NoError(t, c.Close())
			wg.Wait()
			_, err := other.Write([]byte("still here"))
			require.NoError(t, err)
			got := make([]byte, 20)
			n, _, err := peer.ReadFrom(got)
			require.NoError(t, err)
			require.Equal(t, "still here", string(got[:n]))
		})
	}
}

// duplicate gives net's connection on a descriptor of the same socket.
func duplicate(t *testing.T, c *client.Client) net.Conn {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var fd int
	require.NoError(t, raw.Control(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	}))
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "duplicate")
	defer f.Close()
	conn, err := net.FileConn(f)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A program may ignore SIGURG. Its calls end all the same, up to a second later.
func TestClose_EndsARecvWhereSignalsAreIgnored(t *testing.T) {
	cmd := helperCommand(t, "deaf "+otherProcess(t, "sink", "unix"))
	begin := time.Now()
	require.NoError(t, cmd.Run())
	require.Less(t, time.Since(begin), testTimeout)
}

// Without a shutdown nothing but the call itself can end a send whose peer keeps up.
func TestClose_EndsASendWhosePeerKeepsUp(t *testing.T) {
	inParallelIfShort(t)
	for _, network := range []string{"tcp", "unix", "tls"} {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{Timeout: -1})
			const some, much = 1 << 20, 1 << 30 // never filled, so never in memory
			started, drained := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(drained)
				n, err := io.CopyN(io.Discard, peer, some)
				if n != some {
					t.Errorf("%d, %v", n, err)
				}
				close(started)
				_, _ = io.Copy(io.Discard, peer)
			}()
			result := make(chan error, 1)
			go func() { _, err := c.Send(make([]byte, much), 0); result <- err }()
			<-started
			require.NoError(t, c.Close())
			require.ErrorIs(t, <-result, net.ErrClosed)
			<-drained
		})
	}
}

// CloseRead has an end: what had arrived is received, then comes io.EOF, and what the peer
// sends after that is not for this program. Linux itself goes on receiving TCP.
func TestCloseRead_LaterDataIsNotReceived(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "unix", "tls"} {
		for _, first := range []bool{false, true} {
			name := network
			if first {
				name += ", a Recv before"
			}
			t.Run(name, func(t *testing.T) {
				c, peer := stream(t, network, nil)
				_, err := peer.Write([]byte("before"))
				require.NoError(t, err)
				got := make([]byte, 20)
				_, err = c.Recv(got[:6], client.WaitAll|client.Peek)
				require.NoError(t, err)
				require.NoError(t, c.CloseRead())
				require.NoError(t, c.CloseRead(), "again")
				if first {
					n, err := c.Recv(got[:3], 0)
					require.NoError(t, err)
					require.Equal(t, "bef", string(got[:n]))
				}
				_, _ = peer.Write([]byte("after")) // on a unix stream this fails
				time.Sleep(20 * time.Millisecond)  // nothing shows that it has arrived
				require.NoError(t, c.CloseRead(), "and again")
				n, err := c.Recv(got, client.WaitAll)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				want := "before"
				if first {
					want = "ore"
				}
				require.Equal(t, want, string(got[:n]))
				for _, flags := range []client.Flag{0, client.Peek, client.WaitAll, client.DontWait, client.Peek | client.WaitAll} {
					n, err = c.Recv(got, flags)
					require.Equal(t, io.EOF, err)
					require.Zero(t, n)
				}
				_, err = c.Read(got)
				require.Equal(t, io.EOF, err)
				if network != "tls" { // whose peer has been told nothing
					_, err = c.Send([]byte("x"), 0)
					require.NoError(t, err, "sending goes on")
				}
			})
		}
	}
	t.Run("packets", func(t *testing.T) {
		c, peer := stream(t, "tcp", &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}})
		_, err := peer.Write([]byte("one\n"))
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 4), client.WaitAll|client.Peek)
		require.NoError(t, err)
		require.NoError(t, c.CloseRead())
		_, err = peer.Write([]byte("two\n"))
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond)
		p, err := c.RecvPacket()
		require.NoError(t, err)
		require.Equal(t, "one\n", string(p))
		_, err = c.RecvPacket()
		require.Equal(t, io.EOF, err)
	})
	t.Run("a Recv that waits", func(t *testing.T) {
		for _, network := range []string{"tcp", "tcp6", "unix", "tls"} {
			c, _ := stream(t, network, &client.Options{Timeout: -1})
			result := make(chan error, 1)
			go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
			inKernel(t)
			require.NoError(t, c.CloseRead())
			require.Equal(t, io.EOF, <-result)
		}
	})
}

// A Recv that waits takes what arrives before CloseRead, and nothing that arrives after it is
// received in place of that.
func TestCloseRead_WhileDataArrives(t *testing.T) {
	for _, polled := range []bool{false, true} {
		for range 300 {
			c, peer := stream(t, "tcp", &client.Options{Timeout: testTimeout})
			if polled {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(testTimeout)))
			}
			type result struct {
				n   int
				err error
			}
			results := make(chan result, 1)
			go func() { n, err := c.Recv(make([]byte, 100), 0); results <- result{n, err} }()
			_, err := peer.Write([]byte("before"))
			require.NoError(t, err)
			require.NoError(t, c.CloseRead())
			_, err = peer.Write([]byte("later"))
			require.NoError(t, err)
			r := <-results
			if r.err == nil {
				require.Equal(t, 6, r.n)
			} else {
				require.Equal(t, io.EOF, r.err)
			}
			rest, err := io.ReadAll(c)
			require.NoError(t, err)
			require.LessOrEqual(t, r.n+len(rest), 6, "%q came later", rest)
			require.NoError(t, c.Close())
		}
	}
}

// What is behind an urgent byte has arrived too.
func TestCloseRead_CountsWhatIsBehindAnUrgentByte(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	raw, err := peer.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		for _, send := range []struct {
			bytes string
			flags int
		}{{"before", 0}, {"!", unix.MSG_OOB}, {"behind", 0}} {
			require.NoError(t, unix.Send(int(fd), []byte(send.bytes), send.flags))
		}
	}))
	_, err = c.Recv(make([]byte, 1), client.OOB)
	for err != nil { // it is not here yet
		time.Sleep(time.Millisecond)
		_, err = c.Recv(make([]byte, 1), client.OOB)
	}
	require.Eventually(t, func() bool {
		info, err := c.TCPInfo()
		return err == nil && info.BytesReceived >= 13
	}, testTimeout, time.Millisecond)
	require.NoError(t, c.CloseRead())
	_, err = peer.Write([]byte("later"))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "beforebehind", string(got))
}

// The limit of a receive that waited in the kernel is the socket's (SO_RCVTIMEO), and is not
// left to who goes on with a duplicate of the descriptor.
func TestClose_DuplicateHasNoTimeout(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has receives that wait in the kernel")
	}
	c, peer := stream(t, "tcp", &client.Options{Timeout: testTimeout})
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var fd int
	require.NoError(t, raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }))
	require.NoError(t, err)
	defer unix.Close(fd)
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), 0)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	require.NoError(t, err)
	require.Zero(t, tv.Nano())
}

// endsWaitingCall checks that Close, a deadline and a context end a call: begin returns it with
// its client, and waiting returns when the call waits.
func endsWaitingCall(t *testing.T, begin func() (*client.Client, func() error), waiting func(testing.TB),
	setDeadline func(*client.Client, time.Time) error) {
	t.Helper()
	for name, end := range map[string]func(*client.Client) error{
		"close":    func(c *client.Client) error { _ = c.Close(); return net.ErrClosed },
		"deadline": func(c *client.Client) error { _ = setDeadline(c, time.Now()); return os.ErrDeadlineExceeded },
		"context": func(c *client.Client) error {
			ctx, cancel := context.WithCancel(context.Background())
			c.Watch(ctx)
			cancel()
			return context.Canceled
		},
	} {
		c, call := begin()
		result := make(chan error, 1)
		go func() { result <- call() }()
		waiting(t)
		want := end(c)
		require.ErrorIs(t, <-result, want, name)
		_ = c.Close()
	}
}
