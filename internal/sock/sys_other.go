//go:build darwin || freebsd

package sock

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// alwaysPolled says that every descriptor is non-blocking and every wait is poll(2). The
// behaviour is that of Linux, but a reply costs three system calls instead of one.
const alwaysPolled = true

// hostIsolated is the error by an ICMP message of type 3, code 8.
const hostIsolated = unix.EHOSTUNREACH

// longestSleep bounds the sleep of a thread that no descriptor wakes: these systems cannot
// send a signal to one thread of a Go program.
const longestSleep = 10 * time.Millisecond

func (*threadWaker) interrupt() {}

func (*threadWaker) sleepPoll(fds []unix.PollFd, d time.Duration) (ready int, errno unix.Errno) {
	return sleepPoll(fds, d)
}

// sysQueuedLocked is 0: shutdown(2) leaves nothing to be received.
func (*Socket) sysQueuedLocked() (int, error) { return 0, nil }

// MaxPath is the length limit of a unix socket's name in bytes: sun_path without its
// terminating zero (unix(4)).
const MaxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// HasAbstractNames reports whether the system has abstract unix names.
const HasAbstractNames = false

// sleepPoll is the only function in which a thread waits in the kernel for a socket.
// poll(2) takes milliseconds. The limit is rounded up, so the call is never early.
func sleepPoll(fds []unix.PollFd, d time.Duration) (ready int, errno unix.Errno) {
	ms := -1
	if d != forever {
		const longest = time.Hour
		ms = int((min(d, longest) + time.Millisecond - 1) / time.Millisecond)
	}
	ready, err := unix.Poll(fds, ms)
	return max(ready, 0), errnoOf(err)
}

// pollNow is poll(2) without a wait.
func pollNow(fds []unix.PollFd) (ready int, errno unix.Errno) { return sleepPoll(fds, 0) }

