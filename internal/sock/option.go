package sock

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// SetInt wraps setsockopt(2).
func (s *Socket) SetInt(level, option, value int) error {
	return s.setsockopt(func() error { return unix.SetsockoptInt(s.fd, level, option, value) })
}

// SetLinger makes close(2) wait up to seconds for unsent data to be sent. 0 discards it
// and resets the connection (SO_LINGER, socket(7)).
func (s *Socket) SetLinger(seconds int) error {
	return s.setsockopt(func() error {
		return unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(seconds)})
	})
}

// SetMulticastInterface sets the interface, by its index, that multicast datagrams are
// sent from.
func (s *Socket) SetMulticastInterface(iface int) error {
	return s.setsockopt(func() error {
		if s.domain == unix.AF_INET6 {
			return unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, iface)
		}
		return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(iface)})
	})
}

// JoinGroup joins a multicast group on an interface. Index 0 lets the system choose.
func (s *Socket) JoinGroup(group netip.Addr, iface int) error {
	return s.setsockopt(func() error {
		if s.domain == unix.AF_INET6 {
			return unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(iface)})
		}
		return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(iface)})
	})
}

func (s *Socket) setsockopt(call func() error) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	return os.NewSyscallError("setsockopt", call())
}
