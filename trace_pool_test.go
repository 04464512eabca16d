package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTracePool_NewThenReused(t *testing.T) {
	s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{}), recordTrace()
	opts := &client.Options{Trace: &r.Trace, PoolKey: "key"}
	address := s.Addr().String()
	c := s.from(t, p, opts)
	require.Equal(t, "GetConn "+connectCalls+"Connected GotConn", r.calls())
	require.Equal(t, client.GetConnInfo{PoolKey: "key", Network: "tcp", Address: address}, only[client.GetConnInfo](t, r))
	conn := only[client.ConnectedInfo](t, r).Conn
	require.Equal(t, client.ConnInfo{ID: conn.ID, Network: "tcp", Address: address, Local: c.LocalAddr(), Remote: c.RemoteAddr()}, conn)
	got := only[client.GotConnInfo](t, r)
	require.Positive(t, got.Duration)
	require.Equal(t, client.GotConnInfo{PoolKey: "key", Network: "tcp", Address: address, Conn: conn, Duration: got.Duration}, got)
	asks(t, c, "ping")
	r.reset()
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.Equal(t, "PutIdleConn", r.calls())
	require.Equal(t, client.PutIdleConnInfo{Conn: conn}, only[client.PutIdleConnInfo](t, r))

	time.Sleep(2 * time.Millisecond) // idle
	r.reset()
	c = s.from(t, p, opts)
	require.Equal(t, "GetConn ProbedConn GotConn", r.calls())
	got = only[client.GotConnInfo](t, r)
	require.GreaterOrEqual(t, got.IdleTime, 2*time.Millisecond)
	require.Equal(t, client.ProbedConnInfo{Conn: conn, IdleTime: got.IdleTime}, only[client.ProbedConnInfo](t, r))
	require.True(t, got.Reused)
	require.Equal(t, conn, got.Conn)
	asks(t, c, "ping")
	require.NoError(t, c.Close())
	require.Equal(t, "GetConn ProbedConn GotConn GotFirstResponseByte PutIdleConn", r.calls(), "each client has a first byte")
	r.reset()
	require.NoError(t, p.Close())
	require.Equal(t, client.ClosedInfo{Conn: conn, Discard: client.DiscardPoolClosed}, only[client.ClosedInfo](t, r))
}

