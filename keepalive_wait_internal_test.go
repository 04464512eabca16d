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

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const soon = 20 * time.Second // that something happens at all

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
	g.opts = Options{Timeout: soon, Control: func(string, string, syscall.RawConn) error {
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

func (g *gated) dial(ctx context.Context, fresh bool) chan dialed {
	ch := make(chan dialed, 1)
	go func() {
		c, err := g.pool.dial(ctx, g.Addr().Network(), g.Addr().String(), &g.opts, fresh)
		ch <- dialed{c, err}
	}()
	return ch
}

// open dials, and lets the dial pass.
func (g *gated) open(t *testing.T) *Client {
	t.Helper()
	got := g.dial(context.Background(), false)
	(<-g.dials) <- nil
	d := <-got
	require.NoError(t, d.err)
	return d.c
}

func (g *gated) becomes(t *testing.T, is func(PoolStats) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return is(g.pool.Stats()) }, soon, 100*time.Microsecond)
}

// waiting has one more wait.
func (g *gated) waiting(t *testing.T, fresh bool) chan dialed {
	t.Helper()
	before := g.pool.Stats().Waits
	ch := g.dial(context.Background(), fresh)
	g.becomes(t, func(s PoolStats) bool { return s.Waits == before+1 })
	return ch
}

// What is idle counts too: with one in use and one idle there is no room for another,
// neither for MinIdle nor for who wants a new one, who gets the place of the idle one.
func TestMaxConnsCountsWhatIsIdle(t *testing.T) {
	g := gatedPool(t, "unix", PoolOptions{MaxConnsPerKey: 2, MinIdle: 2})
	c := g.open(t)
	(<-g.dials) <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	require.Zero(t, g.pool.Stats().Dialing)
	c2 := g.dial(context.Background(), false)
	d := <-c2
	require.NoError(t, d.err)
	require.False(t, d.c.Reused())
	require.Zero(t, d.c.ReuseCount())
	got := g.waiting(t, false)
	require.NoError(t, c.Close())
	d2 := <-got
	require.NoError(t, d2.err)
	require.NoError(t, d.c.Close())
	require.NoError(t, d2.c.Close())
	require.Equal(t, 2, g.pool.Stats().Idle)
	require.EqualValues(t, 2, g.pool.Stats().Dials)

	fresh := g.dial(context.Background(), true)
	pass := <-g.dials
	s := g.pool.Stats()
	require.Equal(t, 1, s.Idle)
	require.Equal(t, 1, s.Dialing)
	require.EqualValues(t, 1, s.OverLimit)
	pass <- nil
	d = <-fresh
	require.NoError(t, d.err)
	require.NoError(t, d.c.Close())
}

// Who needs a new connection has its turn before those who asked later.
func TestWhoWantsANewConnectionDoesNotStarve(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	c := g.open(t)
	fresh := g.waiting(t, true)
	later := g.waiting(t, false)
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

// The time that a connection was lent is no time in which nobody used it.
func TestWhatIsHandedOnWasNotIdle(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	require.NoError(t, g.open(t).Close())
	d := <-g.dial(context.Background(), false)
	require.NoError(t, d.err)
	d.c.kept.since = bothClocks().add(-time.Hour)
	got := g.waiting(t, false)
	require.NoError(t, d.c.Close())
	d = <-got
	require.NoError(t, d.err)
	require.Equal(t, 2, d.c.ReuseCount())
	require.NoError(t, d.c.Close())
	require.Zero(t, g.pool.Stats().Expired)
}

func TestAWaitThatIsResumedCountsOnce(t *testing.T) {
	p := NewPool(PoolOptions{MaxConnsPerKey: 1})
	s := p.shelf(place{"", "tcp", "127.0.0.1:1"}, orDefaults(nil))
	s.active = 1
	w, behind := newWaiter(context.Background(), s.opts, false), newWaiter(context.Background(), s.opts, false)
	p.queue(s, w, false)
	p.queue(s, behind, false)
	require.EqualValues(t, 2, s.stats.Waits)
	const long = time.Hour
	w.asked = w.asked.Add(-long)
	p.leave(s, w, handed{})
	<-w.ready
	require.GreaterOrEqual(t, s.stats.WaitTime, long)
	p.queue(s, w, true)
	require.EqualValues(t, 2, s.stats.Waits)
	require.Same(t, w, s.waiters.Front().Value)
	p.leave(s, w, handed{})
	require.Less(t, s.stats.WaitTime, 2*long)
}

// What somebody has dialled is not given to who asked before and whose own dial
// hangs.
func TestADialIsFirstForWhoBeganIt(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	first := g.dial(context.Background(), false)
	held := <-g.dials
	second := g.dial(context.Background(), false)
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

// A dial that nobody waits for any more is no reason for others not to dial.
func TestADialWhoseCallerHasGoneHoldsNobodyUp(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 2})
	c := g.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	goes := g.dial(ctx, false)
	held := <-g.dials
	cancel()
	require.ErrorIs(t, (<-goes).err, context.Canceled)
	got := g.waiting(t, false)
	require.NoError(t, c.Discard())
	(<-g.dials) <- nil
	d := <-got
	require.NoError(t, d.err)
	held <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	require.NoError(t, d.c.Close())
}

