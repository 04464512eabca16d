package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
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

func TestAsyncPackets_AreDeliveredOneByOne(t *testing.T) {
	for _, network := range asyncNetworks {
		for name, framing := range map[string]client.Framing{
			"length":    client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2},
			"delimiter": client.Delimiter{Delim: []byte("\r\n")},
		} {
			t.Run(network+" "+name, func(t *testing.T) {
				a, e, peer := asyncStream(t, network, &client.Options{Framing: framing}, nil)
				go func() { _, _ = io.Copy(peer, peer) }()
				want := 0
				for i := range 200 {
					require.NoError(t, a.SendPacket(bytes.Repeat([]byte{'a' + byte(i%26)}, 1+i*37%5000)))
					want++
				}
				e.mu.Lock()
				e.mu.Unlock() //nolint:staticcheck // publishes nothing, waits for a callback
				require.Eventually(t, func() bool {
					e.mu.Lock()
					defer e.mu.Unlock()
					return len(e.packets) == want
				}, testTimeout, time.Millisecond)
				for i, p := range e.packets {
					require.Len(t, p, 1+i*37%5000+2)
					require.Contains(t, p, strings.Repeat(string(rune('a'+i%26)), 1+i*37%5000))
				}
			})
		}
	}
}

func TestAsyncPackets_WrongOneEndsTheClient(t *testing.T) {
	_, e, peer := asyncStream(t, "tcp", &client.Options{Framing: client.LengthPrefix{BodyOffset: 4, Max: 100}}, nil)
	_, err := peer.Write([]byte{0, 0, 0, 1, 'x', 0xff, 0, 0, 0})
	require.NoError(t, err)
	var bad *client.PacketError
	require.ErrorAs(t, e.result(), &bad)
	require.Equal(t, []string{"\x00\x00\x00\x01x"}, e.packets)
}

// An error that wraps one of the socket's was taken for the socket's: the client received again
// and again, and did not end.
func TestAsyncPackets_EveryErrorOfALengthFuncEndsTheClient(t *testing.T) {
	for _, cause := range []error{os.ErrDeadlineExceeded, context.DeadlineExceeded, unix.EAGAIN, io.EOF, net.ErrClosed} {
		t.Run(cause.Error(), func(t *testing.T) {
			fails := client.LengthFunc{Func: func([]byte) (int, error) { return 0, cause }}
			_, e, peer := asyncStream(t, "tcp", &client.Options{Framing: fails}, nil)
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
			err = e.result()
			require.ErrorIs(t, err, cause)
			var wrong *client.PacketError
			require.ErrorAs(t, err, &wrong)
		})
	}
}

func TestAsyncPackets_PartAtTheEndIsUnexpected(t *testing.T) {
	_, e, peer := asyncStream(t, "tcp", &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}, nil)
	_, err := peer.Write([]byte("line\npart"))
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	require.ErrorIs(t, e.result(), io.ErrUnexpectedEOF)
	require.Equal(t, "line\n", e.received())
}

func TestAsyncDatagrams_KeepTheirBoundaries(t *testing.T) {
	for _, network := range datagramNetworks {
		t.Run(network, func(t *testing.T) {
			peer := packetPeer(t, network)
			e := newAsyncEvents(t)
			a := e.dial(network, peer.LocalAddr().String(), nil, nil)
			require.Same(t, a, e.client())
			p := make([]byte, 1<<17)
			for i, size := range []int{0, 1, 1200, 30_000} {
				require.NoError(t, a.Send(make([]byte, size)))
				n, from, err := peer.ReadFrom(p)
				require.NoError(t, err)
				require.Equal(t, size, n)
				_, err = peer.WriteTo(bytes.Repeat([]byte("y"), size), from)
				require.NoError(t, err)
				require.Eventually(t, func() bool {
					e.mu.Lock()
					defer e.mu.Unlock()
					return len(e.packets) == i+1 && len(e.packets[i]) == size
				}, testTimeout, time.Millisecond)
			}
			require.ErrorIs(t, a.CloseWrite(), unix.EOPNOTSUPP)
			require.ErrorIs(t, a.StartTLS(nil, nil), unix.EOPNOTSUPP)
			require.NoError(t, a.Close())
			require.NoError(t, e.result())
		})
	}
}

