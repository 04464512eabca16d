package sock

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// A waitPolicy decides whether a call that waits holds its thread in the kernel or parks
// its goroutine in the Go runtime's poller:
//
//   - In a process that computes, it holds its thread, which the kernel wakes at once. The
//     runtime looks at its poller only when a processor (GOMAXPROCS) has nothing to run,
//     and every 10 ms.
//   - Otherwise it parks if it is a Read, or if more sockets than processors wait by turns.
//     A thread that sleeps in a system call keeps its processor until the runtime's monitor
//     takes it away, 20 µs later or more, though other goroutines could run on it. A Read is
//     mostly a driver's, which has goroutines of its own that it has just woken.
//   - Otherwise it holds its thread, which costs the least CPU time.
//
// SetMaxThreads and longestHold bound the threads in any case.
//
// A process computes if it uses much CPU time for each wait that ends, and goroutines queue
// for a processor. Neither alone says so: a web server uses much CPU time for each wait and
// has idle processors, and of many connections that are busy some always queue. A process
// that gets little CPU time because of other processes uses no more of it for each wait.
type waitPolicy struct {
	word     atomic.Uint64 // calls that hold a thread or are about to, in the lower half; ended waits
	refused  atomic.Uint64 // calls of takeThread that maxThreads refused
	unparked atomic.Bool   // a call has come back from the poller since the last leavePoller

	nextSample atomic.Int64  // an Instant
	period     atomic.Uint32 // counts samples
	active     atomic.Int32  // directions that have waited in this period
	procs      atomic.Int32  // GOMAXPROCS
	many       atomic.Bool   // more directions than processors waited in the last period
	computing  atomic.Bool

	mu       sync.Mutex // for what follows
	cpu      time.Duration
	ended    uint32
	runnable [1]metrics.Sample
}

var waits waitPolicy

const (
	// samplePeriod bounds how long the policy is behind the process. A sample takes some 2 µs
	// (BenchmarkWaitPolicy_Sample), a ten-thousandth of the period.
	samplePeriod = 20 * time.Millisecond

	// Above computingCPU for each wait that ends a process computes, below ioCPU it has
	// ceased to. A round trip takes 5 to 15 µs, with 64 KiB or TLS up to 60, one of
	// net/http's 25. Beside goroutines that spin on 2 processors the share of one round trip
	// is 80 ms where each waits for a time slice of theirs, and 50 to 100 µs where none does.
	computingCPU = 100 * time.Microsecond
	ioCPU        = 20 * time.Microsecond
)

// takeThread reports whether a call may wait on its thread. If so it is counted until
// giveThread, so there are never more than maxThreads.
func (w *waitPolicy) takeThread() bool {
	if int64(uint32(w.word.Add(1))) <= maxThreads.Load() {
		return true
	}
	w.word.Add(^uint64(0))
	w.refused.Add(1)
	return false
}

func (w *waitPolicy) giveThread() { w.word.Add(1<<32 - 1) }

// leavePoller comes before a wait on a thread. It reports whether it has taken time.
//
// A call that has come back from the runtime's poller may run on the only thread that was in
// it. If that thread sleeps in the kernel, no thread waits in the poller until the runtime's
// monitor looks at it, up to 10 ms later. Gosched starts another one if a processor is idle
// (goschedImpl, wakep).
func (w *waitPolicy) leavePoller() (yielded bool) {
	if !w.unparked.Load() || !w.unparked.Swap(false) || w.computing.Load() {
		return false
	}
	runtime.Gosched()
	return true
}

// count counts a call that has not waited on a thread.
func (w *waitPolicy) count() { w.word.Add(1 << 32) }

func (w *waitPolicy) endCount() uint32 { return uint32(w.word.Load() >> 32) }

func (w *waitPolicy) parks(d *direction, asConn bool, now Instant) bool {
	if int64(now) >= w.nextSample.Load() {
		w.sample(now)
	}
	if period := w.period.Load(); d.period != period {
		d.period = period
		w.active.Add(1)
	}
	return (asConn || w.concurrent()) && !w.computing.Load()
}

// parks reports whether a call that waits on a direction, whose I/O lock it holds, parks.
func (s *Socket) parks(d *direction, now Instant) bool {
	return s.alwaysParks.Load() || waits.parks(d, s.asConn.Load(), now)
}

// tellsScheduler reports whether short system calls tell the Go scheduler of themselves,
// which costs some 50 ns. If the kernel gives the thread's CPU to another thread, such as the
// peer that a send has woken, a processor whose scheduler was not told waits with it; there
// are others to run on it just where calls park.
func (s *Socket) tellsScheduler() bool { return s.asConn.Load() || waits.concurrent() }

// concurrent reports whether more sockets than processors wait by turns.
func (w *waitPolicy) concurrent() bool { return w.many.Load() || w.active.Load() > w.procs.Load() }

func (w *waitPolicy) sample(now Instant) {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	w.nextSample.Store(int64(now.Add(samplePeriod)))
	w.procs.Store(int32(runtime.GOMAXPROCS(0)))
	w.many.Store(w.active.Swap(0) > w.procs.Load())
	first := w.period.Add(1) == 1

	cpu, ended := processCPU(), w.endCount()
	each := (cpu - w.cpu) / time.Duration(max(ended-w.ended, 1))
	w.cpu, w.ended = cpu, ended
	switch {
	case first: // there is nothing to compare with
	case each < ioCPU || !w.hasRunnable():
		w.computing.Store(false)
	case each > computingCPU:
		w.computing.Store(true)
	}
}

// hasRunnable reports whether goroutines queue for a processor.
func (w *waitPolicy) hasRunnable() bool {
	w.runnable[0].Name = "/sched/goroutines/runnable:goroutines"
	metrics.Read(w.runnable[:])
	v := w.runnable[0].Value
	return v.Kind() != metrics.KindUint64 || v.Uint64() > 0 // a runtime that does not tell
}
