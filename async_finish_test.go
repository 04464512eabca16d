package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// talkWithoutEnd sends from one goroutine until that fails, and returns how many bytes were
// received from the other end meanwhile, and why there were no more.
func talkWithoutEnd(peer net.Conn) (got int64, err error) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for p := make([]byte, 10_000); ; {
			if _, err := peer.Write(p); err != nil {
				return
			}
		}
	}()
	got, err = io.Copy(io.Discard, peer)
	_ = peer.Close()
	<-stopped
	return got, err
}

// The kernel resets a connection that is closed while bytes arrive, and drops what it has
// accepted and not delivered.
func TestAsyncFinish_LosesNothingWhileThePeerSends(t *testing.T) {
	const total = 3 << 20
	for _, network := range asyncNetworks {
		for _, paused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s paused=%v", network, paused), func(t *testing.T) {
				a, e, peer := asyncStream(t, network, nil, nil)
				if paused {
					a.Pause()
				}
				got := make(chan int64)
				go func() {
					n, _ := talkWithoutEnd(peer)
					got <- n
				}()
				for range 3 {
					require.NoError(t, a.Send(make([]byte, total/3)))
				}
				require.NoError(t, a.Finish())
				if err := e.result(); !slices.Contains(tlsNetworks, network) || err != io.ErrUnexpectedEOF { //nolint:errorlint // bare
					require.NoError(t, err) // crypto/tls ends without close_notify while it sends
				}
				require.EqualValues(t, total, <-got)
			})
		}
	}
}

// A TLS server sends session tickets, which a paused client has not received.
func TestAsyncFinish_LosesNothingWithSessionTicketsUnread(t *testing.T) {
	for range 20 {
		a, e, peer := asyncStream(t, "tls", nil, func(c *client.AsyncConfig) {
			connected := c.OnConnect
			c.OnConnect = func(a *client.AsyncClient) { a.Pause(); connected(a) }
		})
		require.NoError(t, a.Send(make([]byte, 1<<20)))
		require.NoError(t, a.Finish())
		time.Sleep(5 * time.Millisecond) // the kernels' buffers are full
		n, err := io.Copy(io.Discard, peer)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, n)
		require.NoError(t, e.result())
	}
}

func TestAsyncFinish_DoesNotWaitForThePeersEnd(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, &client.Options{SendTimeout: 2 * testTimeout}, nil)
			require.NoError(t, a.Send([]byte("bye")))
			require.NoError(t, a.Finish())
			require.NoError(t, e.result()) // within testTimeout
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Equal(t, "bye", string(got))
		})
	}
}

// receivesTheQueue receives from a client whose queue is full until it is empty, and returns how
// many bytes.
func receivesTheQueue(t *testing.T, a *client.AsyncClient, peer net.Conn) (n int) {
	t.Helper()
	for ; a.Queued() > 0; n += 64 << 10 {
		_, err := io.CopyN(io.Discard, peer, 64<<10)
		require.NoError(t, err)
		time.Sleep(time.Millisecond) // the goroutine that writes must not fall behind
	}
	return n
}

// unacknowledged sends over TCP until the queue is empty and the kernel has bytes that the peer's
// has no room for. It returns how many the peer has not received.
func unacknowledged(t *testing.T, a *client.AsyncClient, peer net.Conn) (n int) {
	t.Helper()
	require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(64<<10)) // or it takes everything
	n = fillQueue(t, a, 1)
	return n - receivesTheQueue(t, a, peer)
}

// What is in a peer's queue is with the peer, so only TCP waits for one that does not receive.
func TestAsyncFinish_PeerThatDoesNotReceiveEndsItAtSendTimeout(t *testing.T) {
	const limit = 500 * time.Millisecond
	a, e, peer := asyncStream(t, "tcp", &client.Options{SendTimeout: limit}, nil)
	total := unacknowledged(t, a, peer)
	begin := time.Now()
	require.NoError(t, a.Finish())
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	n, err := io.Copy(io.Discard, peer)
	require.NoError(t, err)
	require.EqualValues(t, total, n, "the kernel goes on sending")
}

