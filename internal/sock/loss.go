package sock

import (
	"os"
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

// note keeps the error of a system call if it has ended the stream.
func (s *Socket) note(errno unix.Errno) {
	if s.stream && endsStream(errno) {
		s.lost.CompareAndSwap(0, uint32(errno))
	}
}

// loss gives the error that has ended the stream, for a receive that got 0; zero is an
// orderly end. A send in another thread may have been told of the error and not have
// kept it yet: its system call, which does not wait, is let finish first.
func (s *Socket) loss() unix.Errno {
	if calls := s.wr.calls.Load(); calls%2 != 0 {
		const spins = 100
		for i := 0; s.wr.calls.Load() == calls; i++ {
			if i < spins {
				runtime.Gosched()
			} else { // sendfile(2) may wait for the disk
				time.Sleep(firstPause)
			}
		}
	}
	return unix.Errno(s.lost.Load())
}

// lossError is loss as the error of a receive.
func (s *Socket) lossError() error {
	if errno := s.loss(); errno != 0 {
		return os.NewSyscallError("recvfrom", errno)
	}
	return nil
}
