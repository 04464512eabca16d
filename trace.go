package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// A Trace is a set of functions that are called when connections are made, used by a Pool,
// and closed. Any of them may be nil. Options.Trace is for all clients that are made with
// the Options, and WithTrace for one call. Where both are set, both are called, that of
// the context first. A Trace must not be changed while it is in use.
//
// The functions have the names of those of net/http/httptrace that mean the same. An
// httptrace.ClientTrace in the context of Dial, Connect or StartTLS is called too, for
// DNSStart, DNSDone, ConnectStart, ConnectDone, TLSHandshakeStart and TLSHandshakeDone.
//
// # Order
//
// A dial calls the functions in this order. DNS is only for an address with a name, and
// ConnectStart to ConnectDone may overlap if there are several addresses.
//
//	DNSStart DNSDone ConnectStart ConnectDone Connected ProxyStart ProxyDone TLSHandshakeStart TLSHandshakeDone
//
// Each Start is followed by one Done, also if the limit is over, the context ends, an
// attempt is not needed any more, or a callback panics. A checkout of a Pool calls GetConn,
// Waited and ProbedConn if there is an occasion, and GotConn. Each GetConn is followed by
// one GotConn. Each Connected is followed by one Closed at most: there is none for a
// client that the garbage collector closes.
//
// # Rules for the functions
//
// A function runs in the goroutine that does the work. For Dial, Connect, StartTLS, a
// receive and Close that is the goroutine of the caller. A Pool dials in goroutines of its
// own, where functions may run after the caller has returned, and closes expired
// connections in another one; StartConnect and an AsyncClient have theirs. So functions may
// run at the same time, for different connections.
//
// A function must not block: the work waits for it, and no limit ends it. No lock is held,
// so it may call any method, such as Pool.Stats.
//
// If a function panics, so does the method that caused the call, as with the callbacks in
// Options; see Pool.Dial for dials that no caller waits for. A connection that was being
// made is closed. StartConnect, an AsyncClient, and a fastcgi.Response whose rest is received in
// the background have no such method: the panic ends the process.
type Trace struct {
	// DNSStart is called before a name is looked up.
	DNSStart func(DNSStartInfo)

	// DNSDone is called when the attempts to connect can begin, or the lookup has failed.
	DNSDone func(DNSDoneInfo)

	// ConnectStart is called before each attempt to connect to an address. There are
	// several if a name has several addresses (RFC 8305). With Options.Proxy the address
	// is that of the proxy.
	ConnectStart func(ConnectStartInfo)

	// ConnectDone is called at the end of each attempt.
	ConnectDone func(ConnectDoneInfo)

	// Connected is called when a client is connected, before the handshakes of a proxy and
	// of TLS.
	Connected func(ConnectedInfo)

	// ProxyStart is called before the handshake with a proxy.
	ProxyStart func(ProxyStartInfo)

	// ProxyDone is called after it.
	ProxyDone func(ProxyDoneInfo)

	// TLSHandshakeStart is called before a TLS handshake: by Dial, Connect and StartTLS.
	TLSHandshakeStart func(TLSHandshakeStartInfo)

	// TLSHandshakeDone is called after it.
	TLSHandshakeDone func(TLSHandshakeDoneInfo)

	// GotFirstResponseByte is called when a client has received something for the first
	// time, also by a Peek. Each checkout of a Pool is a new client.
	GotFirstResponseByte func(GotFirstResponseByteInfo)

	// Closed is called when a connection has been closed. For a connection of a Pool only
	// the Trace in the Options that it was dialled with is called, and not that of a
	// context: the connection outlives the call.
	Closed func(ClosedInfo)

	// GetConn is called when a Pool is asked for a connection: by Dial, DialNew and Do.
	GetConn func(GetConnInfo)

	// Waited is called when a caller of a Pool has waited because MaxConnsPerKey
	// connections were open, and something is on the way to it, or its limit is over.
	Waited func(WaitedInfo)

	// ProbedConn is called when a Pool has checked a connection that existed before the
	// call. If it is not good, the Pool goes on with another one.
	ProbedConn func(ProbedConnInfo)

	// GotConn is called when a Pool has a connection for its caller, or an error.
	GotConn func(GotConnInfo)

	// PutIdleConn is called when Close or Discard has returned a connection to a Pool,
	// which has kept it or closed it.
	PutIdleConn func(PutIdleConnInfo)

	// Retried is called before Pool.Do runs its function for the second time.
	Retried func(RetriedInfo)
}

// A ConnInfo describes a connection.
type ConnInfo struct {
	ID      uint64 // of the connection: unique in the process
	Network string // as in the call of Dial or Connect
	Address string // as in the call of Dial or Connect
	Local   net.Addr
	Remote  net.Addr // the proxy's with Options.Proxy
}

// A DNSStartInfo describes a lookup that begins.
type DNSStartInfo struct {
	Host string
}

// A DNSDoneInfo describes a lookup that ended.
type DNSDoneInfo struct {
	Host      string
	Addrs     []netip.Addr // in the order of the attempts; not to be changed
	Partial   bool         // the answer for one address family has not arrived; its addresses are tried when it does
	Coalesced bool         // another call had begun the lookup
	Duration  time.Duration
	Err       error
}

// A ConnectStartInfo describes an attempt to connect that begins.
type ConnectStartInfo struct {
	Network string
	Addr    net.Addr
}

