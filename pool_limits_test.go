package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// waitClosed waits until the peer of a connection has seen its end.
func waitClosed(t *testing.T, peer net.Conn) {
	t.Helper()
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
	_, err := peer.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// silentServer is a server that leaves its connections to the test.
func silentServer(t *testing.T, network string) *counted {
	t.Helper()
	done := make(chan struct{})
	s := countedServer(t, network, func(net.Conn) { <-done })
	t.Cleanup(func() { close(done) })
	return s
}

func TestPool_ZeroValueHasDefaults(t *testing.T) {
	s := countedEcho(t, "tcp")
	var unused, p client.Pool
	require.Zero(t, unused.Stats().Idle)
	unused.CloseIdle()
	require.NoError(t, unused.Close())
	_, err := unused.Dial(t.Context(), "tcp", s.Addr().String(), nil)
	require.ErrorIs(t, err, net.ErrClosed)
	for _, reused := range []bool{false, true} {
		c := s.from(t, &p, nil)
		require.Equal(t, reused, c.Reused())
		asks(t, c, "ping")
		require.NoError(t, c.Close())
	}
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Close(), net.ErrClosed)
}

func TestPool_ExcessIdleConnectionsCloseOldestFirst(t *testing.T) {
	for name, opts := range map[string]client.PoolOptions{
		"of one key": {MaxIdlePerKey: 2},
		"in all":     {MaxIdle: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := silentServer(t, "tcp"), newPool(t, opts)
			var all [4]*client.Client
			var peers [4]net.Conn
			for i := range all {
				key := &client.Options{}
				if opts.MaxIdle > 0 {
					key.PoolKey = string(rune('a' + i))
				}
				all[i] = s.from(t, p, key)
				peers[i] = <-s.new
			}
			for _, c := range all {
				require.NoError(t, c.Close())
			}
			waitClosed(t, peers[0])
			waitClosed(t, peers[1])
			stats := p.Stats()
			require.Equal(t, 2, stats.Idle)
			require.EqualValues(t, 2, stats.Discards[client.DiscardOverLimit])
			p.CloseIdle()
			waitClosed(t, peers[2])
			waitClosed(t, peers[3])
			require.Zero(t, p.Stats().Idle)
		})
	}
	t.Run("none", func(t *testing.T) {
		for _, opts := range []client.PoolOptions{{MaxIdle: -1}, {MaxIdlePerKey: -1}} {
			s, p := silentServer(t, "tcp"), newPool(t, opts)
			c := s.from(t, p, nil)
			require.NoError(t, c.Close())
			waitClosed(t, <-s.new)
			require.Zero(t, p.Stats().Idle)
		}
	})
}

// waits starts n goroutines that wait in Dial, in order.
func waits(t *testing.T, p *client.Pool, s *counted, opts *client.Options, ctxs ...context.Context) []chan result {
	t.Helper()
	var results []chan result
	before := p.Stats().Waits
	for i, ctx := range ctxs {
		ch := make(chan result, 1)
		results = append(results, ch)
		go func() {
			c, err := p.Dial(ctx, s.Addr().Network(), s.Addr().String(), opts)
			ch <- result{c, err}
		}()
		require.Eventually(t, func() bool { return p.Stats().Waits == before+uint64(i)+1 }, testTimeout, 100*time.Microsecond)
	}
	return results
}

type result struct {
	c   *client.Client
	err error
}

func TestPool_WaitersAreServedInOrder(t *testing.T) {
	s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	c := s.from(t, p, nil)
	ctx := context.Background()
	results := waits(t, p, s, nil, ctx, ctx, ctx)
	for i := range results {
		was := local(c)
		require.NoError(t, c.Close())
		r := <-results[i]
		require.NoError(t, r.err)
		require.Equal(t, was, local(r.c))
		require.True(t, r.c.Reused())
		for _, later := range results[i+1:] {
			require.Empty(t, later)
		}
		c = r.c
	}
	require.NoError(t, c.Close())
	stats := p.Stats()
	require.EqualValues(t, 3, stats.Waits)
	require.Positive(t, stats.WaitTime)
	require.EqualValues(t, 1, stats.Dials)
	require.EqualValues(t, 3, stats.Reuses)
}

