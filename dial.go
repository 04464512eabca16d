package client

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Dial connects to an address and returns a client. Networks are "tcp", "tcp4", "tcp6",
// "udp", "udp4", "udp6", "unix" and "unixgram".
//
// For tcp and udp the address is "host:port", as in package net. The host is a name, an
// IPv4 address, an IPv6 address in brackets, or empty for this machine. The port is a
// number from 1 to 65535 or the name of a service ("http"). For unix and unixgram the
// address is a path, or on Linux "@" and an abstract name.
//
// Dial looks a name up for both address families at once and tries all its addresses, in
// the order and with the staggered starts of RFC 8305; see Options.FallbackDelay. If a
// query is not answered, Dial goes on with the addresses that it has. It cannot do so if
// package net uses the system's library (cgo), which returns all addresses at its end.
//
// Options.ConnectTimeout bounds the whole call, including name resolution. The error is
// a *net.OpError. It wraps *os.SyscallError for an error of the kernel,
// os.ErrDeadlineExceeded, *net.DNSError, *net.AddrError, net.UnknownNetworkError,
// *OptionError, *ProxyError, *TLSError or, if several addresses were tried, *DialError.
func Dial(network, address string, opts *Options) (*Client, error) {
	return DialContext(context.Background(), network, address, opts)
}

// DialContext is Dial with a context. When ctx ends, DialContext returns at once with
// ctx's error. After DialContext has returned, ctx has no effect on the client.
func DialContext(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	opts = orDefaults(opts)
	return dialUntil(ctx, network, address, opts, deadline(ctx, opts.limits().connect))
}

// dialUntil is DialContext with a limit that has been running already.
func dialUntil(ctx context.Context, network, address string, opts *Options, until sock.Instant) (*Client, error) {
	c, addr, err := dial(ctx, network, address, opts, until)
	if err != nil {
		return nil, &net.OpError{Op: opDial, Net: network, Addr: addr, Err: err}
	}
	return c, nil
}

// A Dialer dials with the same options each time. Its DialContext is the dial function
// that drivers and net/http.Transport take. The zero Dialer uses the defaults.
type Dialer struct {
	Options *Options // nil: the defaults

	// Pool, if not nil, makes DialContext dial through the pool, and Close of a
	// connection return it to the pool. Default: none.
	//
	// Use a Pool for code that closes a connection only after it has received the last
	// answer completely. Do not use it for code that keeps connections itself, such as
	// net/http.Transport, gRPC and drivers with a pool of their own. Those close a
	// connection to get rid of it, possibly in the middle of an answer. The pool cannot
	// detect the part that has not arrived, and the next caller would receive it.
	Pool *Pool
}

// FromConn returns the Client behind a connection from a Dialer, for functions that take
// one, such as Select. It reports false for other connections.
func FromConn(conn net.Conn) (*Client, bool) {
	switch c := conn.(type) {
	case *Client:
		return c, true
	case tlsNetConn:
		return c.Client, true
	case packetConn:
		return c.Client, true
	}
	return nil, false
}

// Dial is DialContext without a context, for packages that take a dialer of that kind,
// such as nats.go and golang.org/x/net/proxy.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is Dial with an additional time limit, for packages that take a dialer of
// that kind, such as lib/pq. The shorter limit counts. Zero or negative: no additional
// limit.
func (d *Dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return d.DialContext(ctx, network, address)
}

// DialContext is the function DialContext with the dialer's options. It returns a
// net.Conn; see FromConn for its Client. For datagrams it is also a net.PacketConn.
//
// Over TLS the connection is no syscall.Conn, because some drivers would take the bytes
// on the descriptor for those of the stream. Its Read returns io.EOF where that of
// crypto/tls does: also if the peer closes the connection between two records without
// close_notify.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dial := DialContext
	if d.Pool != nil {
		dial = d.Pool.Dial
	}
	c, err := dial(ctx, network, address, d.Options)
	if err != nil {
		return nil, err // not a nil *Client in a net.Conn
	}
	switch {
	case !c.typ.isStream():
		return packetConn{c}, nil
	case c.hasTLS():
		return tlsNetConn{c, noSyscallConn{}}, nil
	}
	return c, nil
}

