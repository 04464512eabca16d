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
func (s *Socket) Recv(p []byte, flags int, timeout time.Duration, from *Addr) (n int, err error) {
	until := In(timeout)
	if flags&unix.MSG_DONTWAIT != 0 {
		ok, err := s.tryEnter(&s.rd)
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, s.failure("recvfrom", unix.EAGAIN)
		}
	} else if err := s.enter(&s.rd, until); err != nil {
		return 0, err
	}
	defer s.leave(&s.rd)
	wait := flags&(unix.MSG_DONTWAIT|unix.MSG_OOB) == 0 && s.waitsInKernel(timeout)
	if from == nil {
		return s.receive(p, flags, until, wait, nil)
	}
	var sender name
	n, err = s.receive(p, flags, until, wait, &sender)
	if err == nil {
		*from = sender.addr()
	}
	return n, err
}

// Read is Recv for the net.Conn contract: its only limit is the deadline, and a
// deadline set meanwhile ends it too.
func (s *Socket) Read(p []byte) (int, error) {
	if err := s.enter(&s.rd, Never); err != nil {
		return 0, err
	}
	defer s.leave(&s.rd)
	return s.receive(p, 0, Never, false, nil)
}

func (s *Socket) receive(p []byte, flags int, until Instant, wait bool, from *name) (int, error) {
	all := s.stream && flags&unix.MSG_WAITALL != 0
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	if all && flags&unix.MSG_PEEK != 0 {
		return s.peekAll(p, flags, until, wait)
	}
	events := int16(unix.POLLIN)
	if flags&unix.MSG_OOB != 0 {
		events = unix.POLLPRI
	}
	got := 0
	for {
		n, errno := s.sysRecv(p[got:min(len(p), got+maxIO)], flags, wait, from)
		wait = false // what the kernel's own wait left open ends in ppoll
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return got, s.failure("recvfrom", errno)
		case errno == unix.EAGAIN:
			if err := s.await(&s.rd, events, until); err != nil {
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
	pause := firstPause
	ended := false
	for {
		n, errno := s.sysRecv(p, flags, wait, nil)
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
		if flags&unix.MSG_DONTWAIT != 0 {
			return n, s.failure("recvfrom", unix.EAGAIN)
		}
		var err error
		if n == 0 {
			err = s.await(&s.rd, unix.POLLIN, until)
		} else {
			// Once the peer has closed, all there ever will be is queued: one
			// more look decides.
			ended, err = s.doze(&s.rd, pollPeerClosed, until, pause)
			pause = nextPause(pause)
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
	if err := n.set(s.domain, to); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	return s.send(p, 0, timeout, &n)
}

// Write is Send for the net.Conn contract: its only limit is the deadline.
func (s *Socket) Write(p []byte) (int, error) { return s.send(p, 0, -1, nil) }

func (s *Socket) send(p []byte, flags int, timeout time.Duration, to *name) (int, error) {
	until := In(timeout)
	if flags&unix.MSG_DONTWAIT != 0 {
		ok, err := s.tryEnter(&s.wr)
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, s.failure("sendto", unix.EAGAIN)
		}
	} else if err := s.enter(&s.wr, until); err != nil {
		return 0, err
	}
	defer s.leave(&s.wr)
	if s.stream && len(p) == 0 {
		return 0, nil
	}
	pause := firstPause
	sent := 0
	for {
		n, errno := s.sysSend(p[sent:min(len(p), sent+maxIO)], flags, to)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && flags&unix.MSG_DONTWAIT != 0:
			return sent, s.failure("sendto", errno)
		case errno == unix.EAGAIN && to != nil && s.domain == unix.AF_UNIX:
			// The peer's queue is full, which this socket, being connected to
			// nobody, is not told of: poll(2) would call it writable.
			if _, err := s.doze(&s.wr, 0, until, pause); err != nil {
				return sent, err
			}
			pause = nextPause(pause)
		case errno == unix.EAGAIN:
			if err := s.await(&s.wr, unix.POLLOUT, until); err != nil {
				return sent, err
			}
		case errno != 0:
			return sent, s.failure("sendto", errno)
		default:
			sent += n
			if sent == len(p) {
				return sent, nil
			}
		}
	}
}
