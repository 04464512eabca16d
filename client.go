package client

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A Type is the kind of socket that a client has.
type Type int

// The six types of socket. Their numbers are those of Swoole's SWOOLE_SOCK_…
// constants.
const (
	TCP        Type = 1 // a stream over IPv4
	UDP        Type = 2 // datagrams over IPv4
	TCP6       Type = 3 // a stream over IPv6, and only that
	UDP6       Type = 4 // datagrams over IPv6, and only that
	UnixStream Type = 5 // a stream on this machine
	UnixDgram  Type = 6 // datagrams on this machine
)

// String gives the network that Dial knows the type by: "tcp4", "unixgram".
func (t Type) String() string {
	switch t {
	case TCP:
		return "tcp4"
	case UDP:
		return "udp4"
	case TCP6:
		return "tcp6"
	case UDP6:
		return "udp6"
	case UnixStream:
		return "unix"
	case UnixDgram:
		return "unixgram"
	}
	return "unknown"
}

func (t Type) isStream() bool { return t == TCP || t == TCP6 || t == UnixStream }
func (t Type) isUnix() bool   { return t == UnixStream || t == UnixDgram }
func (t Type) isTCP() bool    { return t == TCP || t == TCP6 }

func (t Type) domain() int {
	switch {
	case t.isUnix():
		return unix.AF_UNIX
	case t == TCP6 || t == UDP6:
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// A Flag changes what one Send or Recv does. Flags are or-ed.
type Flag int

const (
	// WaitAll makes Recv wait until the buffer is full (MSG_WAITALL). What is
	// received is all of it, or the count with an error: io.ErrUnexpectedEOF if
	// the peer closed midway, os.ErrDeadlineExceeded at the limit. Of datagrams
	// each is whole, and WaitAll makes no difference.
	WaitAll Flag = unix.MSG_WAITALL

	// Peek leaves what is received where it is, for the next Recv (MSG_PEEK).
	Peek Flag = unix.MSG_PEEK

	// DontWait makes a call that would have to wait return unix.EAGAIN at once
	// (MSG_DONTWAIT), with the count of what could be done. That error is not
	// os.ErrDeadlineExceeded, though its Timeout method says true, as any EAGAIN's.
	DontWait Flag = unix.MSG_DONTWAIT

	// OOB sends or receives the urgent byte of a stream (MSG_OOB, RFC 6093).
	// Receiving waits for one that the peer has announced; if there is none, the
	// kernel says unix.EINVAL. On datagrams and over TLS it is unix.EOPNOTSUPP.
	OOB Flag = unix.MSG_OOB
)

const (
	recvFlags = WaitAll | Peek | DontWait | OOB
	sendFlags = DontWait | OOB
)

// A Client is one socket and the calls on it. It comes from Dial, connected, or
// from NewTCP, NewUDP and their kin, to be bound and connected by hand.
//
// A call that has to wait holds an operating-system thread, or parks; see SetMaxThreads.
// All methods may be called from several goroutines at once: one receives and
// one sends at a time, the others wait for their turn within their own limits,
// and Close ends them all.
//
// Errors are a *net.OpError around the cause, as in package net, except io.EOF
// and io.ErrUnexpectedEOF, which come bare. errors.Is finds
// os.ErrDeadlineExceeded for a limit that was reached, net.ErrClosed for a
// client that was closed, and the kernel's unix.Errno for the rest.
type Client struct {
	stream
	typ     Type
	network string

	*addressing // nil in the zero Client, as the socket is

	limits limits

	watchers atomic.Pointer[watchers] // contexts that end the calls; nil: none ever

	lease *lease // nil if the client is not from a pool
}

// A client's way through Connect. Close is not a state: the socket knows.
//
//	idle ──▶ connecting ──▶ connected
//	  ▲           │ failed
//	  └───────────┘
const (
	idle int32 = iota
	connecting
	connected
)

// An addressing is what a socket has to do with addresses. It is apart from the
// client because all who have a pooled connection, one after another, have it in
// common, and because a pool has to make a Client for each of them: what is in
// there costs each checkout memory.
type addressing struct {
	ends atomic.Pointer[ends]
	host string // the one connected to, as the caller called it

	resolver *net.Resolver
	security *tlsConfig                         // what Connect has to make, if anything
	abort    atomic.Pointer[context.CancelFunc] // ends a Connect that is under way

	bind    sync.Mutex // belongs to who gives the socket an address
	bound   bool
	reuse   Switch // Options.ReuseAddr
	ownPort bool   // see ownPort
}

type ends struct{ local, remote net.Addr }

var _ net.Conn = (*Client)(nil)

// NewTCP makes a TCP socket over IPv4, to be connected by Connect. It fails if
// the options cannot be used (*OptionError) or the system has no descriptor left.
func NewTCP(opts *Options) (*Client, error) { return newClient(TCP, opts) }

// NewTCP6 is NewTCP over IPv6. It never speaks IPv4.
func NewTCP6(opts *Options) (*Client, error) { return newClient(TCP6, opts) }

// NewUDP makes a UDP socket over IPv4. Unconnected, it sends with SendTo and
// takes datagrams from anybody; Connect gives it one peer.
func NewUDP(opts *Options) (*Client, error) { return newClient(UDP, opts) }

// NewUDP6 is NewUDP over IPv6. It never speaks IPv4.
func NewUDP6(opts *Options) (*Client, error) { return newClient(UDP6, opts) }

// NewUnix makes a unix stream socket, to be connected by Connect.
func NewUnix(opts *Options) (*Client, error) { return newClient(UnixStream, opts) }

// NewUnixgram makes a unix datagram socket. It gets a name that it can be
// answered at when it first connects or sends, unless Bind gave it one.
func NewUnixgram(opts *Options) (*Client, error) { return newClient(UnixDgram, opts) }

func newClient(typ Type, opts *Options) (*Client, error) {
	opts = orDefaults(opts)
	n := networks[typ.String()]
	p, err := opts.dialConfig(n)
	if err == nil && p.proxy != nil {
		err = &OptionError{Option: "Proxy", Reason: "only Dial can use a proxy"}
	}
	if err != nil {
		return nil, &net.OpError{Op: opNew, Net: n.name, Err: err}
	}
	a := newAddressing(opts)
	s, err := open(typ, "", opts, a)
	if err != nil {
		return nil, &net.OpError{Op: opNew, Net: n.name, Err: err}
	}
	c := wrap(s, typ, n.name, opts, a)
	c.security, c.frames = p.tls, p.frames
	if p.local != nil {
		if err := c.bindTo(*p.local, bindAtConnect); err != nil {
			_ = c.Close()
			return nil, &net.OpError{Op: opBind, Net: n.name, Addr: target{n.name, opts.LocalAddr}, Err: err}
		}
	}
	return c, nil
}

// open makes a socket and gives it the options that do not depend on its address. The
// addressing is that of the client to be.
func open(typ Type, address string, opts *Options, a *addressing) (*sock.Socket, error) {
	kind := unix.SOCK_DGRAM
	if typ.isStream() {
		kind = unix.SOCK_STREAM
	}
	s, err := sock.Open(typ.domain(), kind, opts.protocol())
	if err != nil && opts.MPTCP {
		err = optionError("MPTCP", err)
	}
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done { // Control may panic
			_ = s.Close()
		}
	}()
	if err := opts.applyTo(s, typ); err != nil {
		return nil, err
	}
	if opts.Control != nil {
		if err := opts.Control(typ.String(), address, controlConn{s.Raw(), a}); err != nil {
			return nil, err
		}
	}
	done = true
	return s, nil
}

// A controlConn is what Options.Control gets and may keep. It holds the addressing, so that
// the socket is not closed as unreachable (see StartTLS) while there is a controlConn.
type controlConn struct {
	sock.RawConn
	owner *addressing
}

func newAddressing(opts *Options) *addressing {
	return &addressing{resolver: opts.Resolver, reuse: opts.ReuseAddr}
}

func wrap(s *sock.Socket, typ Type, network string, opts *Options, a *addressing) *Client {
	return &Client{
		stream: stream{sock: s}, typ: typ, network: network, limits: opts.limits(),
		addressing: a,
	}
}

// Type tells which of the six types of socket the client has.
func (c *Client) Type() Type { return c.typ }

// Send sends p. It returns len(p), or how many bytes the kernel took and an
// error that says why not more: never less without one. Options.SendTimeout
// and the write deadline bound the call. flags are DontWait and OOB.
//
// On a datagram client p is one datagram, an empty one included; one that is
// too long for the network is refused whole with unix.EMSGSIZE. A UDP datagram
// that finds the peer's port closed makes the next call fail with
// unix.ECONNREFUSED.
//
// SIGPIPE is never raised: a peer that has gone gives unix.EPIPE or
// unix.ECONNRESET.
//
// Over TLS the count is of bytes that are in records, the last of which (16 KiB
// at most) may not be all sent if there is an error: the count can then be all of
// p. The rest goes out by itself when there is room, and before anything else; a
// Send of an empty p waits until it has. Close does not wait for it.
func (c *Client) Send(p []byte, flags Flag) (int, error) {
	if err := c.beginSend(flags); err != nil {
		return 0, c.sentSome(opSend, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.stream.send(p, flags, c.limits.send)
	return n, c.sentSome(opSend, nil, n, err)
}

// Recv receives into p and returns how many bytes there are. Without flags it
// waits until there is at least one byte and returns what is there; with
// WaitAll it fills p. Options.RecvTimeout and the read deadline bound the call:
// at the limit it fails with os.ErrDeadlineExceeded, and bytes that arrived
// meanwhile come with the count. A deadline that is set while Recv waits counts.
//
// On a stream the end is io.EOF, or io.ErrUnexpectedEOF if a part of a WaitAll
// came before it, or if it is TLS that the peer has not ended. A connection that has
// failed never gives io.EOF: each Recv returns the error that ended it, also if a Send
// or a Peek met it first. A datagram that is longer than p gives what fits and a
// *TruncatedError; an empty one gives 0 and no error.
//
// On Linux Recv may wait inside recvfrom(2). Close and a deadline that is set meanwhile
// then end it by a signal to its thread: SIGURG, as the Go runtime uses it to preempt
// goroutines.
func (c *Client) Recv(p []byte, flags Flag) (int, error) {
	if err := c.begin(recvFlags, flags, c.typ.isStream()); err != nil {
		return 0, c.failed(opRecv, nil, err)
	}
	defer c.lease.decref()
	n, err := c.stream.recv(p, flags, c.limits.recv)
	c.lease.recordRecv(n, len(p), err, flags)
	return c.received(opRecv, nil, len(p), n, err)
}

// begin says why a call with such flags cannot be made, if it cannot. Otherwise
// the call has to end.
func (c *Client) begin(known, flags Flag, needsPeer bool) error {
	if !c.lease.incref() {
		return net.ErrClosed
	}
	err := c.usable(known, flags, needsPeer)
	if err != nil {
		c.lease.decref()
	}
	return err
}

// beginSend is begin for what sends to the peer.
func (c *Client) beginSend(flags Flag) error {
	err := c.begin(sendFlags, flags, true)
	if err == nil {
		c.lease.markSending()
	}
	return err
}

// usable says why a call with such flags cannot go to the kernel, if it cannot.
func (c *Client) usable(known, flags Flag, needsPeer bool) error {
	switch {
	case flags&^known != 0:
		return unix.EINVAL
	case flags&OOB != 0 && (!c.typ.isStream() || c.hasTLS()):
		return unix.EOPNOTSUPP
	case c.sock == nil, needsPeer && c.state.Load() != connected && !c.sock.Closed():
		// Left to itself the kernel says EPIPE or EDESTADDRREQ to a send here:
		// answers to other questions.
		return unix.ENOTCONN
	}
	return nil
}

// sentSome takes note of n bytes accepted, and gives the call's error. to is
// called for the address that it is about, if the client has no peer.
func (c *Client) sentSome(op string, to func() net.Addr, n int, err error) error {
	if (n > 0 || err == nil) && !c.sent.Load() {
		c.sent.Store(true)
	}
	if err == nil {
		return nil
	}
	c.lease.recordErr(err)
	if !c.sent.Load() {
		err = unsent{err}
	}
	var addr net.Addr
	if to != nil {
		addr = to()
	}
	return c.failed(op, addr, err)
}

func (c *Client) received(op string, from net.Addr, room, n int, err error) (int, error) {
	if icmp, ok := err.(*sock.ICMPError); ok { //nolint:errorlint // as the socket gives it; errors.As allocates
		return n, c.failed(op, netAddr(c.typ, sock.Addr{IP: icmp.To}), &ICMPError{
			Type: icmp.Type, Code: icmp.Code, To: icmp.To, By: icmp.By, MTU: icmp.MTU, Err: icmp.Errno,
		})
	}
	if err != nil {
		return n, c.failed(op, from, err)
	}
	if n > room {
		return room, c.failed(op, from, &TruncatedError{Size: n, Got: room})
	}
	return n, nil
}

// failed gives a cause its operation and addresses; peer is for a client that
// has no peer of its own.
func (c *Client) failed(op string, peer net.Addr, cause error) error {
	if cause == io.EOF || cause == io.ErrUnexpectedEOF { //nolint:errorlint // they come bare; in other errors they are a reason
		return cause
	}
	cause = c.stopped(cause)
	if remote := c.RemoteAddr(); remote != nil {
		peer = remote
	}
	return &net.OpError{Op: op, Net: c.network, Source: c.LocalAddr(), Addr: peer, Err: cause}
}

// Close closes the socket. Every call that waits on it, in whatever goroutine,
// returns at once with an error that is net.ErrClosed, and so does every later
// one, a second Close included. Close does not wait for those calls: close(2), and
// with it what the peer sees, comes when the last of them has returned, and it is
// that one which waits if Options.Linger says so. A descriptor of the same socket in
// another process stays connected. Over TLS the peer is told (RFC 8446, 6.1,
// close_notify) if there is room for that at once.
//
// A client that nobody has any more is closed by the garbage collector, whenever that
// comes to it, as one of package net is; over TLS the peer is not told. One of a Pool is
// not: its place is taken until Close or Discard.
func (c *Client) Close() error {
	if c.sock == nil {
		return c.failed(opClose, nil, net.ErrClosed)
	}
	if c.lease != nil {
		return c.closed(c.lease.conn.release(c, false))
	}
	c.LocalAddr() // to be remembered: a closed socket has no address to tell
	err := c.stream.close()
	if abort := c.abort.Load(); abort != nil {
		(*abort)()
	}
	return c.closed(err)
}

func (c *Client) closed(err error) error {
	if err != nil {
		return c.failed(opClose, nil, err)
	}
	return nil
}

// CloseWrite tells the peer of a stream that nothing more will be sent, which
// it reads as the end; receiving goes on. See shutdown(2), SHUT_WR. Over TLS it
// is TLS that ends (close_notify), and what waits for room, as Send does, within
// Options.SendTimeout. A datagram client gives unix.EOPNOTSUPP.
func (c *Client) CloseWrite() error {
	return c.shutdown(unix.SHUT_WR)
}

// CloseRead ends receiving on a stream: what arrives later is not for this
// program. Recv gives what had arrived before, and then io.EOF. See shutdown(2),
// SHUT_RD; systems other than Linux also drop what had arrived. A datagram client
// gives unix.EOPNOTSUPP.
func (c *Client) CloseRead() error {
	return c.shutdown(unix.SHUT_RD)
}

func (c *Client) shutdown(how int) error {
	err := c.begin(0, 0, c.typ.isStream())
	if err != nil {
		return c.failed(opClose, nil, err)
	}
	defer c.lease.decref()
	c.lease.markFailed()
	if how == unix.SHUT_RD {
		c.lease.markAltered() // the end that is read then is not the peer's
	}
	switch {
	case !c.typ.isStream():
		err = os.NewSyscallError("shutdown", unix.EOPNOTSUPP)
	case how == unix.SHUT_WR:
		err = c.closeWrite(c.limits.send)
	default:
		err = c.closeRead(c.limits.send)
	}
	return c.closed(err)
}

// IsConnected reports whether the client has a peer and, on a stream, whether
// the peer is still there as far as the kernel knows: it has neither closed its
// side nor reset the connection. It asks the kernel each time and takes nothing
// away: neither bytes that have arrived nor an error that is yet to be told. A
// peer whose machine or network has failed silently still counts as there, and
// one that CloseRead has cut off does not, nor one whose end of TLS has been
// received.
func (c *Client) IsConnected() bool {
	if c.sock == nil || c.state.Load() != connected || !c.lease.incref() {
		return false
	}
	defer c.lease.decref()
	if c.typ.isStream() {
		return c.isUp()
	}
	return !c.sock.Closed()
}
