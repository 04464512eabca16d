package sock

import (
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxIO bounds what one system call is asked to move: some systems refuse
// 2 GiB and more.
const maxIO = 1 << 30

// Recv receives into p; flags are MSG_PEEK, MSG_WAITALL, MSG_DONTWAIT, MSG_OOB.
// The call ends after timeout (a negative one is none) or at the deadline.
//
// On a stream n is less than asked for only with an error: io.EOF,
// io.ErrUnexpectedEOF for a MSG_WAITALL that got a part, os.ErrDeadlineExceeded,
// net.ErrClosed or the kernel's. For a datagram n is its true size, even if p
// is shorter and took only the beginning. from, if not nil, is set to the
// sender of a datagram.
func (s *Socket) Recv(p []byte, flags int, timeout time.Duration, from *Addr) (int, error) {
	t, err := s.Receiving(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer t.Leave()
	if s.taken.Load() {
		return 0, ErrTaken
	}
	if from == nil {
		return t.recv(p, flags, nil)
	}
	var sender name
	n, err := t.recv(p, flags, &sender)
	if err == nil {
		*from = sender.addr(s)
	}
	return n, err
}

// Read is Recv for the net.Conn contract: its only limit is the deadline, and a
// deadline set meanwhile ends it too.
func (s *Socket) Read(p []byte) (int, error) {
	t, err := s.Reading()
	if err != nil {
		return 0, err
	}
	defer t.Leave()
	if s.taken.Load() {
		return 0, ErrTaken
	}
	return t.recv(p, 0, nil)
}

func (s *Socket) receive(p []byte, flags int, until Instant, wait bool, from *name) (int, error) {
	oob := flags&unix.MSG_OOB != 0
	all := s.stream && !oob && flags&unix.MSG_WAITALL != 0
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	if all && flags&unix.MSG_PEEK != 0 {
		return s.peekAll(p, flags, until, wait)
	}
	events := int16(unix.POLLIN)
	if oob {
		events = unix.POLLPRI
	}
	var idle pause
	got := 0
	for {
		n, errno := s.recvOnce(p[got:min(len(p), got+maxIO)], flags, until, wait, from)
		waited := wait
		wait = false // what the kernel's own wait left open ends in ppoll
		if s.icmp && errno != 0 && errno != unix.EINTR {
			if err := s.icmpError(); err != nil {
				return 0, err
			}
		}
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return got, s.failure("recvfrom", errno)
		case errno == unix.EAGAIN:
			if err := s.await(&s.rd, events, until, &idle); err != nil {
				return got, err
			}
		case errno != 0:
			return got, s.failure("recvfrom", errno)
		case n == 0 && (s.stream || s.life.ended()): // a shut datagram socket gives 0 too
			return got, s.ending(got)
		default:
			got += n
			if !all || got == len(p) {
				return got, nil
			}
			if s.rd.isOver(flags, until) { // a peer that sends as fast as we receive
				return got, os.ErrDeadlineExceeded
			}
			wait = waited && s.fitsKernelWait(until) // the part may have come of a look
			idle = 0
		}
	}
}

// recvOnce is sysRecv for a call that may wait, inside recvfrom(2) if wait is true. Where
// others had better run first it looks before it sleeps, and when it has let them run.
// EAGAIN is for a call that may not wait there, or not any more: it goes on in ppoll.
func (s *Socket) recvOnce(p []byte, flags int, until Instant, wait bool, from *name) (int, unix.Errno) {
	if flags&unix.MSG_DONTWAIT != 0 {
		return s.sysRecv(p, flags, false, from)
	}
	everybody.enter()
	defer everybody.leave()
	if !everybody.isHere() {
		return s.sysRecv(p, flags, wait, from)
	}
	if s.inARow >= mostInARow {
		s.inARow = 0
		s.shares()
	}
	for spent := (turns{}); ; {
		n, errno := s.sysRecv(p, flags, false, from)
		if errno != unix.EAGAIN {
			s.inARow++
			return n, errno
		}
		s.inARow = 0
		switch {
		case !wait || !s.fitsKernelWait(until):
			return 0, errno
		case !s.rd.yields(&spent):
			return s.sysRecv(p, flags, true, from)
		}
	}
}

// ending is the error for a stream that has ended after got bytes of a call.
func (s *Socket) ending(got int) error {
	switch {
	case s.life.ended():
		return net.ErrClosed
	case got > 0:
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

// peekAll waits until len(p) bytes are queued and copies them without taking
// them. TCP does that inside recv(2) as long as no signal comes; unix streams
// return what is there (unix_stream_read_generic stops at the queue's end). What
// is missing then cannot be polled for, since the socket is readable already.
func (s *Socket) peekAll(p []byte, flags int, until Instant, wait bool) (int, error) {
	var idle pause
	ended := false
	for {
		n, errno := s.sysRecv(p[:min(len(p), maxIO)], flags, wait, nil)
		wait = false
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
		case errno != 0:
			return 0, s.failure("recvfrom", errno)
		case n == len(p):
			return n, nil
		case n == 0 || ended:
			return n, s.ending(n)
		}
		var err error
		switch {
		case flags&unix.MSG_DONTWAIT != 0:
			err = s.failure("recvfrom", unix.EAGAIN)
		case n == 0:
			err = s.await(&s.rd, unix.POLLIN, until, &idle)
		default:
			err = s.rest(&s.rd, until, &idle)
			// Once the peer has closed, all there ever will be is queued: one
			// more look decides.
			ended = !s.peerThere()
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
	var n name
	if err := n.set(s, to); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	return s.send(p, 0, timeout, &n)
}

// Write is Send for the net.Conn contract: its only limit is the deadline.
func (s *Socket) Write(p []byte) (int, error) { return s.send(p, 0, -1, nil) }

func (s *Socket) send(p []byte, flags int, timeout time.Duration, to *name) (int, error) {
	t, err := s.Sending(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer t.Leave()
	if s.taken.Load() {
		return 0, ErrTaken
	}
	return s.transmit(p, flags, t.until, to)
}

func (s *Socket) transmit(p []byte, flags int, until Instant, to *name) (int, error) {
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	var idle pause
	sent := 0
	another := s.icmp // the error may be about another datagram, and is queued
	for {
		n, errno := s.sysSend(p[sent:min(len(p), sent+maxIO)], flags, to)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return sent, s.failure("sendto", errno)
		case errno != 0 && errno != unix.EAGAIN && another:
			another = false
		case errno == unix.EAGAIN:
			// A unix datagram socket that is connected to nobody is always
			// writable, also if the queue of whom it sends to is full: pauses
			// take the place of readiness then.
			if err := s.await(&s.wr, unix.POLLOUT, until, &idle); err != nil {
				return sent, err
			}
		case errno != 0:
			return sent, s.failure("sendto", errno)
		default:
			sent += n
			if sent == len(p) {
				return sent, nil
			}
			if s.wr.isOver(flags, until) { // a peer that receives as fast as we send
				return sent, os.ErrDeadlineExceeded
			}
			idle = 0
		}
	}
}
