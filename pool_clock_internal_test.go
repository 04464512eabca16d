package client

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
)

func TestPoolClock_EitherClockEndsALimit(t *testing.T) {
	now := moment{mono: 100, wall: 1000}
	require.False(t, moment{}.isOver(now), "never")
	require.False(t, now.isOver(now))
	require.False(t, now.add(1).isOver(now))
	require.True(t, moment{mono: 99, wall: 1001}.isOver(now), "the date was set back")
	require.True(t, moment{mono: 101, wall: 999}.isOver(now), "the machine slept")
	require.Equal(t, moment{mono: 99, wall: 1000}, earlier(moment{mono: 99, wall: 1001}, now))
	require.Equal(t, now, earlier(moment{}, now))
	require.Equal(t, now, earlier(now, moment{}))
	require.Equal(t, moment{}, now.add(math.MaxInt64), "too far away to be represented")
}

// While a machine is suspended its monotonic clock stands still. The idle limit of the
// server goes on.
func TestPool_IdleTimeIncludesSuspend(t *testing.T) {
	g := gatedPool(t, "tcp", PoolOptions{IdleTimeout: time.Hour})
	c := g.open(t)
	k := c.lease.conn
	require.NoError(t, c.Close())
	g.pool.mu.Lock()
	k.idleSince.wall = k.idleSince.wall.Add(-time.Hour)
	g.pool.mu.Unlock()
	got := g.dial(context.Background(), reuseOrDial)
	(<-g.dials) <- nil
	d := <-got
	require.NoError(t, d.err)
	require.False(t, d.c.Reused())
	require.NoError(t, d.c.Close())
	require.EqualValues(t, 1, g.pool.Stats().Discards[DiscardIdleTimeout])
}

func TestPoolClock_ReadsBothClocks(t *testing.T) {
	before, now, after := sock.Now(), bothClocks(), time.Now()
	require.GreaterOrEqual(t, now.mono, before)
	require.LessOrEqual(t, now.mono, sock.Now())
	require.WithinDuration(t, after, time.Unix(0, int64(now.wall)), time.Minute)
}
