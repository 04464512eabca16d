package sock

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A crowd has the receives of the process that may wait, and the calls that wait for a
// socket to be ready. When there are more of them than processors (GOMAXPROCS), habits of
// the Go scheduler are in their way:
//
//   - A thread that sleeps in a system call keeps its processor until the runtime's
//     monitor takes it away, 20 µs later or more, though others could run. So in a crowd
//     a call that would sleep lets others run first (runtime.Gosched), and looks again
//     when its turn comes: mostTurns times, or until nobody else wants to run.
//   - A goroutine whose peer answers fast keeps its processor for a whole time slice of
//     10 ms, again and again, while others, whose answers are there, queue: of 64 on two
//     processors each is served for 10 ms and then waits for 300. So a call that has its
//     answer at once lets others run too, after every mostInARow of them or a while; see
//     shares. After each one would be fairer and cost nearly twice as much: what both ends
//     of a connection need is in no cache any more when its turn comes again.
//   - A system call that the scheduler is not told of (RawSyscall) is cheaper, but if the
//     kernel gives the thread's place to another, as to the peer that a send has woken,
//     the processor waits with it. So in a crowd the scheduler is told of those that send
//     and receive.
//
// Where it is of no use to let others run it has a price. Those who wait for long come
// back at once, each with a look that finds nothing: so a call makes few such turns, and
// one whose turns have all been in vain for a while sleeps without. Goroutines that compute
// take a time slice each. They show in the CPU time that the process has used for each call
// that has come to its end meanwhile: receiving takes a few microseconds of it. Then nobody
// lets others run for a while. A turn that took long because other processes kept this one
// from running shows in no CPU time.
type crowd struct {
	word  atomic.Uint64 // how many there are, in the lower half; how many have ended
	quiet atomic.Int64  // the Instant until which nobody lets others run
	procs atomic.Int64  // GOMAXPROCS, which is too slow to ask each time

	sampling sync.Mutex
	last     sample // after the last long turn
}

// A sample is what the process had used and done at a time.
type sample struct {
	at    Instant
	cpu   time.Duration
	ended uint32
}

var everybody crowd

const (
	// mostInARow is how many receives of a socket find something at once before others
	// are let run: the more, the less it costs, and the longer the others wait.
	mostInARow = 16

	// A call lets others run mostTurns times before it sleeps, of which mostIdle may have
	// been idle: those that wait for long must not keep each other awake. A turn is idle
	// if it was not longer than aWake, which it takes to wake a thread that finds nothing
	// to do, and aLook of each of the crowd.
	mostTurns = 10
	mostIdle  = 2
	aWake     = 20 * time.Microsecond
	aLook     = time.Microsecond

	// noTurn is as long as runtime.Gosched takes if nobody else wants to run.
	noTurn = 1500 * time.Nanosecond

	// Who has had manyIdle idle turns one after the other, in which no call came to its
	// end, sleeps at once twice, and twice as often after each one more, up to 1<<mostOften
	// times.
	manyIdle  = 8
	mostOften = 10

	// Somebody computes if a turn has taken longer than shortTurn, as it does if somebody
	// has all of a time slice, and the process has used more than slowEach of CPU time for
	// each call that has ended since the last such turn. If that was more than freshSample
	// before this one began, nobody knows: for a time nobody lets others run.
	shortTurn   = 8 * time.Millisecond
	slowEach    = 100 * time.Microsecond
	freshSample = time.Second

	// After such a turn it takes quietTimes as long until the next, but no longer than
	// longestQuiet.
	quietTimes   = 20
	longestQuiet = time.Minute

	// longestShare is how long who always finds something may go on, whatever others take.
	longestShare = 100 * time.Millisecond
)

// enter counts a call that waits from here to leave.
func (c *crowd) enter() {
	c.word.Add(1)
	if c.procs.Load() == 0 {
		c.procs.Store(int64(runtime.GOMAXPROCS(0)))
	}
}