// dial also returns, with an error, the address that the error is about.
func dial(ctx context.Context, network, address string, opts *Options, until sock.Instant) (*Client, net.Addr, error) {
	where := unresolvedAddr{network, address}
	p, host, err := prepareDial(where, opts)
	if err != nil {
		return nil, where, err
	}
	return dialPrepared(ctx, where, host, p, until)
}

// prepareDial checks what can be checked before anything is sent. host is the one that the
// address names.
func prepareDial(where unresolvedAddr, opts *Options) (p *dialConfig, host string, err error) {
	n, ok := networks[where.network]
	if !ok {
		return nil, "", net.UnknownNetworkError(where.network)
	}
	if p, err = opts.dialConfig(n); err != nil {
		return nil, "", err
	}
	if host, err = n.host(where.address); err != nil {
		return nil, "", err
	}
	p.tls, err = p.tls.forHost(host)
	return p, host, err
}

func dialPrepared(ctx context.Context, where unresolvedAddr, host string, p *dialConfig, until sock.Instant) (*Client, net.Addr, error) {
	p.target, p.trace = where, dialTrace(ctx, p.opts.Trace)
	var c *Client
	var err error
	var addr net.Addr
	if p.proxy != nil {
		c, addr, err = dialProxy(ctx, where, p, until)
	} else {
		c, addr, err = dialDirect(ctx, where, p, until)
	}
	if err != nil {
		return nil, addr, err
	}
	c.host, c.frames = host, p.frames
	if p.tls != nil {
		if err := c.secure(ctx, p.tls, until, p.trace, nil); err != nil {
			c.closeFor(err)
			return nil, where, err
		}
	}
	c.state.Store(connected)
	return c, nil, nil
}

func dialAddrs(ctx context.Context, where unresolvedAddr, p *dialConfig, until sock.Instant) (*Client, net.Addr, error) {
	n, opts, local := p.net, p.opts, p.local
	addrs, search, err := resolveContext(ctx, n, local, where.address, opts.Resolver, until, p.trace)
	defer search.close()
	if err != nil {
		return nil, where, err
	}
	if addrs = sameFamily(local, addrs); len(addrs) == 0 {
		return nil, where, &OptionError{Option: "LocalAddr", Reason: opts.LocalAddr + " and " + where.address + " are of different address families"}
	}
	shared := newAddressing(opts) // of all attempts
	hasPort := local != nil && hasExclusivePort(n.typeOf(addrs[0]), *local, opts.ReuseAddr)
	var bound []*sock.Socket // if hasPort: the attempts that are bound to it
	stop, unwatch := stopOnDone(ctx)
	defer unwatch()
	attempts := connectTrace{trace: p.trace, network: where.network}
	defer attempts.end()
	s, winner, tried := sock.DialParallel(addrs, search.lateAddrs(), opts.fallbackDelay(), until, stop,
		func(a sock.Addr) (_ *sock.Socket, err error) {
			search.noteAttempt(a)
			attempts.start(n, a)
			defer func() {
				if err != nil {
					attempts.done(a, err)
				}
			}()
			typ := n.typeOf(a)
			s, err := open(typ, netAddr(typ, a).String(), opts, shared)
			if err != nil {
				return nil, err
			}
			if p.parks {
				s.AlwaysPark(true)
			}
			switch {
			case local != nil:
				how := bindAtConnect
				for _, other := range bound { // connecting by now, so no other dial can bind to the port
					_ = other.SetReuseAddr(true)
					how = bindShared
				}
				err = bindSocket(s, typ, *local, opts.ReuseAddr, how)
				if err == nil && hasPort {
					bound = append(bound, s)
				}
			case n.local == UnixDgram:
				err = autobind(s)
			}
			if err != nil {
				_ = s.Close()
				return nil, err
			}
			return s, nil
		},
		func(s *sock.Socket, a sock.Addr, err error) {
			_ = s.Close()
			if err != nil {
				attempts.done(a, contextError(ctx, err))
			}
		})
	if s == nil {
		addr, err := joinDialErrors(ctx, opDial, where, n, tried, search.timeoutError())
		return nil, addr, err
	}
	if hasPort {
		_ = s.SetReuseAddr(true) // so that its TIME_WAIT does not block the port
	}
	c := wrap(s, n.typeOf(winner), p.target.network, opts, shared)
	c.recordAddrs()
	returned := false
	defer func() {
		if !returned { // ConnectDone has panicked
			_ = s.Close()
		}
	}()
	attempts.done(winner, nil)
	attempts.end()
	returned = true
	return c, nil, nil
}

