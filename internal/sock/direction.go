package sock

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A direction is one direction of a socket: whose turn it is, until when a call may
// wait, and how to reach the thread that does.
type direction struct {
	ioLock       chan struct{} // holds a token while somebody has the turn
	deadline     atomic.Int64  // an Instant
	polling      atomic.Bool   // the one with the turn is about to poll, or polls
	fdWaker      fdWaker
	threadWaker  threadWaker // the one with the turn, where it sleeps inside recvfrom(2)
	netpollWaker atomic.Pointer[netpollWaker]
	syscalls     atomic.Uint32 // system calls that have begun or ended: odd during one, see loss

	// These belong to the holder of the I/O lock.
	period     uint32 // the last one of waitPolicy's in which it waited
	parkedLast bool   // the last receive was there only after a wait

	mu      sync.Mutex
	changed chan struct{} // closed when the deadline changes or the socket closes
}

func (d *direction) init() { d.ioLock = make(chan struct{}, 1) }

func (d *direction) loadDeadline() Instant { return Instant(d.deadline.Load()) }

// limit is the earlier of a call's limit and the deadline.
func (d *direction) limit(limit Instant) Instant {
	if limit == Uninterruptible {
		return Never
	}
	return Earlier(limit, d.loadDeadline())
}

// expired reports whether a call that has got somewhere has to end all the same.
// One that does not wait ends by itself.
func (d *direction) expired(flags int, until Instant) bool {
	return flags&unix.MSG_DONTWAIT == 0 && d.limit(until).Left() <= 0
}

// deadlineExceeded reports whether the deadline, if there is one, is over.
func (d *direction) deadlineExceeded() bool {
	limit := d.loadDeadline()
	return limit != Never && limit.Left() <= 0
}

func (d *direction) setDeadline(i Instant) {
	d.deadline.Store(int64(i))
	d.notify()
}

// notify makes everybody who waits on this side look again. The waiter says
// that it waits before it reads what may change, and we change before we ask
// whether it waits: one of the two sees the other, and a deadline that is set
// on every call costs no system call while nobody waits.
func (d *direction) notify() {
	if d.polling.Load() {
		d.fdWaker.wake()
		if k := d.netpollWaker.Load(); k != nil {
			k.wake()
		}
	}
	d.threadWaker.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *direction) changes() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// lock takes a use of the descriptor and the turn on one side, or says why
// not: net.ErrClosed, or os.ErrDeadlineExceeded when until or the deadline is
// over. waited reports that the turn was another's, and time has passed since.
func (s *Socket) lock(d *direction, until Instant) (waited bool, err error) {
	ok, err := s.tryLock(d)
	if err != nil {
		return false, err
	}
	if !ok {
		if err := s.lockSlow(d, until); err != nil {
			return true, err
		}
	}
	if d.deadlineExceeded() {
		s.unlock(d)
		return !ok, os.ErrDeadlineExceeded
	}
	return !ok, nil
}

// tryLock is enter for a call that must not wait, not even for its turn.
func (s *Socket) tryLock(d *direction) (ok bool, err error) {
	if !s.life.use() {
		return false, net.ErrClosed
	}
	select {
	case d.ioLock <- struct{}{}:
		return true, nil
	default:
		s.decref()
		return false, nil
	}
}

// lockNonblock is tryEnter for a call that the caller forbids to wait: somebody
// else's turn is EAGAIN to it, and a deadline that is over stops it too.
func (s *Socket) lockNonblock(d *direction, call string) error {
	ok, err := s.tryLock(d)
	switch {
	case err != nil:
		return err
	case !ok:
		return s.syscallErr(call, unix.EAGAIN)
	case d.deadlineExceeded():
		s.unlock(d)
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *Socket) unlock(d *direction) {
	<-d.ioLock
	s.decref()
}

// lockSlow waits for the turn while another goroutine has it, and takes a use.
func (s *Socket) lockSlow(d *direction, until Instant) (err error) {
	if !s.life.use() {
		return net.ErrClosed
	}
	defer func() {
		if err != nil {
			s.decref()
		}
	}()
	for {
		changed := d.changes()
		if s.life.isOver() {
			return s.closedErr()
		}
		left := d.limit(until).Left()
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		select {
		case d.ioLock <- struct{}{}:
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}
