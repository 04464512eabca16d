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

// Dial connects to an address and gives a client for it. Networks are "tcp",
// "tcp4", "tcp6", "udp", "udp4", "udp6", "unix" and "unixgram".
//
// For tcp and udp the address is "host:port" as in package net: a name, an IPv4
// address or an IPv6 address in brackets, or nothing for this machine, and a
// port, which is a number from 1 to 65535 or the name of a service ("http"). A name is
// looked up for both families of addresses at once, and tried on all its addresses, in
// the order and with the staggered starts of RFC 8305; see Options.FallbackDelay. A
// question that is not answered does not keep Dial from the addresses that are
// known, unless package net leaves the lookup to the system's library (cgo), of which
// nothing is known before it ends. For unix and unixgram it is a path, or on Linux "@" and an abstract name.
//
// Options.ConnectTimeout bounds all of it, looking the name up included. The
// error is a *net.OpError: around *os.SyscallError for the kernel's reason,
// os.ErrDeadlineExceeded, *net.DNSError, *net.AddrError,
// net.UnknownNetworkError, *OptionError, *ProxyError, *TLSError, or, if several
// addresses were tried, *DialError.
func Dial(network, address string, opts *Options) (*Client, error) {
	return DialContext(context.Background(), network, address, opts)
}

// DialContext is Dial that also ends, at once, when ctx does; the error is then
// ctx's. Once it has returned, ctx has no effect on the client.
func DialContext(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	opts = orDefaults(opts)
	return dialBy(ctx, network, address, opts, deadline(ctx, opts.limits().connect))
}

// dialBy is DialContext with a limit that began before.
func dialBy(ctx context.Context, network, address string, opts *Options, until sock.Instant) (*Client, error) {
	c, addr, err := dial(ctx, network, address, opts, until)
	if err != nil {
		return nil, &net.OpError{Op: opDial, Net: network, Addr: addr, Err: err}
	}
	return c, nil
}

// A Dialer dials with the same options each time. Its DialContext is the dial
// function that drivers and net/http.Transport take. The zero Dialer uses the
// defaults.
type Dialer struct {
	Options *Options // nil is the defaults

	// Pool, if not nil, is who dials, and Close of a connection gives it back. That is
	// for who closes a connection when all of the last answer has come. It is not for
	// what keeps connections itself, as net/http.Transport, gRPC and drivers with a pool
	// of their own do: those close one to be rid of it, also in the middle of an answer,
	// and the pool cannot see what of that has not arrived. The next would get it.
	Pool *Pool
}

// FromConn gives the client that a connection from a Dialer is, for what takes one, as Select
// does. It reports false for a connection that is none.
func FromConn(conn net.Conn) (*Client, bool) {
	switch c := conn.(type) {
	case *Client:
		return c, true
	case tlsConn:
		return c.Client, true
	case packetConn:
		return c.Client, true
	}
	return nil, false
}

// Dial is DialContext without a context, for what takes a dialer that has none, as
// nats.go and golang.org/x/net/proxy do.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is Dial with one more limit, the earlier counting, for what takes a dialer
// that has it, as lib/pq does. A timeout of zero or less is none.
func (d *Dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return d.DialContext(ctx, network, address)
}

// DialContext is the package's DialContext with the dialer's options, giving a
// net.Conn that is a client; see FromConn. For datagrams it is a net.PacketConn too.
// Over TLS it is no syscall.Conn: a driver that finds one takes the bytes on the
// descriptor for those of the stream. Its Read returns io.EOF where that of crypto/tls
// does: also if the peer closes between two records without close_notify.
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
	case c.tls.Load() != nil:
		return tlsConn{c, concealed{}}, nil
	}
	return c, nil
}

// dial returns, with an error, the address that it is about.
func dial(ctx context.Context, network, address string, opts *Options, until sock.Instant) (*Client, net.Addr, error) {
	where := target{network, address}
	n, ok := networks[network]
	if !ok {
		return nil, where, net.UnknownNetworkError(network)
	}
	p, err := opts.plan(n)
	if err != nil {
		return nil, where, err
	}
	host, err := n.host(address)
	if err != nil {
		return nil, where, err
	}
	if p.tls, err = p.tls.expecting(host); err != nil {
		return nil, where, err
	}
	var c *Client
	var addr net.Addr
	if p.via != nil {
		c, addr, err = p.via.dial(ctx, where, p, until)
	} else {
		c, addr, err = dialWatched(ctx, where, p, until)
	}
	if err != nil {
		return nil, addr, err
	}
	c.host, c.packets = host, p.packets
	if p.tls != nil {
		if err := c.secure(ctx, p.tls, until); err != nil {
			_ = c.sock.Close()
			return nil, where, err
		}
	}
	c.state.Store(connected)
	return c, nil, nil
}

