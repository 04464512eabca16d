// Package worker does the measured work, in a separate process for each round, so that no round
// inherits threads, garbage or warm caches from another.
package worker

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/blocksock/client/bench/internal/sample"
)

// works has the kinds of work.
var works = map[string]func(*sample.Spec) (*sample.Sample, error){
	"roundtrip": roundTrips,
	"framing":   packets,
	"checkout":  checkouts,
	"ask":       askThroughPool,
	"get":       getThroughPool,
	"waiting":   waiting,
	"events":    events,
	"load":      load,
	"rate":      loadAtRate,
	"compete":   compete,
	"send":      sentDatagrams,
	"datagrams": datagrams,
}

// Work runs the round of a spec.
func Work(s *sample.Spec) (*sample.Sample, error) {
	if s.Procs > 0 {
		runtime.GOMAXPROCS(s.Procs)
	}
	work := works[s.Work]
	if work == nil {
		return nil, fmt.Errorf("unknown work %q", s.Work)
	}
	result, err := work(s)
	if err != nil {
		return nil, fmt.Errorf("%s by %s: %w", s.Work, s.Peer, err)
	}
	return result, nil
}

// compete computes until the process is killed.
func compete(*sample.Spec) (*sample.Sample, error) {
	for n := uint64(1); ; {
		n = xorshift(n, 1000)
	}
}

// An op is one operation, on one connection.
type op func() error

// measure repeats each op in its own goroutine for the length of the round, or Count times,
// beside the computing goroutines. It measures everything after the warm-up.
func measure(s *sample.Spec, ops []op) (*sample.Sample, error) {
	done, stop := Busy(s.Busy, s.BusyCount)
	defer stop()
	var (
		wg       sync.WaitGroup
		phase    atomic.Int32 // warming, measuring or over
		failed   = make(chan error, len(ops))
		begun    = make(chan struct{})
		all      = make([]*hdrhistogram.Histogram, len(ops))
		counting = s.Count > 0
	)
	if counting {
		phase.Store(measuring)
	}
	for i, do := range ops {
		h := sample.NewHistogram()
		all[i] = h
		wg.Go(func() {
			<-begun
			for n := 0; ; n++ {
				now := phase.Load()
				if now == over || counting && n == s.Count {
					return
				}
				start := time.Now()
				if err := do(); err != nil {
					failed <- err
					return
				}
				if now == measuring {
					sample.Record(h, time.Since(start))
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { wg.Wait(); cancel() }()

	close(begun)
	if !counting {
		sleep(ctx, s.Warmup)
	}
	meter, before := sample.Start(), done()
	if !counting {
		phase.Store(measuring)
		sleep(ctx, s.Length)
		phase.Store(over)
	}
	<-ctx.Done()
	var result sample.Sample
	result.Computed = done() - before
	meter.Stop(&result)
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	sum := sample.NewHistogram()
	for _, h := range all {
		sum.Merge(h)
	}
	result.Ops = sum.TotalCount() * int64(max(s.Batch, 1))
	return &result, result.SetLatency(sum)
}

const (
	warming int32 = iota
	measuring
	over
)

// sleep uses a timer of the kernel, because the runtime's timers fire late in a busy process.
func sleep(ctx context.Context, d time.Duration) {
	for end := time.Now().Add(d); ctx.Err() == nil; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		nanosleep(min(left, 50*time.Millisecond))
	}
}

// conns returns the number of connections or goroutines.
func conns(s *sample.Spec) int { return cmp.Or(s.Conns, 1) }
