package client_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// How much CPU time a round trip of 64 bytes costs this process, beside
// package net's on the same socket: rounds of both in turn, medians. The peer
// is another process. cpu/net is to be at most 0.9.
func BenchmarkCPUBesideNet(b *testing.B) {
	path := otherProcess(b, "echo", "unix")
	c, err := client.Dial("unix", path, nil)
	require.NoError(b, err)
	defer c.Close()
	n, err := net.Dial("unix", path)
	require.NoError(b, err)
	defer n.Close()
	buf := make([]byte, 64)
	ours := func() error { return roundTrip(c, buf) }
	nets := func() error {
		if _, err := n.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(n, buf)
		return err
	}

	const least, trips = 11, 5000
	var our, their, ratio []float64
	cpu := func(f func() error) float64 {
		start := cpuTime(b)
		for range trips {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		return float64(cpuTime(b)-start) / trips / 1e3
	}
	for range max(least, b.N) {
		o, t := cpu(ours), cpu(nets)
		our, their, ratio = append(our, o), append(their, t), append(ratio, o/t)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(our), "cpu-µs/trip")
	b.ReportMetric(median(their), "net-cpu-µs/trip")
	b.ReportMetric(median(ratio), "cpu/net")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkRoundTrip(b *testing.B) {
	path := otherProcess(b, "echo", "unix")
	for _, size := range []int{64, 1 << 10, 64 << 10} {
		buf := make([]byte, size)
		b.Run(fmt.Sprintf("client/%d", size), func(b *testing.B) {
			c, err := client.Dial("unix", path, nil)
			require.NoError(b, err)
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := roundTrip(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("net/%d", size), func(b *testing.B) {
			n, err := net.Dial("unix", path)
			require.NoError(b, err)
			defer n.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := n.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(n, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// How late a limit ends a call on a peer that is silent. late-p99 is to be at
// most 2 ms or a tenth of the limit, whichever is more, on an idle machine.
func BenchmarkLimitIsHowLate(b *testing.B) {
	for _, limit := range []time.Duration{3 * time.Millisecond, 99 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second} {
		b.Run(limit.String(), func(b *testing.B) {
			const atOnce = 20
			results := make(chan time.Duration, atOnce)
			clients := make([]*client.Client, atOnce)
			for i := range clients {
				clients[i], _ = stream(b, "tcp", &client.Options{Timeout: limit})
			}
			var late []time.Duration
			for len(late) < max(100, b.N) {
				for _, c := range clients {
					go func() {
						start := time.Now()
						_, err := c.Recv(make([]byte, 1), 0)
						took := time.Since(start)
						if err == nil {
							b.Error("a silent peer has spoken")
						}
						results <- took - limit
					}()
				}
				for range clients {
					late = append(late, <-results)
				}
			}
			reportPercentiles(b, "late", late)
		})
	}
}

// How soon a call that waits returns once Close is called. p99 is to be at most 2 ms.
func BenchmarkCloseIsHowSoon(b *testing.B) {
	for _, network := range allNetworks {
		for name, call := range blockedCalls(b, network) {
			b.Run(network+" "+name, func(b *testing.B) {
				var soon []time.Duration
				for range max(100, b.N) {
					c, f := call(b)
					returned := make(chan time.Time, 1)
					go func() {
						_ = f()
						returned <- time.Now()
					}()
					inKernel(b)
					closed := time.Now()
					_ = c.Close()
					soon = append(soon, (<-returned).Sub(closed))
				}
				reportPercentiles(b, "soon", soon)
			})
		}
	}
}

func reportPercentiles(b *testing.B, what string, samples []time.Duration) {
	slices.Sort(samples)
	at := func(p int) float64 { return float64(samples[(len(samples)-1)*p/100]) / 1e3 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(50), what+"-p50-µs")
	b.ReportMetric(at(99), what+"-p99-µs")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// Sending a mebibyte at a time to a peer that reads as fast as it can.
func BenchmarkBulkSend(b *testing.B) {
	for _, network := range streamNetworks {
		address := otherProcess(b, "sink", network)
		buf := make([]byte, 1<<20)
		for _, kind := range []string{"client", "net"} {
			b.Run(network+"/"+kind, func(b *testing.B) {
				var w io.WriteCloser
				var err error
				if kind == "client" {
					w, err = client.Dial(network, address, nil)
				} else {
					w, err = net.Dial(network, address)
				}
				require.NoError(b, err)
				defer w.Close()
				b.SetBytes(int64(len(buf)))
				start := cpuTime(b)
				for b.Loop() {
					if _, err := w.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N)/1e3, "cpu-µs/op")
			})
		}
	}
}
