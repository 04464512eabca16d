package client

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const testTimeout = 20 * time.Second

// A gated server takes every connection; a dial to it has to pass a gate.
type gated struct {
	net.Listener
	pool  *Pool
	opts  Options
	dials chan chan error // one for each dial that is at the gate; what it gets, it returns
	peers chan net.Conn
}

func gatedPool(t *testing.T, network string, opts PoolOptions) *gated {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	g := &gated{Listener: ln, pool: NewPool(opts), dials: make(chan chan error, 100), peers: make(chan net.Conn, 100)}
	g.opts = Options{Timeout: testTimeout, Control: func(string, string, syscall.RawConn) error {
		pass := make(chan error)
		g.dials <- pass
		return <-pass
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			peer, err := ln.Accept()
			if err != nil {
				return
			}
			g.peers <- peer
		}
	})
	t.Cleanup(func() {
		_ = g.pool.Close()
		_ = ln.Close()
		wg.Wait()
		close(g.peers)
		for peer := range g.peers {
			_ = peer.Close()
		}
	})
	return g
}

type dialed struct {
	c   *Client
	err error
}

func (g *gated) dial(ctx context.Context, mode acquireMode) chan dialed {
	ch := make(chan dialed, 1)
	go func() {
		c, err := g.pool.acquire(ctx, g.Addr().Network(), g.Addr().String(), &g.opts, mode)
		ch <- dialed{c, err}
	}()
	return ch
}

// open dials and lets the dial pass.
func (g *gated) open(t *testing.T) *Client {
	t.Helper()
	got := g.dial(context.Background(), reuseOrDial)
	(<-g.dials) <- nil
	d := <-got
	require.NoError(t, d.err)
	return d.c
}

func (g *gated) becomes(t *testing.T, is func(PoolStats) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return is(g.pool.Stats()) }, testTimeout, 100*time.Microsecond)
}

// waiting starts one more caller that waits.
func (g *gated) waiting(t *testing.T, mode acquireMode) chan dialed {
	t.Helper()
	before := g.pool.Stats().Waits
	ch := g.dial(context.Background(), mode)
	g.becomes(t, func(s PoolStats) bool { return s.Waits == before+1 })
	return ch
}

// With one connection in use and one idle there is no room for a third, neither for
// MinIdle nor for a caller that needs a new one: that caller replaces the idle one.
func TestPool_MaxConnsPerKeyCountsIdleConnections(t *testing.T) {
	g := gatedPool(t, "unix", PoolOptions{MaxConnsPerKey: 2, MinIdle: 2})
	c := g.open(t)
	(<-g.dials) <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	require.Zero(t, g.pool.Stats().Dialing)
	c2 := g.dial(context.Background(), reuseOrDial)
	d := <-c2
	require.NoError(t, d.err)
	require.False(t, d.c.Reused())
	require.Zero(t, d.c.ReuseCount())
	got := g.waiting(t, reuseOrDial)
	require.NoError(t, c.Close())
	d2 := <-got
	require.NoError(t, d2.err)
	require.NoError(t, d.c.Close())
	require.NoError(t, d2.c.Close())
	require.Equal(t, 2, g.pool.Stats().Idle)
	require.EqualValues(t, 2, g.pool.Stats().Dials)

	fresh := g.dial(context.Background(), newOnly)
	pass := <-g.dials
	s := g.pool.Stats()
	require.Equal(t, 1, s.Idle)
	require.Equal(t, 1, s.Dialing)
	require.EqualValues(t, 1, s.Discards[DiscardOverLimit])
	pass <- nil
	d = <-fresh
	require.NoError(t, d.err)
	require.NoError(t, d.c.Close())
}

// A caller that needs a new connection is served before later callers.
func TestPool_NewOnlyWaiterIsServedInOrder(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	c := g.open(t)
	fresh := g.waiting(t, newOnly)
	later := g.waiting(t, reuseOrDial)
	require.NoError(t, c.Close())
	(<-g.dials) <- nil
	d := <-fresh
	require.NoError(t, d.err)
	require.False(t, d.c.Reused())
	require.Empty(t, later)
	require.Zero(t, g.pool.Stats().Idle, "it had to make room")
	require.NoError(t, d.c.Close())
	d = <-later
	require.NoError(t, d.err)
	require.True(t, d.c.Reused())
	require.NoError(t, d.c.Close())
	require.EqualValues(t, 2, g.pool.Stats().Dials)
}

