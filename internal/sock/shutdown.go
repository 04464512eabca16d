package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

// The states of a stream that calls have to look at; zero is the usual one.
const (
	deferred   = 1 << iota // connect(2) has sent nothing: TCP_FASTOPEN_CONNECT waits for the first send
	opening                // the handshake has begun since, and may not be over
	readClosed             // by Shutdown
)

// Shutdown wraps shutdown(2) for a stream. What was queued when SHUT_RD was asked for can
// still be received; then comes io.EOF, whatever arrives. Linux itself goes on receiving
// TCP after SHUT_RD (tcp(7) does not say so, tcp_rcv_established does).
//
// A connect that TCP Fast Open has put off is made first, and until bounds that:
// shutdown(2) of a socket that has sent its SYN and has no answer takes the SYN back.
func (s *Socket) Shutdown(how int, until Instant) error {
	if err := s.hold(); err != nil {
		return err
	}
	defer s.release()
	if s.state.Load()&(deferred|opening) != 0 {
		if err := s.establish(until); err != nil {
			return err
		}
	}
	if how == unix.SHUT_RD {
		return s.closeRead()
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd, how))
}

// closeRead counts what is queued in the turn to receive, if nobody has it: another's
// receive is ended by shutdown(2), or is about to have what is queued.
func (s *Socket) closeRead() error {
	if ok, err := s.tryEnter(&s.rd); ok && err == nil {
		defer s.leave(&s.rd)
	}
	if err := unix.Shutdown(s.fd, unix.SHUT_RD); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	if s.state.Load()&readClosed != 0 {
		return nil
	}
	queued, err := s.sysQueued()
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	s.unread.Store(int64(queued))
	s.state.Or(readClosed)
	return nil
}

// prepareRecv is for a receive on a stream in an unusual state. It gives the part of the
// caller's room that may be filled; none is the end.
func (s *Socket) prepareRecv(room []byte) ([]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if s.state.Load()&readClosed != 0 {
		room = room[:min(int64(len(room)), max(s.unread.Load(), 0))]
	}
	return room, nil
}

// open begins the handshake that TCP Fast Open has put off, without any data: who waits
// for the peer to speak first would wait for ever.
func (s *Socket) open() error {
	if s.state.Load()&deferred == 0 {
		return nil
	}
	switch _, errno := s.sendOnce(nil, 0, nil); errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return s.failure("connect", errno)
	}
}

// establish waits until the handshake is over, and tells how it ended.
func (s *Socket) establish(until Instant) error {
	if _, err := s.enter(&s.wr, until); err != nil {
		return err
	}
	defer s.leave(&s.wr)
	if err := s.open(); err != nil {
		return err
	}
	var idle pause
	for s.state.Load()&opening != 0 {
		if err := s.await(&s.wr, unix.POLLOUT, until, &idle); err != nil {
			return err
		}
		switch _, errno := s.sendOnce(nil, 0, nil); errno {
		case 0:
			s.state.And(^uint32(opening))
		case unix.EAGAIN, unix.EINTR:
		default:
			return s.failure("connect", errno)
		}
	}
	return nil
}
