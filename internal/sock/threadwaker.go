package sock

import "sync/atomic"

// A threadWaker wakes a thread that is blocked in a system call which no descriptor ends:
// recvfrom(2), or ppoll(2) on several sockets. It sends the thread a signal.
//
//	blocked call: prepare, check for a reason to return, sleep
//	other call:   create the reason, wake
//
// Whichever comes second sees the other.
type threadWaker struct {
	tid   atomic.Int32 // the thread that sleeps or is about to; 0 if there is none
	woken atomic.Bool  // wake was called since prepare
}

// prepare forgets earlier wakes. The caller then checks for a reason not to sleep.
func (w *threadWaker) prepare() { w.woken.Store(false) }

// wake makes the sleeping thread return. A thread that is about to sleep does not sleep.
func (w *threadWaker) wake() {
	w.woken.Store(true)
	if w.tid.Load() != 0 {
		w.interrupt()
	}
}