// The time of a lease is not idle time.
func TestPool_LeasedTimeIsNotIdleTime(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	require.NoError(t, g.open(t).Close())
	d := <-g.dial(context.Background(), reuseOrDial)
	require.NoError(t, d.err)
	d.c.lease.conn.idleSince = bothClocks().add(-time.Hour)
	got := g.waiting(t, reuseOrDial)
	require.NoError(t, d.c.Close())
	d = <-got
	require.NoError(t, d.err)
	require.Equal(t, 2, d.c.ReuseCount())
	require.NoError(t, d.c.Close())
	require.Zero(t, g.pool.Stats().Discards[DiscardIdleTimeout])
}

func TestPoolStats_ResumedWaitCountsOnce(t *testing.T) {
	p := NewPool(PoolOptions{MaxConnsPerKey: 1})
	s := p.bucketLocked(connKey{"", "tcp", "127.0.0.1:1"}, orDefaults(nil))
	s.active = 1
	const long = time.Hour
	now := sock.Now()
	w, behind := p.newWaiter(context.Background(), s.opts, reuseOrDial, now), p.newWaiter(context.Background(), s.opts, reuseOrDial, now)
	p.enqueueLocked(s, w, now-sock.Instant(long), false)
	p.enqueueLocked(s, behind, now, false)
	require.EqualValues(t, 2, s.stats.Waits)
	p.finishLocked(s, w, acquireResult{})
	<-w.ready
	require.GreaterOrEqual(t, s.stats.WaitTime, long)
	p.enqueueLocked(s, w, now, true)
	require.EqualValues(t, 2, s.stats.Waits)
	require.Same(t, w, s.waiters.first)
	p.finishLocked(s, w, acquireResult{})
	require.Less(t, s.stats.WaitTime, 2*long)
}

// The connection that a caller has dialled does not go to an earlier caller whose own
// dial hangs.
func TestPool_DialGoesFirstToItsOwnCaller(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	first := g.dial(context.Background(), reuseOrDial)
	held := <-g.dials
	second := g.dial(context.Background(), reuseOrDial)
	(<-g.dials) <- nil
	d := <-second
	require.NoError(t, d.err)
	require.False(t, d.c.Reused())
	require.Empty(t, first)
	held <- nil
	d2 := <-first
	require.NoError(t, d2.err)
	require.NoError(t, d.c.Close())
	require.NoError(t, d2.c.Close())
}

// A detached dial does not keep others from dialling.
func TestPool_DetachedDialDelaysNoOtherCaller(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 2})
	c := g.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	goes := g.dial(ctx, reuseOrDial)
	held := <-g.dials
	cancel()
	require.ErrorIs(t, (<-goes).err, context.Canceled)
	got := g.waiting(t, reuseOrDial)
	require.NoError(t, c.Discard())
	(<-g.dials) <- nil
	d := <-got
	require.NoError(t, d.err)
	held <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	require.NoError(t, d.c.Close())
}

func TestPool_DialOutlivesItsCallersDeadline(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := g.pool.Dial(ctx, "tcp", g.Addr().String(), &g.opts)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	(<-g.dials) <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	d := <-g.dial(context.Background(), reuseOrDial)
	require.NoError(t, d.err)
	require.NoError(t, d.c.Close())
	require.EqualValues(t, 1, g.pool.Stats().Dials)
}

// A dial without a limit gets one when its caller has left.
func TestPool_DetachedDialHasATimeLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	var lookups atomic.Int32 // the resolver may begin another when one has ended
	defer func() {
		require.Eventually(t, func() bool { return lookups.Load() == 0 }, 20*time.Second, time.Millisecond)
	}()
	hang := make(chan struct{})
	g := gatedPool(t, "tcp", PoolOptions{})
	_, port, err := net.SplitHostPort(g.Addr().String())
	require.NoError(t, err)
	opts := &Options{Timeout: -1, Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		lookups.Add(1)
		defer lookups.Add(-1)
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return nil, errors.New("no servers")
	}}}
	got := make(chan dialed, 1)
	address := net.JoinHostPort("name.test", port)
	go func() {
		c, err := g.pool.Dial(context.Background(), "tcp", address, opts)
		got <- dialed{c, err}
	}()
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == 1 })
	c, err := Dial("tcp", g.Addr().String(), nil)
	require.NoError(t, err)
	begin, now := time.Now(), bothClocks()
	g.pool.mu.Lock() // as if it came back
	s := g.pool.bucketLocked(connKey{"", "tcp", address}, opts)
	k := g.pool.newConn(s, c, now)
	k.uses = 1
	require.Nil(t, g.pool.putConnLocked(k, now))
	g.pool.mu.Unlock()
	d := <-got
	require.NoError(t, d.err)
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == 0 })
	require.GreaterOrEqual(t, time.Since(begin), DefaultTimeout)
	require.NoError(t, d.c.Close())
}