func (c *crowd) leave() {
	const now = 4096 // and then; GOMAXPROCS hardly ever changes
	if w := c.word.Add(1<<32 - 1); w>>32%now == 0 {
		c.procs.Store(int64(runtime.GOMAXPROCS(0)))
	}
}

// waiting counts those that there are, ended those that have come to their end: of a call
// that waits in poll(2) that is each look and each wait.
func (c *crowd) waiting() int64 { return int64(uint32(c.word.Load())) }
func (c *crowd) ended() uint32  { return uint32(c.word.Load() >> 32) }

// isHere reports whether there is a crowd for which it is of use to let others run.
func (c *crowd) isHere() bool { return c.waiting() > c.procs.Load() && !c.isQuiet() }

func (c *crowd) isQuiet() bool {
	until := c.quiet.Load()
	if until == 0 {
		return false
	}
	if Instant(until) > Now() {
		return true
	}
	c.quiet.CompareAndSwap(until, 0)
	return false
}

// beQuiet has nobody let others run for a while, after a turn of a length.
func (c *crowd) beQuiet(took time.Duration) {
	until := int64(In(min(quietTimes*took, longestQuiet)))
	for {
		before := c.quiet.Load()
		if before >= until || c.quiet.CompareAndSwap(before, until) {
			return
		}
	}
}

// letOthersRun tells how long they did, and how many calls came to their end.
func (c *crowd) letOthersRun() (took time.Duration, ended uint32) {
	begin, before := Now(), c.ended()
	runtime.Gosched()
	took, ended = time.Duration(Now()-begin), c.ended()-before
	if took > shortTurn {
		switch computes, known := c.computes(took, sample{Now(), processCPU(), c.ended()}); {
		case !known:
			c.beQuiet(min(took, freshSample/quietTimes))
		case computes:
			c.beQuiet(took)
		}
	}
	return took, ended
}

// computes reports, after a long turn, whether the process has computed since the last one.
func (c *crowd) computes(took time.Duration, now sample) (computes, known bool) {
	if !c.sampling.TryLock() {
		return false, true // another's turn is looked at
	}
	defer c.sampling.Unlock()
	last := c.last
	between := time.Duration(now.at - last.at)
	if between < shortTurn {
		return false, true // too short to say
	}
	c.last = now
	if last.at == Never || between > took+freshSample {
		return false, false
	}
	return (now.cpu-last.cpu)/slowEach > time.Duration(now.ended-last.ended), true
}

// turns counts how often one call has let others run.
type turns struct{ all, idle int }

// yields lets others run before a call sleeps, in a crowd. It reports whether somebody
// has, so that the caller had better look again, at the clock too: also a turn that was for
// nothing has taken its time.
func (d *side) yields(t *turns) bool {
	if t.all == mostTurns || t.idle == mostIdle || !everybody.isHere() {
		return false
	}
	if d.sleepsAtOnce > 0 {
		d.sleepsAtOnce--
		return false
	}
	t.all++
	took, ended := everybody.letOthersRun()
	isIdle := took < aWake+time.Duration(everybody.waiting())*aLook
	if isIdle {
		t.idle++
	}
	if !isIdle || ended > 0 {
		d.idleInARow = 0
	} else if d.idleInARow++; d.idleInARow > manyIdle {
		d.sleepsAtOnce = 1 << min(d.idleInARow-manyIdle, mostOften)
	}
	return took > noTurn
}

// shares lets others run in a crowd though a receive need not sleep. If they take long the
// receives that follow may take longer too, half of what is each one's share: beside
// goroutines that compute mostInARow of them would be next to nothing.
func (s *Socket) shares() {
	if Now() < s.shareUntil {
		return
	}
	took, ended := everybody.letOthersRun()
	served := min(1+int64(ended)/mostInARow, everybody.waiting()) // about so many, this one too
	share := took * time.Duration(everybody.procs.Load()) / time.Duration(2*max(served, 1))
	s.shareUntil = In(min(share, longestShare))
}
