package client_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// echoPool makes a pool with one idle connection to an echo server.
func echoPool(b testing.TB, network string) (*client.Pool, string) {
	b.Helper()
	ln := listen(b, network)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { echo(conn); conn.Close() }()
		}
	}()
	p := client.NewPool(client.PoolOptions{})
	b.Cleanup(func() { _ = p.Close() })
	c, err := p.Dial(context.Background(), network, ln.Addr().String(), nil)
	require.NoError(b, err)
	require.NoError(b, c.Close())
	return p, ln.Addr().String()
}

// BenchmarkPoolCheckout measures a checkout and a release beside their system call, the
// check before the connection is handed out. It alternates with this call alone.
func BenchmarkPoolCheckout(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) {
			p, address := echoPool(b, network)
			raw, err := connectedTo(b, network, nil).SyscallConn()
			require.NoError(b, err)
			ctx := context.Background()
			const batch = 1000
			checkouts := func() {
				for range batch {
					c, err := p.Dial(ctx, network, address, nil)
					if err == nil {
						err = c.Close()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			peeks := func(fd uintptr) {
				var p [1]byte
				for range batch {
					barePeek(fd, p[:])
				}
			}
			var all, calls []float64 // ns, of each batch
			b.ReportAllocs()
			for b.Loop() {
				begin := time.Now()
				checkouts()
				all = append(all, float64(time.Since(begin))/batch)
				begin = time.Now()
				require.NoError(b, raw.Control(peeks))
				calls = append(calls, float64(time.Since(begin))/batch)
			}
			slices.Sort(all)
			slices.Sort(calls)
			b.ReportMetric(all[len(all)/2], "ns/checkout")
			b.ReportMetric(calls[len(calls)/2], "ns/call")
			b.ReportMetric(all[len(all)/2]-calls[len(calls)/2], "ns/beside")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// barePeek is the system call that checks a connection.
func barePeek(fd uintptr, p []byte) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
}

func TestPool_CheckoutAllocatesNothing(t *testing.T) {
	for _, network := range streamNetworks {
		p, address := echoPool(t, network)
		opts := &client.Options{PoolKey: "k", RecvTimeout: 1}
		checkout := func() {
			c, err := p.Dial(context.Background(), network, address, opts)
			if err == nil {
				err = c.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		checkout()
		require.Zero(t, testing.AllocsPerRun(1000, checkout), network)
		require.EqualValues(t, 2, p.Stats().Dials)
	}
}

// contend has n goroutines that each take a connection and return it until the others have
// done so often enough. Nearly all have to wait.
func contend(b testing.TB, p *client.Pool, network, address string, n int, checkouts int) {
	b.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for range checkouts / n {
				c, err := p.Dial(context.Background(), network, address, nil)
				if err == nil {
					runtime.Gosched() // the others ask while this one has the connection
					err = c.Close()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// contended measures the waits of 64 goroutines for 8 connections.
func contended(b testing.TB, checkouts int) (waits, allocs uint64) {
	b.Helper()
	const goroutines, conns = 64, 8
	_, address := echoPool(b, "unix")
	p := newPool(b, client.PoolOptions{MaxConnsPerKey: conns})
	contend(b, p, "unix", address, goroutines, 10*goroutines) // dials, and makes what is reused
	var before, after runtime.MemStats
	was := p.Stats().Waits
	runtime.ReadMemStats(&before)
	contend(b, p, "unix", address, goroutines, checkouts)
	runtime.ReadMemStats(&after)
	return p.Stats().Waits - was, after.Mallocs - before.Mallocs
}

// BenchmarkPoolWait measures a checkout that waits for a connection, and its release.
func BenchmarkPoolWait(b *testing.B) {
	waits, allocs := contended(b, max(b.N, 64))
	b.ReportMetric(float64(waits)/float64(b.N), "waits/op")
	b.ReportMetric(float64(allocs)/float64(waits), "allocs/wait")
}

func TestPool_WaitAllocatesLittle(t *testing.T) {
	waits, allocs := contended(t, 64*500)
	require.Greater(t, waits, uint64(64*100))
	require.Less(t, float64(allocs)/float64(waits), 2.0)
}