func TestPoolStats_CountsClosedConnections(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	c, c2, c3 := g.open(t), g.open(t), g.open(t)
	require.NoError(t, c.Close())
	g.pool.CloseIdle()
	require.NoError(t, c2.Close())
	late := g.dial(context.Background(), reuseOrDial) // takes c2
	require.NoError(t, (<-late).c.Close())
	ctx, cancel := context.WithCancel(context.Background())
	goes := g.dial(ctx, newOnly)
	held := <-g.dials
	cancel()
	require.ErrorIs(t, (<-goes).err, context.Canceled)
	require.NoError(t, g.pool.Close())
	require.NoError(t, c3.Close())
	held <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == 0 })
	s := g.pool.Stats()
	require.EqualValues(t, 4, s.Dials)
	require.EqualValues(t, s.Dials, s.DialErrors+s.Discards.Total())
	require.Zero(t, s.Idle+s.Active)
}

func TestPoolOptions_ExtremeLimits(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxLifetime: math.MaxInt64, LifetimeJitter: math.MaxInt64, IdleTimeout: math.MaxInt64})
	require.NoError(t, g.open(t).Close())
	require.Equal(t, 1, g.pool.Stats().Idle)

	o := PoolOptions{MinIdle: 1, IdleTimeout: 1, MaxLifetime: 1}.withDefaults()
	require.Equal(t, time.Second, o.IdleTimeout)
	require.Equal(t, time.Second, o.MaxLifetime)
	o = PoolOptions{MinIdle: 1, IdleTimeout: -1}.withDefaults()
	require.Negative(t, o.IdleTimeout)
	require.Zero(t, o.MaxLifetime)
}

// A default that the caller has not chosen must not reduce MinIdle.
func TestPoolOptions_MinIdleRaisesDefaultMaxIdlePerKey(t *testing.T) {
	for _, test := range []struct {
		opts                   PoolOptions
		minIdle, maxIdlePerKey int
	}{
		{PoolOptions{}, 0, 10},
		{PoolOptions{MinIdle: 2}, 2, 10},
		{PoolOptions{MinIdle: 20}, 20, 20},
		{PoolOptions{MinIdle: 20, MaxIdlePerKey: 15}, 15, 15},
		{PoolOptions{MinIdle: 20, MaxIdlePerKey: -1}, 0, 0},
		{PoolOptions{MinIdle: 20, MaxConnsPerKey: 15}, 15, 15},
		{PoolOptions{MinIdle: 20, MaxIdle: 15}, 15, 15},
		{PoolOptions{MinIdle: 200}, 100, 100},
	} {
		o := test.opts.withDefaults()
		require.Equal(t, test.minIdle, o.MinIdle, "%+v", test.opts)
		require.Equal(t, test.maxIdlePerKey, o.MaxIdlePerKey, "%+v", test.opts)
	}
}

// If a callback, such as a TLS session cache, panics while the pool closes in the
// background, the next caller panics instead, and the other connections are closed.
func TestPool_PanicInBackgroundCloseReachesNextCaller(t *testing.T) {
	g := gatedPool(t, "unix", PoolOptions{})
	require.NoError(t, g.open(t).Close())
	peer := <-g.peers
	defer peer.Close()
	g.pool.mu.Lock()
	all := g.pool.takeAllIdleLocked(DiscardCloseIdle)
	s := all[0].bucket
	s.closing++
	g.pool.mu.Unlock()
	broken := &pooledConn{pool: g.pool, bucket: s} // without a socket, which panics
	g.pool.closeConnsRecover(append([]*pooledConn{broken}, all...)...)
	_, err := peer.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, s.closing)
	require.Panics(t, func() {
		_, _ = g.pool.acquire(t.Context(), g.Addr().Network(), g.Addr().String(), &g.opts, reuseOrDial)
	})
	require.NoError(t, g.open(t).Close(), "once")
}

// A callback that panics makes Dial panic. One that ends its goroutine makes Dial fail.
func TestPool_CallbackPanicReachesDial(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	address := g.Addr().String()
	opts := &Options{Control: func(string, string, syscall.RawConn) error { panic("out of order") }}
	require.PanicsWithValue(t, "out of order", func() { _, _ = g.pool.Dial(context.Background(), "tcp", address, opts) })
	opts = &Options{Control: func(string, string, syscall.RawConn) error { runtime.Goexit(); return nil }}
	_, err := g.pool.Dial(context.Background(), "tcp", address, opts)
	require.ErrorIs(t, err, errDialEnded)
	s := g.pool.Stats()
	require.EqualValues(t, 2, s.DialErrors)
	require.Zero(t, s.Active+s.Dialing)
}

