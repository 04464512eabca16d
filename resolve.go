package client

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A network is what Dial's first argument stands for: the types of socket that
// can reach an address of each family, zero where none can.
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

// typeOf is the type of socket that reaches a, zero if the network has none.
func (n network) typeOf(a sock.Addr) Type {
	switch ip := a.IP.Addr(); {
	case ip.Is4():
		return n.v4
	case ip.Is6():
		return n.v6
	}
	return n.local
}

// parseLocal reads an address to bind: an IP address, or none for all of the
// machine's, and a port, which may be 0; or a unix name. Without an IP address
// what it gives has none either: see wildcard.
func (n network) parseLocal(address string) (sock.Addr, error) {
	if n.local != 0 {
		return parseUnix(address)
	}
	host, port, err := splitHostPort(address)
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
	return n.suitable(ip, port)
}

// wildcard gives an address to bind that names no host the host that stands for
// all of the machine's, in the family of the socket's type.
func wildcard(typ Type, a sock.Addr) sock.Addr {
	if typ.isUnix() || a.IP.Addr().IsValid() {
		return a
	}
	host := netip.IPv4Unspecified()
	if typ.domain() == unix.AF_INET6 {
		host = netip.IPv6Unspecified()
	}
	return sock.Addr{IP: netip.AddrPortFrom(host, a.IP.Port())}
}

// suitable makes an address of an IP address that the network's sockets can use.
func (n network) suitable(ip netip.Addr, port uint16) (sock.Addr, error) {
	a := sock.Addr{IP: netip.AddrPortFrom(ip.Unmap(), port)}
	if n.typeOf(a) == 0 {
		return sock.Addr{}, &net.AddrError{Err: "wrong address family for " + n.name, Addr: ip.String()}
	}
	return a, nil
}

// splitHostPort is net.SplitHostPort with the port as a number. Service names
// are not looked up: "http" is as wrong as "70000".
func splitHostPort(address string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: address}
	}
	return host, uint16(number), nil
}

// resolve gives the addresses that a name stands for, in the order in which to
// try them. Only a name takes time and the resolver.
func resolve(ctx context.Context, n network, address string, r *net.Resolver, until sock.Instant) ([]sock.Addr, error) {
	if n.local != 0 {
		a, err := parseUnix(address)
		return []sock.Addr{a}, err
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		return nil, &net.AddrError{Err: "port 0 cannot be connected to", Addr: address}
	}
	ips := []netip.Addr{loopback[unix.AF_INET], loopback[unix.AF_INET6]}
	if host != "" {
		ip, err := netip.ParseAddr(host)
		switch {
		case err == nil && ip == netip.IPv6Unspecified():
			// A listener on ":0" says that this is its address, also to those who come
			// over IPv4 alone; package net tries both (golang.org/issue/18806).
			ips = []netip.Addr{ip, netip.IPv4Unspecified()}
		case err == nil:
			a, err := n.suitable(ip, port)
			return []sock.Addr{a}, err
		default:
			if ips, err = lookup(ctx, n, host, r, until); err != nil {
				return nil, err
			}
		}
	}
	addrs := make([]sock.Addr, 0, len(ips))
	for _, ip := range ips {
		if a, err := n.suitable(ip, port); err == nil {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: "no address for " + n.name, Addr: address}
	}
	return interleave(addrs), nil
}

// loopback stands for the host that is not named, as in package net.
var loopback = map[int]netip.Addr{
	unix.AF_INET:  netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	unix.AF_INET6: netip.IPv6Loopback(),
}

func lookup(ctx context.Context, n network, host string, r *net.Resolver, until sock.Instant) ([]netip.Addr, error) {
	if r == nil {
		r = net.DefaultResolver
	}
	r = tie(r)
	if until != sock.Never {
		limited, cancel := context.WithTimeout(ctx, until.Left())
		defer cancel()
		ctx = limited
	}
	family := "ip"
	switch {
	case n.v6 == 0:
		family = "ip4"
	case n.v4 == 0:
		family = "ip6"
	}
	ips, err := r.LookupNetIP(ctx, family, host)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, &limitError{cause: err}
	}
	return ips, err
}

// A tied resolver closes its connections when the lookup that they are for is
// given up. Left to itself a net.Resolver keeps one that waits for a silent
// server, and the goroutine with it, for the resolver's own 5 s: a
// context does not reach a read that is under way (net/dnsclient_unix.go). A
// lookup by the system's library, where Go uses that, cannot be ended at all.
type tiedResolver struct {
	of *net.Resolver
	r  *net.Resolver
}

// lastTied is kept because a net.Resolver asks once for all who look up the
// same name at the same time, as long as they share it.
var lastTied atomic.Pointer[tiedResolver]

func tie(of *net.Resolver) *net.Resolver {
	if t := lastTied.Load(); t != nil && t.of == of && t.r.PreferGo == of.PreferGo && t.r.StrictErrors == of.StrictErrors {
		return t.r
	}
	r := &net.Resolver{PreferGo: of.PreferGo, StrictErrors: of.StrictErrors}
	r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dial := of.Dial
		if dial == nil {
			dial = new(net.Dialer).DialContext
		}
		conn, err := dialResolver(ctx, dial, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, nil
	}
	lastTied.Store(&tiedResolver{of, r})
	return r
}

// interleave orders addresses as RFC 8305, section 4, has it: families take
// turns, beginning with that of the first address, which RFC 6724 has put first;
// within a family the order stays.
func interleave(addrs []sock.Addr) []sock.Addr {
	first := addrs[0].IP.Addr().Is4()
	var same, other []sock.Addr
	for _, a := range addrs {
		if a.IP.Addr().Is4() == first {
			same = append(same, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]sock.Addr, 0, len(addrs))
	for i := range max(len(same), len(other)) {
		if i < len(same) {
			out = append(out, same[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
}

// stagger is how long to wait for one of n addresses before starting the next
// too: a quarter of a second, as RFC 8305, section 8, recommends, but so little
// that each gets its chance within the limit.
func stagger(n int, until sock.Instant) time.Duration {
	const recommended = 250 * time.Millisecond
	return min(recommended, max(until.Left(), 0)/time.Duration(n+1))
}

// netAddr is a as package net has it for a client of type typ.
func netAddr(typ Type, a sock.Addr) net.Addr {
	switch {
	case typ.isUnix():
		return &net.UnixAddr{Name: cmp.Or(a.Path, "@"), Net: typ.String()} // "@" is no name, as in package net
	case typ.isStream():
		return net.TCPAddrFromAddrPort(a.IP)
	}
	return net.UDPAddrFromAddrPort(a.IP)
}