func TestAsyncDatagrams_LargeOneOfUnixIsWhole(t *testing.T) {
	peer := packetPeer(t, "unixgram")
	e := newAsyncEvents(t)
	a := e.dial("unixgram", peer.LocalAddr().String(), nil, nil)
	e.client()
	require.NoError(t, a.Send([]byte("x")))
	_, from, err := peer.ReadFrom(make([]byte, 10))
	require.NoError(t, err)
	_, err = peer.WriteTo(make([]byte, 100_000), from)
	require.NoError(t, err)
	e.receives(string(make([]byte, 100_000)))
}

func TestAsyncDatagrams_RefusedDoesNotEndTheClient(t *testing.T) {
	peer := packetPeer(t, "udp")
	address := peer.LocalAddr().String()
	e := newAsyncEvents(t)
	a := e.dial("udp", address, nil, func(c *client.AsyncConfig) { c.OnConnect, c.OnClose = nil, nil })
	require.Eventually(t, func() bool { return a.Client() != nil }, testTimeout, time.Millisecond)
	require.NoError(t, peer.Close())
	e.began.Store(true) // there is no OnConnect
	for range 10 {
		_ = a.Send([]byte("x")) // it may get the error of the one before
		time.Sleep(time.Millisecond)
	}
	peer, err := net.ListenPacket("udp", address)
	require.NoError(t, err)
	defer peer.Close()
	require.Eventually(t, func() bool { return a.Send([]byte("again")) == nil }, testTimeout, time.Millisecond)
	p := make([]byte, 10)
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
	n, from, err := peer.ReadFrom(p)
	require.NoError(t, err)
	_, err = peer.WriteTo(p[:n], from)
	require.NoError(t, err)
	e.receives("again")
}

func TestAsyncDatagrams_UnconnectedOneSendsTo(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			peer := packetPeer(t, network)
			newClient := client.NewUDP
			if network == "unixgram" {
				newClient = client.NewUnixgram
			}
			c, err := newClient(nil)
			require.NoError(t, err)
			e := newAsyncEvents(t)
			a, err := c.Async(e.config())
			require.NoError(t, err)
			defer closeAsync(t, a)
			require.ErrorIs(t, a.Send([]byte("x")), unix.ENOTCONN)
			require.NoError(t, a.SendTo([]byte("ping"), peer.LocalAddr()))
			p := make([]byte, 10)
			n, from, err := peer.ReadFrom(p)
			require.NoError(t, err)
			_, err = peer.WriteTo(p[:n], from)
			require.NoError(t, err)
			e.receives("ping")
		})
	}
}

// The queue of a unix datagram receiver is full: what waits goes out whole and in order.
func TestAsyncDatagrams_QueueKeepsThemWhole(t *testing.T) {
	peer := packetPeer(t, "unixgram")
	e := newAsyncEvents(t)
	a := e.dial("unixgram", peer.LocalAddr().String(), nil, nil)
	e.client()
	const n = 2000
	for i := range n {
		require.NoError(t, a.Send(fmt.Appendf(nil, "%d", i)))
	}
	require.Positive(t, a.Queued())
	require.NoError(t, a.Finish())
	p := make([]byte, 10)
	for i := range n {
		m, _, err := peer.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(p[:m]))
	}
	require.NoError(t, e.result())
}

func TestAsyncDatagrams_EmptyOnesFillTheQueue(t *testing.T) {
	peer := packetPeer(t, "unixgram")
	e := newAsyncEvents(t)
	a := e.dial("unixgram", peer.LocalAddr().String(), nil, func(c *client.AsyncConfig) { c.MaxQueue = 10 })
	e.client()
	sent := 0
	for ; ; sent++ {
		if err := a.Send(nil); err != nil {
			require.ErrorIs(t, err, client.ErrQueueFull)
			break
		}
		require.Less(t, sent, 10_000, "no limit")
	}
	require.Equal(t, 10, a.Queued())
	require.NoError(t, a.Finish())
	for range sent {
		n, _, err := peer.ReadFrom(make([]byte, 1))
		require.NoError(t, err)
		require.Zero(t, n)
	}
	require.NoError(t, e.result())
	require.Zero(t, a.Queued())
}

