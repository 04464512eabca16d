package sock

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SetICMPErrors has receives tell of what became of datagrams (IP_RECVERR, ip(7)).
// It is for before the socket is used.
func (s *Socket) SetICMPErrors() error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if s.domain == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	s.icmp = true
	return s.SetInt(level, option, 1)
}

// icmpErrorLocked takes an error from the socket's queue of them, or gives nil. The caller
// has the receiver's turn.
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
			return nil // there is none
		}
		if e := parseICMP(control[:n]); e != nil { // nil: not ICMP's, or told to the send whose it is
			e.To = s.addrPortOf(to)
			return e
		}
	}
}

// parseICMP reads the control messages of MSG_ERRQUEUE: struct sock_extended_err,
// and behind it the address of who has sent it.
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
		if m.Data[4] == unix.SO_EE_ORIGIN_LOCAL {
			continue // a send has been told
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
