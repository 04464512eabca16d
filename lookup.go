package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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

// A search is a name that is being looked up: one question for each family of
// addresses, both asked at the same time (RFC 8305, section 3).
type search struct {
	n    network
	host string
	port uint16

	cancel  context.CancelFunc
	asked   sync.WaitGroup
	answers chan answer
	later   sock.Later // of a dial that goes on while a question is open

	// Of the goroutine that looks the name up.
	open   int         // questions that are not answered
	waits  []sock.Addr // before the first attempt: what is known
	failed error       // the error that says most
	lastV4 bool        // the family of the last attempt
}

type answer struct {
	v6    bool
	addrs []sock.Addr
	err   error
	ended bool // it is none: the context has ended the question
}

// lookUp asks for the addresses of a host. The caller closes the search.
func lookUp(ctx context.Context, n network, host string, port uint16, r *net.Resolver, until sock.Instant) *search {
	if r == nil {
		r = net.DefaultResolver
	}
	r = tie(r)
	s := &search{n: n, host: host, port: port, answers: make(chan answer, 2)}
	if until == sock.Never {
		ctx, s.cancel = context.WithCancel(ctx)
	} else {
		ctx, s.cancel = context.WithTimeout(ctx, until.Left())
	}
	s.later.Take = s.take
	ask := func(family string) {
		s.open++
		s.asked.Go(func() {
			addrs, err := s.ask(ctx, r, family, host)
			s.answers <- answer{family == "ip6", addrs, err, ctx.Err() != nil && len(addrs) == 0}
			s.later.Notify()
		})
	}
	if n.v6 != 0 {
		ask("ip6")
	}
	if n.v4 != 0 {
		ask("ip4")
	}
	return s
}

// close gives up what is still asked. Nothing of it is left when it returns.
func (s *search) close() {
	if s == nil {
		return
	}
	s.cancel()
	s.asked.Wait() // the resolver heeds its context at once
	s.later.Close()
}

// ask asks one question.
func (s *search) ask(ctx context.Context, r *net.Resolver, family, host string) ([]sock.Addr, error) {
	var q question
	ips, err := r.LookupNetIP(context.WithValue(ctx, asking{}, &q), family, host)
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &limitError{cause: err}
	case ctx.Err() != nil:
		return nil, err
	case q.cause.Load() != nil:
		return nil, dnsError(host, *q.cause.Load())
	default:
		return nil, outOfDescriptors(host, err)
	}
	addrs := s.n.addrs(ips, s.port)
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: "no address for " + s.n.name, Addr: host}
	}
	return addrs, nil
}

