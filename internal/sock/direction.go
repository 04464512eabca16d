package sock

import (
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A direction is one direction of a socket: its I/O lock, its deadline, and what wakes
// the call that waits under the lock.
type direction struct {
	ioLock   uint64        // recvLocked or sendLocked, in Socket.refs
	handOver chan struct{} // tells one call that waits for the lock that it has it
	deadline atomic.Int64  // an Instant
	syscalls atomic.Uint32 // begins and ends of sending system calls: odd during one, see loadStreamErr

	// The call that holds the lock waits in one of three places.
	polling      atomic.Bool // it waits in ppoll(2) or in the runtime's poller, or is about to
	fdWaker      fdWaker     // ppoll(2)
	threadWaker  threadWaker // recvfrom(2)
	netpollWaker atomic.Pointer[netpollWaker]

	// Protected by the I/O lock.
	period     uint32 // the last one of waitPolicy's in which it waited
	parkedLast bool   // the last receive was there only after a wait
	held       bool   // the receive has held its thread for longestHold, inside recvfrom(2)

	retry backoff // of WaitReadable

	mu      sync.Mutex
	changed chan struct{} // closed when the deadline changes or the socket closes
}

func (d *direction) init(ioLock uint64) { d.ioLock, d.handOver = ioLock, make(chan struct{}, 1) }

func (d *direction) loadDeadline() Instant { return Instant(d.deadline.Load()) }

// limit is the earlier of a call's limit and the deadline.
func (d *direction) limit(limit Instant) Instant {
	if limit == Uninterruptible {
		return Never
	}
	return Earlier(limit, d.loadDeadline())
}

// expired reports whether a call that has made progress has to return all the same. A
// call with MSG_DONTWAIT returns by itself.
func (d *direction) expired(flags int, until Instant) bool {
	return flags&unix.MSG_DONTWAIT == 0 && d.limit(until).Left() <= 0
}

// deadlineExceeded reports whether there is a deadline and it is over.
func (d *direction) deadlineExceeded() bool {
	limit := d.loadDeadline()
	return limit != Never && limit.Left() <= 0
}

func (d *direction) setDeadline(i Instant) {
	d.deadline.Store(int64(i))
	d.notify()
}

// notify makes every call that waits on this direction check its limit and the socket's
// state again. No wake-up is lost, because each side writes before it reads:
//
//	waiting call: polling = true, read deadline and state, wait
//	notify:       write deadline or state, read polling, wake
//
// While no call waits, setting a deadline costs no system call.
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

// changes returns a channel that notify closes, for a call that waits for the lock.
func (d *direction) changes() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

// lock takes a reference to the descriptor and the I/O lock of one direction. It returns
// net.ErrClosed or ErrStopped, or os.ErrDeadlineExceeded when until or the deadline is over.
// waited reports that another call held the lock, so time has passed.
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
	return !ok, s.mayGoOn(d)
}

// mayGoOn releases the lock, and returns the error of its call, after Stop and once the deadline
// is over.
func (s *Socket) mayGoOn(d *direction) error {
	var err error
	switch {
	case s.refs.Ending():
		err = s.closedErr()
	case d.deadlineExceeded():
		err = os.ErrDeadlineExceeded
	default:
		return nil
	}
	s.unlock(d)
	return err
}

// tryLock is lock for a call that must not wait for the lock.
func (s *Socket) tryLock(d *direction) (ok bool, err error) {
	ok, open := s.refs.TryLock(d.ioLock)
	if !open {
		return false, net.ErrClosed
	}
	return ok, nil
}

// lockNonblock is lock for a call with MSG_DONTWAIT: EAGAIN if another call holds the
// lock. Stop and the deadline apply: a layer above may have data that needs no system call.
func (s *Socket) lockNonblock(d *direction, call string) error {
	ok, err := s.tryLock(d)
	switch {
	case err != nil:
		return err
	case !ok:
		return s.syscallErr(call, unix.EAGAIN)
	}
	return s.mayGoOn(d)
}

// AwaitSend waits until done is closed, for a call that needs something else before it sends.
// Close, Stop and the write deadline end the wait as they end a send.
func (s *Socket) AwaitSend(done <-chan struct{}) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	for {
		changed := s.wr.changes()
		if s.refs.Ending() {
			return s.closedErr()
		}
		left := s.wr.loadDeadline().Left()
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		select {
		case <-done:
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// unlock releases the I/O lock and the reference.
func (s *Socket) unlock(d *direction) {
	handOver, last := s.refs.Unlock(d.ioLock)
	if handOver {
		d.handOver <- struct{}{} // never waits: the lock has one holder, which has received the last one
	}
	if last {
		_ = s.closeFD()
	}
}

// lockSlow waits for the I/O lock while another call holds it, in FIFO order, and takes a
// reference.
func (s *Socket) lockSlow(d *direction, until Instant) error {
	locked, open := s.refs.Lock(d.ioLock)
	switch {
	case !open:
		return net.ErrClosed
	case locked:
		return nil
	}
	for {
		changed := d.changes()
		left := d.limit(until).Left()
		if s.refs.Ending() || left <= 0 {
			break
		}
		timer := time.NewTimer(left)
		select {
		case <-d.handOver:
			timer.Stop()
			return nil
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	err := os.ErrDeadlineExceeded
	if s.refs.Ending() {
		err = s.closedErr()
	}
	for !s.refs.StopWaiting(d.ioLock) {
		select {
		case <-d.handOver:
			s.unlock(d)
			return err
		default:
			// The lock's holder is about to hand it over. A call that comes meanwhile may get it
			// instead, and may keep it for long.
			runtime.Gosched()
		}
	}
	return err
}