// The peer's end, which answers that of Finish, could come before Finish had gone on, and
// OnClose got io.EOF.
func TestAsyncFinish_PeersEndInAnswerIsNoError(t *testing.T) {
	for range 300 {
		a, e, peer := asyncStream(t, "tcp", nil, nil)
		go func() {
			_, _ = io.Copy(io.Discard, peer)
			_ = peer.Close()
		}()
		require.NoError(t, a.Send([]byte("x")))
		require.NoError(t, a.Finish())
		require.NoError(t, e.result())
	}
}

func TestAsyncFinish_SlowPeerIsNoTimeout(t *testing.T) {
	const limit = 300 * time.Millisecond
	a, e, peer := asyncStream(t, "tcp", &client.Options{SendTimeout: limit}, nil)
	total := fillQueue(t, a, 1)
	require.NoError(t, a.Finish())
	got := 0
	for p := make([]byte, total/15+1); ; time.Sleep(limit / 5) {
		n, err := io.ReadFull(peer, p)
		if got += n; err != nil {
			break
		}
	}
	require.Equal(t, total, got)
	require.NoError(t, e.result())
}

func TestAsyncFinish_CloseEndsTheWait(t *testing.T) {
	a, e, _ := asyncStream(t, "tcp", &client.Options{SendTimeout: -1}, nil)
	fillQueue(t, a, 1)
	require.NoError(t, a.Finish())
	time.Sleep(5 * time.Millisecond)
	require.NoError(t, a.Close())
	var unsent *client.UnsentError
	require.ErrorAs(t, e.result(), &unsent)
}

// A paused client drops what arrives. The error of such a receive reached OnClose without the
// addresses, and that of a watched context as an error of this package's own.
func TestAsyncFinish_ErrorOfAPausedClientHasItsForm(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	for want, end := range map[error]func(peer net.Conn){
		unix.ECONNRESET:  func(peer net.Conn) { _ = errors.Join(peer.(*net.TCPConn).SetLinger(0), peer.Close()) },
		context.Canceled: func(net.Conn) { cancel() },
	} {
		t.Run(want.Error(), func(t *testing.T) {
			a, e, peer := asyncStream(t, "tcp", nil, nil)
			if errors.Is(want, context.Canceled) {
				defer a.Client().Watch(ctx)()
			}
			a.Pause()
			unacknowledged(t, a, peer)
			require.NoError(t, a.Finish())
			time.Sleep(10 * time.Millisecond)
			end(peer)
			err := e.result()
			require.ErrorIs(t, err, want)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
		})
	}
}

// An error of Finish's last receive was dropped, and OnClose got nil.
func TestAsyncFinish_ErrorOfTheLastReceiveIsTold(t *testing.T) {
	reset := func(t *testing.T, peer net.Conn) {
		require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		require.NoError(t, peer.Close())
	}
	isPacketError := func(err error) bool { return errors.As(err, new(*client.PacketError)) }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for name, test := range map[string]struct {
		networks []string
		last     string
		end      func(t *testing.T, peer net.Conn)
		told     func(error) bool
	}{
		"no packet":                  {asyncNetworks, "\x00\x02too short", nil, isPacketError},
		"over the limit":             {asyncNetworks, "\xff\xff", nil, isPacketError},
		"over the limit, and no end": {asyncNetworks, "\x00\x04ok\xff\xff", nil, isPacketError},
		"truncated packet": {asyncNetworks, "\x00\x09part", func(t *testing.T, peer net.Conn) {
			require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
		}, is(io.ErrUnexpectedEOF)},
		"reset":               {[]string{"tcp"}, "", reset, is(unix.ECONNRESET)},
		"reset, paused":       {[]string{"tcp"}, "", reset, is(unix.ECONNRESET)},
		"reset after packets": {[]string{"tcp"}, "\x00\x04ok", reset, is(unix.ECONNRESET)},
		"end of TLS is missing": {tlsNetworks, "", func(t *testing.T, peer net.Conn) {
			require.NoError(t, under(peer).Close())
		}, is(io.ErrUnexpectedEOF)},
		"no TLS": {tlsNetworks, "", func(t *testing.T, peer net.Conn) {
			writes(t, under(peer), "no record")
		}, func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) }},
	} {
		for _, network := range test.networks {
			t.Run(name+" "+network, func(t *testing.T) {
				framing := client.LengthPrefix{Encoding: client.Uint16BE, Max: 100}
				a, e, peer := asyncStream(t, network, &client.Options{Framing: framing}, nil)
				entered, release := make(chan struct{}, 2), make(chan struct{})
				e.onReceive = func(*client.AsyncClient, []byte) { entered <- struct{}{}; <-release }
				writes(t, peer, "\x00\x03!")
				<-entered
				if strings.HasSuffix(name, "paused") {
					a.Pause()
				}
				require.NoError(t, a.Send([]byte("bye")))
				require.NoError(t, a.Finish())
				got, err := io.ReadAll(peer)
				require.NoError(t, err)
				require.Equal(t, "bye", string(got))
				if test.last != "" {
					writes(t, peer, test.last)
				}
				if test.end != nil {
					test.end(t, peer)
				}
				time.Sleep(time.Millisecond)
				close(release)
				err = e.result()
				require.True(t, test.told(err), "%v", err)
			})
		}
	}
}

