package sock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The errors of FromFD about what the descriptor is.
var (
	ErrNotSocket  = fmt.Errorf("the file is not a socket: %w", unix.ENOTSOCK)
	ErrListening  = errors.New("the socket listens for connections: use net.FileListener")
	ErrSocketKind = errors.New("the socket is none of TCP, UDP and unix streams and datagrams")
)

// FromFD makes a Socket of a duplicate of a descriptor. The two share the socket: connected is
// whether it has a peer, or had one until the connection ended. The socket's SO_RCVTIMEO is left
// alone, and so is O_NONBLOCK, except for a stream without a peer, and on systems other than
// Linux: it is set there.
func FromFD(fd int) (s *Socket, connected bool, err error) {
	domain, stream, err := kindOf(fd)
	if err != nil {
		return nil, false, err
	}
	fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, false, os.NewSyscallError("fcntl", err)
	}
	s = newSocket(fd, domain, stream)
	s.shared = true
	s.polled.Store(true) // so that no call sets SO_RCVTIMEO
	if connected, err = s.adopt(); err != nil {
		_ = s.Close()
		return nil, false, err
	}
	return s, connected, nil
}

// kindOf returns what socket a descriptor is, if this package can use it.
func kindOf(fd int) (domain int, stream bool, err error) {
	get := func(option int) (n int) {
		if err == nil {
			n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		}
		return n
	}
	typ, listens := get(unix.SO_TYPE), get(unix.SO_ACCEPTCONN)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return 0, false, ErrNotSocket
	case err != nil:
		return 0, false, os.NewSyscallError("getsockopt", err)
	case typ != unix.SOCK_STREAM && typ != unix.SOCK_DGRAM:
		return 0, false, fmt.Errorf("%w: its type is %d", ErrSocketKind, typ)
	case listens != 0:
		return 0, false, ErrListening
	}
	stream = typ == unix.SOCK_STREAM
	local, err := unix.Getsockname(fd)
	switch local.(type) {
	case *unix.SockaddrUnix:
		return unix.AF_UNIX, stream, nil
	case *unix.SockaddrInet4:
		domain = unix.AF_INET
	case *unix.SockaddrInet6:
		domain = unix.AF_INET6
	default:
		if err != nil {
			return 0, false, fmt.Errorf("%w: %w", ErrSocketKind, os.NewSyscallError("getsockname", err))
		}
		return 0, false, fmt.Errorf("%w: its address is a %T", ErrSocketKind, local)
	}
	return domain, stream, checkProtocol(fd, stream)
}

// adopt finds out about a socket that another program may have made.
func (s *Socket) adopt() (connected bool, err error) {
	if err := prepare(s.fd); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	flags, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	s.nonblocking = flags&unix.O_NONBLOCK != 0
	if s.domain == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return false, os.NewSyscallError("getsockopt", err)
		}
		s.dual = only == 0
	}
	if !s.stream && s.domain != unix.AF_UNIX {
		s.adoptGRO()
	}
	var local, peer rawSockaddr
	if errno := s.sysLocal(&local); errno != 0 {
		return false, os.NewSyscallError("getsockname", errno)
	}
	s.localAddr = local.addr(s)
	if s.sysPeer(&peer) == 0 {
		s.peerAddr = peer.addr(s)
		return true, nil
	}
	if !s.stream {
		return false, nil
	}
	if s.sysEnded() {
		return true, nil // its peer's address is lost, but not what has arrived
	}
	return false, s.makeNonblocking() // connect(2) has no flag for that
}

// Kind returns the address family and whether the socket is a stream.
func (s *Socket) Kind() (domain int, stream bool) { return s.domain, s.stream }
