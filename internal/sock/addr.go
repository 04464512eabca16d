package sock

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An Addr is a socket address: an IP address and port, or a unix name, in which a leading
// "@" means the abstract namespace. The zero Addr is no address.
type Addr struct {
	IP   netip.AddrPort
	Path string
}

// IsZero reports whether a is the zero Addr.
func (a Addr) IsZero() bool { return a == Addr{} }

// zoneIndex returns the interface index of an IPv6 zone. It is looked up each time. An
// interface can be renamed, or removed and created again, and the same name is another
// interface in another network namespace.
func (s *Socket) zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if '0' <= zone[0] && zone[0] <= '9' { // ParseUint allocates its error
		if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			return uint32(n), nil
		}
	}
	index, err := s.InterfaceIndex(zone)
	if err != nil {
		return 0, &net.AddrError{Err: "unknown IPv6 zone", Addr: zone}
	}
	return uint32(index), nil
}

// ZoneIndex returns the interface index of an IPv6 zone.
func (s *Socket) ZoneIndex(zone string) (int, error) {
	if err := s.incref(); err != nil {
		return 0, err
	}
	defer s.decref()
	index, err := s.zoneIndex(zone)
	return int(index), err
}

// zoneName is the reverse of zoneIndex. For an interface that does not exist it is the
// index in decimal.
func (s *Socket) zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	if name := s.interfaceName(index); name != "" {
		return name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// IsInterfaceName reports whether name is valid for an interface. The kernel truncates a
// longer one, or one with a zero byte, and uses the rest.
func IsInterfaceName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && strings.IndexByte(name, 0) < 0
}