func TestTheContextsDeadlineDoesNotEndADial(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := g.pool.Dial(ctx, "tcp", g.Addr().String(), &g.opts)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	(<-g.dials) <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Idle == 1 })
	d := <-g.dial(context.Background(), false)
	require.NoError(t, d.err)
	require.NoError(t, d.c.Close())
	require.EqualValues(t, 1, g.pool.Stats().Dials)
}

// A dial without a limit has one as soon as nobody waits for it.
func TestADialThatNobodyWaitsForEnds(t *testing.T) {
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
	s := g.pool.shelf(place{"", "tcp", address}, opts)
	k := g.pool.keep(s, c, now)
	k.uses = 1
	require.Nil(t, g.pool.deliver(k, now))
	g.pool.mu.Unlock()
	d := <-got
	require.NoError(t, d.err)
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == 0 })
	require.GreaterOrEqual(t, time.Since(begin), DefaultTimeout)
	require.NoError(t, d.c.Close())
}

func TestWhatThePoolClosesIsCounted(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{})
	c, c2, c3 := g.open(t), g.open(t), g.open(t)
	require.NoError(t, c.Close())
	g.pool.CloseIdle()
	require.NoError(t, c2.Close())
	late := g.dial(context.Background(), false) // takes c2
	require.NoError(t, (<-late).c.Close())
	ctx, cancel := context.WithCancel(context.Background())
	goes := g.dial(ctx, true)
	held := <-g.dials
	cancel()
	require.ErrorIs(t, (<-goes).err, context.Canceled)
	require.NoError(t, g.pool.Close())
	require.NoError(t, c3.Close())
	held <- nil
	g.becomes(t, func(s PoolStats) bool { return s.Dialing == 0 })
	s := g.pool.Stats()
	require.EqualValues(t, 4, s.Dials)
	require.EqualValues(t, s.Dials, s.DialErrors+s.Discarded)
	require.Zero(t, s.Idle+s.Active)
}

func TestLimitsThatAreTooLongOrTooShort(t *testing.T) {
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

// MinIdle is not cut by a default that the caller has not chosen.
func TestMinIdleRaisesTheDefaultOfMaxIdlePerKey(t *testing.T) {
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

// A callback that panics where the pool closes by itself, as a TLS session cache may, is
// for the next caller, and the other connections are closed.
func TestAPanicInAnEndThatNobodyWaitsFor(t *testing.T) {
	g := gatedPool(t, "unix", PoolOptions{})
	require.NoError(t, g.open(t).Close())
	peer := <-g.peers
	defer peer.Close()
	g.pool.mu.Lock()
	all := g.pool.takeIdle()
	s := all[0].shelf
	s.closing++
	g.pool.mu.Unlock()
	broken := &kept{pool: g.pool, shelf: s} // without a socket, which panics
	g.pool.closeUnseen(append([]*kept{broken}, all...)...)
	_, err := peer.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, s.closing)
	require.Panics(t, func() { _, _ = g.pool.dial(t.Context(), g.Addr().Network(), g.Addr().String(), &g.opts, false) })
	require.NoError(t, g.open(t).Close(), "once")
}

// A function of the options that panics does so in who called Dial; one that ends
// its goroutine hangs nobody.
func TestFunctionsThatDoNotReturn(t *testing.T) {
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

// An answer may be received before the call that asked has returned.
func TestAnAnswerBeforeTheEndOfTheQuestion(t *testing.T) {
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
	require.Eventually(t, func() bool { return c.note.has(isAsked) }, soon, 100*time.Microsecond)
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

// What is thrown away is closed before there is another in its place, also if that
// takes its time, as it does here where the peer does not read.
func TestAServerNeverSeesMoreThanMaxConns(t *testing.T) {
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
	got := g.waiting(t, false)
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

// What nobody uses any more counts until it is closed, too.
func TestWhatIsBeingClosedTakesItsPlace(t *testing.T) {
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
			g.becomes(t, func(s PoolStats) bool { return s.Active == 0 && s.OverLimit+s.Discarded == 1 })
			got := g.dial(context.Background(), false)
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

func TestWhatWasGivenBackCannotBeConnectedOrBound(t *testing.T) {
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
