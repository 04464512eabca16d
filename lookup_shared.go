package client

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// A tiedResolver closes the connections of a lookup that is
// given up. Left to itself a net.Resolver keeps one that waits for a silent
// server, and the goroutine with it, for the resolver's own 5 s: a
// context does not reach a read that is under way (net/dnsclient_unix.go). A
// lookup by the system's library, where Go uses that, cannot be ended at all.
type cancelableResolver struct {
	resolver               *net.Resolver
	preferGo, strictErrors bool

	mu      sync.Mutex
	lookups map[lookupKey]*sharedLookup // that are under way
}

// lastTied is kept because those who look up the same name at the same time share the
// lookup, as long as they share the resolver.
var lastResolver atomic.Pointer[cancelableResolver]

func newCancelableResolver(of *net.Resolver) *cancelableResolver {
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
	if l.families == "ip" && !t.strictErrors { // which has one family fail with the other
		return l.observe(conn), nil
	}
	return conn, nil
}

// A lookup asks package net for the addresses of a host, once for all who want them at
// the same time. Net has that too, but there a lookup that was shared goes on when all have
// gone, and who comes then shares it and does not have its early answers.
//
// Net's Go resolver asks for one name of the search list after another, and the first
// that has an address of either family is the host. So the addresses that come in the
// first answer are among those that net is going to give, however long the other answer
// takes. Of a lookup by the system's library nothing is learnt before it ends.
type sharedLookup struct {
	lookupKey
	cancel  context.CancelFunc
	ended   chan struct{}
	dialErr atomic.Pointer[error] // why the resolver could not ask

	mu       sync.Mutex
	members  map[*addrLookup]struct{}
	answered map[dnsmessage.Type][]netip.Addr
	failed   map[dnsmessage.Type]*net.DNSError // if the last answer to the question is none
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

// join makes a search part of the lookup of its host, which begins if there is none. The
// last one to leave ends it.
func (t *cancelableResolver) join(ctx context.Context, s *addrLookup, families string) (leave func()) {
	what := lookupKey{families, s.host}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lookups[what]
	if l == nil {
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
		<-l.ended // the resolver heeds its context at once
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
