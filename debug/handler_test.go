package debug_test

import (
	"context"
	"encoding/json"
	"expvar"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/debug"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

var _ expvar.Var = (*debug.Handler)(nil)

func newPool(t testing.TB, opts client.PoolOptions) *client.Pool {
	t.Helper()
	p := client.NewPool(opts)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func newHandler(t testing.TB, pools map[string]*client.Pool) *debug.Handler {
	t.Helper()
	h := debug.NewHandler(pools)
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// use makes a round trip on a pooled connection.
func use(t testing.TB, p *client.Pool, address, poolKey string) {
	t.Helper()
	c, err := p.Dial(t.Context(), "tcp", address, &client.Options{PoolKey: poolKey})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Send([]byte("ping"), 0)
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 4), client.WaitAll)
	require.NoError(t, err)
}

func get(t testing.TB, h http.Handler, query string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/any/path"+query, nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w
}

// document is the part of the JSON that the tests look at.
type document struct {
	Time         time.Time
	Waits        client.WaitStats
	LongestWaits []client.Wait
	Pools        map[string]struct {
		Idle, Active, Waiting, MaxConnsPerKey, OmittedKeys int
		Checkouts, Reuses                                  uint64
		HitRate                                            float64
		Keys                                               []struct {
			PoolKey, Network, Address string
			Checkouts                 uint64
			Discards                  map[string]uint64
			History                   []map[string]any
		}
		History []map[string]any
	}
}

func decode(t testing.TB, text string) (d document) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &d), text)
	return d
}

func TestHandler_JSONHasEachKey(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{MaxConnsPerKey: 3})
	h := newHandler(t, map[string]*client.Pool{"echo": p, "unused": newPool(t, client.PoolOptions{})})
	for range 4 {
		use(t, p, address, "a")
	}
	c, err := p.Dial(t.Context(), "tcp", address, &client.Options{PoolKey: "b"})
	require.NoError(t, err)
	require.NoError(t, c.Discard())
	w := get(t, h, "?format=json")
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	d := decode(t, w.Body.String())
	require.WithinDuration(t, time.Now(), d.Time, time.Minute)
	require.Equal(t, client.SetMaxThreads(-1), d.Waits.MaxThreads)
	require.Len(t, d.Pools, 2)
	echo := d.Pools["echo"]
	require.Equal(t, 1, echo.Idle)
	require.Equal(t, 3, echo.MaxConnsPerKey)
	require.EqualValues(t, 5, echo.Checkouts)
	require.InDelta(t, 0.6, echo.HitRate, 1e-9)
	require.Len(t, echo.Keys, 2)
	require.Equal(t, "a", echo.Keys[0].PoolKey, "the busiest first")
	require.Equal(t, address, echo.Keys[1].Address)
	require.Equal(t, map[string]uint64{"by_caller": 1}, echo.Keys[1].Discards)
	require.Empty(t, d.Pools["unused"].Keys)
}

func TestHandler_IsAnExpvar(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	use(t, p, address, "")
	h := newHandler(t, map[string]*client.Pool{"echo": p})
	d := decode(t, h.String())
	require.EqualValues(t, 1, d.Pools["echo"].Checkouts)
	require.NotContains(t, h.String(), "History")
}

func TestHandler_EscapesWhatUsersChoose(t *testing.T) {
	const script = `<script>alert("x")</script>`
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	use(t, p, address, script)
	h := newHandler(t, map[string]*client.Pool{script: p})
	w := get(t, h, "")
	require.NotContains(t, strings.ToLower(w.Body.String()), "<script")
	require.Contains(t, w.Body.String(), "&lt;script&gt;")
	require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.NotContains(t, w.Header().Get("Content-Security-Policy"), "script-src")
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	d := decode(t, get(t, h, "?format=json").Body.String())
	require.Equal(t, script, d.Pools[script].Keys[0].PoolKey)
}

// JSON has no invalid UTF-8, and one value for a name.
func TestHandler_PoolNamesThatAreNotUTF8StayDistinct(t *testing.T) {
	names := []string{"p\x80", "p\xfe", "p\xff", "p\uFFFD"}
	address, pools := testserver.Echo(t), make(map[string]*client.Pool)
	for i, name := range names {
		pools[name] = newPool(t, client.PoolOptions{})
		for range i + 1 {
			use(t, pools[name], address, "")
		}
	}
	h := newHandler(t, pools)
	d := decode(t, h.String())
	require.Len(t, d.Pools, len(names))
	require.EqualValues(t, 4, d.Pools["p\uFFFD"].Checkouts, "a valid name stays")
	sum := uint64(0)
	for _, p := range d.Pools {
		sum += p.Checkouts
	}
	require.EqualValues(t, 1+2+3+4, sum)
	for name := range d.Pools {
		require.Contains(t, get(t, h, "").Body.String(), "Pool "+name+" ")
	}
}

