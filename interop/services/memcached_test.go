package services

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/bradfitz/gomemcache/memcache"
	"github.com/stretchr/testify/require"
)

// gomemcache has no contexts but the one that it dials with, so that there is no call of
// it that could be cancelled: what ends one is its Timeout, or the server.

// startMemcached starts a memcached that takes values of up to 32 MiB.
func startMemcached(t *testing.T) *testserver.Server {
	t.Helper()
	s, err := testserver.Memcached("-I", "32m", "-m", "256")
	return testserver.Serve(t, s, err)
}

func newMemcache(t *testing.T, dial dialFunc, address string) *memcache.Client {
	t.Helper()
	c := memcache.New(address)
	c.DialContext = dial
	c.Timeout = soon
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestMemcached_OperationsOverTCP(t *testing.T) {
	s := startMemcached(t)
	onBoth(t, func(t *testing.T, dial dialFunc) { useMemcache(t, newMemcache(t, dial, s.Addr)) })
}

func TestMemcached_OperationsOverUnix(t *testing.T) {
	path, err := testserver.Find("memcached", "memcached")
	var s *testserver.Server
	if err == nil {
		s, err = testserver.Start(testserver.Spec{
			Path: path,
			Args: func(s *testserver.Server) []string {
				return []string{"-s", s.Socket(), "-u", "root", "-I", "32m", "-m", "256"}
			},
			Ready: func(s *testserver.Server) error {
				return testserver.Answers("unix", s.Socket(), "stats\r\n", fmt.Sprintf("STAT pid %d\r\n", s.Pid()))
			},
		})
	}
	s = testserver.Serve(t, s, err)
	onBoth(t, func(t *testing.T, dial dialFunc) { useMemcache(t, newMemcache(t, dial, s.Socket())) })
}

func TestMemcached_OperationsOverTLS(t *testing.T) {
	id, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	config := &tls.Config{RootCAs: id.Roots}
	s := startMemcachedOverTLS(t, id, config)
	t.Run("net", func(t *testing.T) {
		useMemcache(t, newMemcache(t, (&tls.Dialer{Config: config}).DialContext, s.Addr))
	})
	t.Run("client", func(t *testing.T) {
		w := wire.New(t)
		w.Options = &client.Options{TLS: &client.TLSOptions{CAFile: id.CAFile}}
		useMemcache(t, newMemcache(t, w.DialContext, s.Addr))
	})
}

func startMemcachedOverTLS(t *testing.T, id *testserver.Identity, config *tls.Config) *testserver.Server {
	t.Helper()
	path, err := testserver.Find("memcached", "memcached")
	var s *testserver.Server
	if err == nil {
		s, err = testserver.Start(testserver.Spec{
			Path: path,
			Args: func(s *testserver.Server) []string {
				return []string{
					"-l", "127.0.0.1", "-p", s.Port, "-u", "root", "-I", "32m", "-m", "256",
					"-Z", "-o", "ssl_chain_cert=" + id.CertFile + ",ssl_key=" + id.KeyFile,
				}
			},
			Ready: func(s *testserver.Server) error {
				conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", s.Addr, config)
				if err != nil {
					return err
				}
				return conn.Close()
			},
		})
	}
	return testserver.Serve(t, s, err)
}

// useMemcache makes use of all that the driver has.
func useMemcache(t *testing.T, c *memcache.Client) {
	require.NoError(t, c.Ping())
	require.NoError(t, c.FlushAll())
	values := make(map[string][]byte)
	for _, size := range []int{0, 1, 4095, 4096, 64 << 10, 1 << 20, 8<<20 + 1} {
		key := strconv.Itoa(size)
		values[key] = randomBytes(size)
		require.NoError(t, c.Set(&memcache.Item{Key: key, Value: values[key], Flags: uint32(size)}))
	}
	keys := []string{"none"}
	for key, value := range values {
		item, err := c.Get(key)
		require.NoError(t, err)
		sameBytes(t, value, item.Value)
		require.Equal(t, key, strconv.Itoa(int(item.Flags)))
		keys = append(keys, key)
	}
	items, err := c.GetMulti(keys)
	require.NoError(t, err)
	require.Len(t, items, len(values))
	for key, value := range values {
		sameBytes(t, value, items[key].Value)
	}

	// What the server refuses leaves the connection as good as it was.
	_, err = c.Get("none")
	require.ErrorIs(t, err, memcache.ErrCacheMiss)
	require.ErrorIs(t, c.Add(&memcache.Item{Key: "1", Value: []byte("x")}), memcache.ErrNotStored)
	item, err := c.Get("1")
	require.NoError(t, err)
	require.NoError(t, c.Append(&memcache.Item{Key: "1", Value: []byte("\r\nEND\r\n")}))
	item.Value = []byte("too late")
	require.ErrorIs(t, c.CompareAndSwap(item), memcache.ErrCASConflict)
	item, err = c.Get("1")
	require.NoError(t, err)
	require.Equal(t, string(values["1"])+"\r\nEND\r\n", string(item.Value))

	require.NoError(t, c.Set(&memcache.Item{Key: "n", Value: []byte("41")}))
	n, err := c.Increment("n", 1)
	require.NoError(t, err)
	require.EqualValues(t, 42, n)
	require.NoError(t, c.Touch("n", 100))
	require.NoError(t, c.Delete("n"))
	require.ErrorIs(t, c.Delete("n"), memcache.ErrCacheMiss)
}

// sameBytes compares without printing what can be megabytes.
func sameBytes(t *testing.T, want, got []byte) {
	t.Helper()
	require.Len(t, got, len(want))
	require.True(t, string(want) == string(got), "%d bytes are not those that were sent", len(got))
}

func TestMemcached_ServesManyGoroutines(t *testing.T) {
	s := startMemcached(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		c := newMemcache(t, dial, s.Addr)
		c.MaxIdleConns = 4 // fewer than there are goroutines: connections come and go
		all(t, 16, func(worker int) error {
			for round := range 30 {
				if err := setAndGet(c, fmt.Sprint("key", worker), randomBytes(1<<(round%17))); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func setAndGet(c *memcache.Client, key string, value []byte) error {
	if err := c.Set(&memcache.Item{Key: key, Value: value}); err != nil {
		return err
	}
	item, err := c.Get(key)
	if err != nil {
		return err
	}
	if string(item.Value) != string(value) {
		return fmt.Errorf("%s is not what was stored", key)
	}
	return nil
}

func TestMemcached_TimeoutEndsAGetAndTheNextHasItsOwnReply(t *testing.T) {
	s := startMemcached(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		c := newMemcache(t, dial, s.Addr)
		require.NoError(t, c.Set(&memcache.Item{Key: "late", Value: []byte("late")}))
		require.NoError(t, c.Set(&memcache.Item{Key: "next", Value: []byte("next")}))
		thaw := freeze(t, s)
		c.Timeout = limit
		_, err := timed(t, limit, func() (*memcache.Item, error) { return c.Get("late") })
		requireTimeout(t, err)
		thaw()
		c.Timeout = soon
		item, err := c.Get("next")
		require.NoError(t, err)
		require.Equal(t, "next", string(item.Value))
	})
}

func TestMemcached_TimeoutEndsABlockedSet(t *testing.T) {
	s := startMemcached(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		c := newMemcache(t, dial, s.Addr)
		require.NoError(t, c.Set(&memcache.Item{Key: "key", Value: []byte("before")}))
		thaw := freeze(t, s)
		c.Timeout = limit
		_, err := timed(t, limit, func() (struct{}, error) {
			return struct{}{}, c.Set(&memcache.Item{Key: "key", Value: randomBytes(24 << 20)})
		})
		requireTimeout(t, err)
		thaw()
		c.Timeout = soon
		item, err := c.Get("key") // no half of a value was stored
		require.NoError(t, err)
		require.Equal(t, "before", string(item.Value))
		require.NoError(t, setAndGet(c, "key", randomBytes(1<<20)))
	})
}

// requireTimeout asks in both ways that drivers do.
func requireTimeout(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
}

// The driver asks the error of its dial function itself, and nothing that is in it,
// whether it is a timeout.
func TestMemcached_SlowDialIsAConnectTimeout(t *testing.T) {
	address := noAccept(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		c := newMemcache(t, dial, startMemcached(t).Addr)
		require.NoError(t, c.Ping()) // the wire wants to be used

		c = newMemcache(t, dial, address)
		c.Timeout = limit
		_, err := timed(t, limit, func() (struct{}, error) { return struct{}{}, c.Ping() })
		var timeout *memcache.ConnectTimeoutError
		require.ErrorAs(t, err, &timeout)
	})
}

// noAccept gives an address that leaves who connects to it waiting: a listener whose
// queue is full (listen(2): what does not fit is dropped, and the other side tries again).
func noAccept(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { require.NoError(t, syscall.Close(fd)) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	address := fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	conn, err := net.Dial("tcp", address) // a queue of 0 holds one
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return address
}

func TestMemcached_KilledServerEndsAGet(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		s := startMemcached(t)
		c := newMemcache(t, dial, s.Addr)
		require.NoError(t, c.Set(&memcache.Item{Key: "key", Value: []byte("value")}))
		freeze(t, s)
		got := inBackground(func() error {
			_, err := c.Get("key")
			return err
		})
		awaitRequest(t, "tcp", s)
		kill(t, s)
		err := result(t, got)
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NotErrorIs(t, err, memcache.ErrCacheMiss) // a server that is gone is not one without the item

		require.ErrorIs(t, c.Ping(), syscall.ECONNREFUSED)
		require.NoError(t, s.Restart())
		_, err = c.Get("key")
		require.ErrorIs(t, err, memcache.ErrCacheMiss)
		require.NoError(t, setAndGet(c, "key", randomBytes(100_000)))
	})
}

func TestMemcached_GoroutinesOutliveServerRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		s := startMemcached(t)
		c := newMemcache(t, dial, s.Addr)
		throughRestart(t, s, 4, func(worker int) error {
			return setAndGet(c, fmt.Sprint("key", worker), randomBytes(10_000))
		})
	})
}
