package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// goRedis returns a go-redis client that dials over the road. It makes each call once: a retry would
// hide what the test checks.
func (r *road) goRedis(t *testing.T, opts *goredis.Options) *goredis.Client {
	t.Helper()
	opts.Network, opts.Addr, opts.Dialer = r.network, r.address, r.dialForGoRedis
	opts.DialerRetries = 1
	if opts.MaxRetries == 0 {
		opts.MaxRetries = -1 // none
	}
	c := goredis.NewClient(opts)
	t.Cleanup(func() { r.closes(t, c) })
	return c
}

// closes closes go-redis. It reads from connections then; a read that hangs ends with the server.
func (r *road) closes(t *testing.T, c *goredis.Client) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = c.Close() // the test may have closed it
	}()
	select {
	case <-closed:
	case <-time.After(wire.TestTimeout):
		t.Error("Close hangs")
		r.server.Kill()
		<-closed
	}
}

// dialForGoRedis does the driver's TLS: with a Dialer, go-redis leaves TLS to that function.
func (r *road) dialForGoRedis(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := r.dial(ctx, network, address)
	if err != nil || r.config == nil {
		return conn, err
	}
	c := tls.Client(conn, r.config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func TestGoRedis_ManyGoroutinesOverFewConnections(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const connections, goroutines = 4, 12
		c := r.goRedis(t, &goredis.Options{PoolSize: connections})
		together(t, goroutines, func(g int) error {
			for round, size := range sizes {
				want, key := value(g<<8|round, size), fmt.Sprint(g, round)
				if err := c.Set(t.Context(), key, want, 0).Err(); err != nil {
					return err
				}
				got, err := c.Get(t.Context(), key).Bytes()
				if err != nil {
					return err
				}
				if err := same(want, got); err != nil {
					return err
				}
			}
			return nil
		})
		// A healthy connection is checked before each use and not replaced.
		stats := c.PoolStats()
		require.Zero(t, stats.StaleConns)
		require.Positive(t, stats.Hits)
		require.LessOrEqual(t, r.Dials(), connections)
	})
}

func TestGoRedis_PipelineRepliesAreInOrder(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const n = 400
		c := r.goRedis(t, &goredis.Options{})
		answers, err := c.Pipelined(t.Context(), func(p goredis.Pipeliner) error {
			for i := range n {
				p.Set(t.Context(), fmt.Sprint(i), value(i, 3<<10), 0)
			}
			for i := range n {
				p.Get(t.Context(), fmt.Sprint(i))
			}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, answers, 2*n)
		for i, a := range answers[n:] {
			got, err := a.(*goredis.StringCmd).Bytes()
			require.NoError(t, err)
			require.NoError(t, same(value(i, 3<<10), got), i)
		}
	})
}

// One goroutine writes to the connection while another reads from it.
func TestGoRedis_FullDuplexAutoPipeline(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const goroutines, n = 8, 50
		c := r.goRedis(t, &goredis.Options{})
		opts := goredis.DefaultAutoPipelineOptions()
		opts.FullDuplex = true
		p, err := c.AsyncAutoPipelineWithOptions(opts)
		require.NoError(t, err)
		together(t, goroutines, func(g int) error {
			answers := make([]*goredis.StringCmd, n)
			for i := range n {
				key := fmt.Sprint(g, i)
				p.Set(t.Context(), key, value(g<<8|i, 8<<10), 0)
				answers[i] = p.Get(t.Context(), key)
			}
			for i, a := range answers {
				got, err := a.Bytes()
				if err != nil {
					return err
				}
				if err := same(value(g<<8|i, 8<<10), got); err != nil {
					return err
				}
			}
			return nil
		})
		require.Equal(t, 1, r.Dials())
		require.NoError(t, within(t, p.Close))
	})
}

func TestGoRedis_ConcurrentTransactionsLoseNothing(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const goroutines = 4
		c := r.goRedis(t, &goredis.Options{})
		increment := func(tx *goredis.Tx) error {
			n, err := tx.Get(t.Context(), "n").Int()
			if err != nil && !errors.Is(err, goredis.Nil) {
				return err
			}
			_, err = tx.TxPipelined(t.Context(), func(p goredis.Pipeliner) error {
				p.Set(t.Context(), "n", n+1, 0)
				p.RPush(t.Context(), "steps", n+1)
				return nil
			})
			return err
		}
		together(t, goroutines, func(int) error {
			for range rounds {
				err := c.Watch(t.Context(), increment, "n")
				for errors.Is(err, goredis.TxFailedErr) { // another transaction was first
					err = c.Watch(t.Context(), increment, "n")
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		steps, err := c.LRange(t.Context(), "steps", 0, -1).Result()
		require.NoError(t, err)
		require.Len(t, steps, goroutines*rounds)
		for i, step := range steps {
			require.Equal(t, fmt.Sprint(i+1), step)
		}
	})
}

func TestGoRedis_DialWithoutServerIsRefused(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{})
		require.NoError(t, c.Ping(t.Context()).Err())
		r.server.Kill()
		eventually(t, func() bool {
			// The first error may be that of the old connection.
			return errors.Is(c.Ping(t.Context()).Err(), unix.ECONNREFUSED)
		}, "it does not say so")
	})
}