// first waits until there is an address to begin with: the IPv6 ones, or the IPv4 ones
// and resolutionDelay is over. A question that fails or is
// not answered is no error where the other one brings something.
func (s *search) first() ([]sock.Addr, error) {
	var enough <-chan time.Time
	for s.open > 0 {
		select {
		case a := <-s.answers:
			s.waits = s.add(s.waits, a)
			switch {
			case a.ended && len(s.waits) == 0:
				return nil, s.failed
			case a.ended:
				return s.begin(), nil
			}
			if len(a.addrs) > 0 && s.open > 0 {
				delay := resolutionDelay
				if a.v6 {
					delay = togetherDelay
				}
				timer := time.NewTimer(delay)
				defer timer.Stop()
				enough = timer.C
			}
		case <-enough:
			return s.begin(), nil
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

// add takes an answer. A question that the context has ended stays open: the dial, which
// it ends as well, tells.
func (s *search) add(to []sock.Addr, a answer) []sock.Addr {
	if !a.ended {
		s.open--
	}
	if a.err != nil && (s.failed == nil || weight(a.err) > weight(s.failed)) {
		s.failed = a.err
	}
	return append(to, a.addrs...)
}

// weight tells which error of two questions is the name's: that there are no such
// addresses has to be said by both.
func weight(err error) int {
	var dns *net.DNSError
	switch {
	case isTimeout(err):
		return 3
	case !errors.As(err, &dns):
		return 0
	case dns.IsNotFound:
		return 1
	}
	return 2
}

// begin puts what is known in the order in which to try it.
func (s *search) begin() []sock.Addr {
	v4, v6 := families(s.waits)
	return interleave(v4, v6, len(v6) == 0 || len(v4) > 0 && prefersV4(v4[0], v6[0]))
}

// take is the search's Later.Take: families go on taking turns.
func (s *search) take(waiting []sock.Addr) (now []sock.Addr, more bool) {
	s.waits = waiting
	s.drain()
	v4, v6 := families(s.waits)
	return interleave(v4, v6, !s.lastV4), s.open > 0
}

// starts takes note of an attempt.
func (s *search) starts(a sock.Addr) {
	if s != nil {
		s.lastV4 = a.IP.Addr().Is4()
	}
}

// more is what First is to wait for, if anything.
func (s *search) more() *sock.Later {
	if s == nil || s.open == 0 {
		return nil
	}
	return &s.later
}

// unanswered is an error if a question is open still.
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

// prefersV4 reports whether RFC 6724 puts an IPv4 destination before an IPv6 one.
// Package net sorts only what is asked for together, and so each family by itself.
func prefersV4(v4, v6 sock.Addr) bool {
	from4, ok4 := sock.Source(v4)
	from6, ok6 := sock.Source(v6)
	if !ok4 || !ok6 { // rule 1: avoid destinations that cannot be used
		return ok4
	}
	a, b := v4.IP.Addr(), v6.IP.Addr()
	if same4, same6 := scope(a) == scope(from4), scope(b) == scope(from6); same4 != same6 { // rule 2
		return same4
	}
	label4, precedence4 := policy(a)
	label6, precedence6 := policy(b)
	of4, _ := policy(from4)
	of6, _ := policy(from6)
	if same4, same6 := label4 == of4, label6 == of6; same4 != same6 { // rule 5
		return same4
	}
	if precedence4 != precedence6 { // rule 6
		return precedence4 > precedence6
	}
	return scope(a) < scope(b) // rule 8
}

// policies are the default policy table of RFC 6724, section 2.1, longest prefix first.
var policies = []struct {
	prefix            netip.Prefix
	precedence, label int
}{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.MustParsePrefix("::ffff:0:0/96"), 35, 4},
	{netip.MustParsePrefix("::/96"), 1, 3},
	{netip.MustParsePrefix("2001::/32"), 5, 5},
	{netip.MustParsePrefix("2002::/16"), 30, 2},
	{netip.MustParsePrefix("3ffe::/16"), 1, 12},
	{netip.MustParsePrefix("fec0::/10"), 1, 11},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

func policy(a netip.Addr) (label, precedence int) {
	a = netip.AddrFrom16(a.As16())
	i := slices.IndexFunc(policies, func(p struct {
		prefix            netip.Prefix
		precedence, label int
	},
	) bool {
		return p.prefix.Contains(a)
	})
	return policies[i].label, policies[i].precedence
}

// scope is the scope of an address by RFC 6724, section 3.
func scope(a netip.Addr) int {
	const linkLocal, siteLocal, global = 2, 5, 14
	switch {
	case a.Is6() && a.IsMulticast():
		return int(a.As16()[1] & 0xf)
	case a.IsLoopback() || a.IsLinkLocalUnicast():
		return linkLocal
	case a.Is6() && a.As16()[0] == 0xfe && a.As16()[1]&0xc0 == 0xc0:
		return siteLocal
	}
	return global
}

// A question has a context of its own, in which the tied resolver finds it.
type question struct {
	cause atomic.Pointer[error] // why the resolver could not ask
}

type asking struct{}

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
			if q, ok := ctx.Value(asking{}).(*question); ok && isOutOfDescriptors(err) {
				q.cause.Store(&err)
			}
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, nil
	}
	lastTied.Store(&tiedResolver{of, r})
	return r
}
