package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

const (
	// resolutionDelay is how long a dial that has IPv4 addresses waits for the IPv6 ones
	// (RFC 8305, section 8: Resolution Delay).
	resolutionDelay = 50 * time.Millisecond

	// ipv4Delay is how long a dial that has IPv6 addresses waits for the IPv4 ones. RFC
	// 8305 does not wait. But two answers that arrive together are read one after the
	// other, and both are needed to sort the addresses by RFC 6724.
	ipv4Delay = 5 * time.Millisecond
)

// An addrLookup is the lookup of a host for one dial, by package net unless there is a Resolver
// of the caller's. Package net looks both address
// families up together: with two separate lookups, the families could be found in
// different domains of the search list, and so belong to different hosts. The answer of
// one family that arrives before the other is read from the resolver's connection; see
// sharedLookup.
type addrLookup struct {
	network network
	host    string
	port    uint16
	until   sock.Instant

	ctx     context.Context
	cancel  context.CancelFunc
	leave   func()
	answers chan lookupAnswer
	late    sock.MoreAddrs // hands addresses that arrive during the dial to the dial

	// For the goroutine that dials.
	pending bool        // package net has not answered
	early   []sock.Addr // addresses known before it has
	queued  []sock.Addr // addresses not tried yet
	err     error       // package net's
	lastV4  bool        // the family of the last attempt
	joined  bool        // another dial had started the lookup
}

type lookupAnswer struct {
	early bool // of one family, before package net has answered
	addrs []sock.Addr
	err   error
}

// startLookup starts the lookup of a host. The caller must call close.
func startLookup(ctx context.Context, n network, host string, port uint16, r Resolver, until sock.Instant) *addrLookup {
	// Room for an early answer of each family and for package net's.
	s := &addrLookup{network: n, host: host, port: port, until: until, pending: true, answers: make(chan lookupAnswer, 3)}
	if until == sock.Never {
		s.ctx, s.cancel = context.WithCancel(ctx)
	} else {
		s.ctx, s.cancel = context.WithTimeout(ctx, until.Left())
	}
	s.late.Update = s.takeLate
	family := "ip"
	if n.v6 == 0 {
		family = "ip4"
	} else if n.v4 == 0 {
		family = "ip6"
	}
	if known, ok := netResolver(r); ok {
		s.leave = cancelableResolverFor(known).join(ctx, s, family)
	} else {
		s.leave = s.callResolver(r, family)
	}
	return s
}

// close ends the lookup. When it returns, no goroutine or connection of it is left.
func (s *addrLookup) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.leave()
	s.late.Close()
}

// addEarly adds the addresses of one family.
func (s *addrLookup) addEarly(ips []netip.Addr) {
	if addrs := s.network.addrs(ips, s.port); len(addrs) > 0 {
		s.send(lookupAnswer{early: true, addrs: addrs})
	}
}

// addFinal adds package net's answer.
func (s *addrLookup) addFinal(ips []netip.Addr, err error) {
	addrs := s.network.addrs(ips, s.port)
	if err == nil && len(addrs) == 0 {
		err = &net.AddrError{Err: "no address for " + s.network.name, Addr: s.host}
	}
	s.send(lookupAnswer{addrs: addrs, err: err})
}

func (s *addrLookup) send(a lookupAnswer) {
	s.answers <- a // never blocks: three answers at most
	s.late.Notify()
}

