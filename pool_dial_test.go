package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// givesUp dials with a time limit that is too short.
func givesUp(t *testing.T, p *client.Pool, network, address string, opts *client.Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := p.Dial(ctx, network, address, opts)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error("it should have had no time:", err)
	}
}

// golang/go#76784: with a server that does not answer, each caller with a short limit
// left a dial behind, with a thread and a descriptor, until the limit of the dial.
func TestPool_DetachedDialsAreBounded(t *testing.T) {
	const callers, each = 10, 10
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			hole := blackHole(t, network, "127.0.0.1")
			p := newPool(t, client.PoolOptions{})
			before := openFiles(t)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range each {
						givesUp(t, p, network, hole, nil)
						if n := p.Stats().Dialing; n > callers+4+32 { // of callers, of nobody, and ending
							t.Error("dials under way:", n)
						}
					}
				})
			}
			wg.Wait()
			require.Eventually(t, func() bool { return p.Stats().Dialing <= 4 }, testTimeout, time.Millisecond)
			require.LessOrEqual(t, openFiles(t), before+2*4) // the socket, and what wakes its thread
			require.NoError(t, p.Close())
			require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
		})
	}
	t.Run("in all", func(t *testing.T) {
		hole := blackHole(t, "tcp", "127.0.0.1")
		p := newPool(t, client.PoolOptions{})
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for j := range each {
					givesUp(t, p, "tcp", hole, &client.Options{PoolKey: strconv.Itoa(each*i + j)})
				}
			})
		}
		wg.Wait()
		require.Eventually(t, func() bool { return p.Stats().Dialing <= 32 }, testTimeout, time.Millisecond)
		require.Equal(t, 32, p.Stats().Dialing)
	})
}

// openFiles counts the descriptors of the process. Where that is not possible it returns
// 0.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}

// A lookup that ignores the end of its dial, such as one by the system's library, is not
// started anew by each caller.
//
// Not in parallel: a dial with another Resolver meanwhile begins a lookup anew, see lastResolver.
func TestPool_LookupsThatIgnoreCancelAreBounded(t *testing.T) {
	var lookups atomic.Int32
	hang := make(chan struct{})
	opts := &client.Options{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		lookups.Add(1)
		defer lookups.Add(-1)
		<-hang
		return nil, errors.New("no servers")
	}}}
	p := newPool(t, client.PoolOptions{})
	for range 50 {
		givesUp(t, p, "tcp", "name.test:1", opts)
	}
	most := lookups.Load()
	close(hang)
	require.Eventually(t, func() bool { return p.Stats().Dialing == 0 && lookups.Load() == 0 }, testTimeout, time.Millisecond)
	require.LessOrEqual(t, most, int32(2*(4+2))) // each for A and for AAAA
}

func TestPool_DialsInABlockedCallbackAreBounded(t *testing.T) {
	const most = 4 + 32 // that nobody waits for, and that are to end
	s := silentServer(t, "tcp")
	var calls atomic.Int32
	hang := make(chan struct{})
	opts := &client.Options{Control: func(string, string, syscall.RawConn) error {
		calls.Add(1)
		<-hang
		return errors.New("no")
	}}
	p := newPool(t, client.PoolOptions{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				givesUp(t, p, "tcp", s.Addr().String(), opts)
			}
		})
	}
	wg.Wait()
	got := calls.Load()
	close(hang)
	require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
	require.LessOrEqual(t, got, int32(most+10))
}

