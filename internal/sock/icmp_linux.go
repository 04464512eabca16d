package sock

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SetICMPErrors makes receives return ICMPErrors (IP_RECVERR, ip(7)). It is called before
// the socket is used.
func (s *Socket) SetICMPErrors() error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if s.domain == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	s.icmp = true
	if s.dual { // IPv4 has its own option, also on an IPv6 socket (__udp4_lib_err)
		if err := s.SetInt(unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
			return err
		}
	}
	return s.SetInt(level, option, 1)
}

// icmpErrorLocked consumes an error from the socket's error queue, or returns nil. The
// caller holds the receive lock.
func (s *Socket) icmpErrorLocked() error {
	if !s.icmp {
		return nil
	}
	var control [512]byte
	for {
		_, n, _, to, err := unix.Recvmsg(s.fd, nil, control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == unix.EINTR { //nolint:errorlint // a bare errno
			continue
		}
		if err != nil {
			return nil // the queue is empty
		}
		if e := parseICMP(control[:n]); e != nil { // nil: not from ICMP
			e.To = s.addrPortOf(to)
			return e
		}
	}
}

// parseICMP parses the control messages of MSG_ERRQUEUE: struct sock_extended_err and the
// address of its sender.
func parseICMP(control []byte) *ICMPError {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 16 {
			continue
		}
		if origin := m.Data[4]; origin != unix.SO_EE_ORIGIN_ICMP && origin != unix.SO_EE_ORIGIN_ICMP6 {
			continue // an error that the send has returned (SO_EE_ORIGIN_LOCAL), or a time stamp (SO_TIMESTAMPING)
		}
		e := &ICMPError{Errno: unix.Errno(binary.NativeEndian.Uint32(m.Data)), Type: m.Data[5], Code: m.Data[6]}
		if e.Errno == unix.EMSGSIZE {
			e.MTU = int(binary.NativeEndian.Uint32(m.Data[8:]))
		}
		switch by := m.Data[16:]; {
		case len(by) >= unix.SizeofSockaddrInet4 && binary.NativeEndian.Uint16(by) == unix.AF_INET:
			e.By = netip.AddrFrom4([4]byte(by[4:8]))
		case len(by) >= unix.SizeofSockaddrInet6 && binary.NativeEndian.Uint16(by) == unix.AF_INET6:
			e.By = netip.AddrFrom16([16]byte(by[8:24]))
		}
		return e
	}
	return nil
}

func (s *Socket) addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).WithZone(s.zoneName(a.ZoneId)), uint16(a.Port))
	}
	return netip.AddrPort{}
}