// An answer may be received before the Send of its request has returned.
func TestPool_AnswerBeforeSendReturns(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	c := g.open(t)
	peer := <-g.peers
	defer peer.Close()
	const long = 32 << 20 // more than the kernel takes
	sent := make(chan error, 1)
	go func() {
		_, err := c.Send(make([]byte, long), 0)
		sent <- err
	}()
	require.Eventually(t, func() bool { return c.lease.usage.has(usageRequestSent) }, testTimeout, 100*time.Microsecond)
	_, err := peer.Write([]byte("!"))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), 0)
	require.NoError(t, err)
	for n := 0; n < long; {
		m, err := peer.Read(make([]byte, 1<<20))
		require.NoError(t, err)
		n += m
	}
	require.NoError(t, <-sent)
	require.NoError(t, c.Close())
	require.Equal(t, 1, g.pool.Stats().Idle)
}

// A discarded connection is closed before another replaces it, even if closing takes
// time, as it does here because the peer does not read.
func TestPool_ClosesBeforeItReplaces(t *testing.T) {
	if testing.Short() {
		t.Parallel()
	}
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	c := g.open(t)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1}))
	}))
	for err = nil; err == nil; {
		_, err = c.Send(make([]byte, 1<<20), DontWait)
	}
	got := g.waiting(t, reuseOrDial)
	begin := time.Now()
	discarded := make(chan error, 1)
	go func() { discarded <- c.Discard() }()
	pass := <-g.dials
	require.GreaterOrEqual(t, time.Since(begin), time.Second)
	pass <- nil
	require.NoError(t, <-discarded)
	d := <-got
	require.NoError(t, d.err)
	require.NoError(t, d.c.Close())
}

// An idle connection counts until it is closed.
func TestPool_ClosingConnectionsCount(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 3 s")
	}
	for name, opts := range map[string]PoolOptions{
		"CloseIdle":     {MaxConnsPerKey: 1, ReuseUnanswered: true},
		"over MaxIdle":  {MaxConnsPerKey: 1, ReuseUnanswered: true, MaxIdle: -1},
		"a closed pool": {MaxConnsPerKey: 1, ReuseUnanswered: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatedPool(t, "tcp", opts)
			g.opts.Linger = time.Second
			c := g.open(t)
			_, err := c.Send(make([]byte, 1<<20), 0) // more than the peer takes, which does not read
			require.NoError(t, err)
			begin := time.Now()
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				if name == "a closed pool" {
					_ = g.pool.Close()
				}
				_ = c.Close()
				g.pool.CloseIdle()
			}()
			g.becomes(t, func(s PoolStats) bool { return s.Active == 0 && s.Discards.Total() == 1 })
			got := g.dial(context.Background(), reuseOrDial)
			if name == "a closed pool" {
				require.ErrorIs(t, (<-got).err, net.ErrClosed)
				<-closed
				return
			}
			(<-g.dials) <- nil
			require.GreaterOrEqual(t, time.Since(begin), time.Second)
			<-closed
			d := <-got
			require.NoError(t, d.err)
			require.NoError(t, d.c.Discard())
		})
	}
}

func TestPool_ReleasedClientCannotConnectOrBind(t *testing.T) {
	ln, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p := NewPool(PoolOptions{})
	defer p.Close()
	c, err := p.Dial(context.Background(), "udp", ln.LocalAddr().String(), nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Connect(context.Background(), ln.LocalAddr().String()), net.ErrClosed)
	require.ErrorIs(t, c.Bind("127.0.0.1:0"), net.ErrClosed)
	_, err = c.SendTo([]byte("x"), ln.LocalAddr())
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, 1, p.Stats().Idle)
}

// A key for which MinIdle cannot dial, because too many dials of other keys are under way, gets
// its connections later, also if no caller comes meanwhile.
func TestPoolMinIdle_GoesOnWhenOtherDialsHaveEnded(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MinIdle: maxDetached + 1})
	first := g.open(t)
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == maxDetached })
	held := make([]chan error, maxDetached)
	for i := range held {
		held[i] = <-g.dials
	}
	g.opts.PoolKey = "other"
	other := g.open(t)
	require.Equal(t, maxDetached, g.pool.Stats().Dialing)
	for _, pass := range held {
		pass <- nil
	}
	for range maxDetached + 2 { // the last one of the first key, and all of the other
		(<-g.dials) <- nil
	}
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 2*(maxDetached+1) })
	require.NoError(t, first.Close())
	require.NoError(t, other.Close())
}