// The error of one datagram in the queue, to an address where nobody is, ended the client.
func TestAsyncDatagrams_RefusedOneInTheQueueDoesNotEndTheClient(t *testing.T) {
	peer := packetPeer(t, "unixgram")
	c, err := client.NewUnixgram(nil)
	require.NoError(t, err)
	e := newAsyncEvents(t)
	a, err := c.Async(e.config())
	require.NoError(t, err)
	defer closeAsync(t, a)
	absent := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "absent"), Net: "unixgram"}
	require.ErrorIs(t, a.SendTo([]byte("x"), absent), unix.ENOENT)
	n := 0
	for ; a.Queued() == 0; n++ {
		require.NoError(t, a.SendTo([]byte("x"), peer.LocalAddr()))
	}
	require.NoError(t, a.SendTo([]byte("x"), absent))
	require.NoError(t, a.SendTo([]byte("last"), peer.LocalAddr()))
	p := make([]byte, 10)
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
	for range n + 1 {
		_, _, err := peer.ReadFrom(p)
		require.NoError(t, err)
	}
	require.Equal(t, "last", string(p[:4]))
	require.Empty(t, e.ended)
}

func TestAsyncTLS_DialVerifies(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				peer := tls.Server(conn, s.config)
				_, _ = io.Copy(peer, peer)
				_ = conn.Close()
			}()
		}
	}()
	e := newAsyncEvents(t)
	a := e.dial("tcp", s.Addr().String(), &client.Options{TLS: s.trust(t)}, nil)
	e.client()
	require.True(t, a.Client().ConnectionState().HandshakeComplete)
	require.NoError(t, a.Send([]byte("ping")))
	e.receives("ping")

	e = newAsyncEvents(t)
	e.dial("tcp", s.Addr().String(), &client.Options{TLS: &client.TLSOptions{ServerName: "localhost"}}, nil)
	var bad *client.TLSError
	require.ErrorAs(t, e.result(), &bad)
}

func TestAsyncTLS_StartTLSTakesItsPlaceInTheOrder(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	e := newAsyncEvents(t)
	opts := s.trust(t)
	e.onReceive = func(a *client.AsyncClient, p []byte) {
		if string(p) != "go ahead\n" {
			return
		}
		assert.NoError(t, a.Send([]byte("last plain\n")))
		assert.NoError(t, a.StartTLS(opts, func(a *client.AsyncClient) {
			e.callback("secured", func() {
				assert.True(t, a.Client().ConnectionState().HandshakeComplete)
				assert.NoError(t, a.Send([]byte("third")))
			})
		}))
		assert.ErrorIs(t, a.StartTLS(opts, nil), unix.EALREADY)
		assert.NoError(t, a.Send([]byte("first second ")))
	}
	a := e.dial("tcp", s.Addr().String(), nil, nil)
	conn, err := s.Accept()
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("go ahead\n"))
	require.NoError(t, err)
	plain := make([]byte, len("last plain\n"))
	_, err = io.ReadFull(conn, plain)
	require.NoError(t, err)
	require.Equal(t, "last plain\n", string(plain))
	peer := tls.Server(conn, s.config)
	got := make([]byte, len("first second third"))
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	require.Equal(t, "first second third", string(got))
	_, err = peer.Write([]byte("secret"))
	require.NoError(t, err)
	e.receives("go ahead\nsecret")
	require.ErrorIs(t, a.StartTLS(opts, nil), unix.EALREADY)
	require.NoError(t, a.Close())
	require.NoError(t, e.result())
	require.Equal(t, []string{"connect", "secured", "close"}, e.names())
}

