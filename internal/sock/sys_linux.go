package sock

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	alwaysPolled   = false
	pollPeerClosed = unix.POLLRDHUP
)

// shortCall is how many bytes a non-blocking call transfers without telling the Go
// scheduler. Up to this size telling it costs more than the copy. See tellsScheduler.
const shortCall = 4 << 10

// hostIsolated is the error by an ICMP message of type 3, code 8 (icmp_err_convert).
const hostIsolated = unix.ENONET

// sysPeek reports whether a byte is queued, and discards its copy. It is separate from
// sysRecv because a pool calls it on each checkout.
func (s *Socket) sysPeek() (n int, errno unix.Errno) {
	if s.Buffered() {
		return 1, 0
	}
	var p [1]byte
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p)), uintptr(len(p)),
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

// sysRecv wraps recvfrom(2). For a datagram n is its full size, which may be more than
// len(p). It sleeps only if waitInKernel is true, and then returns EINTR if there is a
// reason not to sleep there.
func (s *Socket) sysRecv(p []byte, flags int, waitInKernel bool, from *rawSockaddr) (n int, errno unix.Errno) {
	if s.dgrams.gro != nil {
		return s.recvGRO(p, flags, waitInKernel, from)
	}
	if !s.stream {
		flags |= unix.MSG_TRUNC // on a stream it would discard bytes: tcp(7)
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
		if s.refs.Ending() || s.polled.Load() {
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
	if s.dgrams.segmentSize > 0 {
		return s.sysSendSegments(p, flags, to)
	}
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

// sysSocket wraps socket(2). A stream socket is non-blocking at first, because connect(2)
// has no flag for that.
func sysSocket(domain, typ, protocol int) (int, error) {
	if typ == unix.SOCK_STREAM {
		typ |= unix.SOCK_NONBLOCK
	}
	return unix.Socket(domain, typ|unix.SOCK_CLOEXEC, protocol)
}

// prepare does nothing: the calls of this package have flags for what they need.
func prepare(int) error { return nil }

// checkProtocol refuses an IP socket of a protocol other than TCP and UDP, such as SCTP, UDP-Lite
// and the datagram sockets of ICMP.
func checkProtocol(fd int, stream bool) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case stream && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP), !stream && protocol == unix.IPPROTO_UDP:
		return nil
	}
	return fmt.Errorf("%w: its protocol is %d", ErrSocketKind, protocol)
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

// setBlocking makes a connected stream socket blocking, so that a receive can wait inside
// recvfrom(2).
func (s *Socket) setBlocking() error {
	if !s.stream {
		return nil
	}
	return s.setNonblock(false)
}

// disconnect undoes a failed connect, so that the socket can connect to another address:
// connect(2), AF_UNSPEC. On a datagram socket there is nothing to undo, and it would lose
// the port that the kernel chose.
func (s *Socket) disconnect() {
	if !s.stream {
		return
	}
	_ = s.sysConnect(&rawSockaddr{raw: unix.RawSockaddrAny{Addr: unix.RawSockaddr{Family: unix.AF_UNSPEC}}, len: unix.SizeofSockaddrInet4})
}

const (
	kernelWaitFrom = 100 * time.Millisecond // the shortest timeout that SO_RCVTIMEO is used for
	longestTick    = 10 * time.Millisecond  // the unit of SO_RCVTIMEO, at CONFIG_HZ=100
)

// kernelWait is the value of SO_RCVTIMEO for a timeout. A negative timeout is no limit.
//
// The kernel's timers are late by a tick or an eighth of their length, whichever is more
// (timer wheel, kernel/time/timer.c). So recvfrom(2) waits for three quarters of the
// timeout, and ppoll(2), which is exact, for the rest. A call that gets its answer pays
// nothing for that, and one that does not is on time.
//
//	0                                  3/4             1
//	├─ recvfrom(2), late by ≤ 1/8 ──────┼── ppoll(2) ───┤ os.ErrDeadlineExceeded
//
// SO_RCVTIMEO is always set: without it a signal restarts recvfrom(2) (signal(7),
// SA_RESTART), and no other goroutine could end it.
func kernelWait(timeout time.Duration) time.Duration {
	if timeout < 0 {
		return longestSleep
	}
	return min(timeout/4*3, longestSleep)
}

// waitsInKernel prepares a receive that waits inside recvfrom(2) for a part of timeout.
// It reports false if the receive has to wait in ppoll(2).
func (s *Socket) waitsInKernel(timeout time.Duration) bool {
	if s.polled.Load() || s.alwaysParks.Load() || timeout >= 0 && timeout < kernelWaitFrom {
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

// clearTimeout resets SO_RCVTIMEO. It belongs to the socket and not to the descriptor, so
// another process with a duplicate would inherit it.
func (s *Socket) clearTimeout() {
	lent := s.lentTimeout.Load()
	if s.rcvTimeout.Load() > 0 || lent > 0 && lent == s.sysTimeout() {
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, new(unix.Timeval))
	}
}

// lendTimeout is called before other code gets the descriptor, which may set SO_RCVTIMEO. If it
// does not, what is there at the end is still to be reset.
func (s *Socket) lendTimeout() {
	if s.rcvTimeout.Load() > 0 {
		s.lentTimeout.Store(s.sysTimeout())
	}
}

// sysTimeout is SO_RCVTIMEO in nanoseconds, in the kernel's rounding, or 0.
func (s *Socket) sysTimeout() int64 {
	tv, err := unix.GetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	if err != nil {
		return 0
	}
	return tv.Nano()
}

// fitsKernelWait reports whether a wait inside recvfrom(2), which has a fixed length,
// ends before until. It is late by at most an eighth and a tick; see kernelWait.
func (s *Socket) fitsKernelWait(until Instant) bool {
	wait := time.Duration(s.rcvTimeout.Load()) // unknownTimeout, which is negative, after a RawConn callback
	if s.polled.Load() {
		return false // a deadline was set since
	}
	return wait >= 0 && until.Left() > wait+wait/8+longestTick
}

// processCPU is the CPU time that the process has used.
func processCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// sysQueuedLocked is how many bytes of a stream are queued to be received. The caller
// holds the receive lock.
func (s *Socket) sysQueuedLocked() (int, error) {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	if err != nil || s.domain == unix.AF_UNIX {
		return n, err
	}
	// For TCP, SIOCINQ counts up to an urgent byte (tcp_inq), unless SO_OOBINLINE is set.
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

// TCP states in TCP_INFO (net/tcp_states.h).
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

// sysStillConnected reports whether a TCP connection is still up after an error.
func (s *Socket) sysStillConnected() bool {
	state, ok := s.tcpState()
	return ok && state != tcpClose
}

// sysEnded reports whether a stream without a peer had one. A TCP connection that both sides have
// ended, or that was reset, is in the state of a new socket, but shut down (tcp_done).
func (s *Socket) sysEnded() bool {
	fds := [...]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLRDHUP}}
	for {
		if _, errno := pollNow(fds[:]); errno != unix.EINTR {
			return errno == 0 && fds[0].Revents&unix.POLLRDHUP != 0
		}
	}
}

// sysHandshaking reports whether the TCP handshake is not over.
func (s *Socket) sysHandshaking() bool {
	state, ok := s.tcpState()
	return ok && state == tcpSynSent
}

func (s *Socket) sysUnacknowledged() (int, error) {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if s.state.Load()&writeClosed != 0 {
		n-- // the FIN, whose acknowledgement may be delayed by 40 ms
	}
	return n, err
}
