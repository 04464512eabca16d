package sock

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// An Addr is where a socket is or sends to: IP and port, or a unix name, in
// which a leading "@" means the abstract namespace. The zero Addr is no address.
type Addr struct {
	IP   netip.AddrPort
	Path string
}

// IsZero reports whether a is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// zoneIndex gives the interface that the zone of an IPv6 address names.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, &net.AddrError{Err: "unknown IPv6 zone", Addr: zone}
	}
	return uint32(ifi.Index), nil
}

// zones remembers interface names, which the kernel gives as numbers: asking
// for a name takes a dump of all interfaces, and link-local datagrams come in
// numbers.
var zones struct {
	sync.Mutex
	name  map[uint32]string
	until Instant
}

const zonesFor = time.Minute

func zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	zones.Lock()
	defer zones.Unlock()
	if zones.name == nil || zones.until.Left() <= 0 {
		zones.name, zones.until = make(map[uint32]string), In(zonesFor)
	}
	name, ok := zones.name[index]
	if !ok {
		name = strconv.FormatUint(uint64(index), 10)
		if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
			name = ifi.Name
		}
		zones.name[index] = name
	}
	return name
}
