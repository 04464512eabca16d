package sock

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStopped is the error of a connect that a Stop has ended, and of calls on a socket
// that was stopped.
var ErrStopped = errors.New("stopped")

// A Stopper ends a dial from another goroutine, for good. A context and Close use it to
// reach a thread that waits for a peer's answer. The zero Stopper is ready to use. The
// owner closes it when the dial has returned.
type Stopper struct {
	fdWaker      fdWaker
	netpollWaker atomic.Pointer[netpollWaker] // of a parked dial
}

// Stop ends the dial. It may be called before, during or after it.
func (s *Stopper) Stop() {
	s.fdWaker.wake()
	if k := s.netpollWaker.Load(); k != nil {
		k.wake()
	}
}

// park parks the goroutine in k until its socket is writable or Stop is called, for at
// most d. It reports whether the socket may be writable. A nil Stopper never stops.
func (s *Stopper) park(k *netpollWaker, d time.Duration) bool {
	k.prepare()
	if s != nil {
		s.netpollWaker.Store(k)
		defer s.netpollWaker.Store(nil)
		if s.Stopped() {
			return false
		}
	}
	ready, _ := k.park(unix.POLLOUT, Now(), d)
	return ready
}

// Stopped reports whether Stop was called. A nil Stopper never stops.
func (s *Stopper) Stopped() bool {
	if s == nil {
		return false
	}
	s.fdWaker.mu.Lock()
	defer s.fdWaker.mu.Unlock()
	return s.fdWaker.signaled
}

// wait waits for Stop, for at most d, without a thread. A nil Stopper never stops.
func (s *Stopper) wait(d time.Duration) {
	if s == nil {
		s = new(Stopper)
	}
	s.fdWaker.wait(d)
}

// Close closes the descriptor.
func (s *Stopper) Close() { s.fdWaker.close() }
