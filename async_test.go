package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var asyncNetworks = slices.Concat(streamNetworks, tlsNetworks)

func TestAsync_RoundTrip(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			a, e, peer := asyncStream(t, network, nil, nil)
			go func() { _, _ = io.Copy(peer, peer) }()
			require.NoError(t, a.Send([]byte("ping")))
			e.receives("ping")
			require.NoError(t, a.Close())
			require.NoError(t, e.result())
			require.Equal(t, []string{"connect", "close"}, e.names())
		})
	}
}

func TestAsync_DialReportsConnect(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			ln := listen(t, network)
			e := newAsyncEvents(t)
			a := e.dial(network, ln.Addr().String(), nil, nil)
			require.Same(t, a, e.client())
			peer, err := ln.Accept()
			require.NoError(t, err)
			_, err = peer.Write([]byte("hello"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.ErrorIs(t, e.result(), io.EOF)
			require.Equal(t, "hello", e.received())
		})
	}
}

// swoole#675: connect(2) was refused at once, and no callback came.
func TestAsync_RefusedConnectCallsOnError(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := refused(t, network)
			_, want := client.Dial(network, address, nil)
			e := newAsyncEvents(t)
			a := e.dial(network, address, nil, nil)
			err := e.result()
			require.ErrorIs(t, err, errors.Unwrap(errors.Unwrap(want)))
			require.Equal(t, want.Error(), err.Error())
			<-a.Done()
			require.Equal(t, []string{"error"}, e.names())
			require.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
			require.ErrorIs(t, a.Close(), net.ErrClosed)
		})
	}
}

func TestAsync_ConfigIsCheckedBeforeAnythingIsConnected(t *testing.T) {
	ln := listen(t, "tcp")
	complete := newAsyncEvents(t).config()
	for field, change := range map[string]func(*client.AsyncConfig){
		"OnConnect":     func(c *client.AsyncConfig) { c.OnConnect = nil },
		"OnReceive":     func(c *client.AsyncConfig) { c.OnReceive = nil },
		"OnError":       func(c *client.AsyncConfig) { c.OnError = nil },
		"OnClose":       func(c *client.AsyncConfig) { c.OnClose = nil },
		"MaxQueue":      func(c *client.AsyncConfig) { c.MaxQueue = -1 },
		"HighWatermark": func(c *client.AsyncConfig) { c.MaxQueue, c.HighWatermark = 10, 11 },
		"LowWatermark":  func(c *client.AsyncConfig) { c.HighWatermark, c.LowWatermark = 5, 5 },
		"IdleTimeout":   func(c *client.AsyncConfig) { c.IdleTimeout = -1 },
	} {
		cfg := complete
		change(&cfg)
		_, err := client.DialAsync(context.Background(), "tcp", ln.Addr().String(), nil, cfg)
		var bad *client.OptionError
		require.ErrorAs(t, err, &bad, field)
		require.Equal(t, "AsyncConfig."+field, bad.Option)
	}
	for _, err := range []error{
		second(client.DialAsync(context.Background(), "tcp", "no port", nil, complete)),
		second(client.DialAsync(context.Background(), "sctp", "127.0.0.1:1", nil, complete)),
		second(client.DialAsync(context.Background(), "tcp", ln.Addr().String(), &client.Options{TLS: &client.TLSOptions{CAFile: "/does/not/exist"}}, complete)),
		second(client.DialAsync(context.Background(), "udp", "127.0.0.1:1", &client.Options{NoDelay: client.SwitchOn}, complete)),
	} {
		require.Error(t, err)
	}
	require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := ln.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func second[T any](_ T, err error) error { return err }

// swoole#630: close while connecting. Here at each step: before the dial's goroutine runs,
// while the peer does not answer, and in the handshake of TLS.
func TestAsync_CloseWhileConnecting(t *testing.T) {
	ends := func(t *testing.T, address string, opts *client.Options, delay time.Duration) {
		e := newAsyncEvents(t)
		a := e.dial("tcp", address, opts, nil)
		time.Sleep(delay)
		require.ErrorIs(t, a.Send([]byte("x")), unix.ENOTCONN)
		require.NoError(t, a.Close())
		require.ErrorIs(t, e.result(), net.ErrClosed)
		<-a.Done()
		require.Equal(t, []string{"error"}, e.names())
	}
	t.Run("at once", func(t *testing.T) { ends(t, blackHole(t, "tcp", "127.0.0.1"), nil, 0) })
	t.Run("no answer", func(t *testing.T) { ends(t, blackHole(t, "tcp", "127.0.0.1"), nil, 20*time.Millisecond) })
	t.Run("handshake", func(t *testing.T) {
		ln := listen(t, "tcp")
		ends(t, ln.Addr().String(), &client.Options{TLS: &client.TLSOptions{ServerName: "x"}}, 20*time.Millisecond)
	})
	t.Run("any moment", func(t *testing.T) {
		ln := listen(t, "tcp")
		for i := range 200 {
			e := newAsyncEvents(t)
			a := e.dial("tcp", ln.Addr().String(), nil, nil)
			time.Sleep(time.Duration(i) * time.Microsecond)
			require.NoError(t, a.Close())
			err := e.result()
			if err != nil {
				require.ErrorIs(t, err, net.ErrClosed)
				require.Equal(t, []string{"error"}, e.names())
			} else {
				require.Equal(t, []string{"connect", "close"}, e.names())
			}
		}
	})
}

func TestAsync_ContextAndLimitEndTheConnectOnly(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	e := newAsyncEvents(t)
	ctx, cancel := context.WithCancel(context.Background())
	_, err := client.DialAsync(ctx, "tcp", hole, nil, e.config())
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, e.result(), context.Canceled)

	e = newAsyncEvents(t)
	e.dial("tcp", hole, &client.Options{ConnectTimeout: 20 * time.Millisecond}, nil)
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)

	ln := listen(t, "tcp")
	e = newAsyncEvents(t)
	ctx, cancel = context.WithCancel(context.Background())
	a, err := client.DialAsync(ctx, "tcp", ln.Addr().String(), nil, e.config())
	require.NoError(t, err)
	e.client()
	cancel()
	require.NoError(t, a.Send([]byte("x")))
	closeAsync(t, a)
	require.NoError(t, e.result())
}

