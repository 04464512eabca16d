package sock

import "sync/atomic"

// A Refcount counts the calls that use a descriptor, or a Client, and remembers that it was
// closed or stopped. All is in one word, so that the parts cannot disagree (internal/poll's
// fdMutex does the same):
//
//	open, n references ──IncrefAndClose──▶ closed, n+1 ──Decref──▶ … ──▶ closed, none: close(2)
//
// After close(2) the kernel may give the descriptor's number to another file. So every call
// that passes the number to the kernel holds a reference meanwhile, setsockopt(2) included.
//
// What is stopped is still open: its calls end, until Resume. The zero Refcount is open.
type Refcount struct{ word atomic.Uint64 }

const (
	refClosed  = 1 << 63
	refStopped = 1 << 62
)

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
