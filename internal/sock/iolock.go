package sock

import (
	"time"

	"golang.org/x/sys/unix"
)

// An IOLock is the held I/O lock of one direction of a socket, with one limit for all
// calls made under it. A layer with state of its own, TLS or packets, protects that
// state by it: one lock, taken once, for any number of calls.
//
//	l, err := s.LockRecv(flags, timeout)
//	if err != nil { … }
//	defer l.Unlock()
//	n, err := l.Recv(p, flags)
type IOLock struct {
	s            *Socket
	d            *direction
	until        Instant
	flags        int  // MSG_DONTWAIT, or none
	waitInKernel bool // the first receive may wait inside recvfrom(2)
}

// LockRecv takes the receive lock with the flags and the timeout of Recv.
func (s *Socket) LockRecv(flags int, timeout time.Duration) (IOLock, error) {
	l := IOLock{s: s, d: &s.rd, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if l.flags != 0 {
		return l, s.lockNonblock(l.d, "recvfrom")
	}
	waited, err := s.lock(l.d, l.until)
	// recvfrom(2) waits for a fixed time, so the whole timeout has to be left. A queued
	// ICMP error that a send was told of does not end recvfrom(2).
	if err == nil && s.asConn.Load() {
		s.asConn.Store(false)
	}
	l.waitInKernel = err == nil && !waited && flags&unix.MSG_OOB == 0 && !s.icmp && s.waitsInKernel(timeout)
	return l, err
}

// LockRead takes the receive lock with the only limit of Read, the deadline.
func (s *Socket) LockRead() (IOLock, error) {
	_, err := s.lock(&s.rd, Never)
	if err == nil && !s.asConn.Load() {
		s.asConn.Store(true)
	}
	return IOLock{s: s, d: &s.rd}, err
}

// LockSend takes the send lock with the flags and the timeout of Send.
func (s *Socket) LockSend(flags int, timeout time.Duration) (IOLock, error) {
	l := IOLock{s: s, d: &s.wr, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if l.flags != 0 {
		return l, s.lockNonblock(l.d, "sendto")
	}
	_, err := s.lock(l.d, l.until)
	return l, err
}

// TryLockRecv takes the receive lock if it is free. Calls under it do not wait, and the
// deadline does not apply.
func (s *Socket) TryLockRecv() (IOLock, bool) { return s.tryIOLock(&s.rd) }

// TryLockBuffered is TryLockRecv for a caller that only takes what was received before. It also
// fails if RecvEnded. UnlockBuffered releases the lock.
func (s *Socket) TryLockBuffered() bool {
	locked, _ := s.refs.TryLock(recvLocked)
	if locked && s.RecvEnded() {
		s.unlock(&s.rd)
		return false
	}
	return locked
}

// UnlockBuffered releases the lock of TryLockBuffered.
func (s *Socket) UnlockBuffered() { s.unlock(&s.rd) }

// RecvEnded reports whether a receive fails because of Close, Stop or the deadline.
func (s *Socket) RecvEnded() bool { return s.refs.Ending() || s.rd.deadlineExceeded() }

// TryLockSend is TryLockRecv for the send lock.
func (s *Socket) TryLockSend() (IOLock, bool) { return s.tryIOLock(&s.wr) }

func (s *Socket) tryIOLock(d *direction) (IOLock, bool) {
	ok, err := s.tryLock(d)
	return IOLock{s: s, d: d, flags: unix.MSG_DONTWAIT}, ok && err == nil
}

// SetUninterruptible removes all limits of the calls under the lock: only Close ends them.
func (l *IOLock) SetUninterruptible() { l.until, l.flags = Uninterruptible, 0 }

// TryLockBoth takes both locks if both are free, for calls with the limit until.
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

// Recv receives as Socket.Recv does.
func (l *IOLock) Recv(p []byte, flags int) (int, error) {
	n, err := l.recv(p, flags|l.flags, nil)
	if err == nil {
		l.d.retry = 0
	}
	return n, err
}

func (l *IOLock) recv(p []byte, flags int, from *rawSockaddr) (int, error) {
	waitInKernel := l.waitInKernel && flags&unix.MSG_DONTWAIT == 0
	l.waitInKernel = false // a later receive has less than the timeout left
	return l.s.recvLocked(p, flags, l.until, waitInKernel, from)
}

// Send sends as Socket.Send does.
func (l *IOLock) Send(p []byte, flags int) (int, error) {
	return l.s.sendLocked(p, flags|l.flags, l.until, nil)
}

// Expired reports whether the limit or the deadline is over. It is for a layer whose
// calls often return without waiting.
func (l *IOLock) Expired() bool { return l.d.expired(l.flags, l.until) }

// DeadlineExceeded reports whether the deadline is over, whatever the limit is.
func (l *IOLock) DeadlineExceeded() bool { return l.d.deadlineExceeded() }

// Unlock releases the lock.
func (l *IOLock) Unlock() { l.s.unlock(l.d) }

// A ProbeResult is the state of a connection as seen by Probe.
type ProbeResult int

// The results of Probe.
const (
	Idle     ProbeResult = iota // no data, and no end or error as far as the kernel knows
	Readable                    // data to receive, or an empty datagram
	Closed                      // the end of the stream, or an error
)

// Probe reports what the next receive would find. It consumes nothing but a pending
// error, never waits and allocates nothing.
func (s *Socket) Probe() ProbeResult {
	if !s.refs.Incref() {
		return Closed
	}
	result := s.probe()
	_ = s.decref() // a defer costs time, and a pool probes on each checkout
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
		default:
			return Readable
		}
	}
}

// ResetDeadlines removes the deadlines, and the fact that any were set. No other call
// may be running.
func (s *Socket) ResetDeadlines() {
	if !s.polled.Load() {
		return // no deadline was ever set
	}
	s.rd.deadline.Store(int64(Never))
	s.wr.deadline.Store(int64(Never))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.nonblocking {
		s.polled.Store(alwaysPolled)
	}
}
