package sock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A datagrams is what a datagram socket knows of sending and receiving several datagrams in
// one system call. Each part belongs to the caller that holds the I/O lock of its direction.
type datagrams struct {
	noRecvBatch  bool           // recvmmsg(2) is refused
	noSendBatch  bool           // sendmmsg(2) is refused
	segmentation segmentation   // whether UDP_SEGMENT can be used
	segment      int            // what sendLocked sends is a train of datagrams this long; 0: one datagram
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
func (l *IOLock) RecvBatch(b *Batch) (int, error) {
	s := l.s
	if s.life.isOver() {
		return 0, s.closedErr()
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
		if err := s.icmpErrorLocked(); err != nil {
			return n, err
		}
		if maxForeignErrors(errno) > 0 {
			return n, nil // it has been told, see recvLocked
		}
	}
	return n, s.recvErr(errno)
}

// RecvFrom receives as Socket.Recv does, under the lock.
func (l *IOLock) RecvFrom(p []byte, flags int, from *Addr) (int, error) {
	var sender rawSockaddr
	n, err := l.recv(p, flags|l.flags, &sender)
	if err == nil {
		*from = sender.addr(l.s)
	}
	return n, err
}

// SendBatch sends the datagrams of b in their order until the socket takes no more, and does
// not wait. The kernel does not tell why it has taken only some: SendTo of the next one waits,
// or finds the error. An error is about the first datagram.
func (l *IOLock) SendBatch(b *Batch) (int, error) {
	s := l.s
	if s.mustReturn(l.until) {
		return 0, s.closedErr()
	}
	n, errno := s.sysSendBatch(b)
	switch {
	case errno == 0 || errno == unix.EAGAIN || errno == unix.EINTR:
		return n, nil
	case errno == unix.ENOSYS || errno == unix.EPERM: // EPERM may also be a packet filter's
		s.dgrams.noSendBatch = true
		return 0, nil
	case s.icmp && maxForeignErrors(errno) > 0:
		return 0, nil // of another datagram, see sendLocked
	}
	return 0, s.syscallErr("sendmmsg", errno)
}

// SendTo sends p as one datagram, to an address or, if it is zero, to the peer.
func (l *IOLock) SendTo(p []byte, flags int, to Addr) (int, error) {
	if to.IsZero() {
		return l.s.sendLocked(p, flags|l.flags, l.until, nil)
	}
	var n rawSockaddr
	if err := n.set(l.s, to); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	return l.s.sendLocked(p, flags|l.flags, l.until, &n)
}

// SendSegments sends p as datagrams of size bytes, the last of which may be shorter, to an
// address or, if it is zero, to the peer. It returns how many bytes the kernel took, which is
// whole datagrams, and why not more.
func (l *IOLock) SendSegments(p []byte, size, flags int, to Addr) (int, error) {
	s := l.s
	var receiver *rawSockaddr
	var n rawSockaddr
	if !to.IsZero() {
		if err := n.set(s, to); err != nil {
			return 0, os.NewSyscallError("sendto", err)
		}
		receiver = &n
	}
	flags |= l.flags
	for sent := 0; ; {
		m, err := s.sendSegmentsLocked(p[sent:], size, flags, l.until, receiver)
		sent += m
		switch {
		case err != nil || sent == len(p):
			return sent, err
		case l.Expired():
			return sent, os.ErrDeadlineExceeded
		}
	}
}

const (
	maxSegments = 64             // UDP_MAX_SEGMENTS (linux/udp.h); newer kernels take more
	maxTrain    = 65535 - 20 - 8 // bytes: an IPv4 packet less its headers
)

// sendSegmentsLocked sends as much of p as the kernel takes in one call: a train of datagrams,
// or one datagram where trains are refused.
func (s *Socket) sendSegmentsLocked(p []byte, size, flags int, until Instant, to *rawSockaddr) (int, error) {
	train := min(maxSegments, maxTrain/size) * size
	if train > size && len(p) > size && s.sendsSegments() { // never for a single datagram
		s.dgrams.segment = size
		n, err := s.sendLocked(p[:min(train, len(p))], flags, until, to)
		s.dgrams.segment = 0
		if err == nil || !refusesSegments(err) {
			return n, err
		}
		s.dgrams.segmentation = segmentsRefused
	}
	return s.sendLocked(p[:min(size, len(p))], flags, until, to)
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
