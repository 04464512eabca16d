package client_test

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Whatever callers do, a server never sees more connections than MaxConnsPerKey, not
// even for a moment: for each connection that it accepts, the test counts the open ones
// in the kernel.
func TestPool_MaxConnsPerKeyHoldsWithEveryLimit(t *testing.T) {
	const most = 3
	ln := listen(t, "tcp")
	var mu sync.Mutex
	var conns []*net.TCPConn
	seen := 0
	var wg, peers sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn.(*net.TCPConn))
			open := 0
			for _, c := range conns {
				if established(c) {
					open++
				}
			}
			seen = max(seen, open)
			mu.Unlock()
			peers.Go(func() { echo(conn) }) // and is not closed: its state is asked for
		}
	})
	for _, opts := range []client.PoolOptions{
		{MaxConnsPerKey: most},
		{MaxConnsPerKey: most, MinIdle: most},
		{MaxConnsPerKey: most, MaxIdlePerKey: 1},
		{MaxConnsPerKey: most, MaxIdle: -1},
		{MaxConnsPerKey: most, MaxLifetime: 2 * time.Millisecond},
	} {
		p := client.NewPool(opts)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for range 40 {
					use(t, p, ln.Addr().String())
				}
			})
		}
		callers.Wait()
		require.NoError(t, p.Close())
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return p.Stats().Dialing == 0 && !slices.ContainsFunc(conns, established)
		}, testTimeout, time.Millisecond, "what is left over")
	}
	_ = ln.Close()
	wg.Wait()
	for _, c := range conns {
		_ = c.Close()
	}
	peers.Wait()
	require.LessOrEqual(t, seen, most)
	require.Equal(t, most, seen, "as many as there may be")
}

// use does one of the things that a caller can do.
func use(t *testing.T, p *client.Pool, address string) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	dial := p.Dial
	switch rand.N(8) {
	case 0:
		p.CloseIdle()
	case 1:
		ctx, cancel = context.WithTimeout(ctx, rand.N(time.Millisecond))
		defer cancel()
	case 2, 3:
		dial = p.DialNew
	case 4:
		_ = p.Do(ctx, "tcp", address, nil, pings)
		return
	}
	c, err := dial(ctx, "tcp", address, nil)
	if err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return
	}
	if err := pings(c); err != nil {
		t.Error(err)
	}
	if rand.N(3) == 0 {
		_ = c.Discard()
	}
	_ = c.Close()
}

// established reports whether neither side of a connection has closed it.
func established(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	is := false
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		is = err == nil && info.State == unix.BPF_TCP_ESTABLISHED
	})
	return is
}
