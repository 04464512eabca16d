package sock

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a stream that calls have to look at; zero is the usual one.
const (
	deferred    = 1 << iota // connect(2) has sent nothing: TCP_FASTOPEN_CONNECT waits for the first send
	opening                 // the handshake has begun since, and may not be over
	readClosing             // receives do not wait any more, and what is queued is about to be counted
	readClosed              // by Shutdown
	writeClosed             // by Shutdown
	endTold                 // a receive has told the orderly end
)

// unusual are the states in which a receive has something to do first.
const unusual = deferred | readClosing | readClosed

// Shutdown wraps shutdown(2) for a stream. What was queued when SHUT_RD was asked for can
// still be received; then comes io.EOF, whatever arrives. Linux itself goes on receiving
// TCP after SHUT_RD (tcp_rcv_established does not look).
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
		return s.closeRead(until)
	}
	err := unix.Shutdown(s.fd, how)
	if err == nil {
		s.state.Or(writeClosed)
	}
	return os.NewSyscallError("shutdown", err)
}

// closeRead counts what is queued in the turn to receive. A receive that has it is ended by
// shutdown(2) and readClosing; what it takes until then had arrived before.
func (s *Socket) closeRead(until Instant) error {
	if s.state.Or(readClosing)&(readClosing|readClosed) != 0 {
		return nil // it was closed before
	}
	if err := unix.Shutdown(s.fd, unix.SHUT_RD); err != nil {
		s.state.And(^uint32(readClosing))
		return os.NewSyscallError("shutdown", err)
	}
	ok, _ := s.tryEnter(&s.rd)
	if ok || s.queue(&s.rd, until) == nil {
		defer s.leave(&s.rd)
	} // or a callback that has the descriptor keeps it
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
	if !s.begins() {
		return nil
	}
	switch _, errno := s.sysSend(nil, 0, nil); errno {
	case 0, unix.EAGAIN, unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		return nil
	default:
		s.note(errno)
		return s.failure("connect", errno)
	}
}

// begins reports whether the caller has to have the SYN go out, by a send.
func (s *Socket) begins() bool {
	if s.state.Load()&deferred == 0 {
		return false
	}
	s.state.Or(opening)
	return s.state.And(^uint32(deferred))&deferred != 0
}

// establish waits until the handshake is over, and tells how it ended.
func (s *Socket) establish(until Instant) error {
	if err := s.open(); err != nil {
		return err
	}
	var p Poll
	if err := p.Add(s, unix.POLLOUT); err != nil {
		return err
	}
	defer p.Release()
	for began := Now(); s.sysOpening(); {
		// A send that is waiting may fill the buffer as soon as there is a connection, and
		// then nothing shows it to poll(2).
		err := p.Wait(Earlier(until, In(interval(began))))
		switch {
		case s.life.isOver():
			return s.ended()
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case until.Left() <= 0:
			return os.ErrDeadlineExceeded
		}
	}
	s.state.And(^uint32(opening))
	if errno := s.takeError(); errno != 0 {
		return s.failure("connect", errno)
	}
	return nil
}

// interval is how long a wait that began at a time may rest before it looks again: so long
// that looking costs little, and so short that it is not late by much of what it has taken.
func interval(began Instant) time.Duration {
	const longest = 50 * time.Millisecond
	return min(max(time.Duration(Now()-began)/8, firstPause), longest)
}
