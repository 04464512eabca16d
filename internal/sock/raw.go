package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

// A RawConn is the descriptor as syscall.RawConn lends it.
type RawConn struct{ s *Socket }

// Raw gives the socket's descriptor to code that knows what to do with one.
func (s *Socket) Raw() RawConn { return RawConn{s} }

// Control calls f with the descriptor, which stays open meanwhile.
func (c RawConn) Control(f func(fd uintptr)) error {
	if err := c.s.hold(); err != nil {
		return err
	}
	defer c.s.release()
	defer c.s.forgetTimeout()
	defer c.s.watchError()()
	f(uintptr(c.s.fd))
	return nil
}

// Read calls f until it returns true, and waits for the socket to be readable
// in between. It obeys the read deadline.
func (c RawConn) Read(f func(fd uintptr) (done bool)) error {
	return c.s.lend(&c.s.rd, unix.POLLIN, f)
}

// Write calls f until it returns true, and waits for the socket to be writable
// in between. It obeys the write deadline.
func (c RawConn) Write(f func(fd uintptr) (done bool)) error {
	return c.s.lend(&c.s.wr, unix.POLLOUT, f)
}

func (s *Socket) lend(d *side, events int16, f func(fd uintptr) bool) error {
	if _, err := s.enter(d, Never); err != nil {
		return err
	}
	defer s.leave(d)
	if err := s.handOut(); err != nil {
		return err
	}
	if events == unix.POLLIN {
		if err := s.open(); err != nil {
			return err
		}
	}
	var idle pause // a callback may want more than readiness
	call := func() bool {
		defer s.watchError()()
		return f(uintptr(s.fd))
	}
	for !call() {
		if err := s.await(d, events, Never, &idle); err != nil {
			return err
		}
	}
	return nil
}

// handOut makes the descriptor non-blocking for good. Whoever writes a RawConn
// callback expects that read(2) in it returns EAGAIN rather than hang (a driver
// that looks whether its connection is still alive, say), and our own calls
// wait in ppoll just as well.
func (s *Socket) handOut() error {
	s.mode.Lock()
	defer s.mode.Unlock()
	if s.handedOut {
		return nil
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s.handedOut = true
	s.polled.Store(true)
	return nil
}

// setNonblock has the descriptor not block, or block again if that is its way.
func (s *Socket) setNonblock(on bool) error {
	if alwaysPolled {
		return nil // it never blocks
	}
	s.mode.Lock()
	defer s.mode.Unlock()
	return os.NewSyscallError("fcntl", unix.SetNonblock(s.fd, on || s.handedOut))
}
