package sock

import (
	"time"

	"golang.org/x/sys/unix"
)

// AlwaysPark makes every call that waits on the socket park, whatever the waitPolicy says,
// for callers that have many idle sockets. It returns the previous setting.
func (s *Socket) AlwaysPark(on bool) (previous bool) {
	if on && s.incref() == nil {
		s.attachNetpoll(&s.rd) // here, because it needs more stack than waiting does
		_ = s.decref()
	}
	return s.alwaysParks.Swap(on)
}

// WaitReadable waits until a receive may return at once, for at most timeout. A second one
// without a receive of data in between sleeps for a backoff first: poll(2) may report what no
// receive returns.
func (s *Socket) WaitReadable(timeout time.Duration) error {
	until := In(timeout)
	if _, err := s.lock(&s.rd, until); err != nil {
		return err
	}
	defer s.unlock(&s.rd)
	if err := s.startHandshake(); err != nil {
		return err
	}
	if err := s.backOff(&s.rd, until, &s.rd.retry); err != nil {
		return err
	}
	err := s.pollWait(&s.rd, int32(s.fd), unix.POLLIN, until, Never) // not waitReady, for the stack's sake
	if err != nil {
		s.rd.retry = 0
	}
	return err
}

// Slept reports whether the last WaitReadable of a socket that always parks had to wait. Only its
// caller may ask.
func (s *Socket) Slept() bool {
	k := s.rd.netpollWaker.Load()
	return k == nil || k.parked
}

// SendCalls changes with each system call that sends, so that a long send can be seen to move.
func (s *Socket) SendCalls() uint32 { return s.wr.syscalls.Load() }
