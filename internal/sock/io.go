package sock

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxIO bounds what one system call transfers on a stream. Without a bound the call does
// not return while the peer keeps up, not even with MSG_DONTWAIT. Limits are checked
// between system calls.
const maxIO = 1 << 20

// maxPeek bounds one peek, which has to be a single system call: some systems refuse
// 2 GiB and more.
const maxPeek = 1 << 30

// Recv receives into p. flags are MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT and MSG_OOB. The
// call ends after timeout or at the deadline. A negative timeout is no limit.
//
// On a stream, n is less than asked for only with an error: io.EOF,
// io.ErrUnexpectedEOF for a MSG_WAITALL that got a part, os.ErrDeadlineExceeded,
// net.ErrClosed or the kernel's. For a datagram, n is its full size, even if p was
// shorter and received only the beginning. If from is not nil, Recv sets it to the
// sender of the datagram.
func (s *Socket) Recv(p []byte, flags int, timeout time.Duration, from *Addr) (int, error) {
	l, err := s.LockRecv(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
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

// Read is Recv for net.Conn: its only limit is the deadline, including one that is set
// while it waits.
func (s *Socket) Read(p []byte) (int, error) {
	l, err := s.LockRead()
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
	return l.recv(p, 0, nil)
}

// recvLocked receives as Recv does. The caller holds the receive lock. waitInKernel
// lets the first receive wait inside recvfrom(2).
func (s *Socket) recvLocked(p []byte, flags int, until Instant, waitInKernel bool, from *rawSockaddr) (int, error) {
	outOfBand := flags&unix.MSG_OOB != 0
	all := s.stream && !outOfBand && flags&unix.MSG_WAITALL != 0
	if s.domain == unix.AF_UNIX {
		// With MSG_WAITALL, a receive that has a part clears the socket's error without
		// returning it (unix_stream_read_generic).
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
		if s.refs.Ending() {
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
			if err := s.waitReady(&s.rd, events, until, &retry); err != nil {
				return got, err
			}
			waitInKernel = false // which waits for a fixed time, and a part of the limit is over
		}
		n, errno := s.recvOnce(room, flags, until, waitInKernel, from)
		looked = true
		waited := waitInKernel
		waitInKernel = false // the rest of the limit is waited for in ppoll(2)
		if s.icmp && errno != 0 && errno != unix.EINTR {
			if err := s.icmpErrorLocked(); err != nil {
				return 0, err
			}
			if maxForeignErrors(errno) > 0 {
				// The kernel queues an ICMP error before it sets the socket's error
				// (__udp4_lib_err). An earlier receive has returned the queued one.
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
				s.unread.Add(int64(-n)) // a receive that began before readClosed was set is not counted
			}
			if !all || got == len(p) {
				return got, nil
			}
			if s.rd.expired(flags, until) { // the peer may send as fast as we receive
				return got, os.ErrDeadlineExceeded
			}
			waitInKernel = waited && s.fitsKernelWait(until) // a part may have come without waiting
			retry, looked = 0, false
		}
	}
}

// parksFirst reports whether a receive waits before it tries: it will park, and as the
// receive before it had to wait, recvfrom(2) would return EAGAIN. A call with a short
// limit tries first, because waiting could use up the limit.
func (s *Socket) parksFirst(flags int, until Instant) bool {
	const shortLimit = 10 * time.Millisecond
	if !s.rd.parkedLast || flags&unix.MSG_DONTWAIT != 0 || s.Buffered() {
		return false
	}
	now := Now()
	return s.parks(&s.rd, now) && s.rd.limit(until).LeftAt(now) > shortLimit
}

// recvOnce is sysRecv for a call that may wait, inside recvfrom(2) if waitInKernel is
// true. EAGAIN means that the call has to wait in waitReady.
func (s *Socket) recvOnce(p []byte, flags int, until Instant, waitInKernel bool, from *rawSockaddr) (int, unix.Errno) {
	if waitInKernel && !s.parks(&s.rd, Now()) && (!waits.leavePoller() || s.fitsKernelWait(until)) && waits.takeThread() {
		defer waits.giveThread()
		n, errno := s.sysRecv(p, flags, true, from)
		if errno == unix.EAGAIN {
			s.rd.held = time.Duration(s.rcvTimeout.Load()) >= longestHold
		}
		return n, errno
	}
	if flags&unix.MSG_DONTWAIT == 0 {
		waits.count()
	}
	return s.sysRecv(p, flags, false, from)
}

// recvErr is the error of a receive. It records an error that ended the stream.
func (s *Socket) recvErr(errno unix.Errno) error {
	s.recordErr(errno)
	if errno == unix.ENOTCONN { // MPTCP returns it after a connection has failed
		if lost := s.loadStreamErr(); lost != 0 {
			errno = lost
		}
	}
	return s.syscallErr("recvfrom", errno)
}

// eofErr is the error of a receive that met the end of the stream after got bytes.
func (s *Socket) eofErr(got int) error {
	switch errno := s.loadStreamErr(); {
	case errno != 0 || s.refs.Ending():
		return s.syscallErr("recvfrom", errno)
	case got > 0:
		return io.ErrUnexpectedEOF
	}
	if s.state.Load()&eofReported == 0 {
		s.state.Or(eofReported)
	}
	return io.EOF
}

// peekAllLocked waits until len(p) bytes are queued and copies them without consuming
// them. TCP waits inside recv(2) for all of them, unless a signal comes. A unix stream
// returns what is queued (unix_stream_read_generic stops at the end of the queue).
// poll(2) cannot wait for the rest, because the socket is readable already.
func (s *Socket) peekAllLocked(p []byte, flags int, until Instant, waitInKernel bool) (int, error) {
	var retry backoff
	ended := false
	for {
		if s.refs.Ending() {
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
		n, errno := s.recvOnce(room, flags, until, waitInKernel, nil)
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
			s.takeSocketErr() // a peek that returns a part leaves the error
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
			// After the peer or this side has closed, nothing more arrives. One more
			// peek returns everything.
			ended = !s.peerOpen()
		}
		if err != nil {
			return n, err
		}
	}
}

// Send sends all of p, or returns how many bytes the kernel accepted and an error.
// flags are MSG_DONTWAIT and MSG_OOB. The call ends after timeout or at the deadline. A
// negative timeout is no limit. An empty p sends an empty datagram, and on a stream
// nothing.
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

// Write is Send for net.Conn: its only limit is the deadline.
func (s *Socket) Write(p []byte) (int, error) { return s.send(p, 0, -1, nil) }

func (s *Socket) send(p []byte, flags int, timeout time.Duration, to *rawSockaddr) (int, error) {
	l, err := s.LockSend(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer l.Unlock()
	return s.sendLocked(p, flags, l.until, to)
}

// sendLocked sends as Send does. The caller holds the send lock.
func (s *Socket) sendLocked(p []byte, flags int, until Instant, to *rawSockaddr) (int, error) {
	return s.sendAllLocked(p, nil, flags, until, to)
}

// sendAllLocked sends p or, if g is not nil, the buffers of g.
func (s *Socket) sendAllLocked(p []byte, g *gather, flags int, until Instant, to *rawSockaddr) (int, error) {
	size := len(p)
	if g != nil {
		size = g.size
	}
	if s.stream && size == 0 {
		return 0, nil
	}
	if to == nil {
		to = s.dest
	}
	var retry backoff
	sent := 0
	foreign := 0   // errors that may belong to other datagrams
	short := false // the last system call accepted a part
	for {
		if s.mustReturn(until) {
			return sent, s.closedErr()
		}
		if s.state.Load()&writeClosed != 0 {
			return sent, s.syscallErr("sendto", unix.EPIPE) // send(2) would take the error that a receive has to return
		}
		n, asked, errno := s.sendOnce(p, sent, g, flags, to)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return sent, s.syscallErr("sendto", errno)
		case s.icmp && foreign < maxForeignErrors(errno):
			foreign++
		case errno == unix.EAGAIN:
			// An unconnected unix datagram socket is always writable, even if the queue
			// of the receiver is full. The backoff replaces readiness then.
			short = false
			if err := s.waitReady(&s.wr, unix.POLLOUT, until, &retry); err != nil {
				return sent, err
			}
		case errno != 0:
			if short && s.domain == unix.AF_UNIX {
				// The peer closed with unread data during the last system call, which
				// cleared the socket's error and returned the count (unix_stream_sendmsg).
				s.recordErr(unix.ECONNRESET)
			}
			return sent, s.syscallErr("sendto", errno)
		default:
			sent += n
			short = n < asked
			if sent == size {
				return sent, nil
			}
			if s.wr.expired(flags, until) { // the peer may receive as fast as we send
				return sent, os.ErrDeadlineExceeded
			}
			retry = 0
		}
	}
}

// sendOnce makes one system call that sends p[sent:] or what is left of g, as much as one call
// is asked for. It records a stream's error before the system call counts as ended; see
// loadStreamErr.
func (s *Socket) sendOnce(p []byte, sent int, g *gather, flags int, to *rawSockaddr) (n, asked int, errno unix.Errno) {
	s.takeDeferredConnect() // TCP Fast Open: this system call sends the SYN
	s.wr.syscalls.Add(1)
	if g == nil {
		piece := p[sent:]
		if s.stream {
			piece = piece[:min(len(piece), maxIO)]
		}
		asked = len(piece)
		n, errno = s.sysSend(piece, flags, to)
	} else {
		n, asked, errno = s.sysSendBuffers(g, flags, to)
		g.advance(n)
	}
	if errno != 0 {
		s.recordErr(errno)
	}
	s.wr.syscalls.Add(1)
	if errno == unix.EINPROGRESS || errno == unix.EALREADY {
		errno = unix.EAGAIN // the handshake is not over
	}
	return n, asked, errno
}
