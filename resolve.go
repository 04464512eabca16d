package client

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A network is the meaning of Dial's first argument: the socket type for each address
// family, or zero if the network does not have the family.
type network struct {
	name  string
	v4    Type
	v6    Type
	local Type
}

var networks = map[string]network{
	"tcp":      {name: "tcp", v4: TCP, v6: TCP6},
	"tcp4":     {name: "tcp4", v4: TCP},
	"tcp6":     {name: "tcp6", v6: TCP6},
	"udp":      {name: "udp", v4: UDP, v6: UDP6},
	"udp4":     {name: "udp4", v4: UDP},
	"udp6":     {name: "udp6", v6: UDP6},
	"unix":     {name: "unix", local: UnixStream},
	"unixgram": {name: "unixgram", local: UnixDgram},
}

func (n network) isTCP() bool    { return n.v4.isTCP() || n.v6.isTCP() }
func (n network) isStream() bool { return n.isTCP() || n.local == UnixStream }

// typeOf returns the socket type for a, or zero if the network has none.
func (n network) typeOf(a sock.Addr) Type {
	switch ip := a.IP.Addr(); {
	case ip.Is4():
		return n.v4
	case ip.Is6():
		return n.v6
	}
	return n.local
}

// parseLocal parses an address to bind: a unix name, or an IP address and a port, which
// may be 0. If the host is empty, the result has no IP address: see withWildcard.
func (n network) parseLocal(address string) (sock.Addr, error) {
	if n.local != 0 {
		return parseUnix(address)
	}
	host, port, err := n.splitHostPort(address)
	if err != nil {
		return sock.Addr{}, err
	}
	if host == "" {
		return sock.Addr{IP: netip.AddrPortFrom(netip.Addr{}, port)}, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return sock.Addr{}, &net.AddrError{Err: "not an IP address", Addr: host}
	}
	return n.sockAddr(ip, port)
}

// withWildcard replaces a missing host in an address to bind by the one that means all
// addresses of the machine, in the family of the socket's type.
func withWildcard(typ Type, a sock.Addr) sock.Addr {
	if typ.isUnix() || a.IP.Addr().IsValid() {
		return a
	}
	host := netip.IPv4Unspecified()
	if typ.domain() == unix.AF_INET6 {
		host = netip.IPv6Unspecified()
	}
	return sock.Addr{IP: netip.AddrPortFrom(host, a.IP.Port())}
}

// sockAddr returns the address if the network's sockets can use it, and a *net.AddrError
// otherwise.
func (n network) sockAddr(ip netip.Addr, port uint16) (sock.Addr, error) {
	if err := checkZone(ip); err != nil {
		return sock.Addr{}, err
	}
	a := sock.Addr{IP: netip.AddrPortFrom(ip.Unmap(), port)}
	if n.typeOf(a) == 0 {
		return sock.Addr{}, &net.AddrError{Err: "wrong address family for " + n.name, Addr: ip.String()}
	}
	return a, nil
}

// checkZone refuses a zone that the kernel would ignore. A zone is for addresses of less
// than global scope (RFC 4007, 11.2): the same address can exist on each link.
func checkZone(ip netip.Addr) error {
	if ip.Zone() == "" {
		return nil
	}
	// An IPv4 address has no zone, not even in IPv6 notation.
	if !ip.Is4In6() && (ip.IsLinkLocalUnicast() || ip.IsLoopback() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast()) {
		return nil
	}
	return &net.AddrError{Err: "zone on an address that is not link-local: remove the zone", Addr: ip.String()}
}

// splitHostPort is net.SplitHostPort with a numeric port. Service names are looked up in
// /etc/services, as package net does.
func (n network) splitHostPort(address string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if port, err = n.port(service); err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			ae.Addr = address
		}
		return "", 0, err
	}
	return host, port, nil
}

func (n network) port(service string) (uint16, error) {
	if number, err := strconv.ParseUint(service, 10, 16); err == nil {
		return uint16(number), nil
	}
	if strings.Trim(service, "+-0123456789") == "" {
		return 0, &net.AddrError{Err: "port is not a number from 0 to 65535"}
	}
	number, err := (&net.Resolver{PreferGo: true}).LookupPort(context.Background(), n.name, service)
	if err != nil {
		return 0, descriptorError(n.name+"/"+service, err)
	}
	return uint16(number), nil
}

// loopback is the host for an address without one, as in package net.
var loopback = map[int]netip.Addr{
	unix.AF_INET:  netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	unix.AF_INET6: netip.IPv6Loopback(),
}

// resolve returns the addresses to try, in order. More addresses of a name may follow
// from the addrLookup, which the caller must close; it is nil if there was nothing to look
// up. If local is not nil, only addresses of its family are looked up.
func resolve(ctx context.Context, n network, local *sock.Addr, address string, r Resolver, until sock.Instant, t *Trace) ([]sock.Addr, *addrLookup, error) {
	if n.local != 0 {
		a, err := parseUnix(address)
		return []sock.Addr{a}, nil, err
	}
	host, port, err := n.splitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	if port == 0 {
		return nil, nil, &net.AddrError{Err: "port 0 cannot be connected to", Addr: address}
	}
	ips := []netip.Addr{loopback[unix.AF_INET], loopback[unix.AF_INET6]}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		switch {
		case err == nil && ip == netip.IPv6Unspecified():
			// This is the Addr of a listener on ":0", also on a machine without IPv6.
			// Package net tries both families (golang.org/issue/18806).
			ips = []netip.Addr{ip, netip.IPv4Unspecified()}
		case err == nil:
			a, err := n.sockAddr(ip, port)
			return []sock.Addr{a}, nil, err
		default:
			if local != nil && local.IP.Addr().Is4() {
				n.v6 = 0
			} else if local != nil && local.IP.Addr().Is6() {
				n.v4 = 0
			}
			return t.lookup(ctx, n, host, port, r, until)
		}
	}
	addrs := n.addrs(ips, port)
	if len(addrs) == 0 {
		return nil, nil, &net.AddrError{Err: "no address for " + n.name, Addr: address}
	}
	return addrs, nil, nil
}

// hasName reports whether resolve looks up the host of an address.
func (n network) hasName(address string) bool {
	host, port, err := n.splitHostPort(address)
	if err != nil || port == 0 || host == "" {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err != nil
}

// sameFamily returns the addresses of the family of the local address.
func sameFamily(local *sock.Addr, addrs []sock.Addr) []sock.Addr {
	if local == nil || !local.IP.Addr().IsValid() {
		return addrs
	}
	v4, v6 := splitFamilies(addrs)
	if local.IP.Addr().Is4() {
		return v4
	}
	return v6
}

// addrs returns the addresses that the network's sockets can use.
func (n network) addrs(ips []netip.Addr, port uint16) []sock.Addr {
	addrs := make([]sock.Addr, 0, len(ips))
	for _, ip := range ips {
		if a, err := n.sockAddr(ip, port); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// netAddr converts a to package net's type for a client of type typ.
func netAddr(typ Type, a sock.Addr) net.Addr {
	switch {
	case typ.isUnix():
		return &net.UnixAddr{Name: cmp.Or(a.Path, "@"), Net: typ.String()} // "@": unnamed, as in package net
	case typ.isStream():
		return net.TCPAddrFromAddrPort(a.IP)
	}
	return net.UDPAddrFromAddrPort(a.IP)
}