func dialDirect(ctx context.Context, where target, p *plan, until sock.Instant) (*Client, net.Addr, error) {
	n, opts, local := p.net, p.opts, p.local
	addrs, search, err := addresses(ctx, n, local, where.address, opts.Resolver, until)
	defer search.close()
	if err != nil {
		return nil, where, err
	}
	if addrs = reachedFrom(local, addrs); len(addrs) == 0 {
		return nil, where, &OptionError{Option: "LocalAddr", Reason: opts.LocalAddr + " is of another family than " + where.address}
	}
	shared := newAddressing(opts) // by the attempts
	hasPort := local != nil && ownPort(n.typeOf(addrs[0]), *local, opts.ReuseAddr)
	var bound []*sock.Socket // to the one port of a dial, if so
	stop, unwatch := watch(ctx)
	defer unwatch()
	s, winner, tried := sock.DialParallel(addrs, search.more(), opts.fallbackDelay(), until, stop,
		func(a sock.Addr) (*sock.Socket, error) {
			search.starts(a)
			typ := n.typeOf(a)
			s, err := open(typ, netAddr(typ, a).String(), opts, shared)
			if err != nil {
				return nil, err
			}
			switch {
			case local != nil:
				how := bindLate
				for _, other := range bound { // it connects, and another dial sees that
					_ = other.SetReuseAddr(true)
					how = bindAnother
				}
				err = bindSocket(s, typ, *local, opts.ReuseAddr, how)
				if err == nil && hasPort {
					bound = append(bound, s)
				}
			case n.local == UnixDgram:
				err = bindAnywhere(s)
			}
			if err != nil {
				_ = s.Close()
				return nil, err
			}
			return s, nil
		},
		func(s *sock.Socket) { _ = s.Close() })
	if s == nil {
		addr, err := dialError(ctx, opDial, where, n, tried, search.unanswered())
		return nil, addr, err
	}
	if hasPort {
		_ = s.SetReuseAddr(true) // its TIME_WAIT is nobody's obstacle
	}
	c := wrap(s, n.typeOf(winner), where.network, opts, shared)
	c.learnEnds()
	return c, nil, nil
}

// Connect connects a client from NewTCP, NewUDP and their kin to an address, as
// Dial does. A datagram client then receives from that peer alone; datagrams
// that are queued by then are dropped, whoever sent them.
//
// Options.ConnectTimeout, ctx and Close end the call. The addresses of a name
// are tried one after another, each with its share of the time that is left.
//
// After a failure Connect may be called again on Linux; elsewhere the client is
// of no more use. After a *TLSError it is closed. It fails with unix.EISCONN for a client that is connected and
// unix.EALREADY while another Connect is under way.
func (c *Client) Connect(ctx context.Context, address string) error {
	if c.sock == nil || !c.hold() {
		return c.failed(opConnect, target{c.network, address}, net.ErrClosed)
	}
	defer c.end()
	var addr net.Addr = target{c.network, address}
	var err error
	switch {
	case c.state.CompareAndSwap(idle, connecting):
		defer c.state.CompareAndSwap(connecting, idle) // also if a callback panics
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		c.abort.Store(&cancel)
		defer c.abort.Store(nil)
		if c.sock.Closed() || c.sock.Stopped() { // before it could be known what to abort
			err = sock.ErrStopped
		} else {
			lookup, repeat := watchResolver(ctx, c.resolver)
			addr, err = c.connect(lookup, address)
			repeat(c.sock)
		}
		if err == nil {
			c.state.Store(connected)
		}
	case c.state.Load() == connected:
		err = os.NewSyscallError("connect", unix.EISCONN)
	default:
		err = os.NewSyscallError("connect", unix.EALREADY)
	}
	if c.sock.Closed() {
		err = net.ErrClosed
	} else if c.sock.Stopped() && err != nil {
		err = c.stopped(sock.ErrStopped)
	}
	c.closeIfHalfSecured(err)
	if err != nil {
		return &net.OpError{Op: opConnect, Net: c.network, Source: c.LocalAddr(), Addr: addr, Err: err}
	}
	return nil
}