// Discard makes room for a new connection.
func TestPool_DiscardServesAWaiter(t *testing.T) {
	for name, end := range map[string]func(*client.Client) error{
		"Discard": (*client.Client).Discard,
		"dirty": func(c *client.Client) error {
			_, _ = c.Send([]byte("no answer to this"), 0)
			return c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
			c := s.from(t, p, nil)
			results := waits(t, p, s, nil, context.Background())
			require.NoError(t, end(c))
			r := <-results[0]
			require.NoError(t, r.err)
			require.False(t, r.c.Reused())
			require.NoError(t, r.c.Close())
			require.EqualValues(t, 2, p.Stats().Dials)
		})
	}
}

func TestPool_WaitersEndAtContextAndTimeout(t *testing.T) {
	s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	c := s.from(t, p, nil)
	ctx, cancel := context.WithCancel(context.Background())
	results := waits(t, p, s, &client.Options{Timeout: -1}, ctx, context.Background())
	cancel()
	r := <-results[0]
	require.ErrorIs(t, r.err, context.Canceled)
	require.Nil(t, r.c)

	const limit = 30 * time.Millisecond
	begin := time.Now()
	_, err := p.Dial(context.Background(), "tcp", s.Addr().String(), &client.Options{ConnectTimeout: limit})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())

	soon, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err = p.Dial(soon, "tcp", s.Addr().String(), &client.Options{Timeout: -1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	require.NoError(t, c.Close()) // to the one who is still there
	r = <-results[1]
	require.NoError(t, r.err)
	require.NoError(t, r.c.Close())
	require.EqualValues(t, 1, p.Stats().Dials)
}

func TestPool_MaxConnsPerKeyHoldsUnderLoad(t *testing.T) {
	const most = 3
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: most})
	inUse := make(chan struct{}, most)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 50 {
				c, err := p.Dial(context.Background(), "tcp", s.Addr().String(), &client.Options{Timeout: testTimeout})
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case inUse <- struct{}{}:
				default:
					t.Error("one too many")
					return
				}
				asks(t, c, "hello")
				<-inUse
				if (i+j)%7 == 0 {
					_ = c.Discard()
				} else {
					_ = c.Close()
				}
			}
		})
	}
	wg.Wait()
	// The caller of a dial may have received a released connection instead. The dial goes on.
	require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
	stats := p.Stats()
	require.LessOrEqual(t, stats.Idle, most)
	require.Zero(t, stats.Active)
	// No caller has seen an error, but a dial whose caller got a released connection may
	// have been canceled to make room.
	require.Equal(t, uint64(stats.Idle)+stats.Discards.Total()+stats.DialErrors, stats.Dials, "%+v", stats)
	require.LessOrEqual(t, stats.Reuses, uint64(1000))
	require.GreaterOrEqual(t, stats.Reuses+stats.Dials, uint64(1000))
}

