package sock

import (
	"sync"
	"sync/atomic"
	"time"

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
	calm     chan struct{} // closed by wake, for a waiter without a thread; nil: none
	r, w     int           // the same eventfd on Linux, a pipe's two ends elsewhere
}

// wake makes the waiter return, or the next one that comes.
func (k *waker) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.signaled && k.made && !k.closed {
		signalWake(k.w)
	}
	k.signaled = true
	if k.calm != nil {
		close(k.calm)
		k.calm = nil
	}
}

// rest waits for wake, or for d, and holds no thread.
func (k *waker) rest(d time.Duration) {
	k.mu.Lock()
	if k.signaled {
		k.mu.Unlock()
		return
	}
	calm := make(chan struct{})
	k.calm = calm
	k.mu.Unlock()
	Parked.Add(1)
	defer Parked.Add(-1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-calm:
	case <-timer.C:
	}
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
	waker  waker
	parker atomic.Pointer[parker] // of a connect that is parked
}

// Stop makes the connect return. It may come before, during or after.
func (s *Stop) Stop() {
	s.waker.wake()
	if k := s.parker.Load(); k != nil {
		k.wake()
	}
}

// park has the goroutine wait in k until its socket is writable, for a time at most, or for
// Stop. It reports whether the socket may be writable. A nil Stop never comes.
func (s *Stop) park(k *parker, d time.Duration) bool {
	k.ready()
	if s != nil {
		s.parker.Store(k)
		defer s.parker.Store(nil)
		if s.Stopped() {
			return false
		}
	}
	return k.park(unix.POLLOUT, d)
}

// Stopped reports whether Stop was called. A nil Stop never is.
func (s *Stop) Stopped() bool {
	if s == nil {
		return false
	}
	s.waker.mu.Lock()
	defer s.waker.mu.Unlock()
	return s.waker.signaled
}

// rest waits for Stop, or for d, and holds no thread. A nil Stop never comes.
func (s *Stop) rest(d time.Duration) {
	if s == nil {
		s = new(Stop)
	}
	s.waker.rest(d)
}

// Close gives the descriptor back.
func (s *Stop) Close() { s.waker.close() }
