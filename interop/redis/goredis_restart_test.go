package redis

import (
	"fmt"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestGoRedis_OutlivesServerRestart(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		// After PoolSize failed dials, the pool waits for one second.
		c := r.goRedis(t, &goredis.Options{PoolSize: 100})
		waiting := make(chan error, 1)
		go func() { waiting <- c.BLPop(t.Context(), 0, "nothing").Err() }()
		r.awaitBlocked(t, 1)
		outlives(t, r.server, func(goroutine, round int) error {
			key, want := fmt.Sprint(goroutine), value(goroutine<<16|round, 20<<10)
			if err := c.Set(t.Context(), key, want, 0).Err(); err != nil {
				return err
			}
			got, err := c.Get(t.Context(), key).Bytes()
			if err != nil {
				return err
			}
			return same(want, got)
		})
		require.Error(t, returns(t, waiting))
	})
}

func TestGoRedis_PipelinesOutliveServerRestart(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{PoolSize: 100})
		outlives(t, r.server, func(goroutine, round int) error {
			key, want := fmt.Sprint(goroutine), value(goroutine<<16|round, 5<<10)
			answers, err := c.Pipelined(t.Context(), func(p goredis.Pipeliner) error {
				for i := range 20 {
					p.Set(t.Context(), fmt.Sprint(key, "/", i), want, 0)
					p.Get(t.Context(), fmt.Sprint(key, "/", i))
				}
				return nil
			})
			if err != nil {
				return err
			}
			for i := 1; i < len(answers); i += 2 {
				got, err := answers[i].(*goredis.StringCmd).Bytes()
				if err != nil {
					return err
				}
				if err := same(want, got); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