func sysSocket(domain, typ, protocol int) (int, error) {
	// The lock prevents a fork until the descriptor is close-on-exec.
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(domain, typ, protocol)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if err := prepare(fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// prepare makes a descriptor ready for this package's calls.
func prepare(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NOSIGPIPE, 1); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}

// checkProtocol does nothing: not all of these systems tell the protocol of a socket.
func checkProtocol(int, bool) error { return nil }

// sysEnded reports false: these systems do not tell a connection that has ended from a new socket.
func (s *Socket) sysEnded() bool { return false }

// overflow receives the part of a datagram that does not fit the caller's buffer, so that
// its full size is known. These systems report only that it was truncated.
var overflow = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// sysPeek reports whether a byte is queued, and discards its copy.
func (s *Socket) sysPeek() (int, unix.Errno) {
	n, _, err := unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n, errnoOf(err)
}

func (s *Socket) sysRecv(p []byte, flags int, _ bool, from *rawSockaddr) (int, unix.Errno) {
	flags |= unix.MSG_DONTWAIT
	flags &^= unix.MSG_WAITALL
	if s.stream {
		n, _, err := unix.Recvfrom(s.fd, p, flags)
		raceAfterRecv(p[:max(n, 0)])
		return max(n, 0), errnoOf(err)
	}
	tail := overflow.Get().(*[]byte)
	defer overflow.Put(tail)
	n, _, _, sa, err := unix.RecvmsgBuffers(s.fd, [][]byte{p, *tail}, nil, flags)
	if err != nil {
		return 0, errnoOf(err)
	}
	if from != nil {
		from.sa = sa
	}
	raceAfterRecv(p[:min(n, len(p))])
	return n, 0
}

func (s *Socket) sysSend(p []byte, flags int, to *rawSockaddr) (int, unix.Errno) {
	raceBeforeSend()
	var sa unix.Sockaddr
	if to != nil {
		sa = to.sa
	}
	n, err := unix.SendmsgN(s.fd, p, nil, sa, flags|unix.MSG_DONTWAIT)
	n = max(n, 0)
	raceAfterSend(p[:n])
	if !s.stream && errors.Is(err, unix.ENOBUFS) {
		return 0, unix.EAGAIN // these systems return ENOBUFS for a full queue
	}
	return n, errnoOf(err)
}

// sysSendBuffers wraps sendmsg(2). It never sleeps.
func (s *Socket) sysSendBuffers(g *gather, flags int, to *rawSockaddr) (n, asked int, errno unix.Errno) {
	var pieces [][]byte
	for i := 0; i < len(g.bufs) && len(pieces) < maxIovecs && (!s.stream || asked < maxIO); i++ {
		if p := g.piece(i, s.stream, asked); len(p) > 0 {
			pieces = append(pieces, p)
			asked += len(p)
		}
	}
	var sa unix.Sockaddr
	if to != nil {
		sa = to.sa
	}
	raceBeforeSend()
	n, err := unix.SendmsgBuffers(s.fd, pieces, nil, sa, flags|unix.MSG_DONTWAIT)
	n = max(n, 0)
	g.raceAfterSend(n)
	if !s.stream && errors.Is(err, unix.ENOBUFS) {
		return 0, asked, unix.EAGAIN // as in sysSend
	}
	return n, asked, errnoOf(err)
}

func (s *Socket) sysConnect(to *rawSockaddr) unix.Errno { return errnoOf(unix.Connect(s.fd, to.sa)) }

func (s *Socket) sysBind(to *rawSockaddr) unix.Errno { return errnoOf(unix.Bind(s.fd, to.sa)) }

func (s *Socket) sysLocal(n *rawSockaddr) unix.Errno {
	var err error
	n.sa, err = unix.Getsockname(s.fd)
	return errnoOf(err)
}

func (s *Socket) sysPeer(n *rawSockaddr) unix.Errno {
	var err error
	n.sa, err = unix.Getpeername(s.fd)
	return errnoOf(err)
}

func (s *Socket) setBlocking() error { return nil }

func (s *Socket) disconnect() {}

func (s *Socket) waitsInKernel(time.Duration) bool { return false }

func (s *Socket) fitsKernelWait(Instant) bool { return false }

// A rawSockaddr is an address in the form of x/sys/unix.
type rawSockaddr struct{ sa unix.Sockaddr }

func (n *rawSockaddr) set(s *Socket, a Addr) error {
	switch s.domain {
	case unix.AF_INET:
		if !a.IP.Addr().Is4() {
			return unix.EAFNOSUPPORT
		}
		n.sa = &unix.SockaddrInet4{Port: int(a.IP.Port()), Addr: a.IP.Addr().As4()}
	case unix.AF_INET6:
		if !a.IP.Addr().Is6() && !(s.dual && a.IP.Addr().Is4()) {
			return unix.EAFNOSUPPORT
		}
		scope, err := s.zoneIndex(a.IP.Addr().Zone())
		if err != nil {
			return err
		}
		n.sa = &unix.SockaddrInet6{Port: int(a.IP.Port()), Addr: a.IP.Addr().As16(), ZoneId: scope}
	case unix.AF_UNIX:
		if a.IP.IsValid() {
			return unix.EAFNOSUPPORT
		}
		if len(a.Path) > MaxPath {
			return unix.ENAMETOOLONG
		}
		n.sa = &unix.SockaddrUnix{Name: a.Path}
	}
	return nil
}

func (n *rawSockaddr) addr(s *Socket) Addr {
	switch sa := n.sa.(type) {
	case *unix.SockaddrInet4:
		return Addr{IP: netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))}
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).WithZone(s.zoneName(sa.ZoneId))
		return Addr{IP: netip.AddrPortFrom(ip, uint16(sa.Port))}
	case *unix.SockaddrUnix:
		return Addr{Path: sa.Name}
	}
	return Addr{}
}

// processCPU is the CPU time that the process has used.
func processCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (*Socket) sysStillConnected() bool { return false }

func (*Socket) sysHandshaking() bool { return false } // no connect is deferred

func (*Socket) clearTimeout() {} // SO_RCVTIMEO is never set

func (*Socket) lendTimeout() {}
