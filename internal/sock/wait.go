package sock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A backoff is how long to wait before asking again for what poll(2) cannot tell:
// that a unix listener's backlog or a datagram peer's queue has room again, or
// that more bytes are queued than there were. It is also what keeps a thread
// from spinning on a socket that poll calls ready and that has nothing to give,
// for which there are many ways: an error queue that is not read (IP_RECVERR,
// SO_TIMESTAMPING), an urgent byte on a unix stream. The zero pause is the first.
type backoff time.Duration

const (
	minBackoff = 50 * time.Microsecond
	maxBackoff = 2 * time.Millisecond
)

// next gives the pause to make now; each is twice the last, up to the longest.
func (p *backoff) next() time.Duration {
	*p = backoff(min(max(2*time.Duration(*p), minBackoff), maxBackoff))
	return time.Duration(*p)
}

// waitReady waits until the socket is ready for events. It returns net.ErrClosed
// when the socket is closed and os.ErrDeadlineExceeded when until or the side's
// deadline, whatever it is by then, is over: never before, whoever sends the
// process signals. The caller has the turn on side d, and resets p when a call
// has got further: an await after an await that brought nothing begins with a
// pause.
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

// rest makes a pause, which Close and deadlines end as they end a wait.
func (s *Socket) sleepBackoff(d *direction, until Instant, p *backoff) error {
	return s.pollWait(d, -1, 0, until, In(p.next())) // poll(2) passes over -1
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

// waitOnThread waits on the thread for a time at most, or for the waker.
func (d *direction) waitOnThread(fd int32, events int16, nap time.Duration) (ready bool, err error) {
	wake, err := d.fdWaker.pollFD()
	if err != nil {
		// No descriptor is left in the process. The socket has its own and can
		// go on: without a waker, by looking now and then.
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

// waitParked waits without a thread for a time at most, or until it is woken. k is the side's
// parker, which is ready, or nil.
func (s *Socket) waitParked(d *direction, k *netpollWaker, fd int32, events int16, now Instant, nap time.Duration) (ready bool) {
	defer d.fdWaker.drain() // before the next look
	switch {
	case fd < 0: // a pause
		d.fdWaker.wait(nap)
	case events != unix.POLLPRI && k != nil:
		ready = k.park(events, now, nap)
		d.parkedLast = k.parked
		return ready
	case events != unix.POLLPRI && s.attachNetpoll():
		// From now on there is one, to be made ready before the next look.
	default:
		// The poller does not tell of an urgent byte, and there may be no poller.
		fds := [...]unix.PollFd{{Fd: fd, Events: events}}
		if n, _ := pollNow(fds[:]); n > 0 {
			return true
		}
		d.fdWaker.wait(min(nap, maxBackoff))
	}
	return false
}
