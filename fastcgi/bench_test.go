package fastcgi

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// benchRequests sends n requests to php-fpm, at of them at the same time, and returns how
// long that took.
func benchRequests(b *testing.B, cl *Client, at, n int) time.Duration {
	b.Helper()
	return benchRequestsBy(b, cl, "GET", at, n)
}

// helloParams are the parameters of a short page.
func helloParams(b *testing.B, method string) map[string]string {
	b.Helper()
	return map[string]string{
		"REQUEST_METHOD": method, "SCRIPT_FILENAME": filepath.Join(siteDir(b), "hello.php"), "SCRIPT_NAME": "/hello.php",
		"REQUEST_URI": "/hello.php", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost",
	}
}

func benchRequestsBy(b *testing.B, cl *Client, method string, at, n int) time.Duration {
	b.Helper()
	params := helloParams(b, method)
	begin := time.Now()
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for range n / at {
				resp, err := cl.Do(context.Background(), &Request{Params: params})
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// BenchmarkClient_PersistentConnections compares persistent connections with a new
// connection for each request, in turns.
func BenchmarkClient_PersistentConnections(b *testing.B) {
	for _, at := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("%d at once", at), func(b *testing.B) {
			p := startPHP(b, "unix")
			persistent := p.client(b)
			each := p.client(b)
			each.Pool = client.NewPool(client.PoolOptions{MaxIdle: -1, MaxConnsPerKey: DefaultMaxConns})
			defer each.Pool.Close()
			const batch = 640
			var ratios, rates []float64
			benchRequests(b, persistent, at, batch)
			for b.Loop() {
				other := benchRequests(b, each, at, batch)
				took := benchRequests(b, persistent, at, batch)
				ratios = append(ratios, float64(other)/float64(took))
				rates = append(rates, batch/took.Seconds())
			}
			slices.Sort(ratios)
			slices.Sort(rates)
			b.ReportMetric(ratios[len(ratios)/2], "times-the-requests")
			b.ReportMetric(rates[len(rates)/2], "requests/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkClient_POST compares new connections for non-idempotent requests with
// ReuseForNonIdempotent, in turns.
func BenchmarkClient_POST(b *testing.B) {
	for _, at := range []int{1, 8} {
		b.Run(fmt.Sprintf("%d at once", at), func(b *testing.B) {
			p := startPHP(b, "unix")
			fresh, reused := p.client(b), p.client(b)
			fresh.MaxConns, reused.MaxConns = 2, 2 // there are five workers
			reused.ReuseForNonIdempotent = true
			const batch = 640
			var news, olds []float64
			for b.Loop() {
				news = append(news, float64(benchRequestsBy(b, fresh, "POST", at, batch).Microseconds())/batch)
				olds = append(olds, float64(benchRequestsBy(b, reused, "POST", at, batch).Microseconds())/batch)
			}
			slices.Sort(news)
			slices.Sort(olds)
			b.ReportMetric(news[len(news)/2], "new-µs/request")
			b.ReportMetric(olds[len(olds)/2], "reused-µs/request")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkClient_CPUTime measures the CPU time of a request in this process and in the
// kernel on its behalf, without that of php-fpm, and its allocations. "one Send, one Recv" is
// the part that no client can avoid: the same bytes on one connection.
func BenchmarkClient_CPUTime(b *testing.B) {
	p := startPHP(b, "unix")
	cl := p.client(b)
	b.Run("request", func(b *testing.B) {
		measureCPUTime(b, func(n int) { benchRequests(b, cl, 1, n) })
	})
	b.Run("one Send, one Recv", func(b *testing.B) {
		conn, err := client.Dial(p.network, p.Socket(), nil)
		require.NoError(b, err)
		defer conn.Close()
		head, err := newRequestHead(&Request{Params: helloParams(b, "GET")}, 0)
		require.NoError(b, err)
		head.p = appendRecord(head.p, typeStdin, firstRequestID, nil)
		in := make([]byte, minRecvBuffer)
		measureCPUTime(b, func(n int) {
			for range n {
				if _, err := conn.Send(head.p, 0); err != nil {
					b.Fatal(err)
				}
				if _, err := conn.Recv(in, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// measureCPUTime reports the CPU time of do, which makes n requests.
func measureCPUTime(b *testing.B, do func(n int)) {
	b.Helper()
	do(100)
	b.ReportAllocs()
	b.ResetTimer()
	var before, after syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	do(b.N)
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	own, kernel := after.Utime.Nano()-before.Utime.Nano(), after.Stime.Nano()-before.Stime.Nano()
	b.ReportMetric(float64(own)/float64(b.N)/1e3, "user-µs/request")
	b.ReportMetric(float64(kernel)/float64(b.N)/1e3, "system-µs/request")
	b.ReportMetric(float64(own+kernel)/float64(b.N)/1e3, "CPU-µs/request")
}

// BenchmarkHandler_Script measures a request for a short page by an HTTP client with a
// persistent connection.
func BenchmarkHandler_Script(b *testing.B) {
	p := startPHP(b, "unix")
	s := serveSite(b, p.client(b))
	for b.Loop() {
		if _, body := get(b, s, "/hello.php"); body != "hello" {
			b.Fatal(body)
		}
	}
}
