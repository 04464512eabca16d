package sock

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxIO bounds what one system call is asked to move on a stream. It does not come back while the
// peer keeps up, not even with MSG_DONTWAIT, and a limit is looked at in between.
const maxIO = 1 << 20

// maxPeek is what one peek is asked for, which has to be all: some systems refuse 2 GiB
// and more.
const maxPeek = 1 << 30

// Recv receives into p; flags are MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT, MSG_OOB.
// The call ends after timeout (a negative one is none) or at the deadline.
//
// On a stream n is less than asked for only with an error: io.EOF,
// io.ErrUnexpectedEOF for a MSG_WAITALL that got a part, os.ErrDeadlineExceeded,
// net.ErrClosed or the kernel's. For a datagram n is its true size, even if p
// is shorter and took only the beginning. from, if not nil, is set to the
// sender of a datagram.
func (s *Socket) Recv(p []byte, flags int, timeout time.Duration, from *Addr) (int, error) {
	l, err := s.LockRecv(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
	if s.upgraded.Load() {
		return 0, ErrUpgraded
	}
	if from == nil {
		return l.recv(p, flags, nil)
	}
	var sender rawSockaddr
	n, err := l.recv(p, flags, &sender)
	if err == nil {
		*from = sender.addr(s)
	}
	return n, err
}

// Read is Recv for the net.Conn contract: its only limit is the deadline, and a
// deadline set meanwhile ends it too.
func (s *Socket) Read(p []byte) (int, error) {
	l, err := s.LockRead()
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
	if s.upgraded.Load() {
		return 0, ErrUpgraded
	}
	return l.recv(p, 0, nil)
}

func (s *Socket) recvLocked(p []byte, flags int, until Instant, waitInKernel bool, from *rawSockaddr) (int, error) {
	outOfBand := flags&unix.MSG_OOB != 0
	all := s.stream && !outOfBand && flags&unix.MSG_WAITALL != 0
	if s.domain == unix.AF_UNIX {
		// With it a receive that has a part takes the socket's error and does not tell
		// (unix_stream_read_generic).
		flags &^= unix.MSG_WAITALL
	}
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	if all && flags&unix.MSG_PEEK != 0 {
		return s.peekAllLocked(p, flags, until, waitInKernel)
	}
	events := int16(unix.POLLIN)
	if outOfBand {
		events = unix.POLLPRI
	}
	var retry backoff
	got, looked := 0, false
	for {
		if s.life.isOver() {
			return got, s.closedErr()
		}
		room := p[got:]
		if s.stream {
			room = room[:min(len(room), maxIO)]
		}
		state := s.state.Load()
		if state&prepareRecvStates != 0 && !outOfBand {
			var err error
			if room, err = s.prepareRecv(room); err != nil {
				return got, err
			}
			if len(room) == 0 {
				return got, s.eofErr(got)
			}
		}
		if !looked && !outOfBand && state&prepareRecvStates == 0 && s.parksFirst(flags, until) {
			looked = true
			if err := s.waitReady(&s.rd, events, until, &retry); err != nil {
				return got, err
			}
		}
		n, errno := s.recvOnce(room, flags, waitInKernel, from)
		looked = true
		waited := waitInKernel
		waitInKernel = false // what the kernel's own wait left open ends in ppoll
		if s.icmp && errno != 0 && errno != unix.EINTR {
			if err := s.icmpErrorLocked(); err != nil {
				return 0, err
			}
			if maxForeignErrors(errno) > 0 {
				// It was taken from the queue before the kernel had set it (__udp4_lib_err
				// queues first): it has been told.
				continue
			}
		}
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return got, s.syscallErr("recvfrom", errno)
		case errno == unix.EAGAIN && s.state.Load()&readClosing != 0 && !outOfBand:
			return got, s.eofErr(got)
		case errno == unix.EAGAIN:
			s.rd.parkedLast = true
			if err := s.waitReady(&s.rd, events, until, &retry); err != nil {
				return got, err
			}
		case errno != 0:
			return got, s.recvErr(errno)
		case n == 0 && s.stream:
			return got, s.eofErr(got)
		default:
			got += n
			if state&readClosed != 0 && flags&(unix.MSG_PEEK|unix.MSG_OOB) == 0 {
				s.unread.Add(int64(-n)) // not if it began before: it may not have been counted
			}
			if !all || got == len(p) {
				return got, nil
			}
			if s.rd.expired(flags, until) { // a peer that sends as fast as we receive
				return got, os.ErrDeadlineExceeded
			}
			waitInKernel = waited && s.fitsKernelWait(until) // the part may have come of a look
			retry, looked = 0, false
		}
	}
}

