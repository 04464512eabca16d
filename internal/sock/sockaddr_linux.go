package sock

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxPath is the length limit of a unix socket's name in bytes: all of sun_path, which
// needs no terminating zero when it is full (unix(7), BUGS). The "@" of an abstract name
// counts.
const MaxPath = len(unix.RawSockaddrUnix{}.Path)

// HasAbstractNames reports whether the system has abstract unix names.
const HasAbstractNames = true

// A rawSockaddr is an address in the kernel's form. It lives on the stack of the call
// that needs it, so sending to an address allocates nothing.
type rawSockaddr struct {
	raw unix.RawSockaddrAny
	len uint32
}

// set stores an address for the socket s.
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
		if !a.IP.Addr().Is6() && (!s.dual || !a.IP.Addr().Is4()) {
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
		case a.Path == "": // the family alone makes bind(2) choose a name
		case a.Path[0] == '@':
			sa.Path[0] = 0 // an abstract name has no terminating zero
		case len(a.Path) < MaxPath:
			n.len++
		}
	}
	return nil
}

// addr returns the address that the kernel stored for the socket s.
func (n *rawSockaddr) addr(s *Socket) Addr {
	if n.len < uint32(unsafe.Sizeof(n.raw.Addr.Family)) {
		return Addr{} // the sender of a datagram has no name
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
		// The kernel's length includes a terminating zero even if it does not fit.
		length := int(n.len) - int(unsafe.Offsetof(sa.Path))
		return Addr{Path: pathOf(pathBytes(sa)[:min(max(length, 0), MaxPath)])}
	}
	return Addr{}
}

// pathBytes is sun_path as bytes. Its elements are signed on some architectures.
func pathBytes(sa *unix.RawSockaddrUnix) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path)), len(sa.Path))
}

// pathOf reads a name from sun_path, cut to the length from the kernel.
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

// hton converts a port between host and network byte order.
func hton(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}
