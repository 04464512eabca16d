package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

// A contest has callers that compete for the connections of a pool, and finds out whether
// two of them get the same one, or more than MaxConnsPerKey are out at once.
type contest struct {
	t         *testing.T
	pool      *Pool
	most      int
	addresses []string       // one per key
	out       []atomic.Int64 // connections in use, per key
	users     sync.Map       // of *pooledConn, the *Client that has it
}

func newContest(t *testing.T, keys int, opts PoolOptions) *contest {
	t.Helper()
	x := &contest{t: t, pool: NewPool(opts), most: opts.MaxConnsPerKey, out: make([]atomic.Int64, keys)}
	for range keys {
		x.addresses = append(x.addresses, testserver.Echo(t))
	}
	t.Cleanup(func() { _ = x.pool.Close() })
	return x
}

func (x *contest) dial(ctx context.Context, key int, opts *Options, mode acquireMode) (*Client, error) {
	c, err := x.pool.acquire(ctx, "tcp", x.addresses[key], opts, mode)
	if err != nil {
		return nil, err
	}
	if _, taken := x.users.LoadOrStore(c.lease.conn, c); taken {
		x.t.Error("two clients have the same connection")
	}
	if n := x.out[key].Add(1); n > int64(x.most) {
		x.t.Errorf("%d connections are out", n)
	}
	return c, nil
}

func (x *contest) giveBack(key int, c *Client, end func(*Client) error) {
	x.out[key].Add(-1)
	x.users.Delete(c.lease.conn)
	if err := end(c); err != nil {
		x.t.Error(err)
	}
}

// A caller asks once, in a way that it chooses by chance, and reports what it must not get.
func (x *contest) caller() {
	ctx, opts, mode := context.Background(), &Options{Timeout: time.Minute}, reuseOrDial
	key, short := rand.N(len(x.addresses)), false
	switch rand.N(6) {
	case 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(500*time.Microsecond))
		defer cancel()
		short = true
	case 1:
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(rand.N(500*time.Microsecond), cancel).Stop()
		defer cancel()
		short = true
	case 2:
		opts.ConnectTimeout = 1 + rand.N(500*time.Microsecond)
		short = true
	}
	switch rand.N(50) {
	case 0:
		mode = newOnly
	case 1:
		mode = replaceIdle
	}
	c, err := x.dial(ctx, key, opts, mode)
	switch {
	case err == nil:
	case errors.Is(err, net.ErrClosed):
		return
	case !short || !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded):
		x.t.Error(err)
		return
	default:
		return
	}
	if mode != reuseOrDial && c.Reused() {
		x.t.Error("another client has used it before")
	}
	end := (*Client).Close
	switch rand.N(30) {
	case 0:
		end = (*Client).Discard
	case 1:
		_, _ = c.Send([]byte("without an answer"), 0)
	default:
		var p [1]byte
		want := byte(rand.N(256))
		if _, err := c.Send([]byte{want}, 0); err != nil {
			x.t.Error(err)
		} else if _, err = c.Recv(p[:], 0); err != nil || p[0] != want {
			x.t.Errorf("%d for %d: %v", p[0], want, err)
		}
	}
	x.giveBack(key, c, end)
}

// Callers come and leave in every way, at the moment when a connection is given to them
// too. No connection goes to two of them or is lost, and the limits hold.
func TestPool_CallersComeAndLeaveAtOnce(t *testing.T) {
	const keys, most, callers = 2, 3, 32
	rounds := 100
	if os.Getenv("CLIENT_LOAD") == "full" {
		rounds = 5000
	}
	x := newContest(t, keys, PoolOptions{MaxConnsPerKey: most, MaxIdle: 5, MinIdle: 1})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				x.caller()
			}
		})
	}
	wg.Wait()

	var all []*Client // every place can be used
	for range most {
		for key := range keys {
			c, err := x.dial(t.Context(), key, orDefaults(nil), reuseOrDial)
			require.NoError(t, err)
			all = append(all, c)
		}
	}
	s := x.pool.Stats()
	require.Equal(t, keys*most, s.Active)
	require.Zero(t, s.Idle)
	require.NotZero(t, s.Waits)
	for i, c := range all {
		x.giveBack(i%keys, c, (*Client).Close)
	}
	require.NoError(t, x.pool.Close())
	require.Eventually(t, func() bool { return x.pool.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
	s = x.pool.Stats()
	require.Zero(t, s.Active+s.Idle)
	require.Equal(t, s.DialErrors+s.Discards.Total(), s.Dials, "%+v", s)
}

// Close comes while callers wait, leave, and are being given connections.
func TestPool_CloseWhileCallersComeAndLeave(t *testing.T) {
	for range 20 {
		x := newContest(t, 2, PoolOptions{MaxConnsPerKey: 2})
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 20 {
					x.caller()
				}
			})
		}
		time.Sleep(rand.N(10 * time.Millisecond)) // to be anywhere
		require.NoError(t, x.pool.Close())
		wg.Wait()
		require.Eventually(t, func() bool {
			s := x.pool.Stats()
			return s.Active+s.Idle+s.Dialing == 0
		}, testTimeout, time.Millisecond)
	}
}

