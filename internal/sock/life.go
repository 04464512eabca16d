package sock

import "sync/atomic"

// A life counts who uses a descriptor and remembers that it was closed, in one
// word, so that the two can never disagree:
//
//	open, n users ──end──▶ closed, n users ──▶ … ──▶ closed, no users: close(2)
//
// The descriptor's number belongs to the process again only after close(2), so
// whoever counts as a user may pass it to the kernel without fear of meeting
// somebody else's file. Option setters count as well as readers and writers.
type life struct{ word atomic.Uint64 }

const over = 1 << 63

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
	return l.word.Add(^uint64(0)) == over
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
			return true, w != 0
		}
	}
}

func (l *life) ended() bool { return l.word.Load()&over != 0 }
