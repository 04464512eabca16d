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
	togetherDelay = 5 * time.Millisecond
)

// A search is a name that is being looked up. Package net is asked for both families of
// addresses together, for only so are they of one name: of the families asked separately
// one can be found in another domain of the search list, which is another host. What
// comes early, before net has both, is learnt from its connections; see lookup.
type search struct {
	n     network
	host  string
	port  uint16
	until sock.Instant

	ctx     context.Context
	cancel  context.CancelFunc
	leave   func()
	answers chan answer
	later   sock.MoreAddrs // of a dial that goes on while the question is open

	// Of the goroutine that looks the name up.
	open   bool        // package net has not answered
	early  []sock.Addr // what is known before it does
	waits  []sock.Addr // before the first attempt: what is known
	failed error
	lastV4 bool // the family of the last attempt
}

type answer struct {
	early bool // it is one family's
	addrs []sock.Addr
	err   error
}

// lookUp asks for the addresses of a host. The caller closes the search.
func lookUp(ctx context.Context, n network, host string, port uint16, r *net.Resolver, until sock.Instant) *search {
	if r == nil {
		r = net.DefaultResolver
	}
	// An early answer for each family, and package net's.
	s := &search{n: n, host: host, port: port, until: until, open: true, answers: make(chan answer, 3)}
	if until == sock.Never {
		s.ctx, s.cancel = context.WithCancel(ctx)
	} else {
		s.ctx, s.cancel = context.WithTimeout(ctx, until.Left())
	}
	s.later.Update = s.take
	family := "ip"
	if n.v6 == 0 {
		family = "ip4"
	} else if n.v4 == 0 {
		family = "ip6"
	}
	s.leave = tie(r).join(ctx, s, family)
	return s
}

// close gives up what is still asked. Nothing of it is left when it returns.
func (s *search) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.leave()
	s.later.Close()
}

// hear takes an early answer.
func (s *search) hear(ips []netip.Addr) {
	if addrs := s.n.addrs(ips, s.port); len(addrs) > 0 {
		s.tell(answer{early: true, addrs: addrs})
	}
}

// hearAll takes package net's answer.
func (s *search) hearAll(ips []netip.Addr, err error) {
	addrs := s.n.addrs(ips, s.port)
	if err == nil && len(addrs) == 0 {
		err = &net.AddrError{Err: "no address for " + s.n.name, Addr: s.host}
	}
	s.tell(answer{addrs: addrs, err: err})
}

func (s *search) tell(a answer) {
	s.answers <- a // there is room
	s.later.Notify()
}

// first waits until there is an address to begin with: package net's answer, or those of
// one family and the other's delay is over.
func (s *search) first() ([]sock.Addr, error) {
	var enough <-chan time.Time
	for s.open {
		select {
		case a := <-s.answers:
			s.waits = s.add(s.waits, a)
			switch {
			case a.early:
				delay := resolutionDelay
				if !a.addrs[0].IP.Addr().Is4() {
					delay = togetherDelay
				}
				// Of a short limit most is for the attempts.
				timer := time.NewTimer(min(delay, max(s.until.Left(), 0)/4))
				defer timer.Stop()
				enough = timer.C
			case a.err == nil:
				s.waits = a.addrs // all of them, in the order of RFC 6724
			}
		case <-enough:
			return s.begin(), nil
		case <-s.ctx.Done():
			if len(s.waits) > 0 {
				return s.begin(), nil
			}
			return nil, s.unanswered()
		}
	}
	if len(s.waits) == 0 {
		return nil, s.failed
	}
	return s.begin(), nil
}

// drain takes the answers that are there.
func (s *search) drain() {
	for {
		select {
		case a := <-s.answers:
			s.waits = s.add(s.waits, a)
		default:
			return
		}
	}
}

// add takes an answer.
func (s *search) add(to []sock.Addr, a answer) []sock.Addr {
	if a.early {
		s.early = append(s.early, a.addrs...)
		return append(to, a.addrs...)
	}
	s.open, s.failed = false, a.err
	for _, addr := range a.addrs {
		if !slices.Contains(s.early, addr) {
			to = append(to, addr)
		}
	}
	return to
}

// begin puts what is known in the order in which to try it.
func (s *search) begin() []sock.Addr {
	v4, v6 := families(s.waits)
	return interleave(v4, v6, s.waits[0].IP.Addr().Is4())
}

// take is the search's Later.Take: families go on taking turns.
func (s *search) take(waiting []sock.Addr) (now []sock.Addr, more bool) {
	s.waits = waiting
	s.drain()
	v4, v6 := families(s.waits)
	return interleave(v4, v6, !s.lastV4), s.open
}

// starts takes note of an attempt.
func (s *search) starts(a sock.Addr) {
	if s != nil {
		s.lastV4 = a.IP.Addr().Is4()
	}
}

// more is what First is to wait for, if anything.
func (s *search) more() *sock.MoreAddrs {
	if s == nil || !s.open {
		return nil
	}
	return &s.later
}

// unanswered is an error if the question is open still.
func (s *search) unanswered() error {
	if s.more() == nil {
		return nil
	}
	return &limitError{cause: &net.DNSError{Err: "i/o timeout", Name: s.host, IsTimeout: true, IsTemporary: true}}
}

func families(addrs []sock.Addr) (v4, v6 []sock.Addr) {
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
func outOfDescriptors(name string, err error) error {
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