// libsg#36: the resolver was outside of the limit.
func TestAsync_LimitIncludesTheNameLookup(t *testing.T) {
	silent := packetPeer(t, "udp")
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", silent.LocalAddr().String())
	}}
	e := newAsyncEvents(t)
	begin := time.Now()
	e.dial("tcp", "name.test:1", &client.Options{ConnectTimeout: 50 * time.Millisecond, Resolver: r}, nil)
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
	require.Less(t, time.Since(begin), testTimeout/2)
}

// swoole#190, swoole#291, netpoll#107: close in the receive callback.
func TestAsync_CloseInEachCallback(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			_, e, peer := asyncStream(t, network, nil, nil)
			e.onReceive = func(a *client.AsyncClient, _ []byte) {
				assert.NoError(t, a.Close())
				assert.ErrorIs(t, a.Close(), net.ErrClosed)
				assert.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
				assert.Equal(t, []string{"connect"}, e.names(), "OnClose inside Close")
			}
			_, err := peer.Write([]byte("12"))
			require.NoError(t, err)
			require.NoError(t, e.result())
		})
	}
	ln := listen(t, "tcp")
	e := newAsyncEvents(t)
	e.onConnect = func(a *client.AsyncClient) { assert.NoError(t, a.Close()) }
	e.onEnd = func(a *client.AsyncClient, _ error) { assert.ErrorIs(t, a.Close(), net.ErrClosed) }
	e.dial("tcp", ln.Addr().String(), nil, nil)
	require.NoError(t, e.result())
}

// OnBufferFull waited for the end of OnReceive, and came after Close.
func TestAsync_CloseInACallbackIsFollowedByOnCloseOnly(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	e := newAsyncEvents(t)
	e.onReceive = func(a *client.AsyncClient, _ []byte) {
		fillQueue(t, a, 1)
		time.Sleep(10 * time.Millisecond)
		assert.NoError(t, a.Close())
	}
	cfg := e.config()
	cfg.HighWatermark = 1
	_, err := c.Async(cfg)
	require.NoError(t, err)
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	require.Error(t, e.result())
	require.Equal(t, []string{"connect", "close"}, e.names())
}

