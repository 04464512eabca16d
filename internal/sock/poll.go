package sock

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A Poll waits for several sockets at once. It holds each from Add to Release; a
// socket is in it once, whatever it is waited for. The zero Poll is ready to use, and
// one that is used again allocates nothing if it is not for more sockets than before.
type Poll struct {
	socks       []*Socket
	fds         []unix.PollFd // of socks, in their order
	at          []int32       // by descriptor, 1 + where it is in socks; 0 is nowhere
	retry       backoff
	threadWaker threadWaker
	fdWaker     fdWaker // where it holds no thread
}

// wake makes Wait check for sockets that were closed.
func (p *Poll) wake() {
	p.fdWaker.wake()
	p.threadWaker.wake()
}

// Add has the poll wait for events of a socket too: POLLIN, POLLOUT or POLLPRI.
func (p *Poll) Add(s *Socket, events int16) error {
	if err := s.incref(); err != nil {
		return err
	}
	if s.fd >= len(p.at) {
		p.at = append(p.at, make([]int32, s.fd+1-len(p.at))...)
	}
	if i := p.at[s.fd]; i != 0 {
		p.fds[i-1].Events |= events
		_ = s.decref() // it is held, and not to be closed by this
		return nil
	}
	if err := s.startHandshake(); err != nil {
		_ = s.decref()
		return err
	}
	p.socks = append(p.socks, s)
	p.fds = append(p.fds, unix.PollFd{Fd: int32(s.fd), Events: events})
	p.at[s.fd] = int32(len(p.socks))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = append(s.polls, p)
	return nil
}

// Wait waits until a socket is ready or closed. It returns os.ErrDeadlineExceeded when until
// has passed. It polls once even if until has passed already.
func (p *Poll) Wait(until Instant) error {
	began := Now()
	for {
		p.threadWaker.prepare()
		p.fdWaker.drain()
		if p.closed() {
			return nil
		}
		left := until.Left()
		nap := min(max(left, 0), longestSleep)
		held := waits.takeThread()
		if !held {
			nap = 0
		}
		n, errno := p.threadWaker.sleepPoll(p.fds, nap)
		if held {
			waits.giveThread()
		}
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return os.NewSyscallError("poll", errno)
		case n > 0:
			return nil
		case left <= 0:
			return os.ErrDeadlineExceeded
		case !held:
			p.fdWaker.wait(min(left, pollInterval(began)))
		}
	}
}

// closed reports whether a socket was closed or stopped.
func (p *Poll) closed() bool {
	for _, s := range p.socks {
		if s.refs.Ending() {
			return true
		}
	}
	return false
}

// Ready returns what the last Wait found out about a socket: the events of poll(2), or
// net.ErrClosed if the socket was closed.
func (p *Poll) Ready(s *Socket) (events int16, err error) {
	if s.refs.Ending() {
		return 0, s.closedErr()
	}
	return p.fds[p.at[s.fd]-1].Revents, nil
}

// Backoff makes a pause after a Wait that has brought nothing, for a socket that poll(2)
// calls ready all the time and that has nothing to give.
func (p *Poll) Backoff(until Instant) {
	_, _ = sleepPoll([]unix.PollFd{{Fd: -1}}, min(p.retry.next(), max(until.Left(), 0)))
}

// Release lets go of the sockets.
func (p *Poll) Release() {
	for _, s := range p.socks {
		p.at[s.fd] = 0
		s.mu.Lock()
		s.polls = slices.DeleteFunc(s.polls, func(other *Poll) bool { return other == p })
		s.mu.Unlock()
		_ = s.decref()
	}
	clear(p.socks)
	p.socks, p.fds, p.retry = p.socks[:0], p.fds[:0], 0
}
