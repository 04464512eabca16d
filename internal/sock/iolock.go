package sock

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// A IOLock is one direction of a socket in the hands of one caller, for as many
// calls as it takes and with one limit for all of them. It is how a layer that
// has a state of its own, TLS or packets, uses the socket: whoever has the turn
// has the state. Leave gives the turn back.
type IOLock struct {
	s            *Socket
	d            *direction
	until        Instant
	flags        int  // MSG_DONTWAIT, or none
	waitInKernel bool // the first receive may wait inside recv(2)
}

// ErrUpgraded is the error of Recv, Read, Send, SendTo and Write once a layer has
// taken the socket over.
var ErrUpgraded = errors.New("the stream became another layer's while the call waited for its turn")

// Take leaves the socket to those who use Turns. The caller has both turns: a
// call that waits for one of them meets ErrTaken when it gets it.
func (s *Socket) Upgrade() { s.upgraded.Store(true) }

// LockRecv takes the turn to receive, as Recv with these flags and this timeout.
func (s *Socket) LockRecv(flags int, timeout time.Duration) (IOLock, error) {
	l := IOLock{s: s, d: &s.rd, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if l.flags != 0 {
		return l, s.lockNonblock(l.d, "recvfrom")
	}
	waited, err := s.lock(l.d, l.until)
	// The kernel's wait has a fixed length: it is for those who have all of it.
	// An error that is queued, and that a send has met first, does not end it.
	if err == nil && s.asConn.Load() {
		s.asConn.Store(false)
	}
	l.waitInKernel = err == nil && !waited && flags&unix.MSG_OOB == 0 && !s.icmp && s.waitsInKernel(timeout)
	return l, err
}

// LockRead takes the turn to receive, as Read.
func (s *Socket) LockRead() (IOLock, error) {
	_, err := s.lock(&s.rd, Never)
	if err == nil && !s.asConn.Load() {
		s.asConn.Store(true)
	}
	return IOLock{s: s, d: &s.rd}, err
}

// LockSend takes the turn to send, as Send with these flags and this timeout.
func (s *Socket) LockSend(flags int, timeout time.Duration) (IOLock, error) {
	l := IOLock{s: s, d: &s.wr, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if l.flags != 0 {
		return l, s.lockNonblock(l.d, "sendto")
	}
	_, err := s.lock(l.d, l.until)
	return l, err
}

// TryLockRecv takes the turn to receive if nobody has it, for what needs no
// wait and asks no deadline.
func (s *Socket) TryLockRecv() (IOLock, bool) { return s.tryIOLock(&s.rd) }

// TryLockSend is TryLockRecv for the turn to send.
func (s *Socket) TryLockSend() (IOLock, bool) { return s.tryIOLock(&s.wr) }

func (s *Socket) tryIOLock(d *direction) (IOLock, bool) {
	ok, err := s.tryLock(d)
	return IOLock{s: s, d: d, flags: unix.MSG_DONTWAIT}, ok && err == nil
}

// SetUninterruptible has the turn's calls wait for as long as it takes: only Close ends them.
func (l *IOLock) SetUninterruptible() { l.until, l.flags = Uninterruptible, 0 }

// TryLockBoth takes both turns if nobody has either, for calls that end at until.
func (s *Socket) TryLockBoth(until Instant) (rd, wr IOLock, ok bool) {
	if rd, ok = s.tryIOLock(&s.rd); !ok {
		return rd, wr, false
	}
	if wr, ok = s.tryIOLock(&s.wr); !ok {
		rd.Unlock()
		return rd, wr, false
	}
	rd.until, rd.flags = until, 0
	wr.until, wr.flags = until, 0
	return rd, wr, true
}

// Recv receives as Socket.Recv does, in the turn.
func (l *IOLock) Recv(p []byte, flags int) (int, error) { return l.recv(p, flags|l.flags, nil) }

func (l *IOLock) recv(p []byte, flags int, from *rawSockaddr) (int, error) {
	waitInKernel := l.waitInKernel
	l.waitInKernel = false // time has passed when the next one begins
	return l.s.recvLocked(p, flags, l.until, waitInKernel, from)
}

// Send sends as Socket.Send does, in the turn.
func (l *IOLock) Send(p []byte, flags int) (int, error) {
	return l.s.sendLocked(p, flags|l.flags, l.until, nil)
}

// Expired reports whether the limit or the deadline is over, for a layer whose
// calls need not wait each time.
func (l *IOLock) Expired() bool { return l.d.expired(l.flags, l.until) }

// DeadlineExceeded reports whether the deadline alone is over.
func (l *IOLock) DeadlineExceeded() bool { return l.d.deadlineExceeded() }

// Unlock gives the turn back.
func (l *IOLock) Unlock() { l.s.unlock(l.d) }

// A ProbeResult is what Pending sees.
type ProbeResult int

// The three sights.
const (
	Idle     ProbeResult = iota // nothing, and the peer is there as far as the kernel knows
	Readable                    // something to receive
	Closed                      // the stream's end, or an error
)

// Probe looks what the next receive would get, and takes nothing away but an
// error. It never waits and allocates nothing.
func (s *Socket) Probe() ProbeResult {
	if !s.life.use() {
		return Closed
	}
	result := s.probe()
	_ = s.decref() // not deferred, which a pool would pay for twice each checkout
	return result
}

func (s *Socket) probe() ProbeResult {
	for {
		switch n, errno := s.sysPeek(); {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return Idle
		case errno != 0, n == 0 && s.stream:
			s.recordErr(errno)
			return Closed
		default: // also an empty datagram
			return Readable
		}
	}
}

// ResetDeadlines forgets what callers have set: deadlines, and that there were any. Nobody
// may be using the socket.
func (s *Socket) ResetDeadlines() {
	if !s.polled.Load() {
		return // there never was any
	}
	s.rd.deadline.Store(int64(Never))
	s.wr.deadline.Store(int64(Never))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.nonblocking {
		s.polled.Store(alwaysPolled)
	}
}
