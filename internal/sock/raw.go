package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

// A RawConn gives access to the descriptor as syscall.RawConn does.
type RawConn struct{ s *Socket }

// Raw returns the socket's RawConn.
func (s *Socket) Raw() RawConn { return RawConn{s} }

// Control calls f with the descriptor, which stays open until f returns.
func (c RawConn) Control(f func(fd uintptr)) error {
	if err := c.s.incref(); err != nil {
		return err
	}
	defer c.s.decref()
	c.s.lendTimeout()
	defer c.s.invalidateTimeout()
	defer c.s.watchErr()()
	f(uintptr(c.s.fd))
	return nil
}

// Read calls f until it returns true, and waits for the socket to be readable between the
// calls. The read deadline applies.
func (c RawConn) Read(f func(fd uintptr) (done bool)) error {
	return c.s.rawIO(&c.s.rd, unix.POLLIN, f)
}

// Write calls f until it returns true, and waits for the socket to be writable between
// the calls. The write deadline applies.
func (c RawConn) Write(f func(fd uintptr) (done bool)) error {
	return c.s.rawIO(&c.s.wr, unix.POLLOUT, f)
}

func (s *Socket) rawIO(d *direction, events int16, f func(fd uintptr) bool) error {
	if _, err := s.lock(d, Never); err != nil {
		return err
	}
	defer s.unlock(d)
	if err := s.makeNonblocking(); err != nil {
		return err
	}
	if events == unix.POLLIN {
		if err := s.startHandshake(); err != nil {
			return err
		}
	}
	var retry backoff // f may return false although the socket is ready
	call := func() bool {
		defer s.watchErr()()
		return f(uintptr(s.fd))
	}
	for !call() {
		if err := s.waitReady(d, events, Never, &retry); err != nil {
			return err
		}
	}
	return nil
}

// makeNonblocking makes the descriptor non-blocking for good. A RawConn callback expects
// read(2) to return EAGAIN rather than block, as in a driver that checks whether its
// connection is alive. The socket's own calls wait in ppoll(2) then.
func (s *Socket) makeNonblocking() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nonblocking {
		return nil
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s.nonblocking = true
	s.polled.Store(true)
	return nil
}

// setNonblock makes the descriptor non-blocking, or blocking again unless
// makeNonblocking was called.
func (s *Socket) setNonblock(on bool) error {
	if alwaysPolled {
		return nil // the descriptor is always non-blocking
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return os.NewSyscallError("fcntl", unix.SetNonblock(s.fd, on || s.nonblocking))
}