// A ConnectDoneInfo describes an attempt to connect that ended.
type ConnectDoneInfo struct {
	Network  string
	Addr     net.Addr
	Duration time.Duration
	Err      error // context.Canceled if the attempt was not needed any more
}

// A ConnectedInfo describes a new connection.
type ConnectedInfo struct {
	Conn ConnInfo
}

// A ProxyStartInfo describes a handshake with a proxy that begins.
type ProxyStartInfo struct {
	Conn  ConnInfo
	Proxy string // the URL without user and password
}

// A ProxyDoneInfo describes a handshake with a proxy that ended.
type ProxyDoneInfo struct {
	Conn     ConnInfo
	Proxy    string
	Duration time.Duration
	Err      error
}

// A TLSHandshakeStartInfo describes a TLS handshake that begins.
type TLSHandshakeStartInfo struct {
	Conn       ConnInfo
	ServerName string
}

// A TLSHandshakeDoneInfo describes a TLS handshake that ended.
type TLSHandshakeDoneInfo struct {
	Conn       ConnInfo
	ServerName string
	State      tls.ConnectionState // the zero value if Err is set
	Duration   time.Duration
	Err        error
}

// A GotFirstResponseByteInfo describes a connection on which a client has received
// something for the first time.
type GotFirstResponseByteInfo struct {
	Conn ConnInfo
}

// A ClosedInfo describes a connection that was closed.
type ClosedInfo struct {
	Conn    ConnInfo
	Err     error        // what ended the stream or the dial; nil if only Close did
	Discard DiscardCause // why the pool closed it; DiscardNone for a client that is not from a pool
}

// A GetConnInfo describes a checkout of a Pool that begins.
type GetConnInfo struct {
	PoolKey, Network, Address string
}

// A WaitedInfo describes a caller of a Pool that has waited.
type WaitedInfo struct {
	PoolKey, Network, Address string
	Duration                  time.Duration
	Err                       error // why it did not wait longer; nil if it got a connection
}

// A ProbedConnInfo describes the check of an idle connection.
type ProbedConnInfo struct {
	Conn     ConnInfo
	IdleTime time.Duration
	Verdict  DiscardCause // DiscardNone if the connection is good
}

// A GotConnInfo describes a checkout of a Pool that ended.
type GotConnInfo struct {
	PoolKey, Network, Address string
	Conn                      ConnInfo      // the zero value if Err is set
	Reused                    bool          // another client has used the connection before
	IdleTime                  time.Duration // how long the connection was idle; 0 for one that was dialled for this caller
	Duration                  time.Duration // of the whole checkout
	Err                       error
}

// A PutIdleConnInfo describes a connection that was returned to a Pool.
type PutIdleConnInfo struct {
	Conn    ConnInfo
	Discard DiscardCause // why the Pool closed it; DiscardNone if it kept it
}

// A RetriedInfo describes a call of Pool.Do that runs its function again.
type RetriedInfo struct {
	PoolKey, Network, Address string
	Err                       error // of the first run
}

type traceKey struct{}

// WithTrace returns a context with a Trace. Dial, Connect, StartTLS and the methods of a
// Pool call its functions, besides those of Options.Trace and of a Trace that ctx has
// already. A client of Dial keeps it for GotFirstResponseByte and Closed.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t.before(ContextTrace(ctx)))
}

// ContextTrace returns the Trace of a context, or nil.
func ContextTrace(ctx context.Context) *Trace {
	t, _ := ctx.Value(traceKey{}).(*Trace)
	return t
}

// before returns a Trace that calls the functions of t and then those of next.
func (t *Trace) before(next *Trace) *Trace {
	switch {
	case t == nil:
		return next
	case next == nil:
		return t
	}
	return &Trace{
		DNSStart:             inTurn(t.DNSStart, next.DNSStart),
		DNSDone:              inTurn(t.DNSDone, next.DNSDone),
		ConnectStart:         inTurn(t.ConnectStart, next.ConnectStart),
		ConnectDone:          inTurn(t.ConnectDone, next.ConnectDone),
		Connected:            inTurn(t.Connected, next.Connected),
		ProxyStart:           inTurn(t.ProxyStart, next.ProxyStart),
		ProxyDone:            inTurn(t.ProxyDone, next.ProxyDone),
		TLSHandshakeStart:    inTurn(t.TLSHandshakeStart, next.TLSHandshakeStart),
		TLSHandshakeDone:     inTurn(t.TLSHandshakeDone, next.TLSHandshakeDone),
		GotFirstResponseByte: inTurn(t.GotFirstResponseByte, next.GotFirstResponseByte),
		Closed:               inTurn(t.Closed, next.Closed),
		GetConn:              inTurn(t.GetConn, next.GetConn),
		Waited:               inTurn(t.Waited, next.Waited),
		ProbedConn:           inTurn(t.ProbedConn, next.ProbedConn),
		GotConn:              inTurn(t.GotConn, next.GotConn),
		PutIdleConn:          inTurn(t.PutIdleConn, next.PutIdleConn),
		Retried:              inTurn(t.Retried, next.Retried),
	}
}

func inTurn[T any](first, second func(T)) func(T) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(info T) {
		first(info)
		second(info)
	}
}

// notify calls a function of a Trace.
func notify[T any](f func(T), info T) {
	if f != nil {
		f(info)
	}
}