// Plaintext that an attacker sends along with the agreement must not be taken for a part of the
// encrypted stream.
func TestAsyncTLS_PlaintextBeforeTheHandshakeEndsTheClient(t *testing.T) {
	for _, framing := range []client.Framing{nil, client.Delimiter{Delim: []byte("\n")}} {
		_, e, peer := asyncStream(t, "tcp", &client.Options{Framing: framing}, nil)
		e.onReceive = func(a *client.AsyncClient, _ []byte) {
			if framing == nil {
				time.Sleep(5 * time.Millisecond)
			}
			assert.NoError(t, a.StartTLS(&client.TLSOptions{ServerName: "x"}, func(*client.AsyncClient) { assert.Fail(t, "secured") }))
		}
		_, err := peer.Write([]byte("go\n"))
		require.NoError(t, err)
		if framing == nil {
			require.Eventually(t, func() bool { return e.received() != "" }, testTimeout, time.Microsecond)
		}
		_, err = peer.Write([]byte("injected\n"))
		require.NoError(t, err)
		require.Error(t, e.result())
		require.Equal(t, "go\n", e.received())
	}
}

func TestAsyncTLS_FailedHandshakeEndsTheClient(t *testing.T) {
	a, e, peer := asyncStream(t, "tcp", nil, nil)
	require.NoError(t, a.StartTLS(&client.TLSOptions{ServerName: "x"}, nil))
	require.NoError(t, a.Send([]byte("secret")))
	go func() {
		_, _ = peer.Read(make([]byte, 10))
		_, _ = peer.Write([]byte("no TLS here"))
		_, _ = io.Copy(io.Discard, peer)
	}()
	err := e.result()
	var bad *client.TLSError
	require.ErrorAs(t, err, &bad)
	var unsent *client.UnsentError
	require.ErrorAs(t, err, &unsent)
	require.EqualValues(t, len("secret"), unsent.Bytes)
	var option *client.OptionError
	b, _, _ := asyncStream(t, "tcp", nil, nil)
	require.ErrorAs(t, b.StartTLS(&client.TLSOptions{CAFile: "/does/not/exist"}, nil), &option)
}

func TestAsyncTLS_CloseInTheHandshake(t *testing.T) {
	a, e, _ := asyncStream(t, "tcp", nil, nil)
	require.NoError(t, a.StartTLS(&client.TLSOptions{ServerName: "x"}, nil))
	a.Pause()
	a.Resume()
	time.Sleep(10 * time.Millisecond)
	require.NoError(t, a.Close())
	require.NoError(t, e.result())
}

func TestAsyncProxy_ConnectsThroughIt(t *testing.T) {
	p := &fakeProxy{reply: socksGranted, beyond: func(conn net.Conn) { _, _ = io.Copy(conn, conn) }}
	address, _ := p.serve(t, p.socks5)
	e := newAsyncEvents(t)
	a := e.dial("tcp", "name.test:80", &client.Options{Proxy: "socks5://" + address}, nil)
	e.client()
	require.NoError(t, a.Send([]byte("ping")))
	e.receives("ping")
}

func listenEcho(t *testing.T) net.Listener {
	t.Helper()
	ln := listen(t, "tcp")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { echo(conn); _ = conn.Close() }()
		}
	}()
	return ln
}

// pooledAsync returns a client of the pool that has had one answer.
func pooledAsync(t *testing.T, pool *client.Pool, address string) (*client.AsyncClient, *asyncEvents) {
	t.Helper()
	c, err := pool.Dial(t.Context(), "tcp", address, nil)
	require.NoError(t, err)
	e := newAsyncEvents(t)
	a, err := c.Async(e.config())
	require.NoError(t, err)
	require.NoError(t, a.Send([]byte("ping")))
	e.receives("ping")
	return a, e
}