func TestPool_IdleConnectionsExpire(t *testing.T) {
	inParallelIfShort(t)
	const limit = 50 * time.Millisecond
	for name, opts := range map[string]client.PoolOptions{
		"IdleTimeout": {IdleTimeout: limit},
		"MaxLifetime": {IdleTimeout: -1, MaxLifetime: limit, LifetimeJitter: -1},
		"both":        {IdleTimeout: time.Hour, MaxLifetime: limit, LifetimeJitter: -1},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := silentServer(t, "tcp"), newPool(t, opts)
			begin, cause := time.Now(), client.DiscardMaxLifetime
			c := s.from(t, p, nil)
			peer := <-s.new
			if opts.IdleTimeout == limit {
				begin, cause = time.Now(), client.DiscardIdleTimeout
			}
			require.NoError(t, c.Close())
			waitClosed(t, peer) // by itself: nobody asks for it
			require.GreaterOrEqual(t, time.Since(begin), limit)
			require.EqualValues(t, 1, p.Stats().Discards[cause])
			require.Zero(t, p.Stats().Idle)
		})
	}
	t.Run("in use for longer than it lives", func(t *testing.T) {
		s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxLifetime: time.Millisecond, LifetimeJitter: -1})
		c := s.from(t, p, nil)
		time.Sleep(2 * time.Millisecond) // the time is the test
		require.True(t, c.IsConnected())
		require.NoError(t, c.Close())
		waitClosed(t, <-s.new)
		require.EqualValues(t, 1, p.Stats().Discards[client.DiscardMaxLifetime])
	})
	t.Run("used in time", func(t *testing.T) {
		s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{IdleTimeout: time.Hour})
		require.NoError(t, s.from(t, p, nil).Close())
		require.NoError(t, s.from(t, p, nil).Close())
		require.EqualValues(t, 1, p.Stats().Dials)
	})
}

// Jitter must not be rounded to whole seconds: shorter lifetimes would have none.
func TestPool_JitterOfShortLifetimes(t *testing.T) {
	inParallelIfShort(t)
	s := silentServer(t, "tcp")
	p := newPool(t, client.PoolOptions{MaxLifetime: 300 * time.Millisecond, LifetimeJitter: 250 * time.Millisecond, MaxIdlePerKey: 30})
	const n = 20
	begin := time.Now()
	var all []*client.Client
	for range n {
		all = append(all, s.from(t, p, nil))
	}
	ends := make(chan time.Duration, n)
	for range n {
		peer := <-s.new
		go func() {
			_, _ = peer.Read(make([]byte, 1))
			ends <- time.Since(begin)
		}()
	}
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	first, last := time.Hour, time.Duration(0)
	for range n {
		end := <-ends
		first, last = min(first, end), max(last, end)
	}
	require.GreaterOrEqual(t, first, 50*time.Millisecond)
	require.Greater(t, last-first, 50*time.Millisecond) // 20 of 250 ms: one in 10^12 times less
}

func TestPoolMinIdle_DialsInAdvance(t *testing.T) {
	s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MinIdle: 2, MaxConnsPerKey: 4})
	idle := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return p.Stats().Idle == n && p.Stats().Dialing == 0 }, testTimeout, time.Millisecond, "%+v", p.Stats())
	}
	c := s.from(t, p, nil)
	require.False(t, c.Reused())
	idle(2)
	c2 := s.from(t, p, nil)
	require.False(t, c2.Reused(), "nobody has had it")
	require.Zero(t, c2.ReuseCount())
	require.Zero(t, p.Stats().Reuses)
	idle(2)
	require.NoError(t, c.Discard())
	require.NoError(t, c2.Discard())
	idle(2)
	require.EqualValues(t, 4, p.Stats().Dials)
}

// What a pool dials in the background uses the options as they were at the Dial.
func TestPool_OptionsMayChangeAfterDial(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	names := make(chan string, 10)
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				peer := tls.Server(conn, s.config)
				if peer.Handshake() == nil {
					names <- peer.ConnectionState().ServerName
					_, _ = io.Copy(peer, peer)
				}
			}()
		}
	}()
	p := newPool(t, client.PoolOptions{MinIdle: 1})
	opts := &client.Options{TLS: s.trust(t)}
	for want := range 2 {
		c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
		require.NoError(t, err)
		opts.TLS.ServerName = "example.com" // which nobody here can prove to be
		require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
		for range 2 - want {
			require.Equal(t, "localhost", <-names)
		}
		require.NoError(t, c.Discard())
		opts.TLS.ServerName = "localhost"
	}
	require.Zero(t, p.Stats().DialErrors)
	require.Len(t, p.Stats().Keys, 1)
}

