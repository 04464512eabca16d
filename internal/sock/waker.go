package sock

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A waker is a descriptor that becomes readable when somebody wants the thread
// that polls it back. It is made when a thread first has to wait, so a client
// whose answers are always there costs none. The zero waker is ready to use.
//
// Every waker has at most one waiter: two could steal the signal from each other.
type waker struct {
	mu       sync.Mutex
	made     bool
	signaled bool
	closed   bool
	r, w     int // the same eventfd on Linux, a pipe's two ends elsewhere
}

// wake makes the waiter return, or the next one that comes.
func (k *waker) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.signaled && k.made && !k.closed {
		signalWake(k.w)
	}
	k.signaled = true
}

// pollFD gives the descriptor to poll for reading.
func (k *waker) pollFD() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.made {
		return k.r, nil
	}
	r, w, err := newWake()
	if err != nil {
		return -1, err
	}
	k.r, k.w, k.made = r, w, true
	if k.signaled {
		signalWake(k.w)
	}
	return k.r, nil
}

// drain takes the signal back, before the waiter looks at what has changed.
func (k *waker) drain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signaled && k.made && !k.closed {
		drainWake(k.r)
	}
	k.signaled = false
}

// close may be called with a wake on its way: that one then does nothing.
func (k *waker) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.made && !k.closed {
		_ = unix.Close(k.r)
		if k.w != k.r {
			_ = unix.Close(k.w)
		}
	}
	k.closed = true
}

// A Stop ends a connect from another goroutine, once and for good: it is how a
// context and Close reach a thread that waits for a peer to answer.
// The zero Stop is ready to use; the owner closes it when the connect is over.
type Stop struct {
	waker waker
}

// Stop makes the connect return. It may come before, during or after.
func (s *Stop) Stop() { s.waker.wake() }

// Stopped reports whether Stop was called. A nil Stop never is.
func (s *Stop) Stopped() bool {
	if s == nil {
		return false
	}
	s.waker.mu.Lock()
	defer s.waker.mu.Unlock()
	return s.waker.signaled
}

// Close gives the descriptor back.
func (s *Stop) Close() { s.waker.close() }
