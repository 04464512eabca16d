package client

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
)

// What Stats says of a PoolKey, network and address together does not become less while one
// of their keys stays: who shows the keys by name adds up those that differ in other options.
func TestPool_CountersOfARemovedKeyStayWithItsName(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p := NewPool(PoolOptions{})
	defer p.Close()
	var used []*Client
	for ttl := range 3 {
		for range 1 + ttl {
			c, err := p.Dial(context.Background(), "tcp", ln.Addr().String(), &Options{TTL: uint8(64 + ttl)})
			require.NoError(t, err)
			used = append(used, c)
		}
	}
	sum := func() (s KeyStats) {
		for _, k := range p.Stats().Keys {
			s.Add(&k.KeyStats)
		}
		return s
	}
	for _, c := range used[1:] { // ever fewer keys
		require.NoError(t, c.Discard())
		before := sum()
		p.mu.Lock()
		p.sweepLocked(sock.Now().Add(time.Hour))
		p.mu.Unlock()
		require.Equal(t, before, sum())
		require.Equal(t, before, p.Stats().KeyStats)
	}
	require.Len(t, p.Stats().Keys, 1)
	require.NoError(t, used[0].Discard())
}

// While expired connections are closed, one after another, a key of which all were closed may
// be removed. MinIdle dials none for a key that no caller can find any more.
func TestPoolMinIdle_KeyThatIsRemovedWhileConnectionsExpire(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p := NewPool(PoolOptions{MinIdle: 1, IdleTimeout: time.Second})
	defer p.Close()
	const keys = 3
	closed := make(chan error, 100)
	trace := &Trace{Closed: func(i ClosedInfo) {
		if i.Discard != DiscardIdleTimeout {
			return
		}
		p.mu.Lock()
		p.sweepLocked(sock.Now().Add(time.Hour))
		p.mu.Unlock()
		closed <- i.Err
	}}
	for i := range keys {
		c, err := p.Dial(context.Background(), "tcp", ln.Addr().String(), &Options{PoolKey: strconv.Itoa(i), Trace: trace})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	for range keys {
		require.NoError(t, <-closed)
	}
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		findable := 0
		for b := range p.bucketsLocked {
			findable += b.idle.n
		}
		return findable == keys && p.idle.n == keys
	}, testTimeout, time.Millisecond)
}

// A pool that is given ever new keys removes unused ones. Their counters stay in the
// sums.
func TestPool_UnusedKeysAreRemoved(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	p := NewPool(PoolOptions{MaxIdle: -1})
	defer p.Close()
	const keys = 10
	dial := func(opts *Options) *Client {
		c, err := p.Dial(context.Background(), "tcp", ln.Addr().String(), opts)
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { _ = peer.Close() })
		return c
	}
	for i := range keys {
		require.NoError(t, dial(&Options{PoolKey: strconv.Itoa(i)}).Close())
		require.NoError(t, dial(&Options{PoolKey: strconv.Itoa(i), NoDelay: SwitchOff}).Close()) // the same place
	}
	used := dial(&Options{PoolKey: "0"})
	defer used.Close()
	before := p.Stats()
	require.Len(t, before.Keys, 2*keys)

	p.mu.Lock()
	p.sweepLocked(sock.Now())
	require.Equal(t, 2*keys, p.numBuckets, "it may be wanted again")
	p.sweepLocked(sock.Now().Add(time.Hour))
	require.Equal(t, 1, p.numBuckets)
	require.Len(t, p.buckets, 1)
	p.mu.Unlock()
	after := p.Stats()
	require.Len(t, after.Keys, 1)
	require.Equal(t, "0", after.Keys[0].PoolKey)
	require.Equal(t, before.KeyStats, after.KeyStats)
	require.NoError(t, dial(&Options{PoolKey: "1"}).Close())
}
