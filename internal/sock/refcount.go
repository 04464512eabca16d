package sock

import "sync/atomic"

// A Refcount counts the calls that use a descriptor, or a Client, and remembers that it was
// closed or stopped. It also has the two I/O locks of a socket. All is in one word, so that the
// parts cannot disagree and a call without others takes its lock and its reference by one atomic
// operation (internal/poll's fdMutex does the same):
//
//	open, n references ──IncrefAndClose──▶ closed, n+1 ──Decref──▶ … ──▶ closed, none: close(2)
//
//	63      62       42…61      22…41         0…21
//	closed  stopped  send lock  receive lock  references
//
// A call that holds an I/O lock or waits for it counts there, which is a reference too.
//
// After close(2) the kernel may give the descriptor's number to another file. So every call
// that passes the number to the kernel holds a reference meanwhile, setsockopt(2) included.
//
// What is stopped is still open: its calls end, until Resume. The zero Refcount is open.
type Refcount struct{ word atomic.Uint64 }

const (
	refClosed  = 1 << 63
	refStopped = 1 << 62
	recvLocked = 1 << 22 // one call at the receive lock
	sendLocked = 1 << 42 // one call at the send lock
	mostAtLock = 1<<20 - 1
)

// atLock is how many calls of word w hold or wait for an I/O lock, recvLocked or sendLocked.
func atLock(w, lock uint64) uint64 { return w / lock & mostAtLock }

// Incref adds a reference, or reports that the Refcount is closed.
func (r *Refcount) Incref() bool {
	for {
		w := r.word.Load()
		if w&refClosed != 0 {
			return false
		}
		if r.word.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

// Decref removes a reference. It returns true to one caller: the last one after
// IncrefAndClose.
func (r *Refcount) Decref() (last bool) {
	return r.word.Add(^uint64(0))&^refStopped == refClosed
}

// Lock takes an I/O lock or, if another call holds it, a place among the calls that wait for it.
// It reports false if the Refcount is closed.
func (r *Refcount) Lock(lock uint64) (locked, open bool) {
	for {
		w := r.word.Load()
		n := atLock(w, lock)
		switch {
		case w&refClosed != 0:
			return false, false
		case n == mostAtLock:
			panic("too many calls on one socket at the same time")
		case r.word.CompareAndSwap(w, w+lock):
			return n == 0, true
		}
	}
}

// TryLock is Lock that takes no place among the calls that wait.
func (r *Refcount) TryLock(lock uint64) (locked, open bool) {
	for {
		w := r.word.Load()
		switch {
		case w&refClosed != 0:
			return false, false
		case atLock(w, lock) > 0:
			return false, true
		case r.word.CompareAndSwap(w, w+lock):
			return true, true
		}
	}
}

// Unlock releases an I/O lock. If handOver is true, the lock now belongs to a call that waits, and
// the caller has to tell it. last is the result of Decref.
func (r *Refcount) Unlock(lock uint64) (handOver, last bool) {
	w := r.word.Add(-lock)
	return atLock(w, lock) > 0, w&^refStopped == refClosed
}

// StopWaiting gives the place among the calls that wait for an I/O lock up. It fails if the lock
// was handed over meanwhile and no other call waits: it is then the caller's.
func (r *Refcount) StopWaiting(lock uint64) bool {
	for {
		w := r.word.Load()
		if atLock(w, lock) == 1 {
			return false
		}
		if r.word.CompareAndSwap(w, w-lock) {
			return true
		}
	}
}

// IncrefAndClose adds a reference and closes the Refcount. It fails if that was done before.
// inUse reports whether there were other references.
func (r *Refcount) IncrefAndClose() (first, inUse bool) {
	for {
		w := r.word.Load()
		if w&refClosed != 0 {
			return false, false
		}
		if r.word.CompareAndSwap(w, (w|refClosed)+1) {
			return true, w&^refStopped != 0
		}
	}
}

// Stop ends the calls of what is still open, until Resume.
func (r *Refcount) Stop() { r.word.Or(refStopped) }

// Resume ends Stop.
func (r *Refcount) Resume() { r.word.And(^uint64(refStopped)) }

// Closed reports whether IncrefAndClose was called.
func (r *Refcount) Closed() bool { return r.word.Load()&refClosed != 0 }

// Ending reports whether calls have to end, because of IncrefAndClose or Stop.
func (r *Refcount) Ending() bool { return r.word.Load() >= refStopped }

// Unused reports whether the Refcount is closed and has no references.
func (r *Refcount) Unused() bool { return r.word.Load()&^refStopped == refClosed }
