package sock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// A datagrams is the state of a socket that sends or receives several datagrams in one system
// call. The I/O lock of its direction guards each field.
type datagrams struct {
	noRecvBatch bool // recvmmsg(2) is refused
	noSendBatch bool // sendmmsg(2) is refused
	gso         gsoSupport
	segmentSize int        // of what sendLocked sends by UDP_SEGMENT; 0: it sends one datagram
	gro         *groBuffer // nil without UDP_GRO
}

// A gsoSupport tells whether the socket can send by UDP_SEGMENT.
type gsoSupport int8

const (
	gsoUnknown gsoSupport = iota
	gsoSupported
	gsoRefused
)

// RecvBatch receives queued datagrams, as many as b has room for, and does not wait. If none
// is queued, it returns 0 and a nil error; the caller then uses RecvFrom, which waits. An error
// may come with a count: it arrived after those datagrams.
func (l *IOLock) RecvBatch(b *Batch) (int, error) {
	s := l.s
	if s.refs.Ending() {
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

// SendBatch sends the datagrams of b in order until the socket buffer is full, and does not
// wait. For a short count the kernel reports no reason: the caller then uses SendTo for the
// next datagram, which waits or returns the error. An error is about the first datagram.
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
// address or, if it is zero, to the peer. The count is of bytes in whole datagrams.
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
	maxSegments     = 64             // UDP_MAX_SEGMENTS (linux/udp.h); newer kernels take more
	maxSegmentBytes = 65535 - 20 - 8 // bytes: an IPv4 packet less its headers
)

// sendSegmentsLocked sends as many datagrams of p as one system call takes: one, where
// UDP_SEGMENT is refused.
func (s *Socket) sendSegmentsLocked(p []byte, size, flags int, until Instant, to *rawSockaddr) (int, error) {
	most := min(maxSegments, maxSegmentBytes/size) * size
	if most > size && len(p) > size && s.supportsGSO() { // never for a single datagram
		s.dgrams.segmentSize = size
		n, err := s.sendLocked(p[:min(most, len(p))], flags, until, to)
		s.dgrams.segmentSize = 0
		if err == nil || !isGSORefusal(err) {
			return n, err
		}
		s.dgrams.gso = gsoRefused
	}
	return s.sendLocked(p[:min(size, len(p))], flags, until, to)
}

// isGSORefusal reports whether UDP_SEGMENT may be the reason of an error:
//
//   - EIO: the network device does not compute checksums, or the route uses IPsec
//   - EMSGSIZE, or in older kernels EINVAL: a segment is longer than the MTU. Sent alone, the
//     datagram is fragmented or gets an error of its own.
//   - EPERM, ENOSYS: sendmsg(2) is refused
func isGSORefusal(err error) bool {
	for _, errno := range [...]unix.Errno{unix.EIO, unix.EMSGSIZE, unix.EINVAL, unix.EPERM, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Buffered reports whether the socket holds datagrams that the kernel delivered coalesced with
// another one: poll(2) does not report them.
func (s *Socket) Buffered() bool {
	g := s.dgrams.gro
	return g != nil && g.left.Load() > 0
}
