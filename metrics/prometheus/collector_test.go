package prometheus_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	clientmetrics "github.com/blocksock/client/metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
)

func newPool(t testing.TB, opts client.PoolOptions) *client.Pool {
	t.Helper()
	p := client.NewPool(opts)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func dial(t testing.TB, p *client.Pool, address string, opts *client.Options) *client.Client {
	t.Helper()
	c, err := p.Dial(t.Context(), "tcp", address, opts)
	require.NoError(t, err)
	return c
}

// use dials n times, once at a time.
func use(t testing.TB, n int, p *client.Pool, address string, opts *client.Options) {
	t.Helper()
	for range n {
		require.NoError(t, dial(t, p, address, opts).Close())
	}
}

// scrape returns the metrics as promhttp serves them, by name and labels.
func scrape(t testing.TB, c prometheus.Collector) map[string]string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	values := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		if name, value, ok := strings.Cut(line, "} "); ok {
			values[name+"}"] = strings.TrimSpace(value)
		} else if name, value, ok := strings.Cut(line, " "); ok && name != "#" {
			values[name] = strings.TrimSpace(value)
		}
	}
	return values
}

func TestCollector_HasThePoolsNumbers(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{MaxConnsPerKey: 4})
	use(t, 5, p, address, nil)
	held := dial(t, p, address, nil)
	defer held.Close()
	require.NoError(t, dial(t, p, address, nil).Discard())
	m := scrape(t, clientmetrics.NewCollector(map[string]*client.Pool{"echo": p}, nil))
	for name, value := range map[string]string{
		`client_pool_connections{pool="echo",state="active"}`:          "1",
		`client_pool_connections{pool="echo",state="idle"}`:            "0",
		`client_pool_max_connections_per_key{pool="echo"}`:             "4",
		`client_pool_checkouts_total{connection="new",pool="echo"}`:    "2",
		`client_pool_checkouts_total{connection="reused",pool="echo"}`: "5",
		`client_pool_dials_total{pool="echo"}`:                         "2",
		`client_pool_discards_total{cause="by_caller",pool="echo"}`:    "1",
		`client_pool_discards_total{cause="dead",pool="echo"}`:         "0",
		`client_pool_waiting_callers{pool="echo"}`:                     "0",
		`client_max_threads`:                "256",
		`client_waiting_calls{on="poller"}`: "0",
	} {
		require.Equal(t, value, m[name], name)
	}
	for name := range m {
		require.NotContains(t, name, "client_pool_key_", "keys are an option")
		require.NotContains(t, name, address)
	}
}

func TestCollector_HasAsManyKeysAsAskedFor(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	for i, key := range []string{"least", "more", "most"} {
		use(t, i+1, p, address, &client.Options{PoolKey: key})
	}
	m := scrape(t, clientmetrics.NewCollector(map[string]*client.Pool{"echo": p}, &clientmetrics.Options{MaxKeys: 2}))
	of := func(key string) string {
		return m[`client_pool_key_checkouts_total{address="`+address+`",connection="reused",network="tcp",pool="echo",pool_key="`+key+`"}`]
	}
	require.Equal(t, []string{"", "1", "2"}, []string{of("least"), of("more"), of("most")})
	require.Equal(t, "3", m[`client_pool_checkouts_total{connection="new",pool="echo"}`], "all keys")
}

// Keys may differ in options that are no labels, and in bytes that no label can have.
func TestCollector_KeysWithTheSameLabelsAreAddedUp(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	use(t, 2, p, address, &client.Options{PoolKey: "<a>\"\n\xff"})
	use(t, 2, p, address, &client.Options{PoolKey: "<a>\"\n\xfe"})
	use(t, 2, p, address, &client.Options{PoolKey: "<a>\"\n\xfe", TTL: 9})
	m := scrape(t, clientmetrics.NewCollector(map[string]*client.Pool{"echo": p}, &clientmetrics.Options{MaxKeys: 10}))
	require.Equal(t, "3", m[`client_pool_key_checkouts_total{address="`+address+`",connection="new",network="tcp",pool="echo",pool_key="<a>\"\n`+"\uFFFD"+`"}`], "%v", m)
}

// Two metrics with the same labels would fail every scrape.
func TestCollector_PoolNamesThatAreNotUTF8StayDistinct(t *testing.T) {
	names := []string{"p\x80", "p\xfe", "p\xff", "p\uFFFD"}
	address, pools := testserver.Echo(t), make(map[string]*client.Pool)
	for i, name := range names {
		pools[name] = newPool(t, client.PoolOptions{MaxConnsPerKey: 9})
		use(t, i+1, pools[name], address, nil)
	}
	m := scrape(t, clientmetrics.NewCollector(pools, &clientmetrics.Options{MaxKeys: 1}))
	for i, name := range []string{"p\uFFFD\uFFFD", "p\uFFFD\uFFFD\uFFFD", "p\uFFFD\uFFFD\uFFFD\uFFFD", "p\uFFFD"} {
		require.Equal(t, strconv.Itoa(i), m[`client_pool_checkouts_total{connection="reused",pool="`+name+`"}`], "%v", m)
	}
}

func TestNewCollector_NilPoolIsNamed(t *testing.T) {
	require.PanicsWithValue(t, `prometheus: pool "redis" is nil: make it with client.NewPool, or leave it out`, func() {
		clientmetrics.NewCollector(map[string]*client.Pool{"redis": nil}, nil)
	})
}

// A pool has a key for each network that it was asked for.
func TestCollector_NetworkThatDoesNotExist(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{})
	_, err := p.Dial(t.Context(), "tcp\xff", address, nil)
	require.ErrorAs(t, err, new(net.UnknownNetworkError))
	m := scrape(t, clientmetrics.NewCollector(map[string]*client.Pool{"echo": p}, &clientmetrics.Options{MaxKeys: 10}))
	require.Equal(t, "1", m[`client_pool_key_dial_errors_total{address="`+address+`",network="tcp`+"\uFFFD"+`",pool="echo",pool_key=""}`], "%v", m)
}

func TestCollector_RegistersOnceAndUnregisters(t *testing.T) {
	c := clientmetrics.NewCollector(map[string]*client.Pool{"p": newPool(t, client.PoolOptions{})}, &clientmetrics.Options{MaxKeys: 1})
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	var already prometheus.AlreadyRegisteredError
	require.ErrorAs(t, r.Register(c), &already)
	require.Same(t, c, already.ExistingCollector)
	require.True(t, r.Unregister(c))
	require.False(t, r.Unregister(c))
	require.NoError(t, r.Register(c))
}

func TestCollector_TwoNeedALabel(t *testing.T) {
	c := clientmetrics.NewCollector(map[string]*client.Pool{"p": newPool(t, client.PoolOptions{})}, nil)
	r := prometheus.NewPedanticRegistry()
	for _, part := range []string{"one", "two"} {
		require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"part": part}, r).Register(c))
	}
	all, err := r.Gather()
	require.NoError(t, err)
	require.NotEmpty(t, all)
}

func TestCollector_MayBeUsedWhileThePoolIs(t *testing.T) {
	address, p := testserver.Echo(t), newPool(t, client.PoolOptions{MaxConnsPerKey: 2})
	c := clientmetrics.NewCollector(map[string]*client.Pool{"p": p}, &clientmetrics.Options{MaxKeys: 5})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if c, err := p.Dial(t.Context(), "tcp", address, nil); err == nil {
					_ = c.Close()
				}
			}
		})
		wg.Go(func() {
			for range 20 {
				r := prometheus.NewPedanticRegistry()
				r.MustRegister(c)
				if _, err := r.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
