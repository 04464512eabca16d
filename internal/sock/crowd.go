package sock

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A crowd has the calls of the process that wait for sockets. When there are more of
// them than processors (GOMAXPROCS), habits of the Go scheduler are in their way:
//
//   - A thread that sleeps in a system call keeps its processor until the runtime's
//     monitor takes it away, 20 µs later or more, though others could run. So in a crowd
//     a call that would sleep lets others run first (runtime.Gosched), and looks again
//     when its turn comes. It sleeps when nobody else wants to run.
//   - A goroutine whose peer answers fast keeps its processor for a whole time slice of
//     10 ms, again and again, while others, whose answers are there, queue: of 64 on two
//     processors each is served for 10 ms and then waits for 300. So a call that has its
//     answer at once lets others run too, now and then. Not each time: two that have just
//     talked to each other do it at half the cost of two that have not for long, whose
//     memory is in no cache and whose peer's thread sleeps elsewhere.
//   - A system call that the scheduler is not told of (RawSyscall) is cheaper, but if the
//     kernel gives the thread's place to another, as to the peer that a send has woken,
//     the processor waits with it. So in a crowd the scheduler is told of all.
//
// Beside goroutines that compute to let others run would be folly: each of them would run
// for its time slice first. Whether there are any shows in what waiting calls have come to
// their end meanwhile: processors that are busy with such calls end one in a few
// microseconds. If there were too few, nobody lets others run for a while.
type crowd struct {
	word  atomic.Uint64 // how many wait, in the lower half; how many have waited
	quiet atomic.Int64  // the Instant until which nobody lets others run
	procs atomic.Int64  // GOMAXPROCS, which is too slow to ask each time
}

var everybody crowd

const (
	// mostTurns is how often a call that would sleep lets others run first: those that
	// wait for long must not keep each other awake.
	mostTurns = 2

	// mostInARow is how many receives of a socket find something at once before others
	// are let run: the more, the less it costs, and the longer the others wait.
	mostInARow = 16

	// A call lets others run for nothing if that took longer than shortTurn, as it does
	// if somebody has all of a time slice, and for each slowEach of it not even one
	// other call has come to its end.
	shortTurn = 8 * time.Millisecond
	slowEach  = 100 * time.Microsecond

	// quietTimes is how many times longer than a turn that was for nothing it takes
	// until the next.
	quietTimes = 20

	// noTurn is as long as runtime.Gosched takes if there is nobody else.
	noTurn = 1500 * time.Nanosecond
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

// ended counts the calls that have come to their end.
func (c *crowd) ended() uint32 { return uint32(c.word.Load() >> 32) }

// isHere reports whether there is a crowd, and nobody who computes.
func (c *crowd) isHere() bool {
	if int64(uint32(c.word.Load())) <= c.procs.Load() {
		return false
	}
	quiet := c.quiet.Load()
	return quiet == 0 || Instant(quiet) <= Now()
}

// letOthersRun reports whether somebody has run, so that the caller had better look
// again, at the clock too: also a turn that was for nothing has taken its time.
func (c *crowd) letOthersRun() bool {
	if !c.isHere() {
		return false
	}
	begin := Now()
	before := c.ended()
	runtime.Gosched()
	took := time.Duration(Now() - begin)
	if isForNothing(took, c.ended()-before) {
		c.quiet.Store(int64(begin.Add(quietTimes * took)))
	}
	return took > noTurn
}

// isForNothing judges a turn by how long it took and how many calls have ended in it.
func isForNothing(took time.Duration, ended uint32) bool {
	return took > shortTurn && took/slowEach > time.Duration(ended)
}
