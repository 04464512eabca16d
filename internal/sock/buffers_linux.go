package sock

import (
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

var iovecs = sync.Pool{New: func() any { return new([maxIovecs]unix.Iovec) }}

// sysSendBuffers wraps sendmsg(2). It never sleeps, and holds the array of a pool only during
// the system call.
func (s *Socket) sysSendBuffers(g *gather, flags int, to *rawSockaddr) (n, asked int, errno unix.Errno) {
	iov := iovecs.Get().(*[maxIovecs]unix.Iovec)
	count := 0
	for i := 0; i < len(g.bufs) && count < maxIovecs && (!s.stream || asked < maxIO); i++ {
		if p := g.piece(i, s.stream, asked); len(p) > 0 {
			iov[count] = unix.Iovec{Base: unsafe.SliceData(p)}
			iov[count].SetLen(len(p))
			asked += len(p)
			count++
		}
	}
	hdr := unix.Msghdr{Iov: &iov[0]}
	hdr.SetIovlen(count)
	if to != nil {
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&to.raw)), to.len
	}
	flags |= unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	raceBeforeSend()
	var r uintptr
	if asked <= shortCall && !s.tellsScheduler() {
		r, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&hdr)), uintptr(flags))
	} else {
		r, _, errno = unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&hdr)), uintptr(flags))
	}
	runtime.KeepAlive(to)
	clear(iov[:count])
	iovecs.Put(iov)
	if errno != 0 {
		return 0, asked, errno
	}
	g.raceAfterSend(int(r))
	return int(r), asked, 0
}
