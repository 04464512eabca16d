package sock

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An fdWaker wakes a poll(2) through a descriptor that becomes readable: an eventfd on
// Linux, a pipe elsewhere. The first poll creates the descriptor, so a socket that never
// waits has none. The zero fdWaker is ready to use.
//
// An fdWaker has at most one waiting call. A second one could consume the first one's
// wake.
type fdWaker struct {
	mu       sync.Mutex
	made     bool
	signaled bool
	closed   bool
	waiter   chan struct{} // of a goroutine in wait, closed by wake; nil if there is none
	r, w     int           // an eventfd twice on Linux, the ends of a pipe elsewhere
}

// wake makes the waiting call return. Without one, the next call returns at once.
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

// wait waits for wake, for at most d, without a thread.
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

// pollFD returns the descriptor to poll for POLLIN.
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

// drain clears the wake. The waiting call does that before it checks what has changed.
func (k *fdWaker) drain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signaled && k.made && !k.closed {
		drainFD(k.r)
	}
	k.signaled = false
}

// close closes the descriptor. A concurrent wake does nothing.
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