// Each cause of a discard is reported to Closed, and to the call that learns of it.
func TestTracePool_DiscardCauses(t *testing.T) {
	type end struct {
		p    *client.Pool
		c    *client.Client
		peer net.Conn
		next func() *client.Client
	}
	whileIdle := func(t *testing.T, e end, happens func() error) {
		require.NoError(t, e.c.Close())
		require.NoError(t, happens())
		time.Sleep(10 * time.Millisecond) // on loopback it has arrived; elsewhere nothing could tell
		require.NoError(t, e.next().Close())
	}
	for name, test := range map[string]struct {
		opts  client.PoolOptions
		do    func(t *testing.T, e end)
		cause client.DiscardCause
		by    string // the other function that is called with the cause
		err   error
	}{
		"dead": {do: func(t *testing.T, e end) {
			whileIdle(t, e, e.peer.Close)
		}, cause: client.DiscardDead, by: "ProbedConn"},
		"unclean": {do: func(t *testing.T, e end) {
			whileIdle(t, e, func() error { _, err := e.peer.Write([]byte("late")); return err })
		}, cause: client.DiscardUnclean, by: "ProbedConn"},
		"no answer": {do: func(t *testing.T, e end) {
			_, err := e.c.Send([]byte("question"), 0)
			require.NoError(t, err)
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardUnclean, by: "PutIdleConn"},
		"idle for too long": {opts: client.PoolOptions{IdleTimeout: time.Millisecond}, do: func(t *testing.T, e end) {
			require.NoError(t, e.c.Close())
			waitClosed(t, e.peer)
		}, cause: client.DiscardIdleTimeout},
		"too old": {opts: client.PoolOptions{MaxLifetime: time.Millisecond, LifetimeJitter: -1}, do: func(t *testing.T, e end) {
			time.Sleep(2 * time.Millisecond)
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardMaxLifetime, by: "PutIdleConn"},
		"failed": {do: func(t *testing.T, e end) {
			require.NoError(t, e.peer.Close())
			_, err := e.c.Recv(make([]byte, 1), 0)
			require.Equal(t, io.EOF, err)
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardFailed, by: "PutIdleConn", err: io.EOF},
		"timed out": {do: func(t *testing.T, e end) {
			require.NoError(t, e.c.SetDeadline(time.Now()))
			_, err := e.c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardFailed, by: "PutIdleConn"},
		"no room": {opts: client.PoolOptions{MaxIdle: -1}, do: func(t *testing.T, e end) {
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardOverLimit, by: "PutIdleConn"},
		"by the caller": {do: func(t *testing.T, e end) { require.NoError(t, e.c.Discard()) }, cause: client.DiscardByCaller, by: "PutIdleConn"},
		"CloseIdle": {do: func(t *testing.T, e end) {
			require.NoError(t, e.c.Close())
			e.p.CloseIdle()
		}, cause: client.DiscardCloseIdle},
		"after Close of the pool": {do: func(t *testing.T, e end) {
			require.NoError(t, e.p.Close())
			require.NoError(t, e.c.Close())
		}, cause: client.DiscardPoolClosed, by: "PutIdleConn"},
	} {
		t.Run(name, func(t *testing.T) {
			s, p, r := silentServer(t, "tcp"), newPool(t, test.opts), recordTrace()
			next := func() *client.Client { return s.from(t, p, &client.Options{Trace: &r.Trace}) }
			c := next()
			conn := only[client.ConnectedInfo](t, r).Conn
			test.do(t, end{p, c, <-s.new, next})
			require.Eventually(t, func() bool { return len(called[client.ClosedInfo](r)) > 0 }, testTimeout, time.Millisecond) // some in the background
			closed := called[client.ClosedInfo](r)[0]
			require.Equal(t, client.ClosedInfo{Conn: conn, Discard: test.cause, Err: test.err}, closed)
			require.EqualValues(t, 1, p.Stats().Discards[test.cause])
			probed, put := called[client.ProbedConnInfo](r), called[client.PutIdleConnInfo](r)
			switch test.by {
			case "ProbedConn":
				require.Equal(t, conn, probed[0].Conn)
				require.Equal(t, test.cause, probed[0].Verdict)
				require.Equal(t, client.DiscardNone, put[0].Discard)
			case "PutIdleConn":
				require.Equal(t, conn, put[0].Conn)
				require.Equal(t, test.cause, put[0].Discard)
			}
		})
	}
}

func TestTracePool_SetupFails(t *testing.T) {
	s, r := silentServer(t, "tcp"), recordTrace()
	no := errors.New("no")
	p := newPool(t, client.PoolOptions{Setup: func(context.Context, *client.Client) error { return no }})
	_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{Trace: &r.Trace})
	require.ErrorIs(t, err, no)
	require.Equal(t, "GetConn "+connectCalls+"Connected Closed GotConn", r.calls())
	require.Equal(t, client.DiscardSetup, only[client.ClosedInfo](t, r).Discard)
	require.Equal(t, no, only[client.ClosedInfo](t, r).Err)
	require.ErrorIs(t, only[client.GotConnInfo](t, r).Err, no)
	require.Zero(t, only[client.GotConnInfo](t, r).Conn)
}

// A checkout that fails has no connection, and so no time for which that was idle.
func TestTracePool_FailedCheckoutHasNoIdleTime(t *testing.T) {
	s, p, r := silentServer(t, "tcp"), newPool(t, client.PoolOptions{}), recordTrace()
	opts := &client.Options{Trace: &r.Trace}
	require.NoError(t, s.from(t, p, opts).Close())
	require.NoError(t, (<-s.new).Close())
	require.NoError(t, s.Close())
	time.Sleep(2 * time.Millisecond) // idle
	r.reset()
	_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.GreaterOrEqual(t, only[client.ProbedConnInfo](t, r).IdleTime, 2*time.Millisecond)
	require.Zero(t, only[client.GotConnInfo](t, r).IdleTime)
}

// What Setup receives is no answer to a caller. A handshake in it is traced like any other.
func TestTracePool_SetupWithTLS(t *testing.T) {
	secure, r := listenTLS(t, "tcp", nil), recordTrace()
	s := startTLSServer(t, secure)
	p := newPool(t, client.PoolOptions{Setup: func(ctx context.Context, c *client.Client) error {
		if err := pings(c); err != nil {
			return err
		}
		return c.StartTLS(ctx, secure.trust(t))
	}})
	ctx, inCtx := client.WithTrace(t.Context(), nil), recordTrace()
	ctx = client.WithTrace(ctx, &inCtx.Trace)
	c, err := p.Dial(ctx, "tcp", s.Addr().String(), &client.Options{Trace: &r.Trace})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	const want = "GetConn " + connectCalls + "Connected " + tlsCalls + " GotConn PutIdleConn"
	require.Equal(t, want, r.calls())
	require.Equal(t, want, inCtx.calls())
	require.NoError(t, p.Close())
	require.Equal(t, want+" Closed", r.calls())
	require.Equal(t, want, inCtx.calls(), "the call is over")
}

// startTLSServer answers one message in plaintext and then speaks TLS.
func startTLSServer(t *testing.T, secure *tlsServer) *counted {
	t.Helper()
	return countedServer(t, "tcp", func(conn net.Conn) {
		p := make([]byte, len("ping"))
		if _, err := io.ReadFull(conn, p); err != nil {
			return
		}
		_, _ = conn.Write(p)
		peer := tls.Server(conn, secure.config)
		_, _ = peer.Read(make([]byte, 1))
	})
}

func TestTracePool_WaitedForRoom(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	held := s.from(t, p, nil)
	r := recordTrace()
	opts := &client.Options{Trace: &r.Trace, PoolKey: ""}
	got := make(chan *client.Client)
	go func() {
		c, err := p.Dial(context.Background(), "tcp", s.Addr().String(), opts)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	require.Eventually(t, func() bool { return p.Stats().Waits == 1 }, testTimeout, time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	require.Equal(t, "GetConn", r.calls())
	require.NoError(t, held.Close())
	c := <-got
	require.Equal(t, "GetConn Waited ProbedConn GotConn", r.calls())
	waited := only[client.WaitedInfo](t, r)
	require.GreaterOrEqual(t, waited.Duration, 5*time.Millisecond)
	require.Equal(t, client.WaitedInfo{Network: "tcp", Address: s.Addr().String(), Duration: waited.Duration}, waited)
	require.True(t, only[client.GotConnInfo](t, r).Reused)

	r.reset()
	opts.Timeout = 5 * time.Millisecond
	_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "GetConn Waited GotConn", r.calls())
	require.ErrorIs(t, only[client.WaitedInfo](t, r).Err, os.ErrDeadlineExceeded)
	require.ErrorIs(t, only[client.GotConnInfo](t, r).Err, os.ErrDeadlineExceeded)
	require.NoError(t, c.Close())
	require.NoError(t, p.Close())
	r.reset()
	_, err = p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, "GetConn GotConn", r.calls())
}

// A released connection may be closed because a waiter accepts only a new one.
func TestTracePool_PutIdleConnIsClosedForDialNew(t *testing.T) {
	s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1}), recordTrace()
	c := s.from(t, p, &client.Options{Trace: &r.Trace})
	got := make(chan error)
	go func() {
		c, err := p.DialNew(context.Background(), "tcp", s.Addr().String(), nil)
		if err == nil {
			err = c.Close()
		}
		got <- err
	}()
	require.Eventually(t, func() bool { return p.Stats().Waiting == 1 }, testTimeout, time.Millisecond)
	require.NoError(t, c.Close())
	require.NoError(t, <-got)
	require.Equal(t, client.DiscardOverLimit, only[client.ClosedInfo](t, r).Discard)
	require.Equal(t, client.DiscardOverLimit, only[client.PutIdleConnInfo](t, r).Discard)
}

func TestTracePool_DoRetries(t *testing.T) {
	s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{}), recordTrace()
	c := s.from(t, p, nil)
	peer := <-s.new
	asks(t, c, "ping")
	require.NoError(t, c.Close())
	ctx := client.WithTrace(t.Context(), &r.Trace)
	first := true
	require.NoError(t, p.Do(ctx, "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		if first { // the server closes at the moment when the request is sent
			first = false
			_ = peer.Close()
			_, err := c.Recv(make([]byte, 1), 0)
			return client.Retryable(err)
		}
		return pings(c)
	}))
	require.Equal(t, "GetConn ProbedConn GotConn PutIdleConn Retried GetConn "+connectCalls+"Connected GotConn GotFirstResponseByte PutIdleConn", r.calls())
	require.Equal(t, client.RetriedInfo{Network: "tcp", Address: s.Addr().String(), Err: io.EOF}, only[client.RetriedInfo](t, r))
}