// Connect connects a client from NewTCP, NewUDP and the like to an address, as Dial
// does. Afterwards a datagram client receives only from that peer. Datagrams that were
// queued before are dropped. With Options.Unconnected neither is so.
//
// Options.ConnectTimeout, ctx and Close end the call. Connect tries the addresses of a
// name one after another, each with an equal share of the remaining time.
//
// After a failure Connect may be called again on Linux. On other systems the client
// cannot be used any more. After a *TLSError the client is closed. Connect fails with
// unix.EISCONN if the client is connected, and with unix.EALREADY while another Connect
// is under way.
func (c *Client) Connect(ctx context.Context, address string) error {
	if c.sock == nil || !c.lease.incref() {
		return c.opError(opConnect, unresolvedAddr{c.network, address}, net.ErrClosed)
	}
	defer c.lease.decref()
	if err := c.beginConnect(); err != nil {
		return c.connectResult(unresolvedAddr{c.network, address}, err)
	}
	c.started.Store(nil)
	return c.connectBegun(ctx, address)
}

// beginConnect changes the state to connecting.
func (c *Client) beginConnect() error {
	switch {
	case c.state.CompareAndSwap(idle, connecting):
		return nil
	case c.state.Load() == connected:
		return os.NewSyscallError("connect", unix.EISCONN)
	}
	return os.NewSyscallError("connect", unix.EALREADY)
}

// connectBegun is Connect after beginConnect.
func (c *Client) connectBegun(ctx context.Context, address string) error {
	defer c.state.CompareAndSwap(connecting, idle) // if a callback panics
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.abort.Store(&cancel)
	defer c.abort.Store(nil)
	var addr net.Addr = unresolvedAddr{c.network, address}
	err := sock.ErrStopped
	if !c.sock.Closed() && !c.sock.Stopped() { // before abort was set
		lookup, rethrow := guardResolver(ctx, c.resolver)
		addr, err = c.connect(lookup, address)
		rethrow(c.sock)
	}
	if err == nil {
		c.state.Store(connected)
	}
	return c.connectResult(addr, err)
}

// connectResult gives the error of a connect its form.
func (c *Client) connectResult(addr net.Addr, err error) error {
	if c.sock.Closed() {
		err = net.ErrClosed
		c.traceClosed(nil) // Close did not if it came before Connected
	} else if c.sock.Stopped() && err != nil {
		err = c.stopped(sock.ErrStopped)
	}
	c.closeAfterTLSError(err)
	if err != nil {
		return &net.OpError{Op: opConnect, Net: c.network, Source: c.LocalAddr(), Addr: addr, Err: err}
	}
	return nil
}

// connect also returns, with an error, the address that the error is about.
func (c *Client) connect(ctx context.Context, address string) (net.Addr, error) {
	where := unresolvedAddr{c.network, address}
	n := networks[c.typ.String()]
	until := deadline(ctx, c.limits().connect)
	host, err := n.host(address)
	if err != nil {
		return where, err
	}
	conf, err := c.tlsConfig.forHost(host)
	if err != nil {
		return where, err
	}
	t := dialTrace(ctx, c.ownTrace())
	addrs, search, err := resolveContext(ctx, n, nil, address, c.resolver, until, t)
	search.close() // one family takes one query, which has been answered
	if err != nil {
		return where, err
	}
	if err := c.ensureNamed(); err != nil {
		return where, err
	}
	stop, unwatch := stopOnDone(ctx)
	defer unwatch()
	attempts := connectTrace{trace: t, network: c.network}
	tried := make([]sock.AttemptResult, len(addrs))
	for i, a := range addrs {
		attempts.start(n, a)
		tried[i] = sock.AttemptResult{Addr: a, Err: c.sock.Connect(a, until.Partial(len(addrs)-i), stop)}
		if tried[i].Err != nil {
			attempts.done(a, contextError(ctx, tried[i].Err))
			continue
		}
		c.host = host
		c.recordAddrs()
		returned := false
		defer func() {
			if !returned { // a callback has panicked
				c.closeFor(errNoReturn)
			}
		}()
		attempts.done(a, nil)
		c.traceConnected(t, c.ownTrace(), address)
		if conf != nil {
			err = c.secure(ctx, conf, until, t, nil)
		}
		returned = true
		return where, err
	}
	return joinDialErrors(ctx, opConnect, where, n, tried, nil)
}

