package redis

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A stopped Redis server replies when it continues. No call waits for that reply then.
func TestGoRedis_ReadTimeoutEndsACallAndDropsItsLateReply(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		c := r.goRedis(t, &goredis.Options{ReadTimeout: limit, PoolSize: 1})
		for i := range 10 {
			require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), value(i, 4<<10), 0).Err())
		}
		r.stop(t)
		start := time.Now()
		err := within(t, func() error { return c.Get(t.Context(), "0").Err() })
		isTimeout(t, err, start, limit)
		require.Equal(t, 1, r.Dials())

		r.resume(t)
		for i := 9; i >= 0; i-- {
			got, err := c.Get(t.Context(), fmt.Sprint(i)).Bytes()
			require.NoError(t, err)
			require.NoError(t, same(value(i, 4<<10), got))
		}
		require.Equal(t, 2, r.Dials())
	})
}

// crypto/tls may take 5 s longer to close such a connection: it waits to send close_notify.
func TestGoRedis_WriteTimeoutEndsABlockedCall(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		c := r.goRedis(t, &goredis.Options{WriteTimeout: limit})
		require.NoError(t, c.Set(t.Context(), "small", "value", 0).Err())
		r.stop(t)
		start := time.Now()
		err := within(t, func() error { return c.Set(t.Context(), "large", make([]byte, 32<<20), 0).Err() })
		isTimeout(t, err, start, limit)

		r.resume(t)
		got, err := c.Get(t.Context(), "small").Result()
		require.NoError(t, err)
		require.Equal(t, "value", got)
		require.ErrorIs(t, c.Get(t.Context(), "large").Err(), goredis.Nil)
	})
}

func TestGoRedis_ContextDeadlineEndsABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		c := r.goRedis(t, &goredis.Options{ContextTimeoutEnabled: true})
		require.NoError(t, c.Ping(t.Context()).Err())
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		err := within(t, func() error { return c.BLPop(ctx, 0, "nothing").Err() })
		isTimeout(t, err, start, limit)

		// The connection was closed, so that the server has no blocked client.
		r.awaitBlocked(t, 0)
		require.NoError(t, c.RPush(t.Context(), "nothing", "something").Err())
		got, err := c.BLPop(t.Context(), 0, "nothing").Result()
		require.NoError(t, err)
		require.Equal(t, []string{"nothing", "something"}, got)
	})
}

// With go-redis, a canceled context ends the wait for a connection but not the wait for a reply,
// which ends with the reply or at the deadline.
func TestGoRedis_CancelEndsTheWaitForAConnectionButNotABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{PoolSize: 1})
		blpop, cancelBLPop := context.WithCancel(t.Context())
		popped := make(chan error, 1)
		go func() {
			got, err := c.BLPop(blpop, 0, "list").Result()
			if err == nil && (len(got) != 2 || got[1] != "something") {
				err = fmt.Errorf("%w: %q", errWrong, got)
			}
			popped <- err
		}()
		r.awaitBlocked(t, 1)
		cancelBLPop()

		get, cancelGet := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { returned <- c.Get(get, "key").Err() }()
		eventually(t, func() bool { return c.PoolStats().PendingRequests == 1 }, "there was a connection")
		cancelGet()
		require.ErrorIs(t, returns(t, returned), context.Canceled)

		r.tell(t, "RPUSH list something", ":1")
		require.NoError(t, returns(t, popped))
		require.Equal(t, 1, r.Dials())
	})
}

func TestGoRedis_CloseEndsABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{})
		returned := make(chan error, 1)
		go func() { returned <- c.BLPop(t.Context(), 0, "nothing").Err() }()
		r.awaitBlocked(t, 1)
		require.NoError(t, within(t, c.Close))
		require.Error(t, returns(t, returned))
		require.ErrorIs(t, c.Ping(t.Context()).Err(), goredis.ErrClosed)
		r.awaitBlocked(t, 0)
	})
}

// The kernel accepts connections to a stopped Redis server, which does not answer the handshake.
func TestGoRedis_DialTimeoutEndsAHandshake(t *testing.T) {
	onSecureRoads(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		c := r.goRedis(t, &goredis.Options{DialTimeout: limit})
		r.stop(t)
		start := time.Now()
		err := within(t, func() error { return c.Ping(t.Context()).Err() })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(start), limit)
		require.Less(t, time.Since(start), wire.TestTimeout)

		r.resume(t)
		eventually(t, func() bool { return c.Ping(t.Context()).Err() == nil }, "it does not recover")
	})
}
