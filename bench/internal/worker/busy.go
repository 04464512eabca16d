package worker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The kinds of computing of Busy.
const (
	Nothing = "nothing"
	Spin    = "spin"   // a loop without calls
	Slices  = "slices" // 50 µs of that, then runtime.Gosched
	Alloc   = "alloc"  // allocates slices of up to 4 KiB, the last 1024 of which stay reachable
)

// Busy computes in n goroutines until stop is called. done returns the work done so far.
func Busy(kind string, n int) (done func() int64, stop func()) {
	compute := map[string]func(*task){Spin: spin, Slices: slices, Alloc: allocate}[kind]
	if compute == nil {
		return func() int64 { return 0 }, func() {}
	}
	tasks := make([]task, n)
	var wg sync.WaitGroup
	for i := range tasks {
		wg.Go(func() { compute(&tasks[i]) })
	}
	done = func() (sum int64) {
		for i := range tasks {
			sum += tasks[i].done.Load()
		}
		return sum
	}
	return done, func() {
		for i := range tasks {
			tasks[i].over.Store(true)
		}
		wg.Wait()
	}
}

// A task is the work of one goroutine. It fills cache lines of its own.
type task struct {
	over atomic.Bool
	done atomic.Int64
	_    [112]byte
}

func spin(t *task) {
	for n := uint64(1); !t.over.Load(); {
		n = xorshift(n, 1000)
		t.done.Add(1)
	}
}

// xorshift iterates a random number generator: about a nanosecond for each of times.
func xorshift(n uint64, times int) uint64 {
	for range times {
		n ^= n << 13
		n ^= n >> 7
		n ^= n << 17
	}
	return n
}

// Compute computes for at least d.
func Compute(d time.Duration) {
	for begin, n := time.Now(), uint64(1); time.Since(begin) < d; {
		n = xorshift(n, 1000)
	}
}

func slices(t *task) {
	for n := uint64(1); !t.over.Load(); {
		for begin := time.Now(); time.Since(begin) < 50*time.Microsecond; {
			n = xorshift(n, 1000)
			t.done.Add(1)
		}
		runtime.Gosched()
	}
}

func allocate(t *task) {
	var reachable [1024][]byte
	for n := uint64(1); !t.over.Load(); t.done.Add(1) {
		n = xorshift(n, 10)
		b := make([]byte, 64+n%4032)
		b[0] = byte(n)
		reachable[n>>32%1024] = b
	}
}

func nanosleep(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // the caller reads the clock again
}
