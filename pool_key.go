package client

import (
	"fmt"
	"reflect"
	"slices"
	"syscall"
	"unsafe"
)

// A connKey is the comparable part of a pool's key. The rest is in Options; see sameKey.
type connKey struct{ poolKey, network, address string }

// sameKey reports whether connections made with o and other can replace each other. It
// compares every option that decides what a connection is and who the peer is. A new
// option belongs here unless it is only about the use of a connection.
func (o *Options) sameKey(other *Options) bool {
	if o == other { // the defaults are shared, not copied
		return true
	}
	return o.Proxy == other.Proxy && o.LocalAddr == other.LocalAddr && sameResolver(o.Resolver, other.Resolver) &&
		identity(o.Control) == identity(other.Control) && o.sameSocket(other) && o.TLS.same(other.TLS)
}

// checkKey fails if Options cannot be compared with others.
func (o *Options) checkKey() error {
	if o.Resolver != nil && !reflect.ValueOf(o.Resolver).Comparable() {
		return &OptionError{Option: "Resolver", Reason: fmt.Sprintf("a pool cannot compare values of type %T: use a pointer", o.Resolver)}
	}
	return nil
}

// sameResolver compares resolvers that have passed checkKey.
func sameResolver(r, other Resolver) bool {
	known, ok := netResolver(r)
	otherKnown, otherOK := netResolver(other)
	if ok && otherOK {
		return known == otherKnown // a nil pointer is the default, too
	}
	return r == other
}

// sameSocket compares the socket options.
func (o *Options) sameSocket(p *Options) bool {
	return o.NoDelay == p.NoDelay && o.QuickAck == p.QuickAck && o.ReuseAddr == p.ReuseAddr &&
		o.FastOpen == p.FastOpen && o.MPTCP == p.MPTCP && o.Broadcast == p.Broadcast && o.ICMPErrors == p.ICMPErrors && o.Unconnected == p.Unconnected && o.GRO == p.GRO &&
		o.TOS == p.TOS && o.TTL == p.TTL && o.Mark == p.Mark && o.Device == p.Device &&
		o.RecvBuffer == p.RecvBuffer && o.SendBuffer == p.SendBuffer &&
		o.UserTimeout == p.UserTimeout && o.Linger == p.Linger && o.BusyPoll == p.BusyPoll &&
		(o.KeepAlive == p.KeepAlive || o.KeepAlive != nil && p.KeepAlive != nil && *o.KeepAlive == *p.KeepAlive) &&
		o.Multicast.same(p.Multicast)
}

func (m *Multicast) same(as *Multicast) bool {
	if m == nil || as == nil {
		return m == as
	}
	return m.Interface == as.Interface && m.TTL == as.TTL && m.Loopback == as.Loopback && slices.Equal(m.Groups, as.Groups)
}

func (t *TLSOptions) same(as *TLSOptions) bool {
	if t == nil || as == nil {
		return t == as
	}
	return t.ServerName == as.ServerName &&
		(t.NextProtos == nil) == (as.NextProtos == nil) && slices.Equal(t.NextProtos, as.NextProtos) && // nil means those of Config
		t.CAFile == as.CAFile && t.CAPath == as.CAPath && t.CRLFile == as.CRLFile &&
		t.CertFile == as.CertFile && t.KeyFile == as.KeyFile && t.Passphrase == as.Passphrase &&
		t.AllowSelfSigned == as.AllowSelfSigned && t.RequireStaple == as.RequireStaple && t.InsecureSkipVerify == as.InsecureSkipVerify &&
		t.VerifyDepth == as.VerifyDepth && t.MinVersion == as.MinVersion && t.MaxVersion == as.MaxVersion && t.Config == as.Config
}

// identity makes function values comparable. A function value is a pointer to a closure:
// its code and the variables it captured. Two values with the same pointer do the same;
// two with the same code may not. The bucket keeps its function, so the pointer cannot
// become that of another closure.
func identity(f func(string, string, syscall.RawConn) error) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&f))
}
