package sock

import "sync/atomic"

// A threadWaker is a thread that sleeps in a system call which no waker ends: recvfrom(2),
// or ppoll(2) on sockets of others. It is woken by a signal.
//
//	sleeper: ready, look whether there is a reason not to sleep, sleep
//	waker:   make the reason, wake
//
// Whichever comes second sees the other.
type threadWaker struct {
	tid   atomic.Int32 // that sleeps, or is about to; 0: none
	woken atomic.Bool  // it is to come back
}

// prepare is for before the look that decides whether to sleep.
func (w *threadWaker) prepare() { w.woken.Store(false) }

// wake has the thread come back, or not sleep if it is about to.
func (w *threadWaker) wake() {
	w.woken.Store(true)
	if w.tid.Load() != 0 {
		w.interrupt()
	}
}
