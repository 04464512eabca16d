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

// A pool that sees ever new keys does not remember them for ever, and what it has
// counted it still knows.
func TestKeysThatNobodyUsesAreForgotten(t *testing.T) {
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
	p.sweep(sock.Now())
	require.Equal(t, 2*keys, p.count, "it may be wanted again")
	p.sweep(sock.Now().Add(time.Hour))
	require.Equal(t, 1, p.count)
	require.Len(t, p.shelves, 1)
	p.mu.Unlock()
	after := p.Stats()
	require.Len(t, after.Keys, 1)
	require.Equal(t, "0", after.Keys[0].PoolKey)
	require.Equal(t, before.KeyStats, after.KeyStats)
	require.NoError(t, dial(&Options{PoolKey: "1"}).Close())
}