// swoole#1306, libdatachannel#576: close from outside, with a lock held that the callback
// takes.
func TestAsync_MethodsWithTheCallersLockHeld(t *testing.T) {
	for range 20 {
		a, e, peer := asyncStream(t, "tcp", nil, nil)
		var mu sync.Mutex
		e.onReceive = func(*client.AsyncClient, []byte) { mu.Lock(); defer mu.Unlock() }
		e.onEnd = func(*client.AsyncClient, error) { mu.Lock(); defer mu.Unlock() }
		mu.Lock()
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		require.NoError(t, a.Send([]byte("x")))
		a.Pause()
		a.Resume()
		_ = a.Queued()
		_ = a.IsFull()
		require.NoError(t, a.CloseWrite())
		require.NoError(t, a.Close())
		mu.Unlock()
		require.NoError(t, e.result())
	}
}

// gnet#529, nbio#347: the last bytes before the peer's end were lost.
func TestAsync_EverythingBeforeTheEndIsDelivered(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			_, e, peer := asyncStream(t, network, nil, nil)
			_, err := peer.Write(sent)
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.ErrorIs(t, e.result(), io.EOF)
			require.Equal(t, len(sent), e.bytes.Len())
			require.True(t, bytes.Equal(sent, e.bytes.Bytes()))
		})
	}
}

// The peer has sent and reset: it is a send that meets the error. What arrived comes first.
func TestAsync_ArrivedBytesComeBeforeTheErrorOfASend(t *testing.T) {
	for range 20 {
		a, e, peer := asyncStream(t, "tcp", &client.Options{RecvBuffer: 1 << 20}, nil) // all of it arrives
		release := make(chan struct{})
		e.onReceive = func(*client.AsyncClient, []byte) { <-release }
		_, err := peer.Write([]byte("1"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return e.received() == "1" }, testTimeout, time.Millisecond)
		_, err = peer.Write([]byte(strings.Repeat("2", 100_000)))
		require.NoError(t, err)
		require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		require.NoError(t, peer.Close())
		require.Eventually(t, func() bool { return a.Send([]byte("x")) != nil }, testTimeout, time.Millisecond)
		close(release)
		require.Error(t, e.result())
		require.Len(t, e.received(), 100_001)
	}
}

// gnet#402, gnet#465: a write before open or after close vanished.
func TestAsync_SendOutsideOfTheConnectionFails(t *testing.T) {
	e := newAsyncEvents(t)
	a := e.dial("tcp", blackHole(t, "tcp", "127.0.0.1"), nil, nil)
	require.ErrorIs(t, a.Send([]byte("x")), unix.ENOTCONN)
	require.ErrorIs(t, a.SendPacket([]byte("x")), unix.ENOTCONN)
	require.ErrorIs(t, a.CloseWrite(), unix.ENOTCONN)
	require.ErrorIs(t, a.StartTLS(nil, nil), unix.ENOTCONN)
	require.ErrorIs(t, a.Detach(func(*client.Client) {}), unix.ENOTCONN)
	require.Nil(t, a.Client())
	closeAsync(t, a)
	require.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)

	a, e, _ = asyncStream(t, "tcp", nil, nil)
	e.onEnd = func(a *client.AsyncClient, _ error) {
		assert.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
	}
	require.NoError(t, a.Finish())
	require.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
	require.NoError(t, e.result())
}

// inlong#10670, gnet#400: Dial in a callback did not return.
func TestAsync_DialInACallback(t *testing.T) {
	ln := listen(t, "tcp")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x"))
			go func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }()
		}
	}()
	inner := newAsyncEvents(t)
	outer := newAsyncEvents(t)
	outer.onReceive = func(a *client.AsyncClient, _ []byte) {
		c, err := client.Dial("tcp", ln.Addr().String(), nil)
		if assert.NoError(t, err) {
			_ = c.Close()
		}
		inner.dial("tcp", ln.Addr().String(), nil, nil)
		inner.client()
		assert.NoError(t, a.Close())
	}
	outer.dial("tcp", ln.Addr().String(), nil, nil)
	require.NoError(t, outer.result())
	inner.receives("x")
}