// firstAddrs waits until the dial can begin: until package net has answered, or until one
// family is known and the delay for the other is over.
func (s *addrLookup) firstAddrs() ([]sock.Addr, error) {
	var delayOver <-chan time.Time
	for s.pending {
		select {
		case a := <-s.answers:
			s.queued = s.add(s.queued, a)
			switch {
			case a.early:
				delay := resolutionDelay
				if !a.addrs[0].IP.Addr().Is4() {
					delay = ipv4Delay
				}
				// If the limit is short, most of it is needed for the attempts.
				timer := time.NewTimer(min(delay, max(s.until.Left(), 0)/4))
				defer timer.Stop()
				delayOver = timer.C
			case a.err == nil:
				s.queued = a.addrs // all of them, in the order of RFC 6724
			}
		case <-delayOver:
			return s.ordered(), nil
		case <-s.ctx.Done():
			if len(s.queued) > 0 {
				return s.ordered(), nil
			}
			return nil, s.timeoutError()
		}
	}
	if len(s.queued) == 0 {
		return nil, s.err
	}
	return s.ordered(), nil
}

// drain adds the answers that have arrived.
func (s *addrLookup) drain() {
	for {
		select {
		case a := <-s.answers:
			s.queued = s.add(s.queued, a)
		default:
			return
		}
	}
}

// add appends the new addresses of an answer.
func (s *addrLookup) add(to []sock.Addr, a lookupAnswer) []sock.Addr {
	if a.early {
		s.early = append(s.early, a.addrs...)
		return append(to, a.addrs...)
	}
	s.pending, s.err = false, a.err
	for _, addr := range a.addrs {
		if !slices.Contains(s.early, addr) {
			to = append(to, addr)
		}
	}
	return to
}

// ordered returns the known addresses in the order of the attempts.
func (s *addrLookup) ordered() []sock.Addr {
	v4, v6 := splitFamilies(s.queued)
	return interleave(v4, v6, s.queued[0].IP.Addr().Is4())
}

// takeLate is MoreAddrs.Update: it orders the addresses not tried yet, alternating families.
func (s *addrLookup) takeLate(waiting []sock.Addr) (now []sock.Addr, more bool) {
	s.queued = waiting
	s.drain()
	v4, v6 := splitFamilies(s.queued)
	return interleave(v4, v6, !s.lastV4), s.pending
}

// noteAttempt records the family of an attempt.
func (s *addrLookup) noteAttempt(a sock.Addr) {
	if s != nil {
		s.lastV4 = a.IP.Addr().Is4()
	}
}

// lateAddrs is what the dial has to wait for besides its attempts; nil: nothing.
func (s *addrLookup) lateAddrs() *sock.MoreAddrs {
	if s == nil || !s.pending {
		return nil
	}
	return &s.late
}

// timeoutError is an error if package net has not answered, and nil otherwise.
func (s *addrLookup) timeoutError() error {
	if s.lateAddrs() == nil {
		return nil
	}
	return &timeoutError{cause: &net.DNSError{Err: "i/o timeout", Name: s.host, IsTimeout: true, IsTemporary: true}}
}

func splitFamilies(addrs []sock.Addr) (v4, v6 []sock.Addr) {
	for _, a := range addrs {
		if a.IP.Addr().Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

// interleave alternates the families (RFC 8305, section 4). Within a family it keeps the
// order, which is that of RFC 6724.
func interleave(v4, v6 []sock.Addr, v4First bool) []sock.Addr {
	first, second := v6, v4
	if v4First {
		first, second = v4, v6
	}
	out := make([]sock.Addr, 0, len(v4)+len(v6))
	for i := range max(len(first), len(second)) {
		out = append(out, first[min(i, len(first)):min(i+1, len(first))]...)
		out = append(out, second[min(i, len(second)):min(i+1, len(second))]...)
	}
	return out
}

// descriptorError replaces the error of a failed lookup if the process or the system has
// no file descriptor left. Package net reports a file that it cannot open, such as
// /etc/hosts, like a name that is not in the file.
func descriptorError(name string, err error) error {
	s, probe := sock.Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if probe == nil {
		_ = s.Close()
	}
	if isOutOfDescriptors(probe) {
		return dnsError(name, probe)
	}
	return err
}

func isOutOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

func dnsError(name string, cause error) error {
	return &net.DNSError{Err: cause.Error(), Name: name, IsTemporary: true, UnwrapErr: cause}
}