func TestNewHandler_NilPoolIsNamed(t *testing.T) {
	require.PanicsWithValue(t, `debug: pool "redis" is nil: make it with client.NewPool, or leave it out`, func() {
		debug.NewHandler(map[string]*client.Pool{"redis": nil})
	})
}

func TestHandler_ShowsCallersThatWait(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	h := newHandler(t, map[string]*client.Pool{"echo": p})
	held, err := p.Dial(t.Context(), "tcp", address, nil)
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() {
		c, err := p.Dial(context.Background(), "tcp", address, nil)
		if err == nil {
			err = c.Close()
		}
		got <- err
	}()
	require.Eventually(t, func() bool {
		return decode(t, get(t, h, "?format=json").Body.String()).Pools["echo"].Waiting == 1
	}, 10*time.Second, time.Millisecond)
	require.Contains(t, get(t, h, "").Body.String(), `data-name="Waiting callers"><span class="warn">1, `)
	require.NoError(t, held.Close())
	require.NoError(t, <-got)
}

func TestHandler_ShowsTheLongestWaits(t *testing.T) {
	defer client.SetMaxThreads(client.SetMaxThreads(0))
	c, err := client.Dial("tcp", testserver.Echo(t), nil)
	require.NoError(t, err)
	got := make(chan error, 1)
	go func() { _, err := c.Recv(make([]byte, 1), 0); got <- err }()
	h := newHandler(t, nil)
	require.Eventually(t, func() bool {
		d := decode(t, get(t, h, "?format=json").Body.String())
		return len(d.LongestWaits) == 1 && d.LongestWaits[0].LocalAddr == c.LocalAddr().String()
	}, 10*time.Second, time.Millisecond)
	require.Contains(t, get(t, h, "").Body.String(), c.LocalAddr().String())
	require.NoError(t, c.Close())
	require.Error(t, <-got)
	require.Contains(t, get(t, h, "").Body.String(), "There are no pools.")
}

func TestHandler_ShowsABoundedNumberOfKeys(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	for i := range 60 {
		use(t, p, address, strings.Repeat("k", i+1))
	}
	use(t, p, address, "busy")
	use(t, p, address, "busy")
	h := newHandler(t, map[string]*client.Pool{"echo": p})
	d := decode(t, get(t, h, "?format=json").Body.String()).Pools["echo"]
	require.Len(t, d.Keys, 50)
	require.Equal(t, "busy", d.Keys[0].PoolKey)
	require.Equal(t, 11, d.OmittedKeys)
	require.EqualValues(t, 62, d.Checkouts)
	page := get(t, h, "").Body.String()
	require.Equal(t, 50, strings.Count(page, address))
	require.Contains(t, page, "11 more keys")
}

// Keys that differ in options which are not shown are one on the page.
func TestHandler_AddsUpKeysThatLookTheSame(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	for _, ttl := range []uint8{0, 10} {
		c, err := p.Dial(t.Context(), "tcp", address, &client.Options{TTL: ttl})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	d := decode(t, get(t, newHandler(t, map[string]*client.Pool{"echo": p}), "?format=json").Body.String())
	require.Len(t, d.Pools["echo"].Keys, 1)
	require.EqualValues(t, 2, d.Pools["echo"].Keys[0].Checkouts)
}

func TestHandler_OnlyReads(t *testing.T) {
	w := httptest.NewRecorder()
	newHandler(t, nil).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
}

func TestHandler_RefreshesUnlessAskedNotTo(t *testing.T) {
	h := newHandler(t, nil)
	require.Contains(t, get(t, h, "").Body.String(), `http-equiv="refresh" content="5"`)
	require.Contains(t, get(t, h, "").Body.String(), "plots of the last 10 minutes")
	require.NotContains(t, get(t, h, "?pause").Body.String(), "http-equiv")
}

// Secrets of the options are not part of what is shown.
func TestHandler_ShowsNoSecrets(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	h := newHandler(t, map[string]*client.Pool{"echo": p})
	_, err := p.Dial(t.Context(), "tcp", address, &client.Options{
		Proxy: "http://user:verysecret@" + address, TLS: &client.TLSOptions{Passphrase: "verysecret", InsecureSkipVerify: true},
		Timeout: 50 * time.Millisecond,
	})
	require.Error(t, err)
	require.Contains(t, get(t, h, "").Body.String(), address)
	for _, text := range []string{get(t, h, "").Body.String(), get(t, h, "?format=json").Body.String(), h.String()} {
		require.NotContains(t, text, "verysecret")
	}
}
