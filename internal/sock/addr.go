package sock

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An Addr is where a socket is or sends to: IP and port, or a unix name, in
// which a leading "@" means the abstract namespace. The zero Addr is no address.
type Addr struct {
	IP   netip.AddrPort
	Path string
}

// IsZero reports whether a is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// zoneIndex gives the interface that the zone of an IPv6 address names. It is looked
// up each time: an interface can be renamed, or removed and made again, and the same
// name is another interface in another network namespace.
func (s *Socket) zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if '0' <= zone[0] && zone[0] <= '9' { // ParseUint allocates for what is no number
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

// ZoneIndex is zoneIndex for who has no name to set.
func (s *Socket) ZoneIndex(zone string) (int, error) {
	if err := s.incref(); err != nil {
		return 0, err
	}
	defer s.decref()
	index, err := s.zoneIndex(zone)
	return int(index), err
}

// zoneName is the reverse of zoneIndex. An interface that is gone has only its number.
func (s *Socket) zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	if name := s.interfaceName(index); name != "" {
		return name
	}
	return strconv.FormatUint(uint64(index), 10)
}

// IsInterfaceName reports whether an interface can have the name: the kernel cuts a
// longer one, and one with a zero byte, and takes what is left for another.
func IsInterfaceName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && strings.IndexByte(name, 0) < 0
}
