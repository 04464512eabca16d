package sock

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A side is one direction of a socket: whose turn it is, until when a call may
// wait, and how to reach the thread that does.
type side struct {
	turn     chan struct{} // holds a token while somebody has the turn
	deadline atomic.Int64  // an Instant
	waiting  atomic.Bool   // the one with the turn is about to poll, or polls
	waker    waker
	sleeper  sleeper       // the one with the turn, where it sleeps inside recvfrom(2)
	calls    atomic.Uint32 // system calls that have begun or ended: odd during one, see loss

	// Of who has the turn, in a crowd.
	idleInARow   int // turns one after the other in which others ran for nothing
	sleepsAtOnce int // sleeps still to come without a turn before them

	mu      sync.Mutex
	changed chan struct{} // closed when the deadline changes or the socket closes
}

func (d *side) init() { d.turn = make(chan struct{}, 1) }

func (d *side) limit() Instant { return Instant(d.deadline.Load()) }

// until is the earlier of a call's limit and the deadline.
func (d *side) until(limit Instant) Instant {
	if limit == Regardless {
		return Never
	}
	return Earlier(limit, d.limit())
}

// isOver reports whether a call that has got somewhere has to end all the same.
// One that does not wait ends by itself.
func (d *side) isOver(flags int, until Instant) bool {
	return flags&unix.MSG_DONTWAIT == 0 && d.until(until).Left() <= 0
}

// expired reports whether the deadline, if there is one, is over.
func (d *side) expired() bool {
	limit := d.limit()
	return limit != Never && limit.Left() <= 0
}

func (d *side) setDeadline(i Instant) {
	d.deadline.Store(int64(i))
	d.notify()
}

// notify makes everybody who waits on this side look again. The waiter says
// that it waits before it reads what may change, and we change before we ask
// whether it waits: one of the two sees the other, and a deadline that is set
// on every call costs no system call while nobody waits.
func (d *side) notify() {
	if d.waiting.Load() {
		d.waker.wake()
	}
	d.sleeper.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *side) watch() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// enter takes a use of the descriptor and the turn on one side, or says why
// not: net.ErrClosed, or os.ErrDeadlineExceeded when until or the deadline is
// over. waited reports that the turn was another's, and time has passed since.
func (s *Socket) enter(d *side, until Instant) (waited bool, err error) {
	ok, err := s.tryEnter(d)
	if err != nil {
		return false, err
	}
	if !ok {
		if err := s.queue(d, until); err != nil {
			return true, err
		}
	}
	if d.expired() {
		s.leave(d)
		return !ok, os.ErrDeadlineExceeded
	}
	return !ok, nil
}

// tryEnter is enter for a call that must not wait, not even for its turn.
func (s *Socket) tryEnter(d *side) (ok bool, err error) {
	if !s.life.use() {
		return false, net.ErrClosed
	}
	select {
	case d.turn <- struct{}{}:
		return true, nil
	default:
		s.release()
		return false, nil
	}
}

// enterNow is tryEnter for a call that the caller forbids to wait: somebody
// else's turn is EAGAIN to it, and a deadline that is over stops it too.
func (s *Socket) enterNow(d *side, call string) error {
	ok, err := s.tryEnter(d)
	switch {
	case err != nil:
		return err
	case !ok:
		return s.failure(call, unix.EAGAIN)
	case d.expired():
		s.leave(d)
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *Socket) leave(d *side) {
	<-d.turn
	s.release()
}

// queue waits for the turn while another goroutine has it, and takes a use.
func (s *Socket) queue(d *side, until Instant) (err error) {
	if !s.life.use() {
		return net.ErrClosed
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	for {
		changed := d.watch()
		if s.life.isOver() {
			return s.ended()
		}
		left := d.until(until).Left()
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		select {
		case d.turn <- struct{}{}:
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}
