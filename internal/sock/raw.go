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
	if err := c.s.incref(); err != nil {
		return err
	}
	defer c.s.decref()
	defer c.s.invalidateTimeout()
	defer c.s.watchErr()()
	f(uintptr(c.s.fd))
	return nil
}

// Read calls f until it returns true, and waits for the socket to be readable
// in between. It obeys the read deadline.
func (c RawConn) Read(f func(fd uintptr) (done bool)) error {
	return c.s.rawIO(&c.s.rd, unix.POLLIN, f)
}

// Write calls f until it returns true, and waits for the socket to be writable
// in between. It obeys the write deadline.
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
	var retry backoff // a callback may want more than readiness
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

// makeNonblocking makes the descriptor non-blocking for good. Whoever writes a RawConn
// callback expects that read(2) in it returns EAGAIN rather than hang (a driver
// that looks whether its connection is still alive, say), and our own calls
// wait in ppoll just as well.
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

// setNonblock has the descriptor not block, or block again if that is its way.
func (s *Socket) setNonblock(on bool) error {
	if alwaysPolled {
		return nil // it never blocks
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return os.NewSyscallError("fcntl", unix.SetNonblock(s.fd, on || s.nonblocking))
}