// A detached dial that will not succeed before its limit has the only place. The server
// is available again, so the next caller's dial must be started.
func TestPool_DetachedDialMakesRoomForNextCaller(t *testing.T) {
	inParallelIfShort(t)
	once := func() func() bool {
		var done atomic.Bool
		return func() bool { return !done.Swap(true) }
	}
	s := listenTLS(t, "tcp", nil)
	for name, hangs := range map[string]func(t *testing.T) (*counted, *client.Options, client.PoolOptions){
		"a handshake": func(t *testing.T) (*counted, *client.Options, client.PoolOptions) {
			first := once()
			return countedServer(t, "tcp", func(conn net.Conn) {
				if first() {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				echo(tls.Server(conn, s.config))
			}), &client.Options{TLS: s.trust(t)}, client.PoolOptions{}
		},
		"Setup": func(t *testing.T) (*counted, *client.Options, client.PoolOptions) {
			first := once()
			return countedServer(t, "tcp", func(conn net.Conn) {
				if first() {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				echo(conn)
			}), nil, client.PoolOptions{Setup: func(_ context.Context, c *client.Client) error { return pings(c) }}
		},
		"a lookup": func(t *testing.T) (*counted, *client.Options, client.PoolOptions) {
			s := countedEcho(t, "tcp")
			quick, hung := names(t, map[string][]string{"localhost.test.": {"127.0.0.1"}}), make(chan struct{})
			t.Cleanup(func() { close(hung) })
			var asked atomic.Int32
			return s, &client.Options{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if asked.Add(1) <= 2 { // for A and AAAA
					<-hung
				}
				return quick.Dial(ctx, network, address)
			}}}, client.PoolOptions{}
		},
	} {
		for _, network := range []string{"once", "again and again"} {
			t.Run(name+", "+network, func(t *testing.T) {
				server, opts, poolOpts := hangs(t)
				poolOpts.MaxConnsPerKey = 1
				p := newPool(t, poolOpts)
				_, port, err := net.SplitHostPort(server.Addr().String())
				require.NoError(t, err)
				address := server.Addr().String()
				if name == "a lookup" {
					address = "localhost.test:" + port
				}
				givesUp(t, p, "tcp", address, opts)
				if network == "again and again" {
					for range 5 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
						if c, err := p.Dial(ctx, "tcp", address, opts); err == nil { // the new connection was in time
							require.NoError(t, c.Close())
						}
						cancel()
					}
				}
				begin := time.Now()
				c, err := p.Dial(t.Context(), "tcp", address, opts)
				require.NoError(t, err, "%+v", p.Stats())
				require.Less(t, time.Since(begin), 3*time.Second) // the dial's limit is 5
				require.NoError(t, pings(c))
				require.NoError(t, c.Close())
				require.Equal(t, 1, p.Stats().Idle+p.Stats().Dialing)
			})
		}
	}
}

// A server that needs more time for a dial than any caller has is reached nevertheless,
// even if the callers' dials replace each other.
func TestPool_SlowServerIsReachedDespiteShortTimeouts(t *testing.T) {
	inParallelIfShort(t)
	const slow = 250 * time.Millisecond
	s := countedServer(t, "tcp", func(conn net.Conn) {
		time.Sleep(slow)
		echo(conn)
	})
	p := newPool(t, client.PoolOptions{
		MaxConnsPerKey: 1,
		Setup:          func(_ context.Context, c *client.Client) error { return pings(c) },
	})
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		c, err := p.Dial(ctx, "tcp", s.Addr().String(), nil)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, testTimeout, time.Millisecond)
}

