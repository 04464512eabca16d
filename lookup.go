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
	// resolutionDelay is how long a name that has IPv4 addresses may keep a dial waiting
	// for the IPv6 ones: RFC 8305, section 8.
	resolutionDelay = 50 * time.Millisecond

	// togetherDelay is the same the other way round. RFC 8305 starts at once, but two
	// answers that come together come one after the other, and whether RFC 6724 has its
	// say in who is first is not to depend on that.
	ipv4Delay = 5 * time.Millisecond
)

// A search is a name that is being looked up. Package net is asked for both families of
// addresses together, for only so are they of one name: of the families asked separately
// one can be found in another domain of the search list, which is another host. What
// comes early, before net has both, is learnt from its connections; see lookup.
type addrLookup struct {
	network network
	host    string
	port    uint16
	until   sock.Instant

	ctx     context.Context
	cancel  context.CancelFunc
	leave   func()
	answers chan lookupAnswer
	late    sock.Later // of a dial that goes on while the question is open

	// Of the goroutine that looks the name up.
	pending bool        // package net has not answered
	early   []sock.Addr // what is known before it does
	queued  []sock.Addr // before the first attempt: what is known
	err     error
	lastV4  bool // the family of the last attempt
}

type lookupAnswer struct {
	early bool // it is one family's
	addrs []sock.Addr
	err   error
}

// lookUp asks for the addresses of a host. The caller closes the search.
func startLookup(ctx context.Context, n network, host string, port uint16, r *net.Resolver, until sock.Instant) *addrLookup {
	if r == nil {
		r = net.DefaultResolver
	}
	// An early answer for each family, and package net's.
	s := &addrLookup{network: n, host: host, port: port, until: until, pending: true, answers: make(chan lookupAnswer, 3)}
	if until == sock.Never {
		s.ctx, s.cancel = context.WithCancel(ctx)
	} else {
		s.ctx, s.cancel = context.WithTimeout(ctx, until.Left())
	}
	s.late.Take = s.takeLate
	family := "ip"
	if n.v6 == 0 {
		family = "ip4"
	} else if n.v4 == 0 {
		family = "ip6"
	}
	s.leave = newCancelableResolver(r).join(ctx, s, family)
	return s
}

// close gives up what is still asked. Nothing of it is left when it returns.
func (s *addrLookup) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.leave()
	s.late.Close()
}

// hear takes an early answer.
func (s *addrLookup) addEarly(ips []netip.Addr) {
	if addrs := s.network.addrs(ips, s.port); len(addrs) > 0 {
		s.send(lookupAnswer{early: true, addrs: addrs})
	}
}

// hearAll takes package net's answer.
func (s *addrLookup) addFinal(ips []netip.Addr, err error) {
	addrs := s.network.addrs(ips, s.port)
	if err == nil && len(addrs) == 0 {
		err = &net.AddrError{Err: "no address for " + s.network.name, Addr: s.host}
	}
	s.send(lookupAnswer{addrs: addrs, err: err})
}

func (s *addrLookup) send(a lookupAnswer) {
	s.answers <- a // there is room
	s.late.Notify()
}

// first waits until there is an address to begin with: package net's answer, or those of
// one family and the other's delay is over.
func (s *addrLookup) firstAddrs() ([]sock.Addr, error) {
	var enough <-chan time.Time
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
				// Of a short limit most is for the attempts.
				timer := time.NewTimer(min(delay, max(s.until.Left(), 0)/4))
				defer timer.Stop()
				enough = timer.C
			case a.err == nil:
				s.queued = a.addrs // all of them, in the order of RFC 6724
			}
		case <-enough:
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

// drain takes the answers that are there.
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

// add takes an answer.
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

// begin puts what is known in the order in which to try it.
func (s *addrLookup) ordered() []sock.Addr {
	v4, v6 := splitFamilies(s.queued)
	return interleave(v4, v6, s.queued[0].IP.Addr().Is4())
}

// take is the search's Later.Take: families go on taking turns.
func (s *addrLookup) takeLate(waiting []sock.Addr) (now []sock.Addr, more bool) {
	s.queued = waiting
	s.drain()
	v4, v6 := splitFamilies(s.queued)
	return interleave(v4, v6, !s.lastV4), s.pending
}

// starts takes note of an attempt.
func (s *addrLookup) noteAttempt(a sock.Addr) {
	if s != nil {
		s.lastV4 = a.IP.Addr().Is4()
	}
}

// more is what First is to wait for, if anything.
func (s *addrLookup) lateAddrs() *sock.Later {
	if s == nil || !s.pending {
		return nil
	}
	return &s.late
}

// unanswered is an error if the question is open still.
func (s *addrLookup) timeoutError() error {
	if s.lateAddrs() == nil {
		return nil
	}
	return &limitError{cause: &net.DNSError{Err: "i/o timeout", Name: s.host, IsTimeout: true, IsTemporary: true}}
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

// interleave has the families take turns, as RFC 8305, section 4, has it; within a family
// the order stays, which is that of RFC 6724.
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

// outOfDescriptors gives a failed lookup its cause where that is a process or a system
// that has no descriptor left: package net says the same of a name list that cannot be
// opened as of a name that is not in it.
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
