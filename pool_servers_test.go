package client_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

// increments makes redis increment a key. It may do so twice.
func increments(key string, n *atomic.Int64) func(c *client.Client) error {
	return func(c *client.Client) error {
		if _, err := c.Send([]byte("INCR "+key+"\r\n"), 0); err != nil {
			return err
		}
		var reply [32]byte
		got := 0
		for !bytes.HasSuffix(reply[:got], []byte("\r\n")) {
			m, err := c.Recv(reply[got:], 0)
			if err != nil {
				return client.Retryable(err)
			}
			got += m
		}
		if reply[0] != ':' {
			return fmt.Errorf("redis says %q", reply[:got])
		}
		n.Add(1)
		return nil
	}
}

// After a restart of the server all idle connections are dead. No caller may see an
// error.
func TestPoolDo_RedisRestartFailsNoRequest(t *testing.T) {
	inParallelIfShort(t)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, addrs := startRedis(t)
			address := addrs[network]
			p := newPool(t, client.PoolOptions{})
			var done atomic.Int64
			var down sync.RWMutex // held by requests, and by who restarts: a server that is away cannot be hidden
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					fn := increments(fmt.Sprint("key", i), &done)
					for {
						select {
						case <-stop:
							return
						default:
						}
						down.RLock()
						err := p.Do(context.Background(), network, address, nil, fn)
						down.RUnlock()
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for i := range 3 {
				require.Eventually(t, func() bool { return done.Load() > int64(1000*(i+1)) }, testTimeout, time.Millisecond)
				down.Lock()
				require.NoError(t, s.Restart())
				down.Unlock()
			}
			before := done.Load()
			require.Eventually(t, func() bool { return done.Load() > before+1000 }, testTimeout, time.Millisecond)
			close(stop)
			wg.Wait()
			stats := p.Stats()
			require.Positive(t, stats.Discards[client.DiscardDead], "%+v", stats)
			require.Zero(t, stats.Active)
			t.Logf("%d requests, %+v", done.Load(), stats.KeyStats)
		})
	}
}

// memcached closes connections that are idle for a second. The pool keeps them for
// longer.
func TestPool_DetectsMemcachedIdleTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 6 s")
	}
	s := startMemcached(t, "-o", "idle_timeout=1")
	p := newPool(t, client.PoolOptions{})
	version := func(c *client.Client) error {
		sends(t, c, []byte("version\r\n"))
		r := bufio.NewReaderSize(c, 64)
		line, err := r.ReadString('\n')
		require.Contains(t, line, "VERSION")
		return err
	}
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr, nil, version))
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr, nil, version))
	require.EqualValues(t, 1, p.Stats().Reuses)
	require.Eventually(t, func() bool {
		require.NoError(t, p.Do(t.Context(), "tcp", s.Addr, nil, version))
		return p.Stats().Discards[client.DiscardDead] > 0
	}, time.Minute, 3*time.Second) // memcached looks now and then
	require.LessOrEqual(t, p.Stats().Dials, uint64(2+p.Stats().Discards[client.DiscardDead]))
}

// nginx announces in its last answer that it closes the connection. A client that
// ignores that header finds a dead connection.
func TestPool_DetectsNginxKeepaliveRequests(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	dir, _ := nginxFiles(t)
	c := root.Issue(t, "server", nil)
	s := startNginx(t, c, dir, "keepalive_requests 3;")
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		p := newPool(t, client.PoolOptions{})
		opts := trusting(t, c)
		opts.MaxVersion = version
		const requests = 12
		for range requests {
			require.NoError(t, p.Do(t.Context(), "tcp", s.Addr, &client.Options{TLS: opts}, func(c *client.Client) error {
				if _, err := c.Send([]byte("GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"), 0); err != nil {
					return err
				}
				response, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return client.Retryable(err)
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				require.Len(t, body, 100)
				return nil
			}))
		}
		stats := p.Stats()
		require.EqualValues(t, requests/3, stats.Dials, "%+v", stats)
		// What came for a fourth time, and sooner than the end, was done again.
		require.EqualValues(t, requests-requests/3, stats.Reuses-stats.Discards[client.DiscardFailed], "%+v", stats)
	})
}

// The session tickets of OpenSSL are in the kernel's buffer from the handshake on.
func TestPool_OpenSSLSessionTicketsDoNotDiscard(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		p := newPool(t, client.PoolOptions{})
		opts := &client.Options{TLS: trusting(t, c)}
		for i := range 5 {
			c, err := p.Dial(t.Context(), "tcp", s.Addr, opts)
			require.NoError(t, err)
			require.Equal(t, i > 0, c.Reused())
			if i > 1 { // the first time nobody receives, and the tickets stay
				reverses(t, c, "hello", "olleh")
			}
			require.NoError(t, c.Close())
		}
		client, err := p.Dial(t.Context(), "tcp", s.Addr, opts)
		require.NoError(t, err)
		sends(t, client, []byte("hello\nCLOSE\n"))
		receives(t, client, []byte("olleh\n"))
		require.NoError(t, client.Close())
		require.Eventually(t, func() bool {
			client, err := p.Dial(t.Context(), "tcp", s.Addr, opts)
			require.NoError(t, err)
			reused := client.Reused()
			require.NoError(t, client.Close())
			return !reused
		}, testTimeout, time.Millisecond)
		require.EqualValues(t, 2, p.Stats().Dials)
	})
}

// Every request has an id, and every answer is checked: no answer reaches another
// request, and no connection is lost.
func TestPool_ManyGoroutinesOverFewConnections(t *testing.T) {
	goroutines, checkouts := 64, 500
	if os.Getenv("CLIENT_LOAD") == "full" { // a minute or two
		checkouts = 20_000
	}
	const conns = 8
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: conns})
	var wg sync.WaitGroup
	var ids atomic.Uint64
	for range goroutines {
		wg.Go(func() {
			request, answer := make([]byte, 8), make([]byte, 8)
			for range checkouts {
				id := ids.Add(1)
				for i := range request {
					request[i] = byte(id >> (8 * i))
				}
				c, err := p.Dial(context.Background(), "tcp", s.Addr().String(), &client.Options{Timeout: time.Minute})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Send(request, 0); err != nil {
					t.Error(err)
				}
				if _, err := c.Recv(answer, client.WaitAll); err != nil || !bytes.Equal(request, answer) {
					t.Errorf("%x for %x: %v", answer, request, err)
				}
				end := c.Close
				if id%1009 == 0 {
					end = c.Discard
				}
				if err := end(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stats := p.Stats()
	require.EqualValues(t, goroutines*checkouts, ids.Load())
	require.LessOrEqual(t, stats.Idle, conns) // fewer if a Discard came when few goroutines were left
	require.Zero(t, stats.Active+stats.Dialing)
	require.EqualValues(t, uint64(goroutines*checkouts)/1009, stats.Discards[client.DiscardByCaller])
	// No caller has seen an error. On a busy machine a dial can take long enough to be
	// canceled, once its caller has got a released connection, to make room for a waiter.
	require.Equal(t, uint64(stats.Idle)+stats.Discards.Total()+stats.DialErrors, stats.Dials, "%+v", stats)
	// A caller that has begun a dial may get a released connection before that ends.
	require.LessOrEqual(t, stats.Reuses, uint64(goroutines*checkouts))
	require.GreaterOrEqual(t, stats.Reuses+stats.Dials, uint64(goroutines*checkouts))
	t.Logf("%+v", stats.KeyStats)

	// No place is lost: MaxConnsPerKey clients can be in use at once.
	for range conns {
		c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), nil)
		require.NoError(t, err)
		defer c.Close()
	}
}
