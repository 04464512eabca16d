package prometheus_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/blocksock/client"
	clientmetrics "github.com/blocksock/client/metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func ExampleNewCollector() {
	pool := client.NewPool(client.PoolOptions{MaxConnsPerKey: 8})
	defer pool.Close()

	registry := prometheus.NewRegistry()
	registry.MustRegister(clientmetrics.NewCollector(map[string]*client.Pool{"redis": pool}, nil))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // serve it at /metrics

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "client_pool_connections{") {
			fmt.Print(line)
		}
	}
	// Output:
	// client_pool_connections{pool="redis",state="active"} 0
	// client_pool_connections{pool="redis",state="dialing"} 0
	// client_pool_connections{pool="redis",state="idle"} 0
}

func ExampleOptions() {
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	c := clientmetrics.NewCollector(map[string]*client.Pool{"redis": pool}, &clientmetrics.Options{MaxKeys: 20})
	fmt.Println(prometheus.NewRegistry().Register(c))
	// Output: <nil>
}

func ExampleCollector() {
	reads, writes := client.NewPool(client.PoolOptions{}), client.NewPool(client.PoolOptions{})
	defer reads.Close()
	defer writes.Close()
	c := clientmetrics.NewCollector(map[string]*client.Pool{"reads": reads, "writes": writes}, nil)
	fmt.Println(prometheus.NewRegistry().Register(c))
	// Output: <nil>
}