// swoole#544, nbio#71, gnet#540: OnClose came twice or not at all when both ends closed.
func TestAsync_OnCloseOnceWhenBothEndsClose(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		ln := listen(t, network)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("x"))
				_ = conn.Close()
			}
		}()
		n := 10_000 / 2
		if raceBuild || testing.Short() {
			n = 1000
		}
		limit := make(chan struct{}, 100)
		var all sync.WaitGroup
		for range n {
			limit <- struct{}{}
			all.Go(func() {
				defer func() { <-limit }()
				e := newAsyncEvents(t)
				e.onReceive = func(a *client.AsyncClient, _ []byte) { _ = a.Close() }
				a, err := client.DialAsync(context.Background(), network, ln.Addr().String(), nil, e.config())
				if assert.NoError(t, err) {
					_ = e.result()
					<-a.Done()
				}
			})
		}
		all.Wait()
	}
}

// gnet#714 is a panic after close; libevent#689 a callback after free.
func TestAsync_MethodsAfterTheEndDoNothing(t *testing.T) {
	a, e, _ := asyncStream(t, "tcp", nil, nil)
	closeAsync(t, a)
	require.NoError(t, e.result())
	for range 3 {
		require.ErrorIs(t, a.Send([]byte("x")), net.ErrClosed)
		require.ErrorIs(t, a.SendTo([]byte("x"), nil), net.ErrClosed)
		require.ErrorIs(t, a.SendFile(nil, 0, 0), net.ErrClosed)
		require.ErrorIs(t, a.StartTLS(nil, nil), net.ErrClosed)
		require.ErrorIs(t, a.CloseWrite(), net.ErrClosed)
		require.ErrorIs(t, a.Finish(), net.ErrClosed)
		require.ErrorIs(t, a.Close(), net.ErrClosed)
		require.ErrorIs(t, a.Detach(func(*client.Client) {}), net.ErrClosed)
		a.Pause()
		a.Resume()
		require.Zero(t, a.Queued())
		require.False(t, a.IsFull())
		require.NotNil(t, a.Client().RemoteAddr())
	}
	time.Sleep(time.Millisecond)
	require.Equal(t, []string{"connect", "close"}, e.names())
}

// The end of a context by its deadline was taken for an order that had ended the wait: the
// client received again and again, and did not end.
func TestAsync_WatchedContextEndsTheClient(t *testing.T) {
	for name, watched := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 20*time.Millisecond)
		},
		"cancel": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		},
	} {
		for _, how := range []string{"waiting", "sending", "finishing", "datagrams"} {
			t.Run(name+" "+how, func(t *testing.T) {
				ctx, cancel := watched(t.Context())
				defer cancel()
				var a *client.AsyncClient
				var e *asyncEvents
				var peer net.Conn
				if how == "datagrams" {
					e = newAsyncEvents(t)
					a = e.dial("udp4", packetPeer(t, "udp4").LocalAddr().String(), nil, nil)
					require.Same(t, a, e.client())
				} else {
					a, e, peer = asyncStream(t, "tcp", nil, nil)
				}
				switch how {
				case "sending":
					fillQueue(t, a, 1)
				case "finishing": // all is in the kernel, and not with the peer
					unacknowledged(t, a, peer)
					require.NoError(t, a.Finish())
				}
				begin := time.Now()
				defer a.Client().Watch(ctx)()
				<-ctx.Done()
				require.ErrorIs(t, e.result(), ctx.Err())
				require.Less(t, time.Since(begin), testTimeout/5, "before SendTimeout")
			})
		}
	}
}

func TestAsync_OneAsyncClientAtATime(t *testing.T) {
	a, _, _ := asyncStream(t, "tcp", nil, nil)
	_, err := a.Client().Async(newAsyncEvents(t).config())
	require.ErrorIs(t, err, unix.EBUSY)
	c, err := client.NewTCP(nil)
	require.NoError(t, err)
	_, err = c.Async(newAsyncEvents(t).config())
	require.ErrorIs(t, err, unix.ENOTCONN)
	require.NoError(t, c.Close())
	_, err = c.Async(newAsyncEvents(t).config())
	require.ErrorIs(t, err, net.ErrClosed)
}

