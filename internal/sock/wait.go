package sock

import (
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// await waits until the socket is ready for events. It returns net.ErrClosed
// when the socket is closed and os.ErrDeadlineExceeded when until or the side's
// deadline, whatever it is by then, is over: never before, whoever sends the
// process signals. The caller has the turn on side d.
func (s *Socket) await(d *side, events int16, until Instant) error {
	_, err := s.doze(d, events, until, forever)
	return err
}

// The kernel offers no readiness for some conditions: that a unix listener's
// backlog or a datagram peer's queue has room again, or that more bytes are
// queued than were there before. Those are asked for again after a pause, which
// grows from the first to the longest; Close and deadlines end it at once.
const (
	firstPause   = 50 * time.Microsecond
	longestPause = 2 * time.Millisecond
)

func nextPause(d time.Duration) time.Duration { return min(2*d, longestPause) }

// doze is await that gives up after a pause. ready is false if it did.
func (s *Socket) doze(d *side, events int16, until Instant, pause time.Duration) (ready bool, err error) {
	wake, err := d.waker.pollFD()
	if err != nil {
		return false, err
	}
	d.waiting.Store(true)
	defer d.waiting.Store(false)
	rest := Never
	if pause != forever {
		rest = In(pause)
	}
	for {
		if s.life.ended() {
			return false, net.ErrClosed
		}
		left := Earlier(until, d.limit()).Left()
		if left <= 0 {
			return false, os.ErrDeadlineExceeded
		}
		nap := rest.Left()
		if nap <= 0 {
			return false, nil
		}
		fds := [...]unix.PollFd{
			{Fd: int32(s.fd), Events: events},
			{Fd: int32(wake), Events: unix.POLLIN},
		}
		_, errno := sleepPoll(fds[:], min(left, nap))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return false, os.NewSyscallError("poll", errno)
		}
		if fds[1].Revents != 0 {
			d.waker.drain()
			continue
		}
		if fds[0].Revents != 0 {
			return true, nil
		}
	}
}
