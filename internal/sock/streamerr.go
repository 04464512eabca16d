package sock

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel tells a socket's error once (SO_ERROR, socket(7)): to the call that
// comes first, which may be a send, a peek or a receive. After that a receive gets 0,
// as at an orderly end. So whoever meets the error of a stream keeps it here, and a
// receive that gets 0 tells it again. Bytes that arrived before the failure are given
// first, by the kernel.
//
// EPIPE of a send is not kept: a peer that ended the stream in order, and then had no
// more use for what was sent, is told so (tcp_reset in the state CLOSE_WAIT), and its
// end stays an orderly one.

// endsStream reports whether an error is one that ends a stream.
func endsStream(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNRESET, unix.ECONNABORTED, unix.ECONNREFUSED, unix.ETIMEDOUT,
		unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.ENETUNREACH, unix.ENETDOWN, unix.ENETRESET, unix.EPROTO:
		return true
	}
	return false
}

// recordErr keeps the error of a system call if it has ended the stream: not if the stream had
// ended in order before, nor if it goes on (a router's error, by IP_RECVERR of ip(7)).
func (s *Socket) recordErr(errno unix.Errno) {
	if s.stream && endsStream(errno) && s.state.Load()&eofReported == 0 && !s.sysStillConnected() {
		s.streamErr.CompareAndSwap(0, uint32(errno))
	}
}

// takeSocketErr gives the error that the kernel has for the next call, and keeps it.
func (s *Socket) takeSocketErr() unix.Errno {
	n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || n == 0 {
		return 0
	}
	s.recordErr(unix.Errno(n))
	return unix.Errno(n)
}

// errPending reports whether the kernel has an error for the next call on a stream.
func (s *Socket) errPending() bool {
	fds := [...]unix.PollFd{{Fd: int32(s.fd)}}
	n, errno := pollNow(fds[:])
	return errno == 0 && n > 0 && fds[0].Revents&unix.POLLERR != 0
}

// watchErr is for a function that is given the descriptor: if the kernel has an error
// before and not after, the function has met it. Which one it was it does not say.
func (s *Socket) watchErr() (after func()) {
	if !s.stream || s.streamErr.Load() != 0 || !s.errPending() {
		return func() {}
	}
	return func() {
		if !s.errPending() {
			s.recordErr(unix.ECONNRESET)
		}
	}
}

// loadStreamErr gives the error that has ended the stream, for a receive that got 0; zero is an
// orderly end. A send in another thread may have been told of the error and not have
// kept it yet: its system call, which does not wait, is let finish first.
func (s *Socket) loadStreamErr() unix.Errno {
	if calls := s.wr.syscalls.Load(); calls%2 != 0 {
		const spins = 100
		limit := In(time.Second) // sendfile(2) may wait for a disk, and that one for ever
		for i := 0; s.wr.syscalls.Load() == calls && !s.life.isOver() && limit.Left() > 0; i++ {
			if i < spins {
				runtime.Gosched()
			} else {
				time.Sleep(minBackoff)
			}
		}
	}
	return unix.Errno(s.streamErr.Load())
}
