package sock

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A fdWaker is a descriptor that becomes readable when somebody wants the thread
// that polls it back. It is made when a thread first has to wait, so a client
// whose answers are always there costs none. The zero waker is ready to use.
//
// Every waker has at most one waiter: two could steal the signal from each other.
type fdWaker struct {
	mu       sync.Mutex
	made     bool
	signaled bool
	closed   bool
	waiter   chan struct{} // closed by wake, for a waiter without a thread; nil: none
	r, w     int           // the same eventfd on Linux, a pipe's two ends elsewhere
}

// wake makes the waiter return, or the next one that comes.
func (k *fdWaker) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.signaled && k.made && !k.closed {
		signalFD(k.w)
	}
	k.signaled = true
	if k.waiter != nil {
		close(k.waiter)
		k.waiter = nil
	}
}

// wait waits for wake, or for d, and holds no thread.
func (k *fdWaker) wait(d time.Duration) {
	k.mu.Lock()
	if k.signaled {
		k.mu.Unlock()
		return
	}
	woken := make(chan struct{})
	k.waiter = woken
	k.mu.Unlock()
	Parked.Add(1)
	defer Parked.Add(-1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	}
}

// pollFD gives the descriptor to poll for reading.
func (k *fdWaker) pollFD() (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.made {
		return k.r, nil
	}
	r, w, err := newWakeFDs()
	if err != nil {
		return -1, err
	}
	k.r, k.w, k.made = r, w, true
	if k.signaled {
		signalFD(k.w)
	}
	return k.r, nil
}

// drain takes the signal back, before the waiter looks at what has changed.
func (k *fdWaker) drain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signaled && k.made && !k.closed {
		drainFD(k.r)
	}
	k.signaled = false
}

// close may be called with a wake on its way: that one then does nothing.
func (k *fdWaker) close() {
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

// A Stopper ends a connect from another goroutine, once and for good: it is how a
// context and Close reach a thread that waits for a peer to answer.
// The zero Stop is ready to use; the owner closes it when the connect is over.
type Stopper struct {
	fdWaker      fdWaker
	netpollWaker atomic.Pointer[netpollWaker] // of a connect that is parked
}

// Stop makes the connect return. It may come before, during or after.
func (s *Stopper) Stop() {
	s.fdWaker.wake()
	if k := s.netpollWaker.Load(); k != nil {
		k.wake()
	}
}

// park has the goroutine wait in k until its socket is writable, for a time at most, or for
// Stop. It reports whether the socket may be writable. A nil Stop never comes.
func (s *Stopper) park(k *netpollWaker, d time.Duration) bool {
	k.prepare()
	if s != nil {
		s.netpollWaker.Store(k)
		defer s.netpollWaker.Store(nil)
		if s.Stopped() {
			return false
		}
	}
	return k.park(unix.POLLOUT, Now(), d)
}

// Stopped reports whether Stop was called. A nil Stop never is.
func (s *Stopper) Stopped() bool {
	if s == nil {
		return false
	}
	s.fdWaker.mu.Lock()
	defer s.fdWaker.mu.Unlock()
	return s.fdWaker.signaled
}

// wait waits for Stop, or for d, and holds no thread. A nil Stop never comes.
func (s *Stopper) wait(d time.Duration) {
	if s == nil {
		s = new(Stopper)
	}
	s.fdWaker.wait(d)
}

// Close gives the descriptor back.
func (s *Stopper) Close() { s.fdWaker.close() }
