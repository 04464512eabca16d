package redis

import (
	"fmt"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// go-redis peeks at the file descriptor of an idle connection (syscall.Conn). With TLS it cannot, and
// notices a dead connection by a failed call, which it retries.
func TestGoRedis_ReusesHealthyConnectionsAndReplacesDeadOnes(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		opts := &goredis.Options{PoolSize: 1}
		if r.secure != plain {
			opts.MaxRetries = 1
		}
		c := r.goRedis(t, opts)
		first, err := c.ClientID(t.Context()).Result()
		require.NoError(t, err)
		for range 5 {
			id, err := c.ClientID(t.Context()).Result()
			require.NoError(t, err)
			require.Equal(t, first, id)
		}
		require.Equal(t, 1, r.Dials())
		require.Zero(t, c.PoolStats().StaleConns)

		require.NoError(t, r.server.Restart())
		require.NoError(t, c.Set(t.Context(), "key", value(1, 4<<10), 0).Err())
		got, err := c.Get(t.Context(), "key").Bytes()
		require.NoError(t, err)
		require.NoError(t, same(value(1, 4<<10), got))
		require.Equal(t, 2, r.Dials())
		if r.secure == plain {
			require.EqualValues(t, 1, c.PoolStats().StaleConns)
		}
	})
}

// Data on an idle connection is the reply to another call.
func TestGoRedis_ReplacesAnIdleConnectionWithUnreadData(t *testing.T) {
	onPlainRoads(t, func(t *testing.T, r *road) {
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
				c := r.goRedis(t, &goredis.Options{PoolSize: 1, Protocol: protocol})
				require.NoError(t, c.Set(t.Context(), "key", value(2, 4<<10), 0).Err())
				id, err := c.ClientID(t.Context()).Result()
				require.NoError(t, err)
				dials := r.Dials()

				_, err = r.Last().Write([]byte("ECHO unasked\r\n"))
				require.NoError(t, err)
				// When CLIENT LIST shows the command, the server has sent its reply.
				r.awaitAnswer(t, fmt.Sprintf("CLIENT LIST ID %d", id), " cmd=echo ")

				got, err := c.Get(t.Context(), "key").Bytes()
				require.NoError(t, err)
				require.NoError(t, same(value(2, 4<<10), got))
				require.Equal(t, dials+1, r.Dials())
				require.EqualValues(t, 1, c.PoolStats().StaleConns)
			})
		}
	})
}

// RESP3 has push messages without a request. A connection with one can be reused.
func TestGoRedis_ReusesAnIdleConnectionWithAPushMessage(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{PoolSize: 1})
		require.NoError(t, c.Set(t.Context(), "key", "old", 0).Err())
		require.NoError(t, c.Do(t.Context(), "CLIENT", "TRACKING", "ON").Err())
		id, err := c.ClientID(t.Context()).Result()
		require.NoError(t, err)
		for i := range 10 {
			require.NoError(t, c.Get(t.Context(), "key").Err())
			want := fmt.Sprint("new", i)
			r.tell(t, "SET key "+want, "+OK") // the server notifies the client that has read it
			var got string
			require.NoError(t, within(t, func() (err error) {
				got, err = c.Get(t.Context(), "key").Result()
				return err
			}))
			require.Equal(t, want, got)
		}
		again, err := c.ClientID(t.Context()).Result()
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Equal(t, 1, r.Dials())
	})
}

// A TLS 1.3 server sends session tickets, which stay unread in the socket of an unused connection.
// The driver must not take them for data.
func TestGoRedis_UsesMinIdleConns(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
				const ahead = 3
				dialled := r.Dials()
				c := r.goRedis(t, &goredis.Options{MinIdleConns: ahead, PoolSize: ahead, Protocol: protocol})
				eventually(t, func() bool { return c.PoolStats().IdleConns == ahead }, "they are not made")
				r.awaitTurn(t)
				for range ahead {
					one := c.Conn() // holds its connection until it is closed
					require.NoError(t, within(t, func() error { return one.Ping(t.Context()).Err() }))
				}
				require.Zero(t, c.PoolStats().StaleConns)
				require.Equal(t, dialled+ahead, r.Dials())
				require.NoError(t, within(t, c.Close))
			})
		}
	})
}

// go-redis polls idle connections for invalidations of the keys that were read over them.
func TestGoRedis_ClientSideCacheIsInvalidated(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const keys = 5
		cache := goredis.NewLocalCache(goredis.CacheConfig{MaxEntries: 100})
		c := r.goRedis(t, &goredis.Options{ClientSideCache: cache, PoolSize: 2})
		for round := range 5 {
			for i := range keys {
				r.tell(t, fmt.Sprintf("SET %d %d", i, round), "+OK")
			}
			for i := range keys {
				eventually(t, func() bool {
					got, err := c.Get(t.Context(), fmt.Sprint(i)).Int()
					return err == nil && got == round
				}, "the old value stays")
			}
			hits := c.CSCStats().Hits
			for i := range keys {
				require.NoError(t, c.Get(t.Context(), fmt.Sprint(i)).Err())
			}
			require.Positive(t, c.CSCStats().Hits-hits, "nothing comes from the cache")
		}
	})
}
