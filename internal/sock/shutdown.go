package sock

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a stream that calls have to look at; zero is the usual one.
const (
	connectDeferred = 1 << iota // connect(2) has sent nothing: TCP_FASTOPEN_CONNECT waits for the first send
	handshaking                 // the handshake has begun since, and may not be over
	readClosing                 // receives do not wait any more, and what is queued is about to be counted
	readClosed                  // by Shutdown
	writeClosed                 // by Shutdown
	eofReported                 // a receive has told the orderly end
)

// prepareRecvStates are the states in which a receive has something to do first.
const prepareRecvStates = connectDeferred | readClosing | readClosed

// Shutdown wraps shutdown(2) for a stream. What was queued when SHUT_RD was asked for can
// still be received; then comes io.EOF, whatever arrives. Linux itself goes on receiving
// TCP after SHUT_RD (tcp_rcv_established does not look).
//
// A connect that TCP Fast Open has put off is made first, and until bounds that:
// shutdown(2) of a socket that has sent its SYN and has no answer takes the SYN back.
func (s *Socket) Shutdown(how int, until Instant) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	if s.state.Load()&(connectDeferred|handshaking) != 0 {
		if err := s.finishHandshake(until); err != nil {
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
	ok, _ := s.tryLock(&s.rd)
	if ok || s.lockSlow(&s.rd, until) == nil {
		defer s.unlock(&s.rd)
	} // or a callback that has the descriptor keeps it
	queued, err := s.sysQueuedLocked()
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
	if err := s.startHandshake(); err != nil {
		return nil, err
	}
	if s.state.Load()&readClosed != 0 {
		room = room[:min(int64(len(room)), max(s.unread.Load(), 0))]
	}
	return room, nil
}

// startHandshake begins the handshake that TCP Fast Open has put off, without any data: who waits
// for the peer to speak first would wait for ever.
func (s *Socket) startHandshake() error {
	if !s.takeDeferredConnect() {
		return nil
	}
	switch _, errno := s.sysSend(nil, 0, nil); errno {
	case 0, unix.EAGAIN, unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		return nil
	default:
		s.recordErr(errno)
		return s.syscallErr("connect", errno)
	}
}

// takeDeferredConnect reports whether the caller has to have the SYN go out, by a send.
func (s *Socket) takeDeferredConnect() bool {
	if s.state.Load()&connectDeferred == 0 {
		return false
	}
	s.state.Or(handshaking)
	return s.state.And(^uint32(connectDeferred))&connectDeferred != 0
}

// finishHandshake waits until the handshake is over, and tells how it ended.
func (s *Socket) finishHandshake(until Instant) error {
	if err := s.startHandshake(); err != nil {
		return err
	}
	var p Poll
	if err := p.Add(s, unix.POLLOUT); err != nil {
		return err
	}
	defer p.Release()
	for began := Now(); s.sysHandshaking(); {
		// A send that is waiting may fill the buffer as soon as there is a connection, and
		// then nothing shows it to poll(2).
		err := p.Wait(Earlier(until, In(pollInterval(began))))
		switch {
		case s.life.isOver():
			return s.closedErr()
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case until.Left() <= 0:
			return os.ErrDeadlineExceeded
		}
	}
	s.state.And(^uint32(handshaking))
	if errno := s.takeSocketErr(); errno != 0 {
		return s.syscallErr("connect", errno)
	}
	return nil
}

// pollInterval is how long a wait that began at a time may rest before it looks again: so long
// that looking costs little, and so short that it is not late by much of what it has taken.
func pollInterval(began Instant) time.Duration {
	const longest = 50 * time.Millisecond
	return min(max(time.Duration(Now()-began)/8, minBackoff), longest)
}