// One for sending, set for what came before Async, ended the client later.
func TestAsync_DeadlinesOfTheClientAreRemoved(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	require.NoError(t, c.SetDeadline(time.Now().Add(-time.Second)))
	e := newAsyncEvents(t)
	a, err := c.Async(e.config())
	require.NoError(t, err)
	defer closeAsync(t, a)
	require.NoError(t, a.Send([]byte("x")))
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	e.receives("x")
}

func TestAsync_IdleTimeout(t *testing.T) {
	const limit = 300 * time.Millisecond
	idle := func(c *client.AsyncConfig) { c.IdleTimeout = limit }
	begin := time.Now()
	a, e, peer := asyncStream(t, "tcp", nil, idle)
	for range 4 { // sent and received by turns
		time.Sleep(limit / 3)
		require.NoError(t, a.Send([]byte("x")))
		time.Sleep(limit / 3)
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
	}
	last := time.Now()
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
	if len(e.received()) == 4 { // a machine under load may take longer between two sends
		require.GreaterOrEqual(t, time.Since(begin), limit*8/3)
		require.GreaterOrEqual(t, time.Since(last), limit*9/10)
	}
}

// Bytes that were no whole packet, or no whole record of TLS, did not count.
func TestAsync_IdleTimeoutDoesNotEndASlowPacket(t *testing.T) {
	const limit, size = 300 * time.Millisecond, 10
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			framing := &client.Options{Framing: client.LengthPrefix{Encoding: client.Uint8, BodyOffset: 1}}
			_, e, peer := asyncStream(t, network, framing, func(c *client.AsyncConfig) { c.IdleTimeout = limit })
			want := string(append([]byte{size}, make([]byte, size)...))
			for i := range want {
				_, err := peer.Write([]byte(want[i : i+1]))
				require.NoError(t, err)
				time.Sleep(limit / 5)
			}
			e.receives(want)
			require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
		})
	}
}

func TestAsync_IdleTimeoutDoesNotEndASlowRecord(t *testing.T) {
	const limit, size = 300 * time.Millisecond, 1000 // dripConn takes a millisecond for each byte
	s := fixedSize(t, tls.VersionTLS13)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = tls.Server(dripConn{conn}, s.config).Write(make([]byte, size))
		_, _ = io.Copy(io.Discard, conn)
	}()
	e := newAsyncEvents(t)
	opts := &client.Options{TLS: s.trust(t), ConnectTimeout: testTimeout}
	e.dial("tcp", s.Addr().String(), opts, func(c *client.AsyncConfig) { c.IdleTimeout = limit })
	e.receives(string(make([]byte, size)))
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
}

// A send of much data to a slow peer returned too late to count.
func TestAsync_IdleTimeoutDoesNotEndASlowSend(t *testing.T) {
	const limit = 300 * time.Millisecond
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			opts := &client.Options{SendBuffer: 4096, SendTimeout: -1}
			a, e, peer := asyncStream(t, network, opts, func(c *client.AsyncConfig) { c.IdleTimeout = limit })
			require.NoError(t, a.Send(make([]byte, 8<<20)))
			p := make([]byte, 16<<10)
			for begin := time.Now(); time.Since(begin) < 4*limit; time.Sleep(limit / 15) {
				_, err := peer.Read(p)
				require.NoError(t, err)
			}
			require.Positive(t, a.Queued())
			require.Empty(t, e.ended)
			require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded, "the peer does not receive any more")
		})
	}
}

func TestAsync_IdleTimeoutHoldsWhileStartTLSWaitsForTheQueue(t *testing.T) {
	a, e, _ := asyncStream(t, "tcp", &client.Options{SendTimeout: -1}, func(c *client.AsyncConfig) { c.IdleTimeout = 100 * time.Millisecond })
	require.NoError(t, a.Send(make([]byte, 8<<20))) // more than the kernel's buffers hold
	require.NoError(t, a.StartTLS(&client.TLSOptions{ServerName: "x"}, nil))
	require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
}