// connect returns, with an error, the address that it is about.
func (c *Client) connect(ctx context.Context, address string) (net.Addr, error) {
	where := target{c.network, address}
	n := networks[c.typ.String()]
	until := deadline(ctx, c.limits.connect)
	host, err := n.host(address)
	if err != nil {
		return where, err
	}
	sec, err := c.security.expecting(host)
	if err != nil {
		return where, err
	}
	addrs, search, err := addresses(ctx, n, nil, address, c.resolver, until)
	search.close() // of one family there is one question, which is answered
	if err != nil {
		return where, err
	}
	if err := c.bindToBeAnswered(); err != nil {
		return where, err
	}
	stop, unwatch := watch(ctx)
	defer unwatch()
	tried := make([]sock.AttemptResult, len(addrs))
	for i, a := range addrs {
		tried[i] = sock.AttemptResult{Addr: a, Err: c.sock.Connect(a, until.Partial(len(addrs)-i), stop)}
		if tried[i].Err != nil {
			continue
		}
		c.host = host
		c.learnEnds()
		if sec != nil {
			err = c.secure(ctx, sec, until)
		}
		return where, err
	}
	return dialError(ctx, opConnect, where, n, tried, nil)
}

// learnEnds takes note of whom the socket has just been connected to. The client
// is connected when all that belongs to it is done.
func (c *Client) learnEnds() {
	if !c.typ.isStream() {
		c.sock.DiscardQueued()
	}
	local, peer := c.sock.Addrs()
	c.ends.Store(&ends{local: netAddr(c.typ, local), remote: netAddr(c.typ, peer)})
	c.bind.Lock()
	defer c.bind.Unlock()
	if c.ownPort {
		_ = c.sock.SetReuseAddr(true) // its TIME_WAIT is nobody's obstacle
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

// watch gives a stop that the context pulls; the caller calls done in the end.
// A context that never ends needs none.
func watch(ctx context.Context) (stop *sock.Stopper, done func()) {
	if ctx.Done() == nil {
		return nil, func() {}
	}
	stop = new(sock.Stopper)
	unwatch := context.AfterFunc(ctx, stop.Stop)
	return stop, func() {
		unwatch() // it may run still: a stop that is closed takes no harm
		stop.Close()
	}
}

// addresses resolves the address, unless the context has ended already.
func addresses(ctx context.Context, n network, local *sock.Addr, address string, r *net.Resolver, until sock.Instant) ([]sock.Addr, *search, error) {
	if ctx.Err() != nil {
		return nil, nil, contextual(ctx, sock.ErrStopped)
	}
	addrs, s, err := resolve(ctx, n, local, address, r, until)
	if err != nil && ctx.Err() != nil {
		err = contextual(ctx, sock.ErrStopped)
	}
	return addrs, s, err
}

// dialError makes one error of those of all addresses, and tells which address it is
// about. unanswered, if not nil, is why the name may have others that are not known.
func dialError(ctx context.Context, op string, where target, n network, tried []sock.AttemptResult, unanswered error) (net.Addr, error) {
	addr := func(a sock.Addr) net.Addr { return netAddr(n.typeOf(a), a) }
	switch {
	case len(tried) == 1 && unanswered == nil:
		return addr(tried[0].Addr), contextual(ctx, tried[0].Err)
	case errors.Is(ctx.Err(), context.Canceled):
		return where, ctx.Err()
	}
	all := &DialError{Errs: make([]*net.OpError, len(tried))}
	for i, t := range tried {
		all.Errs[i] = &net.OpError{Op: op, Net: where.network, Addr: addr(t.Addr), Err: contextual(ctx, t.Err)}
	}
	if unanswered != nil {
		all.Errs = append(all.Errs, &net.OpError{Op: op, Net: where.network, Addr: where, Err: contextual(ctx, unanswered)})
	}
	return where, all
}

// contextual gives the context's own error to what the context has ended.
func contextual(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, sock.ErrStopped):
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &limitError{cause: context.DeadlineExceeded}
		}
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		if t, ok := ctx.Deadline(); ok && !time.Now().Before(t) {
			return &limitError{cause: context.DeadlineExceeded}
		}
	}
	return err
}
