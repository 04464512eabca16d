package sock

import "sync/atomic"

// DefaultMaxThreads is the default of SetMaxThreads. The Go runtime ends a process that
// has more than 10,000 threads (debug.SetMaxThreads), and other code needs threads too.
const DefaultMaxThreads = 256

// maxThreads bounds the calls that wait on their thread. When as many do, or a wait has
// lasted for longestHold, a call parks: its goroutine waits in the Go runtime's poller, as
// in package net. See waitPolicy for the calls that park earlier.
var maxThreads atomic.Int64

func init() { maxThreads.Store(DefaultMaxThreads) }

// SetMaxThreads sets how many calls may hold a thread while they wait, and returns the
// previous number. Default: DefaultMaxThreads. A negative n changes nothing.
func SetMaxThreads(n int) (previous int) {
	if n < 0 {
		return int(maxThreads.Load())
	}
	return int(maxThreads.Swap(int64(n)))
}

// WaitStats are the state of all waiting calls.
type WaitStats struct {
	Threads   int    // calls that hold a thread
	Refused   uint64 // how often maxThreads kept a call from holding one
	Parked    int    // calls that wait without one
	Computing bool
}

// ReadWaitStats returns the state of all waiting calls.
func ReadWaitStats() WaitStats {
	return WaitStats{
		Threads: int(uint32(waits.word.Load())), Refused: waits.refused.Load(),
		Parked: int(Parked.Load()), Computing: waits.computing.Load(),
	}
}
