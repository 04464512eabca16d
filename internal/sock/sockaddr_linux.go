package sock

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest name of a unix socket in bytes: all of sun_path, which
// needs no zero to end it when it is full (unix(7), BUGS). The "@" of an
// abstract name counts.
const MaxPath = len(unix.RawSockaddrUnix{}.Path)

// HasAbstractNames reports whether the system has unix names outside the file system.
const HasAbstractNames = true

// A rawSockaddr is an address as the kernel reads and writes it. It lives on the stack
// of the call that needs it: sending to an address allocates nothing.
type rawSockaddr struct {
	raw unix.RawSockaddrAny
	len uint32
}

// set writes an address for the socket s.
func (n *rawSockaddr) set(s *Socket, a Addr) error {
	switch s.domain {
	case unix.AF_INET:
		if !a.IP.Addr().Is4() {
			return unix.EAFNOSUPPORT
		}
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&n.raw))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: hton(a.IP.Port()), Addr: a.IP.Addr().As4()}
		n.len = unix.SizeofSockaddrInet4
	case unix.AF_INET6:
		if !a.IP.Addr().Is6() {
			return unix.EAFNOSUPPORT
		}
		scope, err := s.zoneIndex(a.IP.Addr().Zone())
		if err != nil {
			return err
		}
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&n.raw))
		*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: hton(a.IP.Port()), Addr: a.IP.Addr().As16(), Scope_id: scope}
		n.len = unix.SizeofSockaddrInet6
	case unix.AF_UNIX:
		if a.IP.IsValid() {
			return unix.EAFNOSUPPORT
		}
		if len(a.Path) > MaxPath {
			return unix.ENAMETOOLONG
		}
		sa := (*unix.RawSockaddrUnix)(unsafe.Pointer(&n.raw))
		*sa = unix.RawSockaddrUnix{Family: unix.AF_UNIX}
		copy(pathBytes(sa), a.Path)
		n.len = uint32(unsafe.Offsetof(sa.Path)) + uint32(len(a.Path))
		switch {
		case a.Path == "": // the family alone asks bind(2) for a name of the kernel's choice
		case a.Path[0] == '@':
			sa.Path[0] = 0 // an abstract name is all of its bytes, with no zero to end it
		case len(a.Path) < MaxPath:
			n.len++
		}
	}
	return nil
}

// addr reads an address that the socket s was given.
func (n *rawSockaddr) addr(s *Socket) Addr {
	if n.len < uint32(unsafe.Sizeof(n.raw.Addr.Family)) {
		return Addr{} // the peer of a datagram that has no name
	}
	switch n.raw.Addr.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&n.raw))
		return Addr{IP: netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), hton(sa.Port))}
	case unix.AF_INET6:
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&n.raw))
		ip := netip.AddrFrom16(sa.Addr).WithZone(s.zoneName(sa.Scope_id))
		return Addr{IP: netip.AddrPortFrom(ip, hton(sa.Port))}
	case unix.AF_UNIX:
		sa := (*unix.RawSockaddrUnix)(unsafe.Pointer(&n.raw))
		// The kernel counts a zero that it has no room for.
		length := int(n.len) - int(unsafe.Offsetof(sa.Path))
		return Addr{Path: pathOf(pathBytes(sa)[:min(max(length, 0), MaxPath)])}
	}
	return Addr{}
}

// pathBytes is sun_path, whose elements are signed on some architectures only.
func pathBytes(sa *unix.RawSockaddrUnix) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path)), len(sa.Path))
}

// pathOf reads a name out of sun_path, cut to the length the kernel gave.
func pathOf(p []byte) string {
	if len(p) == 0 {
		return ""
	}
	if p[0] == 0 {
		return "@" + string(p[1:])
	}
	for i, c := range p {
		if c == 0 {
			return string(p[:i])
		}
	}
	return string(p)
}

// hton turns a port from the host's order into the network's, and back.
func hton(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}