// parksFirst reports whether a receive had better wait before it asks the kernel: it parks,
// the one before it had to, and so the kernel would say EAGAIN. A short limit might be over
// without a look.
func (s *Socket) parksFirst(flags int, until Instant) bool {
	const shortLimit = 10 * time.Millisecond
	if !s.rd.parkedLast || flags&unix.MSG_DONTWAIT != 0 {
		return false
	}
	now := Now()
	return s.parks(&s.rd, now) && s.rd.limit(until).LeftAt(now) > shortLimit
}

// recvOnce is sysRecv for a call that may wait, inside recvfrom(2) if waitInKernel is true.
// EAGAIN is for a call that may not wait there, or not any longer; it goes on in waitReady.
func (s *Socket) recvOnce(p []byte, flags int, waitInKernel bool, from *rawSockaddr) (int, unix.Errno) {
	if waitInKernel && !s.parks(&s.rd, Now()) && waits.takeThread() {
		defer waits.giveThread()
		return s.sysRecv(p, flags, true, from)
	}
	if flags&unix.MSG_DONTWAIT == 0 {
		waits.count()
	}
	return s.sysRecv(p, flags, false, from)
}

// recvErr is failure for a receive, whose error it keeps.
func (s *Socket) recvErr(errno unix.Errno) error {
	s.recordErr(errno)
	if errno == unix.ENOTCONN { // MPTCP's word for a connection that has failed before
		if lost := s.loadStreamErr(); lost != 0 {
			errno = lost
		}
	}
	return s.syscallErr("recvfrom", errno)
}

// eofErr is the error for a stream that has ended after got bytes of a call.
func (s *Socket) eofErr(got int) error {
	switch errno := s.loadStreamErr(); {
	case errno != 0 || s.life.isOver():
		return s.syscallErr("recvfrom", errno)
	case got > 0:
		return io.ErrUnexpectedEOF
	}
	if s.state.Load()&eofReported == 0 {
		s.state.Or(eofReported)
	}
	return io.EOF
}

// peekAllLocked waits until len(p) bytes are queued and copies them without taking
// them. TCP does that inside recv(2) as long as no signal comes; unix streams
// return what is there (unix_stream_read_generic stops at the queue's end). What
// is missing then cannot be polled for, since the socket is readable already.
func (s *Socket) peekAllLocked(p []byte, flags int, until Instant, waitInKernel bool) (int, error) {
	var retry backoff
	ended := false
	for {
		if s.life.isOver() {
			return 0, s.closedErr()
		}
		room := p[:min(len(p), maxPeek)]
		if s.state.Load()&prepareRecvStates != 0 {
			var err error
			if room, err = s.prepareRecv(room); err != nil {
				return 0, err
			}
			if len(room) == 0 {
				return 0, s.eofErr(0)
			}
			ended = ended || len(room) < len(p)
		}
		n, errno := s.recvOnce(room, flags, waitInKernel, nil)
		waitInKernel = false
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN && s.state.Load()&readClosing != 0:
			return 0, s.eofErr(0)
		case errno == unix.EAGAIN:
		case errno != 0:
			return 0, s.recvErr(errno)
		case n == len(p):
			return n, nil
		case n == 0 || ended:
			s.takeSocketErr() // which a peek of a part leaves
			return n, s.eofErr(n)
		}
		var err error
		switch {
		case flags&unix.MSG_DONTWAIT != 0:
			err = s.syscallErr("recvfrom", unix.EAGAIN)
		case n == 0:
			err = s.waitReady(&s.rd, unix.POLLIN, until, &retry)
		default:
			err = s.sleepBackoff(&s.rd, until, &retry)
			// Once the peer has closed, or this side has, all there ever will be is
			// queued: one more look decides.
			ended = !s.peerOpen()
		}
		if err != nil {
			return n, err
		}
	}
}

