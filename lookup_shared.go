package client

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// A cancelableResolver is a net.Resolver whose lookups end at once. A net.Resolver keeps
// the connection to a silent server, and its goroutine, for 5 s: the end of a context does
// not interrupt a read under way (net/dnsclient_unix.go). A cancelableResolver closes the
// connection. A lookup by the system's library (cgo) cannot be interrupted at all.
type cancelableResolver struct {
	resolver               *net.Resolver
	preferGo, strictErrors bool

	mu      sync.Mutex
	lookups map[lookupKey]*sharedLookup // the lookups under way
}

// lastResolver is for the next dial: dials that share a resolver share its lookups
// under way.
var lastResolver atomic.Pointer[cancelableResolver]

func cancelableResolverFor(of *net.Resolver) *cancelableResolver {
	if t := lastResolver.Load(); t != nil && t.resolver == of && t.preferGo == of.PreferGo && t.strictErrors == of.StrictErrors {
		return t
	}
	t := &cancelableResolver{resolver: of, preferGo: of.PreferGo, strictErrors: of.StrictErrors, lookups: make(map[lookupKey]*sharedLookup)}
	lastResolver.Store(t)
	return t
}

func (t *cancelableResolver) dial(ctx context.Context, l *sharedLookup, network, address string) (net.Conn, error) {
	dial := t.resolver.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := callResolverDial(ctx, dial, network, address)
	if err != nil {
		if isOutOfDescriptors(err) {
			l.dialErr.Store(&err)
		}
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	if l.families == "ip" && !t.strictErrors { // StrictErrors: one family fails with the other
		return l.observe(conn), nil
	}
	return conn, nil
}

// A sharedLookup asks package net for the addresses of a host, once for all dials that
// need them at the same time. Package net shares lookups too. But its shared lookup goes
// on after all callers have gone, and a later caller that joins it misses its early
// answers.
//
// The Go resolver of package net tries one name of the search list after another. The
// first that has an address of either family is the host. So the addresses in the first
// answer are among those that package net will return, however long the other answer
// takes. A lookup by the system's library (cgo) has no early answers.
type sharedLookup struct {
	lookupKey
	cancel  context.CancelFunc
	ended   chan struct{}
	dialErr atomic.Pointer[error] // the resolver had no descriptor for a query

	mu       sync.Mutex
	members  map[*addrLookup]struct{}
	answered map[dnsmessage.Type][]netip.Addr
	failed   map[dnsmessage.Type]*net.DNSError // of queries whose last try has failed
}

type lookupKey struct{ families, host string }

func newLookup(what lookupKey) *sharedLookup {
	return &sharedLookup{
		lookupKey: what,
		ended:     make(chan struct{}),
		members:   make(map[*addrLookup]struct{}),
		answered:  make(map[dnsmessage.Type][]netip.Addr),
		failed:    make(map[dnsmessage.Type]*net.DNSError),
	}
}

// join adds a dial to the lookup of its host, and starts that if none is under way. The
// last dial that leaves ends the lookup.
func (t *cancelableResolver) join(ctx context.Context, s *addrLookup, families string) (leave func()) {
	what := lookupKey{families, s.host}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lookups[what]
	if s.joined = l != nil; !s.joined {
		l = newLookup(what)
		t.lookups[what] = l
		ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
		go t.run(ctx, l)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members[s] = struct{}{}
	for _, ips := range l.answered {
		s.addEarly(ips)
	}
	return func() { t.leave(l, s) }
}

func (t *cancelableResolver) leave(l *sharedLookup, s *addrLookup) {
	t.mu.Lock()
	l.mu.Lock()
	delete(l.members, s)
	last := len(l.members) == 0
	if last && t.lookups[l.lookupKey] == l {
		delete(t.lookups, l.lookupKey)
	}
	l.mu.Unlock()
	t.mu.Unlock()
	if last {
		l.cancel()
		<-l.ended // at once: its connections are closed
	}
}

func (t *cancelableResolver) run(ctx context.Context, l *sharedLookup) {
	defer close(l.ended)
	defer l.cancel()
	r := &net.Resolver{PreferGo: t.preferGo, StrictErrors: t.strictErrors}
	r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return t.dial(ctx, l, network, address)
	}
	ips, err := r.LookupNetIP(ctx, l.families, l.host)
	switch cause := l.dialErr.Load(); {
	case err == nil || ctx.Err() != nil:
	case cause != nil:
		err = dnsError(l.host, *cause)
	default:
		err = descriptorError(l.host, l.bestError(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lookups[l.lookupKey] == l {
		delete(t.lookups, l.lookupKey)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.members {
		s.addFinal(ips, err)
	}
}
