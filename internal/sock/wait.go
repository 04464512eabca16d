package sock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A backoff is the time before the next attempt of a call for which poll(2) cannot wait:
// the backlog of a unix listener or the queue of a datagram's receiver is full, or more
// bytes have to be queued than there are. It also keeps a thread from spinning on a socket
// that poll(2) reports as ready although no call succeeds: an error queue with unread
// entries (IP_RECVERR, SO_TIMESTAMPING), an urgent byte on a unix stream. The zero backoff
// is the first.
type backoff time.Duration

const (
	minBackoff = 50 * time.Microsecond
	maxBackoff = 2 * time.Millisecond
)

// next returns the time to sleep now: twice the last one, from minBackoff to maxBackoff.
func (p *backoff) next() time.Duration {
	*p = backoff(min(max(2*time.Duration(*p), minBackoff), maxBackoff))
	return time.Duration(*p)
}

// waitReady waits until the socket is ready for events. It returns net.ErrClosed when the
// socket is closed, and os.ErrDeadlineExceeded when until or the direction's current
// deadline is over. It never returns that early, whatever signals the process gets. The
// caller holds the I/O lock of d. It sets p to 0 when it has made progress. Otherwise the
// next waitReady sleeps for a backoff first.
func (s *Socket) waitReady(d *direction, events int16, until Instant, p *backoff) error {
	if err := s.backOff(d, until, p); err != nil {
		return err
	}
	return s.pollWait(d, int32(s.fd), events, until, Never)
}

// backOff sleeps for a backoff, unless p is 0.
func (s *Socket) backOff(d *direction, until Instant, p *backoff) error {
	if *p != 0 {
		return s.sleepBackoff(d, until, p)
	}
	p.next()
	return nil
}

// sleepBackoff sleeps for a backoff. Close and deadlines end it as they end waitReady.
func (s *Socket) sleepBackoff(d *direction, until Instant, p *backoff) error {
	return s.pollWait(d, -1, 0, until, In(p.next())) // poll(2) ignores fd -1
}

// longestHold bounds how long a wait holds a thread before it parks.
const longestHold = 500 * time.Millisecond

// pollWait waits until fd is ready or end has come. fd -1 is never ready.
func (s *Socket) pollWait(d *direction, fd int32, events int16, until, end Instant) error {
	d.polling.Store(true)
	defer d.polling.Store(false)
	began := Now()
	now, holdEnd := began, began.Add(longestHold)
	switch {
	case d.held:
		began, holdEnd, d.held = began.Add(-longestHold), now, false
	case s.alwaysParks.Load(), fd >= 0 && s.parks(d, now):
		holdEnd = now
	case waits.leavePoller():
		now = Now()
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
		timeout := end.LeftAt(now)
		if timeout <= 0 {
			return nil
		}
		timeout = min(left, timeout)
		var ready bool
		var err error
		if hold := holdEnd.LeftAt(now); hold > 0 && waits.takeThread() {
			ready, err = d.waitOnThread(fd, events, min(timeout, hold))
			waits.giveThread()
		} else {
			ready = s.waitParked(d, k, fd, events, began, now, timeout)
		}
		if ready || err != nil {
			return err
		}
	}
}

// waitOnThread waits in ppoll(2) for at most timeout, or until it is woken.
func (d *direction) waitOnThread(fd int32, events int16, timeout time.Duration) (ready bool, err error) {
	wake, err := d.fdWaker.pollFD()
	if err != nil {
		// The process has no descriptor left. Without a waker, poll at intervals.
		wake, timeout = -1, min(timeout, maxBackoff)
	}
	fds := [...]unix.PollFd{
		{Fd: fd, Events: events},
		{Fd: int32(wake), Events: unix.POLLIN},
	}
	_, errno := sleepPoll(fds[:], timeout)
	switch {
	case errno == unix.EINTR:
	case errno != 0:
		return false, os.NewSyscallError("poll", errno)
	case fds[1].Revents != 0:
		d.fdWaker.drain()
	}
	return fds[0].Revents != 0, nil
}

// waitParked waits without a thread for at most timeout, or until it is woken. k is the
// direction's netpollWaker, which is prepared, or nil.
func (s *Socket) waitParked(d *direction, k *netpollWaker, fd int32, events int16, began, now Instant, timeout time.Duration) (ready bool) {
	defer d.fdWaker.drain() // before pollWait checks for a reason to return
	if fd < 0 {
		d.fdWaker.wait(timeout) // a backoff
		return false
	}
	if events != unix.POLLPRI {
		if k == nil && s.attachNetpoll(d) {
			return false // pollWait prepares the netpollWaker before it calls again
		}
		if k != nil {
			k.began.Store(int64(began))
			ready, refused := k.park(events, now, timeout)
			k.began.Store(int64(Never))
			if !refused {
				d.parkedLast = k.parked
				return ready
			}
		}
	}
	// The poller does not report an urgent byte, or does not wait for this descriptor.
	fds := [...]unix.PollFd{{Fd: fd, Events: events}}
	if n, _ := pollNow(fds[:]); n > 0 {
		return true
	}
	d.fdWaker.wait(min(timeout, pollInterval(began)))
	return false
}