// The limit of a Dial holds even while a callback blocks.
func TestPool_DialEndsAtLimitDuringBlockedCallback(t *testing.T) {
	inParallelIfShort(t)
	s := silentServer(t, "tcp")
	hang := make(chan struct{})
	p := newPool(t, client.PoolOptions{})
	const limit = 50 * time.Millisecond
	begin := time.Now()
	_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{
		ConnectTimeout: limit,
		Control:        func(string, string, syscall.RawConn) error { <-hang; return errors.New("no") },
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	require.Less(t, time.Since(begin), testTimeout/2)
	close(hang)
	require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
}

// A server with as many workers as MaxConnsPerKey serves one connection per worker until
// that ends, like php-fpm and prefork servers. One connection more, even an idle one,
// would wait forever.
func TestPool_DialNewWithAsManyWorkersAsMaxConns(t *testing.T) {
	for _, most := range []int{1, 2} {
		for name, dial := range map[string]func(p *client.Pool, address string, opts *client.Options) (*client.Client, error){
			"Dial": func(p *client.Pool, address string, opts *client.Options) (*client.Client, error) {
				return p.Dial(context.Background(), "tcp", address, opts)
			},
			"DialNew": func(p *client.Pool, address string, opts *client.Options) (*client.Client, error) {
				return p.DialNew(context.Background(), "tcp", address, opts)
			},
		} {
			t.Run(fmt.Sprintf("%d, %s", most, name), func(t *testing.T) {
				ln := listen(t, "tcp")
				var workers sync.WaitGroup
				t.Cleanup(func() { _ = ln.Close(); workers.Wait() })
				for range most {
					workers.Go(func() {
						for {
							conn, err := ln.Accept()
							if err != nil {
								return
							}
							echo(conn)
							_ = conn.Close()
						}
					})
				}
				p := client.NewPool(client.PoolOptions{MaxConnsPerKey: most, MinIdle: most})
				defer p.Close()
				opts := &client.Options{Timeout: testTimeout}
				var wg sync.WaitGroup
				for range 2 * most {
					wg.Go(func() {
						for range 10 {
							c, err := dial(p, ln.Addr().String(), opts)
							if err != nil {
								t.Error(err)
								return
							}
							if err := pings(c); err != nil {
								t.Error(err)
							}
							_ = c.Close()
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func TestPoolMinIdle_IsBoundedByMaxConnsPerKey(t *testing.T) {
	s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MinIdle: 5, MaxConnsPerKey: 3})
	c := s.from(t, p, nil)
	require.Eventually(t, func() bool { return p.Stats().Idle == 2 }, testTimeout, time.Millisecond)
	require.Zero(t, p.Stats().Dialing)
	require.NoError(t, c.Close())
	require.Equal(t, 3, p.Stats().Idle)
	require.EqualValues(t, 3, p.Stats().Dials)
}

// When a server is available again, its idle connections are dialled without a caller.
func TestPoolMinIdle_IsRestoredWithoutACaller(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 4 s")
	}
	for name, first := range map[string]bool{"the server was there before": true, "the server comes later": false} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t, "tcp")
			address := ln.Addr().String()
			p := newPool(t, client.PoolOptions{MinIdle: 3})
			serve := func(ln net.Listener) (stop func()) {
				var mu sync.Mutex
				var all []net.Conn
				var wg sync.WaitGroup
				wg.Go(func() {
					for {
						conn, err := ln.Accept()
						if err != nil {
							return
						}
						mu.Lock()
						all = append(all, conn)
						mu.Unlock()
					}
				})
				return func() {
					_ = ln.Close()
					wg.Wait()
					for _, conn := range all {
						_ = conn.Close()
					}
				}
			}
			stop := serve(ln)
			if first {
				c, err := p.Dial(t.Context(), "tcp", address, nil)
				require.NoError(t, err)
				require.Eventually(t, func() bool { return p.Stats().Idle == 3 }, testTimeout, time.Millisecond)
				stop()
				require.NoError(t, c.Discard())
			} else {
				stop()
			}
			_, err := p.Dial(t.Context(), "tcp", address, nil)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Eventually(t, func() bool { return p.Stats().DialErrors >= 3 }, testTimeout, time.Millisecond, "it is tried again")
			require.Zero(t, p.Stats().Idle)
			ln, err = net.Listen("tcp", address)
			require.NoError(t, err)
			stop = serve(ln)
			defer stop()
			require.Eventually(t, func() bool { return p.Stats().Idle == 3 }, testTimeout, time.Millisecond)
			require.NoError(t, p.Close())
		})
	}
}

// A server that stays unavailable is dialled at growing intervals.
func TestPoolMinIdle_BacksOffAfterFailedDials(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s")
	}
	var dials atomic.Int32
	p := newPool(t, client.PoolOptions{MinIdle: 10})
	opts := &client.Options{Control: func(string, string, syscall.RawConn) error { dials.Add(1); return errors.New("no") }}
	_, err := p.Dial(t.Context(), "tcp", refused(t, "tcp"), opts)
	require.Error(t, err)
	time.Sleep(time.Second) // the time is the test: at 100 ms, 300, 700, each with up to a quarter more
	n := dials.Load()
	require.GreaterOrEqual(t, n, int32(1+10)) // the first time all are tried
	require.LessOrEqual(t, n, int32(1+10+4))
	require.NoError(t, p.Close())
	after := dials.Load()
	time.Sleep(900 * time.Millisecond) // the next was due
	require.LessOrEqual(t, dials.Load(), after+1, "one may have been under way")
}

// A server that accepts connections and closes them, such as a proxy whose backend is
// down, is not dialled MinIdle times for each caller.
func TestPoolMinIdle_BacksOffWhenUnusedConnectionsDie(t *testing.T) {
	const least, callers = 5, 50
	var works atomic.Bool
	var closed atomic.Int32
	s := countedServer(t, "tcp", func(conn net.Conn) {
		if works.Load() {
			echo(conn)
		}
		_ = conn.Close()
		closed.Add(1)
	})
	p := newPool(t, client.PoolOptions{MinIdle: least})
	for range callers {
		if c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), nil); err == nil {
			_ = c.Discard()
		}
		require.Eventually(t, func() bool { // so that what is idle is dead
			stats := p.Stats()
			return stats.Dialing == 0 && uint64(closed.Load()) >= stats.Dials-stats.DialErrors
		}, testTimeout, 100*time.Microsecond)
	}
	require.Less(t, s.count(), 2*callers, "%+v", p.Stats())
	works.Store(true)
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, pings))
	require.Eventually(t, func() bool { return p.Stats().Idle == least }, testTimeout, time.Millisecond, "all at once")
}
