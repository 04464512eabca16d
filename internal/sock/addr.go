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

// zones remembers the names and numbers of interfaces. The kernel speaks in
// numbers and people in names, and to ask for either takes a dump of all
// interfaces, which is too much for each link-local datagram.
var zones struct {
	sync.Mutex
	name  map[uint32]string
	index map[string]uint32
	until Instant
}

const zonesFor = time.Minute

// lockZones locks, and forgets what is too old to be sure of.
func lockZones() {
	zones.Lock()
	if zones.name == nil || zones.until.Left() <= 0 {
		zones.name, zones.index, zones.until = make(map[uint32]string), make(map[string]uint32), In(zonesFor)
	}
}

// zoneIndex gives the interface that the zone of an IPv6 address names.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	lockZones()
	defer zones.Unlock()
	index, ok := zones.index[zone]
	if !ok {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return 0, &net.AddrError{Err: "unknown IPv6 zone", Addr: zone}
		}
		index = uint32(ifi.Index)
		zones.index[zone] = index
	}
	return index, nil
}

func zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	lockZones()
	defer zones.Unlock()
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
