package sock

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	alwaysPolled   = false
	pollPeerClosed = unix.POLLRDHUP
)

// shortCall is how many bytes a call that cannot wait may move without telling
// the Go scheduler. Up to here that costs more than the copy does. See tellsScheduler for
// when it is told all the same.
const shortCall = 4 << 10

// sysPeek looks whether there is a byte, which nobody gets to see. It is apart from
// sysRecv for the sake of its cost.
func (s *Socket) sysPeek() (n int, errno unix.Errno) {
	var p [1]byte
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p)), uintptr(len(p)),
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

// sysRecv wraps recvfrom(2). For a datagram n is its true size, which may be
// more than p holds. It sleeps only if wait is true, and then returns EINTR for a reason
// not to sleep there.
func (s *Socket) sysRecv(p []byte, flags int, waitInKernel bool, from *rawSockaddr) (n int, errno unix.Errno) {
	if !s.stream {
		flags |= unix.MSG_TRUNC // on a stream this would throw bytes away: tcp(7)
	}
	var addr, addrLen unsafe.Pointer
	if from != nil {
		from.len = unix.SizeofSockaddrAny
		addr, addrLen = unsafe.Pointer(&from.raw), unsafe.Pointer(&from.len)
	}
	buf := unsafe.Pointer(unsafe.SliceData(p))
	switch {
	case waitInKernel:
		s.rd.threadWaker.prepare()
		if s.life.isOver() || s.polled.Load() {
			return 0, unix.EINTR
		}
		n, errno = s.rd.threadWaker.sleep(unix.SYS_RECVFROM, s.fd, buf, len(p), flags, addr, addrLen)
	case len(p) <= shortCall && !s.tellsScheduler():
		r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(buf), uintptr(len(p)),
			uintptr(flags|unix.MSG_DONTWAIT), uintptr(addr), uintptr(addrLen))
		n, errno = int(r), e
	default:
		r, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(buf), uintptr(len(p)),
			uintptr(flags|unix.MSG_DONTWAIT), uintptr(addr), uintptr(addrLen))
		n, errno = int(r), e
	}
	if errno != 0 {
		return 0, errno
	}
	raceAfterRecv(p[:min(n, len(p))])
	return n, 0
}

// sysSend wraps sendto(2). It never sleeps and never raises SIGPIPE.
func (s *Socket) sysSend(p []byte, flags int, to *rawSockaddr) (n int, errno unix.Errno) {
	flags |= unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	var addr unsafe.Pointer
	var addrLen uint32
	if to != nil {
		addr, addrLen = unsafe.Pointer(&to.raw), to.len
	}
	raceBeforeSend()
	buf := unsafe.Pointer(unsafe.SliceData(p))
	var r uintptr
	if len(p) <= shortCall && !s.tellsScheduler() {
		r, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(buf), uintptr(len(p)),
			uintptr(flags), uintptr(addr), uintptr(addrLen))
	} else {
		r, _, errno = unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(buf), uintptr(len(p)),
			uintptr(flags), uintptr(addr), uintptr(addrLen))
	}
	if errno != 0 {
		return 0, errno
	}
	raceAfterSend(p[:r])
	return int(r), 0
}

// sysSocket wraps socket(2). A stream socket starts out non-blocking, for the
// sake of connect(2), which has no flag for that.
func sysSocket(domain, typ, protocol int) (int, error) {
	if typ == unix.SOCK_STREAM {
		typ |= unix.SOCK_NONBLOCK
	}
	return unix.Socket(domain, typ|unix.SOCK_CLOEXEC, protocol)
}

func (s *Socket) sysConnect(to *rawSockaddr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	runtime.KeepAlive(to)
	return errno
}

func (s *Socket) sysBind(to *rawSockaddr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(s.fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	runtime.KeepAlive(to)
	return errno
}

func (s *Socket) sysLocal(n *rawSockaddr) unix.Errno {
	n.len = unix.SizeofSockaddrAny
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(s.fd),
		uintptr(unsafe.Pointer(&n.raw)), uintptr(unsafe.Pointer(&n.len)))
	return errno
}

func (s *Socket) sysPeer(n *rawSockaddr) unix.Errno {
	n.len = unix.SizeofSockaddrAny
	_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(s.fd),
		uintptr(unsafe.Pointer(&n.raw)), uintptr(unsafe.Pointer(&n.len)))
	return errno
}