// Async and Send in a row, with a full socket: OnBufferFull could come before OnConnect.
func TestAsync_OnConnectIsTheFirstCallback(t *testing.T) {
	more := make([]byte, 16<<20) // than the kernel's buffers hold
	for range 50 {
		c, _ := stream(t, "tcp", nil)
		_, err := c.Send(more, client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
		e := newAsyncEvents(t)
		cfg := e.config()
		cfg.MaxQueue, cfg.HighWatermark = len(more), 1
		a, err := c.Async(cfg)
		require.NoError(t, err)
		require.NoError(t, a.Send(more))
		require.Eventually(t, func() bool { return len(e.names()) == 2 }, testTimeout, time.Millisecond)
		require.Equal(t, []string{"connect", "full"}, e.names())
		closeAsync(t, a)
	}
}

// What arrives during a callback that takes longer than IdleTimeout was lost.
func TestAsync_IdleTimeoutDuringACallbackLosesNothing(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			e := newAsyncEvents(t)
			during := func(p string) {
				_, err := peer.Write([]byte(p))
				assert.NoError(t, err)
				time.Sleep(20 * time.Millisecond)
			}
			e.onConnect = func(*client.AsyncClient) { during("a") }
			e.onReceive = func(_ *client.AsyncClient, p []byte) {
				if string(p) == "a" {
					during("b")
				}
			}
			cfg := e.config()
			cfg.IdleTimeout = 10 * time.Millisecond
			_, err := c.Async(cfg)
			require.NoError(t, err)
			require.ErrorIs(t, e.result(), os.ErrDeadlineExceeded)
			require.Equal(t, "ab", e.received())
		})
	}
}

func TestAsync_GoexitInACallbackEndsTheClient(t *testing.T) {
	_, e, peer := asyncStream(t, "tcp", nil, nil)
	e.onReceive = func(*client.AsyncClient, []byte) {
		runtime.Goexit()
	}
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	require.Error(t, e.result())
}

// A LengthFunc that ended the goroutine left the receive lock held, which keeps the descriptor
// open.
func TestAsync_GoexitInALengthFuncClosesTheConnection(t *testing.T) {
	for _, network := range asyncNetworks {
		t.Run(network, func(t *testing.T) {
			goexit := func([]byte) (int, error) {
				runtime.Goexit()
				return 0, nil
			}
			_, e, peer := asyncStream(t, network, &client.Options{Framing: client.LengthFunc{Func: goexit}}, nil)
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
			require.Error(t, e.result())
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
			_, err = peer.Read(make([]byte, 1))
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
}

// A panic in a callback is not recovered.
func TestAsync_PanicInACallbackEndsTheProcess(t *testing.T) {
	ln := listen(t, "unix")
	cmd := helperCommand(t, "asyncpanic "+ln.Addr().String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.Error(t, cmd.Run())
	require.Contains(t, stderr.String(), "panic: in OnConnect")
	require.NotContains(t, stderr.String(), "OnClose")
}

func asyncPanic(address string) error {
	a, err := client.DialAsync(context.Background(), "unix", address, nil, client.AsyncConfig{
		OnConnect: func(*client.AsyncClient) { panic("in OnConnect") },
		OnReceive: func(*client.AsyncClient, []byte) {},
		OnError:   func(*client.AsyncClient, error) {},
		OnClose:   func(*client.AsyncClient, error) {},
	})
	if err != nil {
		return err
	}
	<-a.Done()
	return nil
}

// At the end the client releases the callbacks, and with them what they refer to.
func TestAsync_EndReleasesTheCallbacks(t *testing.T) {
	ln := listen(t, "tcp")
	released := make(chan struct{})
	dial := func() *client.AsyncClient {
		kept := new([1 << 10]byte)
		runtime.SetFinalizer(kept, func(*[1 << 10]byte) { close(released) })
		a, err := client.DialAsync(context.Background(), "tcp", ln.Addr().String(), nil, client.AsyncConfig{
			OnConnect: func(a *client.AsyncClient) { kept[0]++; _ = a.Close() },
			OnReceive: func(*client.AsyncClient, []byte) { kept[0]++ },
			OnError:   func(*client.AsyncClient, error) { kept[0]++ },
			OnClose:   func(*client.AsyncClient, error) { kept[0]++ },
		})
		require.NoError(t, err)
		return a
	}
	a := dial()
	<-a.Done()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-released:
			return true
		default:
			return false
		}
	}, testTimeout, time.Millisecond)
	runtime.KeepAlive(a)
}
