package sock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The options of setsockopt(2) that other systems lack or name differently.
const (
	KeepIdle = unix.TCP_KEEPIDLE

	UserTimeout = unix.TCP_USER_TIMEOUT
	FastOpen    = unix.TCP_FASTOPEN_CONNECT
	QuickAck    = unix.TCP_QUICKACK
	Mark        = unix.SO_MARK
	BusyPoll    = unix.SO_BUSY_POLL
	MPTCP       = unix.IPPROTO_MPTCP

	// The kernel's limits (include/net/tcp.h).
	MaxKeepAlive = 32767 // seconds
	MaxKeepCount = 127
)

// SetJoinedGroupsOnly limits a UDP socket to the multicast groups that it has joined. By
// default Linux also delivers those that any other socket of the machine has joined
// (IP_MULTICAST_ALL, ip(7)). IPv6 has the option since Linux 4.20.
func (s *Socket) SetJoinedGroupsOnly() error {
	level, option := unix.IPPROTO_IP, unix.IP_MULTICAST_ALL
	if s.domain == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL
	}
	err := s.SetInt(level, option, 0)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return err
}

// BindToDevice binds the socket to an interface by its name (SO_BINDTODEVICE).
func (s *Socket) BindToDevice(name string) error {
	return s.setsockopt(func() error { return unix.BindToDevice(s.fd, name) })
}

// TCPInfo returns TCP_INFO (tcp(7)). A field that the kernel does not know is zero.
func (s *Socket) TCPInfo() (*unix.TCPInfo, error) {
	if err := s.incref(); err != nil {
		return nil, err
	}
	defer s.decref()
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return info, os.NewSyscallError("getsockopt", err)
}