// A dial that goes on after its caller has left ends with its ConnectDone, and so does one
// for MinIdle.
func TestTracePool_DialWithoutCaller(t *testing.T) {
	hole, r := blackHole(t, "tcp", "127.0.0.1"), recordTrace()
	p := newPool(t, client.PoolOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := p.Dial(ctx, "tcp", hole, &client.Options{Trace: &r.Trace})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "GetConn ConnectStart GotConn", r.calls())
	require.NoError(t, p.Close())
	require.Eventually(t, func() bool { return len(called[client.ConnectDoneInfo](r)) == 1 }, testTimeout, time.Millisecond)
	require.ErrorIs(t, only[client.ConnectDoneInfo](t, r).Err, context.Canceled)

	s := countedEcho(t, "tcp")
	p = newPool(t, client.PoolOptions{MinIdle: 2})
	r.reset()
	require.NoError(t, s.from(t, p, &client.Options{Trace: &r.Trace}).Close())
	require.Eventually(t, func() bool { return len(called[client.ConnectedInfo](r)) >= 2 }, testTimeout, time.Millisecond)
}

// A panic in a function passes to the caller, and the pool has lost nothing.
func TestTracePool_PanicLeaksNothing(t *testing.T) {
	for _, name := range []string{"GetConn", "ConnectStart", "ConnectDone", "Connected", "Waited", "ProbedConn", "GotConn", "PutIdleConn", "Closed"} {
		t.Run(name, func(t *testing.T) {
			s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1}), recordTrace()
			opts := &client.Options{Trace: &r.Trace}
			if name == "ProbedConn" || name == "Waited" {
				opts.Trace = nil
				c := s.from(t, p, opts)
				opts.Trace = &r.Trace
				release := func() { _ = c.Close() }
				if name == "Waited" {
					time.AfterFunc(10*time.Millisecond, release)
				} else {
					release()
				}
			}
			r.onCall = func(called string) {
				if called == name {
					panic(name)
				}
			}
			require.PanicsWithValue(t, name, func() {
				c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
				require.NoError(t, err)
				if name == "Closed" {
					_ = c.Discard()
				}
				_ = c.Close()
			})
			require.Eventually(t, func() bool { return p.Stats().Active+p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
			r.onCall = nil
			c := s.from(t, p, opts)
			asks(t, c, "ping")
			require.NoError(t, c.Close())
		})
	}
}

