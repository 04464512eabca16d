package sock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A pause is how long to wait before asking again for what poll(2) cannot tell:
// that a unix listener's backlog or a datagram peer's queue has room again, or
// that more bytes are queued than there were. It is also what keeps a thread
// from spinning on a socket that poll calls ready and that has nothing to give,
// for which there are many ways: an error queue that is not read (IP_RECVERR,
// SO_TIMESTAMPING), an urgent byte on a unix stream. The zero pause is the first.
type pause time.Duration

const (
	firstPause   = 50 * time.Microsecond
	longestPause = 2 * time.Millisecond
)

// next gives the pause to make now; each is twice the last, up to the longest.
func (p *pause) next() time.Duration {
	*p = pause(min(max(2*time.Duration(*p), firstPause), longestPause))
	return time.Duration(*p)
}

// await waits until the socket is ready for events. It returns net.ErrClosed
// when the socket is closed and os.ErrDeadlineExceeded when until or the side's
// deadline, whatever it is by then, is over: never before, whoever sends the
// process signals. The caller has the turn on side d, and resets p when a call
// has got further: an await after an await that brought nothing begins with a
// pause.
func (s *Socket) await(d *side, events int16, until Instant, p *pause) error {
	if *p != 0 {
		if err := s.rest(d, until, p); err != nil {
			return err
		}
	} else {
		p.next()
	}
	return s.doze(d, int32(s.fd), events, until, Never)
}

// rest makes a pause, which Close and deadlines end as they end a wait.
func (s *Socket) rest(d *side, until Instant, p *pause) error {
	return s.doze(d, -1, 0, until, In(p.next())) // poll(2) passes over -1
}

// doze polls fd until it is ready or end has come.
func (s *Socket) doze(d *side, fd int32, events int16, until, end Instant) error {
	wake, err := d.waker.pollFD()
	longest := forever
	if err != nil {
		// No descriptor is left in the process. The socket has its own and can
		// go on: without a waker, by looking now and then.
		wake, longest = -1, longestPause
	}
	d.waiting.Store(true)
	defer d.waiting.Store(false)
	everybody.enter()
	defer everybody.leave()
	for spent := (turns{}); ; {
		if s.life.isOver() {
			return s.ended()
		}
		left := d.until(until).Left()
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		nap := end.Left()
		if nap <= 0 {
			return nil
		}
		nap = min(left, nap, longest)
		// A turn may take a time slice, which a short limit does not have.
		if fd >= 0 && left >= shortTurn && d.yields(&spent) {
			nap = 0 // what is waited for may be there
		}
		fds := [...]unix.PollFd{
			{Fd: fd, Events: events},
			{Fd: int32(wake), Events: unix.POLLIN},
		}
		_, errno := sleepPoll(fds[:], nap)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return os.NewSyscallError("poll", errno)
		case fds[1].Revents != 0:
			d.waker.drain()
		case fds[0].Revents != 0:
			return nil
		}
	}
}
