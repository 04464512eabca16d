package prometheus_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	clientmetrics "github.com/blocksock/client/metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
)

const testTimeout = 20 * time.Second

// requireProgram returns the path of a program of Debian's package prometheus.
func requireProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CLIENT_REQUIRE_SERVERS") != "":
		t.Fatal(name + " is not installed: install prometheus")
	default:
		t.Skip(name + " is not installed: install prometheus")
	}
	return path
}

// metricsServer serves the metrics of two pools, one with keys that users chose.
func metricsServer(t *testing.T) (server *httptest.Server, p *client.Pool, address string) {
	t.Helper()
	address, p = testserver.Echo(t), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(clientmetrics.NewCollector(
		map[string]*client.Pool{"echo": p, "unused": newPool(t, client.PoolOptions{})}, &clientmetrics.Options{MaxKeys: 10}))
	server = httptest.NewServer(promhttp.HandlerFor(r, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	t.Cleanup(server.Close)
	return server, p, address
}

func read(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", b)
	return b
}

func TestCollector_PromtoolHasNoComplaints(t *testing.T) {
	promtool := requireProgram(t, "promtool")
	server, p, address := metricsServer(t)
	use(t, 2, p, address, &client.Options{PoolKey: "<script>\\\""})
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(read(t, server.URL))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

// startPrometheus starts a server that scrapes target, and returns its URL.
func startPrometheus(t *testing.T, target string) string {
	t.Helper()
	program := requireProgram(t, "prometheus")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil,
		"global: {scrape_interval: 200ms}\nscrape_configs: [{job_name: test, static_configs: [{targets: ['%s']}]}]\n", target), 0o600))
	for range 5 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := ln.Addr().String()
		require.NoError(t, ln.Close()) // another process may take the port: hence the attempts
		var log bytes.Buffer
		cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
		cmd.Stderr = &log
		require.NoError(t, cmd.Start())
		exited := make(chan struct{})
		go func() { defer close(exited); _ = cmd.Wait() }()
		stop := func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-exited
		}
		url := "http://" + address
		for end := time.Now().Add(testTimeout); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if resp, err := http.Get(url + "/-/ready"); err == nil {
				_ = resp.Body.Close()
				http.DefaultClient.CloseIdleConnections()
				if resp.StatusCode == http.StatusOK {
					t.Cleanup(stop)
					return url
				}
			}
			select {
			case <-exited:
				end = time.Time{}
			default:
			}
		}
		stop()
		t.Log(log.String())
	}
	t.Fatal("prometheus does not start")
	return ""
}

// ask evaluates a query of PromQL. It returns the value of its only result, or "".
func ask(t *testing.T, server, query string) string {
	t.Helper()
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	require.NoError(t, json.Unmarshal(read(t, server+"/api/v1/query?query="+url.QueryEscape(query)), &answer))
	if len(answer.Data.Result) != 1 {
		return ""
	}
	return answer.Data.Result[0].Value[1].(string)
}

func TestCollector_PrometheusScrapesIt(t *testing.T) {
	metrics, p, address := metricsServer(t)
	server := startPrometheus(t, strings.TrimPrefix(metrics.URL, "http://"))
	tells := func(value, query string) {
		t.Helper()
		last := ask(t, server, query)
		for end := time.Now().Add(testTimeout); last != value && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			last = ask(t, server, query)
		}
		require.Equal(t, value, last, query)
	}
	tells("1", `up`)
	tells("0", `client_pool_checkouts_total{pool="echo",connection="new"}`)
	use(t, 4, p, address, &client.Options{PoolKey: "<script>"})
	tells("1", `client_pool_checkouts_total{pool="echo",connection="new"}`)
	tells("3", `client_pool_checkouts_total{pool="echo",connection="reused"}`)
	tells("0.75", `client_pool_checkouts_total{pool="echo",connection="reused"} / ignoring(connection) sum without (connection) (client_pool_checkouts_total{pool="echo"})`)
	tells("3", `client_pool_key_checkouts_total{pool_key="<script>",network="tcp",address="`+address+`",connection="reused"}`)
	tells("256", `client_max_threads`)

	held := dial(t, p, address, nil)
	waited := make(chan error, 1)
	go func() {
		c, err := p.Dial(t.Context(), "tcp", address, nil)
		if err == nil {
			err = c.Discard()
		}
		waited <- err
	}()
	tells("1", `client_pool_waiting_callers{pool="echo"}`)
	tells("1", `client_pool_longest_wait_seconds{pool="echo"} > bool 0`)
	tells("1", `client_pool_connections{pool="echo",state="active"}`)
	require.NoError(t, held.Close())
	require.NoError(t, <-waited)
	tells("0", `client_pool_waiting_callers{pool="echo"}`)
	tells("1", `client_pool_waits_total{pool="echo"}`)
	tells("1", `client_pool_discards_total{pool="echo",cause="by_caller"}`)
}
