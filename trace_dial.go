package client

import (
	"context"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// dialTrace returns what a dial calls: the Trace of ctx, the ClientTrace of ctx, and own.
// It is nil if there is none.
func dialTrace(ctx context.Context, own *Trace) *Trace {
	return ContextTrace(ctx).before(httpTrace(ctx)).before(own)
}

// httpTrace makes a Trace of the ClientTrace of a context.
func httpTrace(ctx context.Context) *Trace {
	h := httptrace.ContextClientTrace(ctx)
	if h == nil {
		return nil
	}
	t := new(Trace)
	if h.DNSStart != nil {
		t.DNSStart = func(i DNSStartInfo) { h.DNSStart(httptrace.DNSStartInfo{Host: i.Host}) }
	}
	if h.DNSDone != nil {
		t.DNSDone = func(i DNSDoneInfo) {
			addrs := make([]net.IPAddr, len(i.Addrs))
			for at, ip := range i.Addrs {
				addrs[at] = net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}
			}
			h.DNSDone(httptrace.DNSDoneInfo{Addrs: addrs, Coalesced: i.Coalesced, Err: i.Err})
		}
	}
	if h.ConnectStart != nil {
		t.ConnectStart = func(i ConnectStartInfo) { h.ConnectStart(i.Network, i.Addr.String()) }
	}
	if h.ConnectDone != nil {
		t.ConnectDone = func(i ConnectDoneInfo) {
			err := i.Err
			if err != nil {
				err = &net.OpError{Op: opDial, Net: i.Network, Addr: i.Addr, Err: err} // as package net does
			}
			h.ConnectDone(i.Network, i.Addr.String(), err)
		}
	}
	if h.TLSHandshakeStart != nil {
		t.TLSHandshakeStart = func(TLSHandshakeStartInfo) { h.TLSHandshakeStart() }
	}
	if h.TLSHandshakeDone != nil {
		t.TLSHandshakeDone = func(i TLSHandshakeDoneInfo) { h.TLSHandshakeDone(i.State, i.Err) }
	}
	return t
}

// An untracedContext hides every trace. A lookup has it: the connections that a resolver
// dials, with package net or this one, are not those that the caller traces, and package
// net would call DNSStart too, in a goroutine of the lookup.
type untracedContext struct{ context.Context }

func (c untracedContext) Value(key any) any {
	if key == (traceKey{}) {
		return nil
	}
	// httptrace uses two keys, whose types are not exported.
	if t := reflect.TypeOf(key); t != nil { // a resolver may ask for the key nil
		switch t.PkgPath() {
		case "net/http/httptrace", "internal/nettrace":
			return nil
		}
	}
	return c.Context.Value(key)
}

// lookup looks a host up; see resolve.
func (t *Trace) lookup(ctx context.Context, n network, host string, port uint16, r Resolver, until sock.Instant) ([]sock.Addr, *addrLookup, error) {
	if t == nil {
		s := startLookup(ctx, n, host, port, r, until)
		addrs, err := s.firstAddrs()
		return addrs, s, err
	}
	notify(t.DNSStart, DNSStartInfo{Host: host})
	began := time.Now()
	s := startLookup(untracedContext{ctx}, n, host, port, r, until)
	returned := false
	defer func() {
		if !returned { // DNSDone has panicked
			s.close()
		}
	}()
	addrs, err := s.firstAddrs()
	done := DNSDoneInfo{
		Host: host, Partial: err == nil && s.pending, Coalesced: s.joined, Duration: time.Since(began), Err: endedError(ctx, err),
	}
	for _, a := range addrs {
		done.Addrs = append(done.Addrs, a.IP.Addr())
	}
	notify(t.DNSDone, done)
	returned = true
	return addrs, s, err
}

// A connectTrace calls ConnectStart and ConnectDone for the attempts of one dial.
type connectTrace struct {
	trace   *Trace
	network string
	running []tracedAttempt
}

type tracedAttempt struct {
	to    netip.AddrPort // of a unix socket there is one attempt
	addr  net.Addr
	began time.Time
}

// errNotNeeded is the error of an attempt that ended because another one was connected.
var errNotNeeded = fmt.Errorf("the attempt is not needed any more: %w", context.Canceled)

func (c *connectTrace) start(n network, to sock.Addr) {
	if c.trace == nil {
		return
	}
	a := tracedAttempt{to.IP, netAddr(n.typeOf(to), to), time.Now()}
	notify(c.trace.ConnectStart, ConnectStartInfo{c.network, a.addr})
	c.running = append(c.running, a)
}

func (c *connectTrace) done(to sock.Addr, err error) {
	i := slices.IndexFunc(c.running, func(a tracedAttempt) bool { return a.to == to.IP })
	if i < 0 {
		return
	}
	a := c.running[i]
	c.running = slices.Delete(c.running, i, i+1)
	notify(c.trace.ConnectDone, ConnectDoneInfo{c.network, a.addr, time.Since(a.began), err})
}

// end ends the attempts that are not needed any more.
func (c *connectTrace) end() {
	if len(c.running) > 0 {
		defer c.end() // also if ConnectDone panics
		c.done(sock.Addr{IP: c.running[0].to}, errNotNeeded)
	}
}
