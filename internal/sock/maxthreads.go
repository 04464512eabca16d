package sock

import "sync/atomic"

// DefaultMaxThreads is how many calls may hold a thread at first. A process ends when it has
// more than 10,000 threads (debug.SetMaxThreads), and others have their share of them.
const DefaultMaxThreads = 256

// A call that waits holds a thread, since that is what costs the least where few calls wait
// and not for long. When more than maxThreads wait, and when a wait has lasted, it parks: its
// goroutine waits in the Go runtime's poller, as those of package net do.
var maxThreads atomic.Int64

func init() { maxThreads.Store(DefaultMaxThreads) }

// SetMaxThreads sets how many calls may hold a thread while they wait, and gives what that
// was. A negative n only asks.
func SetMaxThreads(n int) (previous int) {
	if n < 0 {
		return int(maxThreads.Load())
	}
	return int(maxThreads.Swap(int64(n)))
}
