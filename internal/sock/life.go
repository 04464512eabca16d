package sock

import "sync/atomic"

// A life counts who uses a descriptor and remembers that it was closed or
// stopped, in one word, so that these can never disagree:
//
//	open, n users ──end──▶ closed, n users ──▶ … ──▶ closed, no users: close(2)
//
// The descriptor's number belongs to the process again only after close(2), so
// whoever counts as a user may pass it to the kernel without fear of meeting
// somebody else's file. Option setters count as well as readers and writers.
//
// A socket that is stopped is still open: its calls end, and Close is still to come.
type life struct{ word atomic.Uint64 }

const (
	over    = 1 << 63
	stopped = 1 << 62
)

// use reports whether the descriptor was open and is now held.
func (l *life) use() bool {
	for {
		w := l.word.Load()
		if w&over != 0 {
			return false
		}
		if l.word.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

// release gives a use back. The one caller that gets true is the last, and has
// to close the descriptor.
func (l *life) release() (last bool) {
	return l.word.Add(^uint64(0))&^stopped == over
}

// end closes the life for new users and takes a use for the caller. It fails
// if that was done before; others reports whether anyone else is still there.
func (l *life) end() (first, others bool) {
	for {
		w := l.word.Load()
		if w&over != 0 {
			return false, false
		}
		if l.word.CompareAndSwap(w, (w|over)+1) {
			return true, w&^stopped != 0
		}
	}
}

// stop ends the calls of a life that may still be closed, until resume.
func (l *life) stop() { l.word.Or(stopped) }

func (l *life) resume() { l.word.And(^uint64(stopped)) }

func (l *life) ended() bool { return l.word.Load()&over != 0 }

// isOver reports whether calls have to end, because of Close or stop.
func (l *life) isOver() bool { return l.word.Load() >= stopped }
