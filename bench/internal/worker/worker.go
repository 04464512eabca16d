// Package worker does the work that is measured, in a process of its own, so that no
// round finds another's threads, garbage or warm caches of memory.
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

// works has what a worker can do.
var works = map[string]func(*sample.Spec) (*sample.Sample, error){
	"roundtrip": roundTrips,
	"framing":   packets,
	"checkout":  checkouts,
	"ask":       askThroughPool,
	"get":       getThroughPool,
	"waiting":   waiting,
	"load":      load,
	"rate":      loadAtRate,
	"compete":   compete,
	"send":      sentDatagrams,
	"datagrams": datagrams,
}

// Work does what a spec says.
func Work(s *sample.Spec) (*sample.Sample, error) {
	if s.Procs > 0 {
		runtime.GOMAXPROCS(s.Procs)
	}
	work := works[s.Work]
	if work == nil {
		return nil, fmt.Errorf("no such work: %q", s.Work)
	}
	result, err := work(s)
	if err != nil {
		return nil, fmt.Errorf("%s by %s: %w", s.Work, s.Peer, err)
	}
	return result, nil
}

// compete is for a process that computes beside those that are measured, until it is killed.
func compete(*sample.Spec) (*sample.Sample, error) {
	for n := uint64(1); ; {
		n = turn(n, 1000)
	}
}

// An op is one operation on one connection, again and again.
type op func() error

// measure has each op run in a goroutine of its own until the time of the round is over,
// or Count times, beside what the process computes, and measures all but the warm-up.
func measure(s *sample.Spec, ops []op) (*sample.Sample, error) {
	done, stop := Busy(s.Busy, s.BusyCount)
	defer stop()
	var (
		wg       sync.WaitGroup
		phase    atomic.Int32 // warming up, measuring, over
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

// sleep sleeps in the kernel's timer and not in the runtime's, which a process that
// computes serves late.
func sleep(ctx context.Context, d time.Duration) {
	for end := time.Now().Add(d); ctx.Err() == nil; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		nanosleep(min(left, 50*time.Millisecond))
	}
}

// conns is how many there are at once.
func conns(s *sample.Spec) int { return cmp.Or(s.Conns, 1) }
