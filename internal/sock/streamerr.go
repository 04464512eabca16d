package sock

import (
	"errors"
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel returns a socket's error once (SO_ERROR, socket(7)), to the first call: a
// send, a peek or a receive. A later receive returns 0, as at an orderly end. So every
// call records the error of a stream, and a receive that gets 0 returns the recorded
// one. Bytes that arrived before the failure come first, from the kernel.
//
//	send ─▶ ECONNRESET ─▶ recordErr ─▶ streamErr
//	recv ─▶ data ─▶ … ─▶ 0 ─▶ loadStreamErr ─▶ ECONNRESET; io.EOF if there is none
//
// EPIPE of a send is not recorded. A peer that ended the stream in order, and then
// rejected what was sent, causes it (tcp_reset in the state CLOSE_WAIT). The end of that
// stream stays an orderly one.

// endsStream reports whether an error ends a stream.
func endsStream(errno unix.Errno) bool {
	switch errno {
	case unix.ECONNRESET, unix.ECONNABORTED, unix.ECONNREFUSED, unix.ETIMEDOUT,
		unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.ENETUNREACH, unix.ENETDOWN, unix.ENETRESET, unix.EPROTO:
		return true
	}
	return false
}

// recordErr records the error of a system call if it ended the stream. It does not if
// the stream had ended in order before, nor if the connection is still up, as after an
// error that a router reports with IP_RECVERR (ip(7)).
func (s *Socket) recordErr(errno unix.Errno) {
	if s.stream && endsStream(errno) && s.state.Load()&eofReported == 0 && !s.sysStillConnected() {
		s.streamErr.CompareAndSwap(0, uint32(errno))
	}
}

// takeSocketErr returns the pending error of the socket and records it.
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

// watchErr is called before a callback gets the descriptor, and after afterwards. If the
// kernel had an error before and has none after, the callback consumed it. Which one it
// was is unknown.
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

// loadStreamErr is the error that ended the stream, for a receive that got 0. Zero means
// an orderly end. A send on another thread may have received the error without having
// recorded it yet, so loadStreamErr lets its system call finish, which does not wait.
func (s *Socket) loadStreamErr() unix.Errno {
	if calls := s.wr.syscalls.Load(); calls%2 != 0 {
		const spins = 100
		limit := In(time.Second) // sendfile(2) may wait for a disk without end
		for i := 0; s.wr.syscalls.Load() == calls && !s.refs.Ending() && limit.Left() > 0; i++ {
			if i < spins {
				runtime.Gosched()
			} else {
				time.Sleep(minBackoff)
			}
		}
	}
	return unix.Errno(s.streamErr.Load())
}

// EOFAfter is the error of a call that received n bytes before err: the end of the stream
// after a part is io.ErrUnexpectedEOF.
func EOFAfter(n int, err error) error {
	if n > 0 && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