// Close and Discard of the client underneath must not be called. If they are, the next client
// of the pool must not share its connection with this one.
func TestAsyncPool_ConnectionIsNotReusedUnderneath(t *testing.T) {
	ln := listenEcho(t)
	for name, end := range map[string]func(*client.Client) error{
		"close": (*client.Client).Close, "discard": (*client.Client).Discard,
	} {
		t.Run(name, func(t *testing.T) {
			pool := client.NewPool(client.PoolOptions{})
			defer pool.Close()
			a, e := pooledAsync(t, pool, ln.Addr().String())
			require.NoError(t, end(a.Client()))
			c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
			require.NoError(t, err)
			require.False(t, c.Reused())
			require.NoError(t, c.Close())
			require.ErrorIs(t, e.result(), net.ErrClosed)
			require.Zero(t, pool.Stats().Active)
		})
	}
}

// The peer waits for the handshake: it would take the next client's bytes for it.
func TestAsyncPool_CloseBeforeTheHandshakeOfStartTLSClosesTheConnection(t *testing.T) {
	ln := listenEcho(t)
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	e := newAsyncEvents(t)
	closed := make(chan error, 2)
	e.onReceive = func(a *client.AsyncClient, _ []byte) {
		closed <- a.StartTLS(nil, nil)
		closed <- a.Close()
	}
	a, err := c.Async(e.config())
	require.NoError(t, err)
	require.NoError(t, a.Send([]byte("STARTTLS")))
	require.NoError(t, <-closed)
	require.NoError(t, <-closed)
	require.NoError(t, e.result())
	<-a.Done()
	c, err = pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	require.False(t, c.Reused())
	require.NoError(t, c.Close())
}

// A packet for which the queue had no room counted as one without an answer.
func TestAsyncPool_PacketThatWasNotQueuedNeedsNoAnswer(t *testing.T) {
	ln := listenEcho(t)
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	opts := &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}
	c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), opts)
	require.NoError(t, err)
	e := newAsyncEvents(t)
	cfg := e.config()
	cfg.MaxQueue = 10
	a, err := c.Async(cfg)
	require.NoError(t, err)
	require.ErrorIs(t, a.SendPacket(make([]byte, 11)), client.ErrQueueFull)
	require.NoError(t, a.SendPacket([]byte("ping")))
	e.receives("ping\n")
	require.NoError(t, a.Close())
	require.NoError(t, e.result())
	<-a.Done()
	c, err = pool.Dial(t.Context(), "tcp", ln.Addr().String(), opts)
	require.NoError(t, err)
	require.True(t, c.Reused())
	require.NoError(t, c.Close())
}

func TestAsyncPool_ConnectionGoesBackAtTheEnd(t *testing.T) {
	ln := listenEcho(t)
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	async := func(f func(a *client.AsyncClient, e *asyncEvents)) (reused bool) {
		c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
		require.NoError(t, err)
		reused = c.Reused()
		e := newAsyncEvents(t)
		a, err := c.Async(e.config())
		require.NoError(t, err)
		f(a, e)
		<-a.Done()
		return reused
	}
	answered := func(end func(*client.AsyncClient)) func(*client.AsyncClient, *asyncEvents) {
		return func(a *client.AsyncClient, e *asyncEvents) {
			require.NoError(t, a.Send([]byte("ping")))
			e.receives("ping")
			end(a)
			require.NoError(t, e.result())
		}
	}
	closes := func(a *client.AsyncClient) { require.NoError(t, a.Close()) }
	finishes := func(a *client.AsyncClient) { require.NoError(t, a.Finish()) }
	require.False(t, async(answered(closes)))
	require.True(t, async(answered(finishes)))
	require.True(t, async(func(a *client.AsyncClient, e *asyncEvents) { // unanswered
		a.Pause()
		require.NoError(t, a.Send([]byte("ping")))
		require.NoError(t, a.Close())
		require.NoError(t, e.result())
	}))
	require.False(t, async(answered(closes)))
	c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	require.True(t, c.Reused())
	_, err = c.Send([]byte("ping"), 0)
	require.NoError(t, err)
	p := make([]byte, 4)
	_, err = c.Recv(p, client.WaitAll)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}