// A server that speaks first has sent its greeting by the time the connection is checked
// out for the first time.
func TestPool_GreetingIsForTheFirstClient(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = conn.Write([]byte("hello"))
		_, _ = conn.Read(make([]byte, 1))
	})
	p := newPool(t, client.PoolOptions{MinIdle: 1})
	hears := func(c *client.Client) {
		t.Helper()
		got := make([]byte, 5)
		_, err := c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
	}
	c := s.from(t, p, nil)
	hears(c)
	require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
	next := s.from(t, p, nil)
	require.False(t, next.Reused())
	hears(next)
	require.NoError(t, c.Close())
	require.NoError(t, next.Close())
}

// The connection dialled for a caller whose context ended goes to the next caller.
func TestPool_DialOfACanceledCallerIsKept(t *testing.T) {
	s := silentServer(t, "tcp")
	gate := make(chan struct{})
	resolver := slowly(t, gate, map[string][]string{"name.test.": {"127.0.0.1"}})
	p := newPool(t, client.PoolOptions{})
	_, port, err := net.SplitHostPort(s.Addr().String())
	require.NoError(t, err)
	opts := &client.Options{Resolver: resolver}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := p.Dial(ctx, "tcp", "name.test:"+port, opts)
		result <- err
	}()
	require.Eventually(t, func() bool { return p.Stats().Dialing == 1 }, testTimeout, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	close(gate)
	require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
	c, err := p.Dial(context.Background(), "tcp", "name.test:"+port, opts)
	require.NoError(t, err)
	require.False(t, c.Reused(), "nobody has had it")
	require.EqualValues(t, 1, p.Stats().Dials)
	require.NoError(t, c.Close())
}

// slowly is a resolver that answers when the gate is closed as a channel.
func slowly(t *testing.T, gate <-chan struct{}, known map[string][]string) *net.Resolver {
	t.Helper()
	quick := names(t, known)
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return quick.Dial(ctx, network, address)
	}}
}

// A caller whose own dial is under way takes a connection that another client releases.
func TestPool_DiallingCallerTakesAReleasedConnection(t *testing.T) {
	s := silentServer(t, "tcp")
	gate := make(chan struct{})
	p := newPool(t, client.PoolOptions{})
	_, port, err := net.SplitHostPort(s.Addr().String())
	require.NoError(t, err)
	opts := &client.Options{Resolver: slowly(t, gate, map[string][]string{"name.test.": {"127.0.0.1"}})}
	dial := func() chan result {
		ch := make(chan result, 1)
		go func() {
			c, err := p.Dial(context.Background(), "tcp", "name.test:"+port, opts)
			ch <- result{c, err}
		}()
		return ch
	}
	first := dial()
	gate <- struct{}{} // one lookup, for A and AAAA
	gate <- struct{}{}
	c := (<-first).c
	second := dial()
	require.Eventually(t, func() bool { return p.Stats().Dialing == 1 }, testTimeout, time.Millisecond)
	require.NoError(t, c.Close())
	r := <-second
	require.NoError(t, r.err)
	require.True(t, r.c.Reused())
	require.NoError(t, r.c.Close())
	require.Equal(t, 1, p.Stats().Dialing)
}

func TestPool_FailedDialIsItsCallersError(t *testing.T) {
	p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	nobody := refused(t, "tcp")
	for range 3 {
		_, err := p.Dial(t.Context(), "tcp", nobody, nil)
		require.ErrorContains(t, err, "connection refused")
		require.True(t, client.SafeToRetry(err))
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
	}
	stats := p.Stats()
	require.EqualValues(t, 3, stats.DialErrors)
	require.Zero(t, stats.Active+stats.Dialing)
	var bad *client.OptionError
	_, err := p.Dial(t.Context(), "tcp", nobody, &client.Options{LocalAddr: "nonsense"})
	require.ErrorAs(t, err, &bad)
}