// No lock is held: a function may use the pool and its clients.
func TestTracePool_FunctionsMayCallThePool(t *testing.T) {
	s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxIdle: 1, IdleTimeout: time.Millisecond}), recordTrace()
	r.onCall = func(string) {
		_ = p.Stats()
		p.CloseIdle()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				_ = p.Do(context.Background(), "tcp", s.Addr().String(), &client.Options{Trace: &r.Trace}, pings)
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.Close())
}

// With many goroutines each Start has its Done, and each connection is closed once.
func TestTracePool_ManyGoroutines(t *testing.T) {
	s, p, r := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 3, MaxIdlePerKey: 2}), recordTrace()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx := client.WithTrace(context.Background(), &client.Trace{GotConn: func(client.GotConnInfo) {}})
			for j := range 50 {
				_ = p.Do(ctx, "tcp", s.Addr().String(), &client.Options{Trace: &r.Trace}, func(c *client.Client) error {
					if (i+j)%7 == 0 {
						return unix.EIO
					}
					return pings(c)
				})
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.Close())
	require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
	require.Len(t, called[client.GetConnInfo](r), len(called[client.GotConnInfo](r)))
	require.Len(t, called[client.ConnectStartInfo](r), len(called[client.ConnectDoneInfo](r)))
	var opened, closed []uint64
	for _, i := range called[client.ConnectedInfo](r) {
		opened = append(opened, i.Conn.ID)
	}
	for _, i := range called[client.ClosedInfo](r) {
		closed = append(closed, i.Conn.ID)
	}
	slices.Sort(opened)
	slices.Sort(closed)
	require.Equal(t, opened, closed)
	require.EqualValues(t, p.Stats().Discards.Total(), len(closed))
}