// recordAddrs records the addresses of a socket that has just been connected.
func (c *Client) recordAddrs() {
	if !c.typ.isStream() && !c.unconnected {
		c.sock.DiscardQueued()
	}
	local, peer := c.sock.Addrs()
	c.addrs.Store(&addrPair{local: netAddr(c.typ, local), remote: netAddr(c.typ, peer)})
	c.bind.Lock()
	defer c.bind.Unlock()
	if c.ownPort {
		_ = c.sock.SetReuseAddr(true) // so that its TIME_WAIT does not block the port
	}
}

// deadline is the earlier of a timeout from now and the context's deadline.
func deadline(ctx context.Context, timeout time.Duration) sock.Instant {
	until := sock.In(timeout)
	if t, ok := ctx.Deadline(); ok {
		until = sock.Earlier(until, sock.At(t))
	}
	return until
}

// stopOnDone returns a Stop that the end of ctx triggers, or nil if ctx never ends. The caller
// must call done.
func stopOnDone(ctx context.Context) (stop *sock.Stopper, done func()) {
	if ctx.Done() == nil {
		return nil, func() {}
	}
	stop = new(sock.Stopper)
	unwatch := context.AfterFunc(ctx, stop.Stop)
	return stop, func() {
		unwatch() // stop.Stop may still be running: it does nothing after Close
		stop.Close()
	}
}

// resolveContext is resolve with the error of a context that has ended.
func resolveContext(ctx context.Context, n network, local *sock.Addr, address string, r Resolver, until sock.Instant, t *Trace) ([]sock.Addr, *addrLookup, error) {
	if ctx.Err() != nil {
		return nil, nil, contextError(ctx, sock.ErrStopped)
	}
	addrs, s, err := resolve(ctx, n, local, address, r, until, t)
	return addrs, s, endedError(ctx, err)
}

// endedError replaces an error by ctx's if that has ended.
func endedError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return contextError(ctx, sock.ErrStopped)
	}
	return err
}

// joinDialErrors joins the errors of all addresses, and returns the address that the result
// is about. unanswered, if not nil, is why not all addresses of the name are known.
func joinDialErrors(ctx context.Context, op string, where unresolvedAddr, n network, tried []sock.AttemptResult, unanswered error) (net.Addr, error) {
	addr := func(a sock.Addr) net.Addr { return netAddr(n.typeOf(a), a) }
	switch {
	case len(tried) == 1 && unanswered == nil:
		return addr(tried[0].Addr), contextError(ctx, tried[0].Err)
	case errors.Is(ctx.Err(), context.Canceled):
		return where, ctx.Err()
	}
	all := &DialError{Errs: make([]*net.OpError, len(tried))}
	for i, t := range tried {
		all.Errs[i] = &net.OpError{Op: op, Net: where.network, Addr: addr(t.Addr), Err: contextError(ctx, t.Err)}
	}
	if unanswered != nil {
		all.Errs = append(all.Errs, &net.OpError{Op: op, Net: where.network, Addr: where, Err: contextError(ctx, unanswered)})
	}
	return where, all
}

// contextError replaces the error of a call that ctx has ended by ctx's error.
func contextError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, sock.ErrStopped):
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &timeoutError{cause: context.DeadlineExceeded}
		}
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if t, ok := ctx.Deadline(); ok && !time.Now().Before(t) {
			return &timeoutError{cause: context.DeadlineExceeded}
		}
	}
	return err
}