func TestPool_CloseEndsWaitersAndDoesNotBlock(t *testing.T) {
	s := silentServer(t, "tcp")
	p := client.NewPool(client.PoolOptions{MaxConnsPerKey: 2})
	used, idle := s.from(t, p, nil), s.from(t, p, nil)
	usedPeer, idlePeer := <-s.new, <-s.new
	if idlePeer.RemoteAddr().String() != local(idle) {
		usedPeer, idlePeer = idlePeer, usedPeer
	}
	ctx := context.Background()
	results := waits(t, p, s, nil, ctx, ctx)
	third := waits(t, p, s, nil, ctx)[0]
	require.NoError(t, idle.Close())
	r := <-results[0]
	require.NoError(t, r.err)
	require.NoError(t, p.Close())
	for _, ch := range []chan result{results[1], third} {
		require.ErrorIs(t, (<-ch).err, net.ErrClosed)
	}
	_, err := p.Dial(ctx, "tcp", s.Addr().String(), nil)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorContains(t, err, "the pool is closed")
	require.ErrorIs(t, p.Do(ctx, "tcp", s.Addr().String(), nil, func(*client.Client) error { return nil }), net.ErrClosed)
	require.ErrorIs(t, p.Close(), net.ErrClosed)

	require.True(t, used.IsConnected()) // and can be used to its end
	require.NoError(t, used.Close())
	waitClosed(t, usedPeer)
	require.NoError(t, r.c.Close())
	waitClosed(t, idlePeer)
	require.Zero(t, p.Stats().Idle)
}

func TestPool_CloseEndsDials(t *testing.T) {
	for _, limit := range []time.Duration{0, -1} {
		hole := blackHole(t, "tcp", "127.0.0.1")
		p := client.NewPool(client.PoolOptions{})
		result := make(chan error, 1)
		go func() {
			_, err := p.Dial(context.Background(), "tcp", hole, &client.Options{Timeout: limit})
			result <- err
		}()
		inKernel(t)
		require.NoError(t, p.Close())
		require.ErrorIs(t, <-result, net.ErrClosed)
		require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
	}
}

// In puddle, Get and Close could wait for each other.
func TestPool_DialWithCanceledContextDuringClose(t *testing.T) {
	s := silentServer(t, "tcp")
	for range 200 {
		p := client.NewPool(client.PoolOptions{})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c, err := p.Dial(ctx, "tcp", s.Addr().String(), nil)
				switch {
				case err == nil:
					_ = c.Close()
				case !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed):
					t.Error(err)
				}
			})
		}
		wg.Go(cancel)
		wg.Go(func() { _ = p.Close() })
		wg.Wait()
	}
}

func TestPool_FailureOfOtherClientsDiscardsNothing(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
	mine := s.from(t, p, nil)
	asks(t, mine, "hello")
	_, err := p.Dial(t.Context(), "tcp", refused(t, "tcp"), nil)
	require.Error(t, err)
	other := s.from(t, p, nil)
	require.NoError(t, other.SetReadDeadline(time.Unix(1, 0)))
	_, err = other.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, other.Close())
	was := local(mine)
	require.NoError(t, mine.Close())
	c := s.from(t, p, nil)
	require.Equal(t, was, local(c))
	require.NoError(t, c.Close())
}

// A server with fewer workers than MaxConnsPerKey does not accept a new connection while
// the pool keeps an idle one. DialNew closes the oldest idle connection first, even if
// there is room. Without MaxConnsPerKey the idle ones stay.
func TestPoolDialNew_ReplacesAnIdleConnection(t *testing.T) {
	for most, idle := range map[int]int{0: 2, 5: 1} {
		s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: most})
		var all [2]*client.Client
		var peers [2]net.Conn
		for i := range all {
			all[i] = s.from(t, p, nil)
			peers[i] = <-s.new
		}
		for _, c := range all {
			require.NoError(t, c.Close())
		}
		c, err := p.DialNew(t.Context(), "tcp", s.Addr().String(), nil)
		require.NoError(t, err)
		<-s.new
		require.False(t, c.Reused())
		require.Equal(t, idle, p.Stats().Idle)
		if most > 0 {
			waitClosed(t, peers[0])
		}
		require.NoError(t, c.Close())
		require.Equal(t, idle+1, p.Stats().Idle)
	}
}
