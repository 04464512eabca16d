package worker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The kinds of computing that keep a process busy.
const (
	Nothing = "nothing"
	Spin    = "spin"   // a loop without a call
	Slices  = "slices" // 50 µs of that and a Gosched, in turns
	Alloc   = "alloc"  // slices of up to 4 KiB, of which some stay for a while
)

// Busy begins to compute in n goroutines, until stop is called.
func Busy(kind string, n int) (stop func()) {
	compute := map[string]func(*atomic.Bool){Spin: spin, Slices: slices, Alloc: allocate}[kind]
	if compute == nil {
		return func() {}
	}
	var over atomic.Bool
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { compute(&over) })
	}
	return func() {
		over.Store(true)
		wg.Wait()
	}
}

func spin(over *atomic.Bool) {
	for n := uint64(1); !over.Load(); {
		n = turn(n, 1000)
	}
}

// turn computes for a while: about a nanosecond for each.
func turn(n uint64, times int) uint64 {
	for range times {
		n ^= n << 13
		n ^= n >> 7
		n ^= n << 17
	}
	return n
}

// Compute computes for a time.
func Compute(d time.Duration) {
	for begin, n := time.Now(), uint64(1); time.Since(begin) < d; {
		n = turn(n, 1000)
	}
}

func slices(over *atomic.Bool) {
	for !over.Load() {
		Compute(50 * time.Microsecond)
		runtime.Gosched()
	}
}

func allocate(over *atomic.Bool) {
	var held [1024][]byte
	for n := uint64(1); !over.Load(); {
		n = turn(n, 10)
		b := make([]byte, 64+n%4032)
		b[0] = byte(n)
		held[n>>32%1024] = b
	}
}

func nanosleep(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // whoever sleeps looks at the clock again
}
