package sock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A datagrams is what a datagram socket knows of sending and receiving several datagrams in
// one system call. Each part belongs to the caller that has the turn in its direction.
type datagrams struct {
	noRecvBatch  bool           // recvmmsg(2) is refused
	noSendBatch  bool           // sendmmsg(2) is refused
	segmentation segmentation   // whether UDP_SEGMENT can be used
	segment      int            // what transmit sends is a train of datagrams this long; 0: one datagram
	train        *receivedTrain // of a socket with UDP_GRO
}

type segmentation int8

const (
	segmentsUnknown segmentation = iota
	segmentsWork
	segmentsRefused
)

// RecvBatch receives those datagrams that have arrived, as many as b has room for, and waits
// for none. If there are none it returns 0 and no error: RecvFrom then waits, or finds the
// error. Datagrams may come together with an error, which arrived after them.
func (t *Turn) RecvBatch(b *Batch) (int, error) {
	s := t.s
	if s.life.isOver() {
		return 0, s.ended()
	}
	n, errno := s.sysRecvBatch(b)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return n, nil
	case unix.ENOSYS, unix.EPERM:
		s.dgrams.noRecvBatch = true
		return n, nil
	}
	if s.icmp {
		if err := s.icmpError(); err != nil {
			return n, err
		}
		if mostOfOthers(errno) > 0 {
			return n, nil // it has been told, see receive
		}
	}
	return n, s.recvFailure(errno)
}

// RecvFrom receives as Socket.Recv does, in the turn.
func (t *Turn) RecvFrom(p []byte, flags int, from *Addr) (int, error) {
	var sender name
	n, err := t.recv(p, flags|t.flags, &sender)
	if err == nil {
		*from = sender.addr(t.s)
	}
	return n, err
}

// SendBatch sends the datagrams of b in their order until the socket takes no more, and does
// not wait. The kernel does not tell why it has taken only some: SendTo of the next one waits,
// or finds the error. An error is about the first datagram.
func (t *Turn) SendBatch(b *Batch) (int, error) {
	s := t.s
	if s.endsNow(t.until) {
		return 0, s.ended()
	}
	n, errno := s.sysSendBatch(b)
	switch {
	case errno == 0 || errno == unix.EAGAIN || errno == unix.EINTR:
		return n, nil
	case errno == unix.ENOSYS || errno == unix.EPERM: // EPERM may also be a packet filter's
		s.dgrams.noSendBatch = true
		return 0, nil
	case s.icmp && mostOfOthers(errno) > 0:
		return 0, nil // of another datagram, see transmit
	}
	return 0, s.failure("sendmmsg", errno)
}

// SendTo sends p as one datagram, to an address or, if it is zero, to the peer.
func (t *Turn) SendTo(p []byte, flags int, to Addr) (int, error) {
	if to.IsZero() {
		return t.s.transmit(p, flags|t.flags, t.until, nil)
	}
	var n name
	if err := n.set(t.s, to); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	return t.s.transmit(p, flags|t.flags, t.until, &n)
}

// SendSegments sends p as datagrams of size bytes, the last of which may be shorter, to an
// address or, if it is zero, to the peer. It returns how many bytes the kernel took, which is
// whole datagrams, and why not more.
func (t *Turn) SendSegments(p []byte, size, flags int, to Addr) (int, error) {
	s := t.s
	var receiver *name
	var n name
	if !to.IsZero() {
		if err := n.set(s, to); err != nil {
			return 0, os.NewSyscallError("sendto", err)
		}
		receiver = &n
	}
	flags |= t.flags
	for sent := 0; ; {
		m, err := s.transmitSegments(p[sent:], size, flags, t.until, receiver)
		sent += m
		switch {
		case err != nil || sent == len(p):
			return sent, err
		case t.Expired():
			return sent, os.ErrDeadlineExceeded
		}
	}
}

const (
	maxSegments = 64             // UDP_MAX_SEGMENTS (linux/udp.h); newer kernels take more
	maxTrain    = 65535 - 20 - 8 // bytes: an IPv4 packet less its headers
)

// transmitSegments sends as much of p as the kernel takes in one call: a train of datagrams,
// or one datagram where trains are refused.
func (s *Socket) transmitSegments(p []byte, size, flags int, until Instant, to *name) (int, error) {
	train := min(maxSegments, maxTrain/size) * size
	if train > size && len(p) > size && s.sendsSegments() { // never for a single datagram
		s.dgrams.segment = size
		n, err := s.transmit(p[:min(train, len(p))], flags, until, to)
		s.dgrams.segment = 0
		if err == nil || !refusesSegments(err) {
			return n, err
		}
		s.dgrams.segmentation = segmentsRefused
	}
	return s.transmit(p[:min(size, len(p))], flags, until, to)
}

// refusesSegments reports whether an error of a train may come of its being one:
//
//   - EIO: the network device computes no checksums, or the route is of IPsec
//   - EMSGSIZE, and EINVAL before Linux 6.14: a datagram does not fit into the MTU. Alone it
//     is fragmented, or is refused by an error of its own.
//   - EPERM, ENOSYS: sendmsg(2) is refused
func refusesSegments(err error) bool {
	for _, errno := range [...]unix.Errno{unix.EIO, unix.EMSGSIZE, unix.EINVAL, unix.EPERM, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Buffered reports whether a datagram that came with others is still to be received, and no
// poll tells of it.
func (s *Socket) Buffered() bool {
	t := s.dgrams.train
	return t != nil && t.left.Load() > 0
}
