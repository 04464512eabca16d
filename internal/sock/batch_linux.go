package sock

import (
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const maxBatch = 32

// A Batch is several datagrams for one recvmmsg(2) or sendmmsg(2). It comes from NewBatch.
type Batch struct {
	len   int
	names [maxBatch]rawSockaddr
	bufs  [maxBatch]unix.Iovec
	msgs  [maxBatch]mmsghdr
}

// An mmsghdr is what recvmmsg(2) and sendmmsg(2) take several of; x/sys/unix has no such type.
type mmsghdr struct {
	hdr  unix.Msghdr
	size uint32 // of what was received or sent
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch gives an empty batch, to be given back by Free.
func NewBatch() *Batch { return batches.Get().(*Batch) }

// Free gives the batch back.
func (b *Batch) Free() {
	clear(b.bufs[:b.len])
	b.len = 0
	batches.Put(b)
}

// MaxBatch is the largest batch for RecvBatch or SendBatch. It is 1 where the system refuses
// batches.
func (l *IOLock) MaxBatch() int {
	d := &l.s.dgrams
	if l.d == &l.s.rd && d.noRecvBatch && d.gro == nil || l.d == &l.s.wr && d.noSendBatch {
		return 1
	}
	return maxBatch
}

// Add adds a datagram to send to an address or, if it is zero, to the peer.
func (b *Batch) Add(s *Socket, p []byte, to Addr) error {
	dest := &b.names[b.len]
	if to.IsZero() {
		dest = s.dest // a Connect may be setting it while calls with an address send
	} else if err := dest.set(s, to); err != nil {
		return err
	}
	b.AddBuffer(p)
	if dest != nil {
		h := &b.msgs[b.len-1].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&dest.raw)), dest.len
	}
	return nil
}

// AddBuffer adds a buffer to receive a datagram into.
func (b *Batch) AddBuffer(p []byte) {
	h := &b.msgs[b.len].hdr
	*h = unix.Msghdr{Iov: &b.bufs[b.len]}
	h.SetIovlen(1)
	b.bufs[b.len] = unix.Iovec{Base: unsafe.SliceData(p)}
	b.bufs[b.len].SetLen(len(p))
	b.len++
}

// Received gives the true size and the sender of a datagram that was received.
func (b *Batch) Received(s *Socket, i int) (size int, from Addr) {
	return int(b.msgs[i].size), b.names[i].addr(s)
}

func (b *Batch) bytes(i int) []byte {
	return unsafe.Slice(b.bufs[i].Base, int(b.bufs[i].Len))
}

// sysRecvBatch wraps recvmmsg(2). It never sleeps.
func (s *Socket) sysRecvBatch(b *Batch) (int, unix.Errno) {
	if s.dgrams.gro != nil {
		return s.recvBatchGRO(b)
	}
	for i := range b.len {
		h := &b.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i].raw)), unix.SizeofSockaddrAny
	}
	r, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.msgs)), uintptr(b.len),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	n := int(r)
	for i := range n {
		b.names[i].len = b.msgs[i].hdr.Namelen
		raceAfterRecv(b.bytes(i)[:min(int(b.msgs[i].size), int(b.bufs[i].Len))])
	}
	return n, 0
}

func (s *Socket) recvBatchGRO(b *Batch) (int, unix.Errno) {
	for i := range b.len {
		n, errno := s.recvGRO(b.bytes(i), unix.MSG_DONTWAIT, false, &b.names[i])
		if errno != 0 && (i == 0 || errno != unix.EAGAIN) {
			return i, errno
		}
		if errno != 0 {
			return i, 0
		}
		b.msgs[i].size = uint32(n)
	}
	return b.len, 0
}

// sysSendBatch wraps sendmmsg(2). It never sleeps.
func (s *Socket) sysSendBatch(b *Batch) (int, unix.Errno) {
	raceBeforeSend()
	r, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.msgs)), uintptr(b.len),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	for i := range int(r) {
		raceAfterSend(b.bytes(i))
	}
	return int(r), 0
}

// supportsGSO asks the kernel once whether it has UDP_SEGMENT (Linux 4.18). A kernel without it
// ignores the control message and sends everything as one datagram.
func (s *Socket) supportsGSO() bool {
	if s.dgrams.gso == gsoUnknown {
		s.dgrams.gso = gsoRefused
		if s.domain != unix.AF_UNIX {
			if _, err := unix.GetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT); err == nil {
				s.dgrams.gso = gsoSupported
			}
		}
	}
	return s.dgrams.gso == gsoSupported
}