// The model of the queue: callers are served in the order of asking, whoever leaves in
// between, and each has what is its own.
func TestPool_OrderIsKeptWhenWaitersLeave(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
	type caller struct {
		got    chan dialed
		cancel context.CancelFunc
	}
	holder := g.open(t)
	var queue []caller
	for range 300 {
		switch n := rand.N(5); {
		case n < 2 && len(queue) < 8:
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			before := g.pool.Stats().Waits
			queue = append(queue, caller{g.dial(ctx, reuseOrDial), cancel})
			g.becomes(t, func(s PoolStats) bool { return s.Waits == before+1 })
		case n == 2 && len(queue) > 0:
			i := rand.N(len(queue))
			queue[i].cancel()
			require.ErrorIs(t, (<-queue[i].got).err, context.Canceled)
			queue = append(queue[:i:i], queue[i+1:]...)
		case n > 2 && len(queue) > 0:
			require.NoError(t, holder.Close())
			d := <-queue[0].got
			require.NoError(t, d.err)
			holder, queue = d.c, queue[1:]
		}
		for _, w := range queue {
			require.Empty(t, w.got)
		}
	}
	for _, w := range queue {
		require.NoError(t, holder.Close())
		d := <-w.got
		require.NoError(t, d.err)
		holder = d.c
	}
	require.NoError(t, holder.Close())
	require.EqualValues(t, 1, g.pool.Stats().Dials)
}

// A connection is given to a waiter at the moment when its limit or its context ends. The
// waiter takes it, and the next ones wait for their own.
func TestPool_HandoverAtTheLimitOfAWaiter(t *testing.T) {
	const limit = 20 * time.Millisecond
	for _, asynctimerchan := range []string{"0", "1"} { // timers as they are since Go 1.23, and before
		t.Setenv("GODEBUG", "asynctimerchan="+asynctimerchan)
		for name, begins := range map[string]func(*gated) (chan dialed, func()){
			"timeout": func(g *gated) (chan dialed, func()) {
				g.opts.ConnectTimeout = limit
				return g.dial(context.Background(), reuseOrDial), func() { time.Sleep(limit) }
			},
			"context": func(g *gated) (chan dialed, func()) {
				ctx, cancel := context.WithCancel(context.Background())
				return g.dial(ctx, reuseOrDial), cancel
			},
		} {
			t.Run(name+" "+asynctimerchan, func(t *testing.T) {
				g := gatedPool(t, "tcp", PoolOptions{MaxConnsPerKey: 1})
				c := g.open(t)
				for range 5 {
					d := handOverAtLimit(t, g, c, begins)
					require.NoError(t, d.err)
					g.opts.ConnectTimeout = 0
					var later [3]chan dialed
					for i := range later {
						later[i] = g.waiting(t, reuseOrDial)
					}
					time.Sleep(time.Millisecond) // for what must not come
					for i := range later {
						require.Empty(t, later[i])
						require.NoError(t, d.c.Close())
						d = <-later[i]
						require.NoError(t, d.err)
					}
					c = d.c
				}
				require.NoError(t, c.Close())
				require.EqualValues(t, 1, g.pool.Stats().Dials)
			})
		}
	}
}

// handOverAtLimit gives the connection of c to a waiter whose limit is over, or whose
// context has ended, and which has not had the mutex since.
func handOverAtLimit(t *testing.T, g *gated, c *Client, begins func(*gated) (chan dialed, func())) dialed {
	t.Helper()
	for {
		before := g.pool.Stats().Waits
		got, end := begins(g)
		g.becomes(t, func(s PoolStats) bool { return s.Waits == before+1 })
		g.pool.mu.Lock()
		k := c.lease.conn
		if k.bucket.waiters.n == 0 { // the machine is busy: its limit was over before
			g.pool.mu.Unlock()
			require.ErrorIs(t, (<-got).err, os.ErrDeadlineExceeded)
			continue
		}
		end()
		time.Sleep(time.Millisecond) // the waiter wakes up, and waits for the mutex
		c.lease.end()
		k.bucket.active--
		require.Nil(t, g.pool.putConnLocked(k, bothClocks()))
		g.pool.mu.Unlock()
		return <-got
	}
}

// A timer that fires when the result of its waiter is there already does not end the wait
// of the next caller that has this waiter.
func TestPool_LateTimerEndsNoLaterWait(t *testing.T) {
	for _, asynctimerchan := range []string{"0", "1"} {
		t.Setenv("GODEBUG", "asynctimerchan="+asynctimerchan)
		p := NewPool(PoolOptions{MaxConnsPerKey: 1})
		b := p.bucketLocked(connKey{"", "tcp", "127.0.0.1:1"}, orDefaults(nil))
		b.active = 1
		for range 10 { // with -race, sync.Pool forgets some
			now := sock.Now()
			w := p.newWaiter(t.Context(), &Options{ConnectTimeout: 1}, reuseOrDial, now)
			w.startTimer(now)
			time.Sleep(time.Millisecond) // it fires
			w.stopTimer()
			p.freeWaiter(w)

			now = sock.Now()
			w = p.newWaiter(t.Context(), &Options{ConnectTimeout: time.Hour}, reuseOrDial, now)
			p.enqueueLocked(b, w, now, false)
			time.AfterFunc(time.Millisecond, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.finishLocked(b, w, acquireResult{})
			})
			_, err := w.wait(p, b, now)
			require.NoError(t, err)
			require.Empty(t, w.ready)
			p.freeWaiter(w)
		}
	}
}
