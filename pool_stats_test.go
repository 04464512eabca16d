package client_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestPool_StatsTellWhoWaitsNow(t *testing.T) {
	s := countedEcho(t, "tcp")
	p := client.NewPool(client.PoolOptions{MaxConnsPerKey: 1})
	defer p.Close()
	address := s.Addr().String()
	held, err := p.Dial(t.Context(), "tcp", address, nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 3 {
		wg.Go(func() {
			c, err := p.Dial(context.Background(), "tcp", address, nil)
			require.NoError(t, err)
			_ = c.Close()
		})
	}
	require.Eventually(t, func() bool { return p.Stats().Waiting == 3 }, testTimeout, time.Millisecond)
	time.Sleep(10 * time.Millisecond)
	stats := p.Stats()
	require.Equal(t, 1, stats.MaxConnsPerKey)
	require.Equal(t, stats.Waiting, stats.Keys[0].Waiting)
	require.GreaterOrEqual(t, stats.LongestWait, 10*time.Millisecond)
	require.Less(t, stats.LongestWait, testTimeout)
	require.NoError(t, held.Close())
	wg.Wait()
	stats = p.Stats()
	require.Zero(t, stats.Waiting)
	require.Zero(t, stats.LongestWait)
	require.EqualValues(t, 4, stats.Checkouts)
	require.EqualValues(t, 3, stats.Reuses)
	require.InDelta(t, 0.75, stats.HitRate(), 1e-9)
}

// A checkout that finds its connection dead is not counted and taken back: for a collector
// of metrics a counter that shrinks has begun again.
func TestPool_StatsNeverShrink(t *testing.T) {
	s := countedEcho(t, "tcp")
	p := client.NewPool(client.PoolOptions{})
	defer p.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		var last client.KeyStats
		for {
			now := p.Stats().KeyStats
			if now.Reuses < last.Reuses || now.Checkouts < last.Checkouts {
				t.Errorf("%+v after %+v", now, last)
			}
			last = now
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 50 {
		for range 2 {
			c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), nil)
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
		_ = (<-s.new).Close() // the pool finds it dead
	}
	close(stop)
	<-stopped
	stats := p.Stats()
	require.EqualValues(t, 100, stats.Checkouts)
	require.Equal(t, stats.Checkouts-stats.Reuses, stats.Dials)
}

func TestPool_StatsHitRateOfAnUnusedPoolIsZero(t *testing.T) {
	var p client.Pool
	stats := p.Stats()
	require.Zero(t, stats.KeyStats)
	require.Empty(t, stats.Keys)
	require.Zero(t, new(client.KeyStats).HitRate())
}

func TestKeyStats_AddAddsEveryCounter(t *testing.T) {
	a := client.KeyStats{
		Checkouts: 1, Reuses: 2, Dials: 3, DialErrors: 4, Waits: 5, WaitTime: 6,
		Discards: client.DiscardCounts{client.DiscardDead: 7}, Idle: 8, Active: 9, Dialing: 10, Waiting: 11, LongestWait: 12,
	}
	sum := a
	sum.Add(&a)
	require.Equal(t, client.KeyStats{
		Checkouts: 2, Reuses: 4, Dials: 6, DialErrors: 8, Waits: 10, WaitTime: 12,
		Discards: client.DiscardCounts{client.DiscardDead: 14}, Idle: 16, Active: 18, Dialing: 20, Waiting: 22, LongestWait: 12,
	}, sum)
}
