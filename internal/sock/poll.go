package sock

import (
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Poll waits for several sockets at once. It holds a reference to each from Add to
// Release, and contains a socket once, whatever it waits for. The zero Poll is ready to
// use. Using it again allocates nothing unless it has more sockets than before.
type Poll struct {
	socks       []*Socket
	fds         []unix.PollFd // of socks, in the same order
	index       []int32       // by descriptor: 1 + the index in socks; 0 if it is not there
	retry       backoff
	threadWaker threadWaker // for a Wait that holds a thread
	fdWaker     fdWaker     // for a Wait that does not
	interrupted atomic.Bool
}

// wake makes Wait check for closed sockets.
func (p *Poll) wake() {
	p.fdWaker.wake()
	p.threadWaker.wake()
}

// Interrupt makes Wait return without an error, once: the one that waits, or the next.
func (p *Poll) Interrupt() {
	p.interrupted.Store(true)
	p.wake()
}

// Has reports whether a socket was added.
func (p *Poll) Has(s *Socket) bool { return slices.Contains(p.socks, s) }

// Add makes the poll wait for events of a socket: POLLIN, POLLOUT or POLLPRI.
func (p *Poll) Add(s *Socket, events int16) error {
	if err := s.incref(); err != nil {
		return err
	}
	if s.fd >= len(p.index) {
		p.index = append(p.index, make([]int32, s.fd+1-len(p.index))...)
	}
	if i := p.index[s.fd]; i != 0 {
		p.fds[i-1].Events |= events
		_ = s.decref() // the poll has a reference already
		return nil
	}
	if err := s.startHandshake(); err != nil {
		_ = s.decref()
		return err
	}
	p.socks = append(p.socks, s)
	p.fds = append(p.fds, unix.PollFd{Fd: int32(s.fd), Events: events})
	p.index[s.fd] = int32(len(p.socks))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = append(s.polls, p)
	return nil
}

// Wait waits until a socket is ready or closed. It returns os.ErrDeadlineExceeded when
// until is over. It polls at least once.
func (p *Poll) Wait(until Instant) error {
	began := Now()
	for {
		waits.leavePoller()
		p.threadWaker.prepare()
		p.fdWaker.drain()
		if p.interrupted.Swap(false) || p.closed() {
			return nil
		}
		left := until.Left()
		timeout := min(max(left, 0), longestSleep)
		held := waits.takeThread()
		if !held {
			timeout = 0
		}
		n, errno := p.threadWaker.sleepPoll(p.fds, timeout)
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

// closed reports whether a socket is closed or stopped.
func (p *Poll) closed() bool {
	for _, s := range p.socks {
		if s.refs.Ending() {
			return true
		}
	}
	return false
}

// Ready returns what the last Wait found out about a socket: the events of poll(2), or
// net.ErrClosed.
func (p *Poll) Ready(s *Socket) (events int16, err error) {
	if s.refs.Ending() {
		return 0, s.closedErr()
	}
	return p.fds[p.index[s.fd]-1].Revents, nil
}

// Backoff sleeps for a backoff after a Wait that was of no use, because poll(2) reports a
// socket as ready although no call succeeds.
func (p *Poll) Backoff(until Instant) {
	p.fdWaker.wait(min(p.retry.next(), max(until.Left(), 0)))
}

// Release removes all sockets.
func (p *Poll) Release() {
	for _, s := range p.socks {
		p.index[s.fd] = 0
		s.mu.Lock()
		s.polls = slices.DeleteFunc(s.polls, func(other *Poll) bool { return other == p })
		s.mu.Unlock()
		_ = s.decref()
	}
	clear(p.socks)
	p.socks, p.fds, p.retry = p.socks[:0], p.fds[:0], 0
	p.interrupted.Store(false)
}
