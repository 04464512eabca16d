package client

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// A Resolver looks up the addresses of a host. *net.Resolver is one. Another one can cache
// answers, or ask elsewhere; several goroutines call it at once.
//
// The network is "ip", "ip4" or "ip6", for the address families that the dial can use, as in
// net.Resolver.LookupNetIP. Addresses that the dial cannot use are ignored. An IPv4-mapped IPv6
// address is an IPv4 address. Dial tries the addresses in their order, the two families in
// turns. No address and no error is a *net.DNSError that says that the host does not exist. An
// error should be a *net.DNSError.
//
// The context ends with the dial, or at its limit. Dial does not wait for a Resolver that goes
// on: its goroutine lasts until LookupNetIP returns. A panic in LookupNetIP is one of Dial,
// unless Dial has returned before.
//
// A nil *net.Resolver is net.DefaultResolver. A Pool compares Resolvers with ==: use a pointer
// or another type that can be compared. Otherwise Pool.Dial fails with an *OptionError.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// netResolver returns the resolver of package net that r is, if it is one.
func netResolver(r Resolver) (known *net.Resolver, ok bool) {
	if r == nil {
		return net.DefaultResolver, true
	}
	if known, ok = r.(*net.Resolver); ok && known == nil {
		known = net.DefaultResolver
	}
	return known, ok
}

// callResolver looks the host up with a Resolver that is not package net's. It has no early
// answers, and dials of one host do not share a lookup.
func (s *addrLookup) callResolver(r Resolver, families string) (leave func()) {
	var mu sync.Mutex
	left := false
	var ips []netip.Addr
	var err error
	startCallback(func() { ips, err = r.LookupNetIP(s.ctx, families, s.host) }, func(ended callbackResult) {
		switch {
		case !ended.returned():
			recordResolverPanic(s.ctx, ended)
			ips, err = nil, errNoReturn
		case err != nil:
			ips = nil
		case len(ips) == 0:
			err = &net.DNSError{Err: "no such host", Name: s.host, IsNotFound: true}
		}
		mu.Lock()
		defer mu.Unlock()
		if left || err != nil && s.ctx.Err() != nil {
			return // the dial reports that its limit is over, or that its context has ended
		}
		s.addFinal(ips, err)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		left = true
	}
}
