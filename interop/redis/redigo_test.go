package redis

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// dialRedigo dials a redigo connection over the road.
func (r *road) dialRedigo(ctx context.Context, more ...redigo.DialOption) (redigo.Conn, error) {
	options := []redigo.DialOption{redigo.DialContextFunc(r.dial)}
	if r.config != nil {
		options = append(options, redigo.DialUseTLS(true), redigo.DialTLSConfig(r.config))
	}
	return redigo.DialContext(ctx, r.network, r.address, append(options, more...)...)
}

// redigo returns a connection that is closed when the test ends.
func (r *road) redigo(t *testing.T, more ...redigo.DialOption) redigo.Conn {
	t.Helper()
	c, err := r.dialRedigo(t.Context(), more...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// redigoPool returns a pool that dials over the road.
func (r *road) redigoPool(t *testing.T, p *redigo.Pool, more ...redigo.DialOption) *redigo.Pool {
	t.Helper()
	p.DialContext = func(ctx context.Context) (redigo.Conn, error) { return r.dialRedigo(ctx, more...) }
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// storesAndGets stores a value and compares the one that it reads.
func storesAndGets(c redigo.Conn, key string, want []byte) error {
	if _, err := c.Do("SET", key, want); err != nil {
		return err
	}
	got, err := redigo.Bytes(c.Do("GET", key))
	if err != nil {
		return err
	}
	return same(want, got)
}

func TestRedigo_ManyGoroutinesOverFewConnections(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const connections, goroutines = 4, 12
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: connections, MaxActive: connections, Wait: true})
		together(t, goroutines, func(g int) error {
			for round, size := range sizes {
				c, err := pool.GetContext(t.Context())
				if err != nil {
					return err
				}
				err = storesAndGets(c, fmt.Sprint(g, round), value(g<<8|round, size))
				if err := errors.Join(err, c.Close()); err != nil {
					return err
				}
			}
			return nil
		})
		require.LessOrEqual(t, r.Dials(), connections)
		require.Equal(t, r.Dials(), pool.IdleCount())
	})
}

func TestRedigo_PipelineRepliesAreInOrder(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const n = 400
		c := r.redigo(t)
		for i := range n {
			require.NoError(t, c.Send("SET", i, value(i, 3<<10)))
		}
		require.NoError(t, c.Flush())
		for range n {
			ok, err := redigo.String(c.Receive())
			require.NoError(t, err)
			require.Equal(t, "OK", ok)
		}
		for i := range n {
			require.NoError(t, c.Send("GET", i))
		}
		got, err := redigo.ByteSlices(c.Do("")) // flushes and receives all replies
		require.NoError(t, err)
		require.Len(t, got, n)
		for i := range n {
			require.NoError(t, same(value(i, 3<<10), got[i]), i)
		}
	})
}

// More data than the sockets buffer can be sent only while replies are received.
func TestRedigo_SendsAndReceivesInTwoGoroutines(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const n, size = 300, 64 << 10
		c := r.redigo(t)
		sent := make(chan error, 1)
		go func() {
			sent <- func() error {
				for i := range n {
					if err := c.Send("ECHO", value(i, size)); err != nil {
						return err
					}
				}
				return c.Flush()
			}()
		}()
		require.NoError(t, within(t, func() error {
			for i := range n {
				got, err := redigo.Bytes(c.Receive())
				if err != nil {
					return err
				}
				if err := same(value(i, size), got); err != nil {
					return err
				}
			}
			return nil
		}))
		require.NoError(t, returns(t, sent))
	})
}

func TestRedigo_TransactionIsAtomic(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c, other := r.redigo(t), r.redigo(t)
		for n := range 4 {
			_, err := c.Do("WATCH", "n")
			require.NoError(t, err)
			meddles := n == 2
			if meddles {
				_, err := other.Do("SET", "n", "another's")
				require.NoError(t, err)
			}
			require.NoError(t, c.Send("MULTI"))
			require.NoError(t, c.Send("SET", "n", n))
			require.NoError(t, c.Send("GET", "n"))
			got, err := c.Do("EXEC")
			require.NoError(t, err)
			if meddles {
				require.Nil(t, got)
			} else {
				require.Equal(t, []any{"OK", fmt.Append(nil, n)}, got)
			}
		}
	})
}

func TestRedigo_DialWithoutServerIsRefused(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		require.NoError(t, r.redigo(t).Close())
		r.server.Kill()
		_, err := r.dialRedigo(t.Context())
		require.ErrorIs(t, err, unix.ECONNREFUSED)
	})
}

func TestRedigo_PoolReusesHealthyConnectionsAndReplacesDeadOnes(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		pool := r.redigoPool(t, &redigo.Pool{
			MaxIdle:      1,
			TestOnBorrow: func(c redigo.Conn, _ time.Time) error { _, err := c.Do("PING"); return err },
		})
		once := func() {
			t.Helper()
			c := pool.Get()
			defer c.Close()
			require.NoError(t, storesAndGets(c, "key", value(1, 4<<10)))
		}
		for range 5 {
			once()
		}
		require.Equal(t, 1, r.Dials())
		require.NoError(t, r.server.Restart())
		once()
		require.Equal(t, 2, r.Dials())
		require.Equal(t, 1, pool.ActiveCount())
	})
}

func TestRedigo_PoolOutlivesServerRestart(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: 10})
		waiting := make(chan error, 1)
		go func() {
			c := pool.Get()
			defer c.Close()
			_, err := c.Do("BLPOP", "nothing", 0)
			waiting <- err
		}()
		r.awaitBlocked(t, 1)
		outlives(t, r.server, func(goroutine, round int) error {
			c := pool.Get()
			defer c.Close()
			return storesAndGets(c, fmt.Sprint(goroutine), value(goroutine<<16|round, 20<<10))
		})
		require.Error(t, returns(t, waiting))
	})
}
