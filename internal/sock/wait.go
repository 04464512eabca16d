package sock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A backoff is the pause before a retry where poll(2) cannot tell when to retry: when a
// unix listener's backlog or a datagram peer's queue has room again, or when more bytes are
// queued than before. It also keeps a thread from spinning on a socket that poll(2) reports
// as ready and that has nothing to receive: one with an unread error queue (IP_RECVERR,
// SO_TIMESTAMPING), or a unix stream with an urgent byte. The zero backoff is the first.
type backoff time.Duration

const (
	minBackoff = 50 * time.Microsecond
	maxBackoff = 2 * time.Millisecond
)

// next returns the pause to make now: twice the last one, up to maxBackoff.
func (p *backoff) next() time.Duration {
	*p = backoff(min(max(2*time.Duration(*p), minBackoff), maxBackoff))
	return time.Duration(*p)
}

// waitReady waits until the socket is ready for events. It returns net.ErrClosed when the
// socket is closed, and os.ErrDeadlineExceeded when until or the direction's deadline has
// passed, which may be set meanwhile; signals make neither earlier. The caller holds the I/O
// lock of d. It resets p when it has made progress: a second waitReady without progress
// begins with a pause.
func (s *Socket) waitReady(d *direction, events int16, until Instant, p *backoff) error {
	if *p != 0 {
		if err := s.sleepBackoff(d, until, p); err != nil {
			return err
		}
	} else {
		p.next()
	}
	return s.pollWait(d, int32(s.fd), events, until, Never)
}

// sleepBackoff makes a pause. Close and deadlines end it as they end a wait.
func (s *Socket) sleepBackoff(d *direction, until Instant, p *backoff) error {
	return s.pollWait(d, -1, 0, until, In(p.next())) // poll(2) ignores -1
}

// longestHold is how long a wait holds a thread before it parks.
const longestHold = 500 * time.Millisecond

// pollWait waits until fd is ready or end has come; fd may be -1.
func (s *Socket) pollWait(d *direction, fd int32, events int16, until, end Instant) error {
	d.polling.Store(true)
	defer d.polling.Store(false)
	now := Now()
	holdEnd := now.Add(longestHold)
	if fd >= 0 && s.parks(d, now) {
		holdEnd = now
	}
	for ; ; now = Now() {
		k := d.netpollWaker.Load()
		if k != nil {
			k.prepare()
		}
		if s.mustReturn(until) {
			return s.closedErr()
		}
		left := d.limit(until).LeftAt(now)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		nap := end.LeftAt(now)
		if nap <= 0 {
			return nil
		}
		nap = min(left, nap)
		var ready bool
		var err error
		if hold := holdEnd.LeftAt(now); hold > 0 && waits.takeThread() {
			ready, err = d.waitOnThread(fd, events, min(nap, hold))
			waits.giveThread()
		} else {
			ready = s.waitParked(d, k, fd, events, now, nap)
		}
		if ready || err != nil {
			return err
		}
	}
}

// waitOnThread waits on the thread for at most nap, or until fdWaker wakes it.
func (d *direction) waitOnThread(fd int32, events int16, nap time.Duration) (ready bool, err error) {
	wake, err := d.fdWaker.pollFD()
	if err != nil {
		// The process has no descriptor left for the waker. The socket has its own, so
		// the call polls it at intervals instead.
		wake, nap = -1, min(nap, maxBackoff)
	}
	fds := [...]unix.PollFd{
		{Fd: fd, Events: events},
		{Fd: int32(wake), Events: unix.POLLIN},
	}
	_, errno := sleepPoll(fds[:], nap)
	switch {
	case errno == unix.EINTR:
	case errno != 0:
		return false, os.NewSyscallError("poll", errno)
	case fds[1].Revents != 0:
		d.fdWaker.drain()
	}
	return fds[0].Revents != 0, nil
}

// waitParked waits without a thread for at most nap, or until it is woken. k is the
// direction's netpollWaker after prepare, or nil.
func (s *Socket) waitParked(d *direction, k *netpollWaker, fd int32, events int16, now Instant, nap time.Duration) (ready bool) {
	defer d.fdWaker.drain() // before the next check
	switch {
	case fd < 0: // a pause
		d.fdWaker.wait(nap)
	case events != unix.POLLPRI && k != nil:
		ready = k.park(events, now, nap)
		d.parkedLast = k.parked
		return ready
	case events != unix.POLLPRI && s.attachNetpoll():
		// It exists from now on. The caller has to prepare it.
	default:
		// The runtime's poller does not watch for urgent bytes, and may not take the descriptor.
		fds := [...]unix.PollFd{{Fd: fd, Events: events}}
		if n, _ := pollNow(fds[:]); n > 0 {
			return true
		}
		d.fdWaker.wait(min(nap, maxBackoff))
	}
	return false
}