// A TLS 1.3 server refuses a client after the client's handshake. If bytes of the client are
// unread then, the server's kernel resets the connection after the alert.
func TestAsyncFinish_AlertIsTold(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("early=%v", early), func(t *testing.T) {
			s := listenTLS(t, "tcp", func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
			e, refused := newAsyncEvents(t), make(chan error)
			e.onConnect = func(a *client.AsyncClient) {
				assert.NoError(t, a.Send([]byte("bye")))
				if early {
					assert.NoError(t, a.Finish())
				}
				assert.Error(t, <-refused)
				time.Sleep(time.Millisecond)
				if !early {
					assert.NoError(t, a.Finish())
					time.Sleep(time.Millisecond)
				}
			}
			go func() {
				conn, err := s.Accept()
				if assert.NoError(t, err) {
					err = tls.Server(conn, s.config).Handshake()
					_ = conn.Close()
				}
				refused <- err
			}()
			e.dial("tcp", s.Addr().String(), &client.Options{TLS: s.trust(t)}, nil)
			require.ErrorContains(t, e.result(), "certificate required")
		})
	}
}

// Closing at once would reset the connection, and lose what the peer has not received.
func TestAsyncFinish_ErrorOfAReceiveLosesNothing(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			opts := &client.Options{Framing: client.LengthPrefix{Encoding: client.Uint16BE, Max: 100}}
			a, e, peer := asyncStream(t, network, opts, nil)
			entered, release := make(chan struct{}), make(chan struct{})
			e.onReceive = func(*client.AsyncClient, []byte) { close(entered); <-release }
			writes(t, peer, "\x00\x03!")
			<-entered
			total := fillQueue(t, a, 1)
			require.NoError(t, a.Finish())
			got := receivesTheQueue(t, a, peer)
			writes(t, peer, "\xff\xff")
			close(release)
			time.Sleep(20 * time.Millisecond)
			writes(t, peer, "more")
			n, err := io.Copy(io.Discard, peer)
			require.NoError(t, err)
			require.EqualValues(t, total-got, n)
			var bad *client.PacketError
			require.ErrorAs(t, e.result(), &bad)
		})
	}
}

func TestAsyncFinish_IdleTimeoutHolds(t *testing.T) {
	const limit = 200 * time.Millisecond
	for _, network := range []string{"tcp", "tls"} {
		a, e, peer := asyncStream(t, network, &client.Options{SendTimeout: -1}, func(c *client.AsyncConfig) { c.IdleTimeout = limit })
		require.NoError(t, under(peer).(*net.TCPConn).SetReadBuffer(64<<10)) // or it takes everything
		entered, release := make(chan struct{}), make(chan struct{})
		e.onReceive = func(*client.AsyncClient, []byte) { close(entered); <-release }
		writes(t, peer, "x")
		<-entered // and IdleTimeout ends nothing during the callback
		fillQueue(t, a, 1)
		require.NoError(t, a.Finish())
		receivesTheQueue(t, a, peer)
		last := time.Now()
		close(release)
		require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded, network)
		require.GreaterOrEqual(t, time.Since(last), limit*9/10)
	}
}
