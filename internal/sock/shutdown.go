package sock

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a stream that calls check, as bits. A connected stream usually has none.
//
//	connectDeferred ──first send or receive──▶ handshaking ──finishHandshake──▶ (none)
//	(none) ──Shutdown(SHUT_RD)──▶ readClosing ──▶ readClosing|readClosed
//	(none) ──Shutdown(SHUT_WR)──▶ writeClosed
const (
	connectDeferred = 1 << iota // connect(2) sent nothing: TCP_FASTOPEN_CONNECT waits for the first send
	handshaking                 // the deferred handshake has begun and may not be over
	readClosing                 // receives no longer wait, and the queued bytes are not counted yet
	readClosed                  // the queued bytes are in Socket.unread
	writeClosed                 // sends return EPIPE
	eofReported                 // a receive has returned io.EOF
)

// prepareRecvStates are the states in which a receive calls prepareRecv first.
const prepareRecvStates = connectDeferred | readClosing | readClosed

// Shutdown wraps shutdown(2) for a stream. After SHUT_RD, receives return the bytes that
// were queued at that time and then io.EOF, whatever arrives. Linux itself goes on
// receiving TCP after SHUT_RD (tcp_rcv_established does not check).
//
// Shutdown first makes a connect that TCP Fast Open has deferred, with the limit until:
// shutdown(2) on a socket whose SYN is not answered yet aborts the connect.
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

// closeRead counts the queued bytes under the receive lock. shutdown(2) and readClosing
// end a receive that holds the lock. What that receive consumes until then had arrived
// before.
func (s *Socket) closeRead(until Instant) error {
	if s.state.Or(readClosing)&(readClosing|readClosed) != 0 {
		return nil // Shutdown(SHUT_RD) was called before
	}
	if err := unix.Shutdown(s.fd, unix.SHUT_RD); err != nil {
		s.state.And(^uint32(readClosing))
		return os.NewSyscallError("shutdown", err)
	}
	ok, _ := s.tryLock(&s.rd)
	if ok || s.lockSlow(&s.rd, until) == nil {
		defer s.unlock(&s.rd)
	} // a RawConn callback may hold the lock for longer: count without it
	queued, err := s.sysQueuedLocked()
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	s.unread.Store(int64(queued))
	s.state.Or(readClosed)
	return nil
}

// prepareRecv prepares a receive on a stream in one of prepareRecvStates. It returns the
// part of room that may be filled. An empty one is the end of the stream.
func (s *Socket) prepareRecv(room []byte) ([]byte, error) {
	if err := s.startHandshake(); err != nil {
		return nil, err
	}
	if s.state.Load()&readClosed != 0 {
		room = room[:min(int64(len(room)), max(s.unread.Load(), 0))]
	}
	return room, nil
}

// startHandshake begins the handshake that TCP Fast Open has deferred, without data. A
// caller that waits for the peer to send first would otherwise wait forever.
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

// takeDeferredConnect reports whether the caller has to send the SYN, by sending.
func (s *Socket) takeDeferredConnect() bool {
	if s.state.Load()&connectDeferred == 0 {
		return false
	}
	s.state.Or(handshaking)
	return s.state.And(^uint32(connectDeferred))&connectDeferred != 0
}

// finishHandshake waits until the deferred handshake is over, and returns its error.
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
		// A waiting send may fill the buffer as soon as the connection is established.
		// poll(2) does not report POLLOUT then, so check at intervals.
		err := p.Wait(Earlier(until, In(pollInterval(began))))
		switch {
		case s.refs.Ending():
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

// pollInterval is the time until the next check of a wait that began at began: an eighth
// of what the wait has lasted, so that checking costs little and is not late by much.
func pollInterval(began Instant) time.Duration {
	const longest = 50 * time.Millisecond
	return min(max(time.Duration(Now()-began)/8, minBackoff), longest)
}

// Unacknowledged is how many bytes of a stream the peer's kernel has not acknowledged, without
// the end that Shutdown(SHUT_WR) sends. It is 0 for a unix socket, which puts them into the
// peer's queue, and if the socket is closed.
func (s *Socket) Unacknowledged() int {
	if s.domain == unix.AF_UNIX || s.incref() != nil {
		return 0
	}
	defer s.decref()
	n, err := s.sysUnacknowledged()
	if err != nil {
		return 0
	}
	return max(n, 0)
}