// Send sends all of p, or returns the number of bytes the kernel took and why
// there were not more; flags are MSG_DONTWAIT and MSG_OOB. The call ends after
// timeout (a negative one is none) or at the deadline. An empty p sends an
// empty datagram, and on a stream nothing.
func (s *Socket) Send(p []byte, flags int, timeout time.Duration) (int, error) {
	return s.send(p, flags, timeout, nil)
}

// SendTo sends p as one datagram to an address.
func (s *Socket) SendTo(p []byte, to Addr, timeout time.Duration) (int, error) {
	var n rawSockaddr
	if err := n.set(s, to); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	return s.send(p, 0, timeout, &n)
}

// Write is Send for the net.Conn contract: its only limit is the deadline.
func (s *Socket) Write(p []byte) (int, error) { return s.send(p, 0, -1, nil) }

func (s *Socket) send(p []byte, flags int, timeout time.Duration, to *rawSockaddr) (int, error) {
	l, err := s.LockSend(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
	if s.upgraded.Load() {
		return 0, ErrUpgraded
	}
	return s.sendLocked(p, flags, l.until, to)
}

func (s *Socket) sendLocked(p []byte, flags int, until Instant, to *rawSockaddr) (int, error) {
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	var retry backoff
	sent := 0
	foreign := 0   // errors that may have been about other datagrams
	short := false // the last call has sent a part
	for {
		if s.mustReturn(until) {
			return sent, s.closedErr()
		}
		if s.state.Load()&writeClosed != 0 {
			return sent, s.syscallErr("sendto", unix.EPIPE) // the kernel's error is for who receives
		}
		piece := p[sent:]
		if s.stream {
			piece = piece[:min(len(piece), maxIO)]
		}
		n, errno := s.sendOnce(piece, flags, to)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return sent, s.syscallErr("sendto", errno)
		case s.icmp && foreign < maxForeignErrors(errno):
			foreign++
		case errno == unix.EAGAIN:
			// A unix datagram socket that is connected to nobody is always
			// writable, also if the queue of whom it sends to is full: pauses
			// take the place of readiness then.
			short = false
			if err := s.waitReady(&s.wr, unix.POLLOUT, until, &retry); err != nil {
				return sent, err
			}
		case errno != 0:
			if short && s.domain == unix.AF_UNIX {
				// The peer has closed with something unread in the midst of the last call,
				// which has taken the socket's error and told the count
				// (unix_stream_sendmsg).
				s.recordErr(unix.ECONNRESET)
			}
			return sent, s.syscallErr("sendto", errno)
		default:
			sent += n
			short = n < len(piece)
			if sent == len(p) {
				return sent, nil
			}
			if s.wr.expired(flags, until) { // a peer that receives as fast as we send
				return sent, os.ErrDeadlineExceeded
			}
			retry = 0
		}
	}
}

// sendOnce is sysSend, with the error of a stream kept before the call counts as ended.
func (s *Socket) sendOnce(p []byte, flags int, to *rawSockaddr) (n int, errno unix.Errno) {
	s.takeDeferredConnect() // TCP Fast Open: the SYN goes out with this
	s.wr.syscalls.Add(1)
	n, errno = s.sysSend(p, flags, to)
	if errno != 0 {
		s.recordErr(errno)
	}
	s.wr.syscalls.Add(1)
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		errno = unix.EAGAIN // the handshake is under way
	}
	return n, errno
}