// sysSendSegments wraps sendmsg(2) with UDP_SEGMENT: p is sent as datagrams of that size.
func (s *Socket) sysSendSegments(p []byte, flags int, to *rawSockaddr) (int, unix.Errno) {
	var control struct {
		unix.Cmsghdr
		size uint16
		_    [6]byte
	}
	control.Level, control.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	control.SetLen(unix.CmsgLen(2))
	control.size = uint16(s.dgrams.segmentSize)
	buf := unix.Iovec{Base: unsafe.SliceData(p)}
	buf.SetLen(len(p))
	hdr := unix.Msghdr{Iov: &buf, Control: (*byte)(unsafe.Pointer(&control))}
	hdr.SetIovlen(1)
	hdr.SetControllen(unix.CmsgSpace(2))
	if to != nil {
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&to.raw)), to.len
	}
	raceBeforeSend()
	r, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&hdr)),
		uintptr(flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
	runtime.KeepAlive(p)
	runtime.KeepAlive(to)
	if errno != 0 {
		return 0, errno
	}
	raceAfterSend(p[:r])
	return int(r), 0
}

// A groBuffer holds datagrams that the kernel delivered coalesced (UDP_GRO, udp(7)) and that
// the caller has not received yet. They have one sender and the same size, but for the last,
// which may be shorter. The I/O lock for receiving guards it.
type groBuffer struct {
	buf  [maxDatagram]byte
	rest []byte // the part of buf that is not received yet
	size int    // of a datagram
	from rawSockaddr
	left atomic.Int32 // datagrams in rest, empty ones included; Buffered reads it without the lock

	hdr     unix.Msghdr
	iov     unix.Iovec
	control [maxControl / 8]uint64 // aligned for a Cmsghdr
}

const (
	maxDatagram = 64 << 10
	maxControl  = 512 // bytes: Options.Control may have asked for more than the size
)

// SetGRO has the kernel coalesce datagrams, if it supports that (Linux 5.0). Call it before the
// socket is used.
func (s *Socket) SetGRO() {
	if s.SetInt(unix.SOL_UDP, unix.UDP_GRO, 1) == nil {
		s.dgrams.gro = new(groBuffer)
	}
}

// adoptGRO is SetGRO for a socket whose other owner has had the kernel coalesce datagrams.
func (s *Socket) adoptGRO() {
	if on, err := unix.GetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO); err == nil && on != 0 {
		s.dgrams.gro = new(groBuffer)
	}
}

// recvGRO is sysRecv for a socket with UDP_GRO. It receives one datagram.
func (s *Socket) recvGRO(p []byte, flags int, waitInKernel bool, from *rawSockaddr) (int, unix.Errno) {
	g := s.dgrams.gro
	if g.left.Load() == 0 {
		if errno := s.sysRecvGRO(waitInKernel); errno != 0 {
			return 0, errno
		}
	}
	datagram := g.rest[:min(g.size, len(g.rest))]
	copy(p, datagram)
	if from != nil {
		*from = g.from
	}
	if flags&unix.MSG_PEEK == 0 {
		g.rest = g.rest[len(datagram):]
		g.left.Add(-1)
	}
	return len(datagram), 0
}

// sysRecvGRO wraps recvmsg(2), into the groBuffer. It waits as sysRecv does.
func (s *Socket) sysRecvGRO(waitInKernel bool) unix.Errno {
	g := s.dgrams.gro
	g.iov.Base = &g.buf[0]
	g.iov.SetLen(len(g.buf))
	g.hdr = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&g.from.raw)), Namelen: unix.SizeofSockaddrAny,
		Iov: &g.iov, Control: (*byte)(unsafe.Pointer(&g.control)),
	}
	g.hdr.SetIovlen(1)
	g.hdr.SetControllen(maxControl)
	var n int
	var errno unix.Errno
	if waitInKernel {
		s.rd.threadWaker.prepare()
		if s.refs.Ending() || s.polled.Load() {
			return unix.EINTR
		}
		n, errno = s.rd.threadWaker.sleep(unix.SYS_RECVMSG, s.fd, unsafe.Pointer(&g.hdr), 0, 0, nil, nil)
	} else {
		r, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&g.hdr)), unix.MSG_DONTWAIT)
		n, errno = int(r), e
	}
	if errno != 0 {
		return errno
	}
	g.from.len = g.hdr.Namelen
	g.rest, g.size = g.buf[:n], g.segmentSize(n)
	g.left.Store(int32(max(1, (n+g.size-1)/max(g.size, 1))))
	raceAfterRecv(g.rest)
	return 0
}

// segmentSize is the size of each of the datagrams in n bytes received: n if it was only one.
func (g *groBuffer) segmentSize(n int) int {
	control := unsafe.Slice((*byte)(unsafe.Pointer(&g.control)), maxControl)[:g.hdr.Controllen]
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			if size := int(*(*int32)(unsafe.Pointer(&data[0]))); size > 0 {
				return size
			}
		}
		control = rest
	}
	return n
}

// discardGRO drops the datagrams that Buffered reports.
func (s *Socket) discardGRO() {
	if g := s.dgrams.gro; g != nil {
		g.left.Store(0)
	}
}