// setBlocking ends what the connect needed: from here on the descriptor blocks,
// so that a receive can wait inside recv(2).
func (s *Socket) setBlocking() error {
	if !s.stream {
		return nil
	}
	return s.setNonblock(false)
}

// disconnect dissolves a connect that failed, so that the same socket can be
// used for another: connect(2), AF_UNSPEC. A datagram socket has nothing to
// dissolve, and would lose the port that the kernel picked for it.
func (s *Socket) disconnect() {
	if !s.stream {
		return
	}
	_ = s.sysConnect(&rawSockaddr{raw: unix.RawSockaddrAny{Addr: unix.RawSockaddr{Family: unix.AF_UNSPEC}}, len: unix.SizeofSockaddrInet4})
}

// kernelWaitFrom is the shortest limit that SO_RCVTIMEO is used for, which the kernel
// counts in ticks.
const (
	kernelWaitFrom = 100 * time.Millisecond
	longestTick    = 10 * time.Millisecond
)

// kernelWait is what SO_RCVTIMEO is set to for a limit; a negative one is none.
//
// The kernel's timers are late by a tick or an eighth of their length, whichever
// is more (timer wheel, kernel/time/timer.c). So it is three quarters of the limit,
// and ppoll(2), which is exact, waits out the last one: a call that gets its answer pays
// nothing for it, one that does not is on time. There always is one, since without
// SO_RCVTIMEO a signal restarts the call (signal(7), SA_RESTART) and nobody could end it.
func kernelWait(timeout time.Duration) time.Duration {
	if timeout < 0 {
		return longestSleep
	}
	return min(timeout/4*3, longestSleep)
}

// waitsInKernel prepares a receive that waits inside recvfrom(2) for a part of
// timeout, and reports false if it has to poll instead.
func (s *Socket) waitsInKernel(timeout time.Duration) bool {
	if s.polled.Load() || timeout >= 0 && timeout < kernelWaitFrom {
		return false
	}
	wait := kernelWait(timeout)
	if int64(wait) == s.rcvTimeout.Load() {
		return true
	}
	tv := unix.NsecToTimeval(int64(wait))
	if unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv) != nil {
		return false
	}
	s.rcvTimeout.Store(int64(wait))
	return true
}

// clearTimeout takes SO_RCVTIMEO back, which is the socket's and not the descriptor's: another
// process may go on with a duplicate.
func (s *Socket) clearTimeout() {
	if s.rcvTimeout.Load() > 0 {
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, new(unix.Timeval))
	}
}

// fitsKernelWait reports whether the kernel's wait, which has a fixed length, would still
// end before until: it is late by at most an eighth and a tick, see kernelWait.
func (s *Socket) fitsKernelWait(until Instant) bool {
	wait := time.Duration(s.rcvTimeout.Load()) // or unknown, if the descriptor was lent meanwhile
	if s.polled.Load() {
		return false // a deadline was set meanwhile
	}
	return wait >= 0 && until.Left() > wait+wait/8+longestTick
}

// processCPU is how much CPU time the process has used.
func processCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// sysQueuedLocked is how many bytes of a stream can be received without waiting. The caller has
// the turn to receive.
func (s *Socket) sysQueuedLocked() (int, error) {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	if err != nil || s.domain == unix.AF_UNIX {
		return n, err
	}
	// Of TCP it counts up to an urgent byte (tcp_inq), unless that is received with the rest.
	inline, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE)
	if err != nil || inline != 0 {
		return n, err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return n, err
	}
	all, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	if e := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 0); err == nil {
		err = e
	}
	if all > n {
		all-- // the urgent byte
	}
	return all, err
}

// The states of TCP as TCP_INFO has them (net/tcp_states.h).
const (
	tcpSynSent = 2
	tcpClose   = 7
)

func (s *Socket) tcpState() (state uint8, ok bool) {
	if !s.stream || s.domain == unix.AF_UNIX {
		return 0, false
	}
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.State, true
}

// sysStillConnected reports whether a connection is one still, after an error.
func (s *Socket) sysStillConnected() bool {
	state, ok := s.tcpState()
	return ok && state != tcpClose
}

// sysHandshaking reports whether a handshake is under way.
func (s *Socket) sysHandshaking() bool {
	state, ok := s.tcpState()
	return ok && state == tcpSynSent
}
