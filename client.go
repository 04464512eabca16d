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
	TCP6       Type = 3 // a stream over IPv6, never IPv4
	UDP6       Type = 4 // datagrams over IPv6, never IPv4
	UnixStream Type = 5 // a stream within this machine
	UnixDgram  Type = 6 // datagrams within this machine
)

// String returns the network that Dial has for the type, such as "tcp4" or "unixgram".
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

// A Flag changes what one Send or Recv does. Flags are combined with |.
type Flag int

const (
	// WaitAll makes Recv wait until the buffer is full (MSG_WAITALL). A short count comes
	// with an error: io.ErrUnexpectedEOF if the peer closed before, os.ErrDeadlineExceeded
	// at the limit. On datagrams it has no effect: a datagram is always received whole.
	WaitAll Flag = unix.MSG_WAITALL

	// Peek makes Recv leave the data to be received again (MSG_PEEK).
	Peek Flag = unix.MSG_PEEK

	// DontWait makes a call that would have to wait return at once (MSG_DONTWAIT), with
	// unix.EAGAIN and the count of what could be done. That error is not
	// os.ErrDeadlineExceeded, but its Timeout method returns true, as that of any EAGAIN.
	DontWait Flag = unix.MSG_DONTWAIT

	// OOB sends or receives the urgent byte of a stream (MSG_OOB, RFC 6093). A receive
	// waits for an urgent byte that the peer has announced. If none is announced, it fails
	// with unix.EINVAL. Datagrams and TLS have no urgent byte: unix.EOPNOTSUPP.
	OOB Flag = unix.MSG_OOB
)

const (
	recvFlags = WaitAll | Peek | DontWait | OOB
	sendFlags = DontWait | OOB
)

// A Client is one socket. Dial and Pool.Dial return a connected one. NewTCP, NewUDP and the
// other New functions return one to be bound and connected with Bind and Connect.
//
// A waiting call holds a thread or parks its goroutine; see SetMaxThreads. All methods may be
// called from several goroutines at once. One call receives and one sends at a time; further
// calls wait for them within their own limits. Close ends all calls.
//
// Errors are a *net.OpError around the cause, as in package net, except io.EOF and
// io.ErrUnexpectedEOF, which are returned unwrapped. errors.Is finds os.ErrDeadlineExceeded
// after a limit, net.ErrClosed after Close, and otherwise the kernel's unix.Errno.
type Client struct {
	stream
	typ     Type
	network string

	*addressing // nil in the zero Client, as the socket is

	initialLimits limits                 // by Options
	changedLimits atomic.Pointer[limits] // by SetLimits; nil before the first

	watchers atomic.Pointer[watchers] // contexts that end the calls; nil before the first Watch

	lease *lease // nil if the client is not from a pool

	trace atomic.Pointer[clientTrace] // nil if nothing is to be called
}

// The states of Connect. Close is not one of them: the socket knows whether it is closed.
//
//	idle ──▶ connecting ──▶ connected
//	  ▲           │ failed
//	  └───────────┘
const (
	idle int32 = iota
	connecting
	connected
)

// An addressing is what belongs to the addresses of a connection. It is apart from the Client
// because all clients of a pooled connection share it, and a pool checkout makes a new Client.
type addressing struct {
	addrs atomic.Pointer[addrPair]
	host  string // the host connected to, as the caller wrote it

	resolver  Resolver
	tlsConfig *tlsConfig                         // for Connect; nil: no TLS
	abort     atomic.Pointer[context.CancelFunc] // ends a Connect that is in progress
	started   atomic.Pointer[startedConnect]     // the last StartConnect, unless it has succeeded

	bind  sync.Mutex // held while the socket is bound
	bound bool
	reuse Switch // Options.ReuseAddr

	unconnected bool // Options.Unconnected: there is a destination, and no peer
	ownPort     bool // see ownPort

	id atomic.Uint64 // ConnInfo.ID; zero: not asked for yet
}

type addrPair struct{ local, remote net.Addr }

var _ net.Conn = (*Client)(nil)

// NewTCP makes a TCP socket over IPv4, to be connected by Connect. It fails with an
// *OptionError if an option cannot be used, and if the system has no descriptor left.
func NewTCP(opts *Options) (*Client, error) { return newClient(TCP, opts) }

// NewTCP6 is NewTCP over IPv6. It never uses IPv4.
func NewTCP6(opts *Options) (*Client, error) { return newClient(TCP6, opts) }

// NewUDP makes a UDP socket over IPv4. Before Connect it sends with SendTo and receives from
// any address. After Connect it has one peer.
func NewUDP(opts *Options) (*Client, error) { return newClient(UDP, opts) }

// NewUDP6 is NewUDP over IPv6. It never uses IPv4.
func NewUDP6(opts *Options) (*Client, error) { return newClient(UDP6, opts) }

// NewUnix makes a unix stream socket, to be connected by Connect.
func NewUnix(opts *Options) (*Client, error) { return newClient(UnixStream, opts) }

// NewUnixgram makes a unix datagram socket. If Bind has not given it a name, it gets one with
// the first Connect or SendTo, so that the peer can answer.
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
	c.tlsConfig, c.frames = p.tls, p.frames
	if p.local != nil {
		if err := c.bindTo(*p.local, bindAtConnect); err != nil {
			_ = c.Close()
			return nil, &net.OpError{Op: opBind, Net: n.name, Addr: unresolvedAddr{n.name, opts.LocalAddr}, Err: err}
		}
	}
	return c, nil
}

// open makes a socket and sets the options that do not depend on its address. a is that of
// the client to be.
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

// A controlConn is the RawConn of Options.Control, which may keep it. It refers to the
// addressing, so that the socket is not closed as unreachable (see handshake) before it.
type controlConn struct {
	sock.RawConn
	owner *addressing
}

func newAddressing(opts *Options) *addressing {
	return &addressing{resolver: opts.Resolver, reuse: opts.ReuseAddr, unconnected: opts.Unconnected}
}

func wrap(s *sock.Socket, typ Type, network string, opts *Options, a *addressing) *Client {
	c := &Client{
		stream: stream{sock: s}, typ: typ, network: network, initialLimits: opts.limits(),
		addressing: a,
	}
	c.setTrace(opts.Trace, opts.Trace, "")
	return c
}

// Type returns which of the six types of socket the client has.
func (c *Client) Type() Type { return c.typ }

// Send sends all of p. A count below len(p), of the bytes that the kernel has accepted, comes
// with an error. Options.SendTimeout and the write deadline bound the call. The flags are
// DontWait and OOB.
//
// On a datagram client p is one datagram, which may be empty. A datagram that is too long for
// the network is not sent: unix.EMSGSIZE. If the peer's UDP port is closed, a later call
// fails with unix.ECONNREFUSED.
//
// If the peer has closed the connection, Send fails with unix.EPIPE or unix.ECONNRESET. It
// never raises SIGPIPE.
//
// Over TLS the count is of bytes in records that were made. After an error a part of the last
// record, of 16 KiB at most, may be unsent, also if the count is len(p). That part is sent in
// the background, before anything else. A Send of an empty p waits for that; Close does not.
func (c *Client) Send(p []byte, flags Flag) (int, error) {
	if err := c.beginSend(flags); err != nil {
		return 0, c.sendResult(opSend, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.send(p, flags, c.limits().send)
	return n, c.sendResult(opSend, nil, n, err)
}

// Recv receives into p and returns the number of bytes. Without flags it waits for at least
// one byte and returns what has arrived. With WaitAll it fills p. The other flags are Peek,
// DontWait and OOB.
//
// Options.RecvTimeout and the read deadline bound the call, also a deadline that is set while
// Recv waits. At the limit Recv fails with os.ErrDeadlineExceeded and returns the count of
// the bytes that have arrived.
//
// At the end of a stream Recv returns io.EOF. It returns io.ErrUnexpectedEOF if WaitAll has
// received a part before, or if the peer has not ended TLS. After a connection has failed
// Recv never returns io.EOF: each call returns the error that ended the connection, also if a
// Send or a Peek met that error first.
//
// If a datagram is longer than p, Recv returns what fits and a *TruncatedError. An empty
// datagram is 0 bytes and no error.
//
// On Linux Recv may wait inside recvfrom(2). Close and SetDeadline then end it by a signal to
// its thread: SIGURG, which the Go runtime uses to preempt goroutines.
func (c *Client) Recv(p []byte, flags Flag) (int, error) {
	if err := c.begin(recvFlags, flags, c.typ.isStream()); err != nil {
		return 0, c.opError(opRecv, nil, err)
	}
	defer c.lease.decref()
	n, err := c.recv(p, flags, c.limits().recv)
	c.recordRecv(n, len(p), err, flags)
	return c.recvResult(opRecv, nil, len(p), n, err)
}

// begin holds the client for a call, which ends with lease.decref. It fails if the call cannot
// be made.
func (c *Client) begin(known, flags Flag, needsPeer bool) error {
	if !c.lease.incref() {
		return net.ErrClosed
	}
	err := c.awaitConnect(flags)
	if err == nil {
		err = c.usable(known, flags, needsPeer)
	}
	if err != nil {
		c.lease.decref()
	}
	return err
}

// beginSend is begin for a call that sends to the peer.
func (c *Client) beginSend(flags Flag) error {
	err := c.begin(sendFlags, flags, true)
	if err == nil {
		c.lease.markSending()
	}
	return err
}

// usable fails if a call with these flags must not reach the kernel.
func (c *Client) usable(known, flags Flag, needsPeer bool) error {
	switch {
	case flags&^known != 0:
		return unix.EINVAL
	case flags&OOB != 0 && (!c.typ.isStream() || c.hasTLS()):
		return unix.EOPNOTSUPP
	case c.sock == nil, needsPeer && c.state.Load() != connected && !c.sock.Closed():
		// The kernel's own EPIPE or EDESTADDRREQ for a send would mislead.
		return unix.ENOTCONN
	}
	return nil
}

// sendResult records that n bytes were accepted, and returns the error of the call. If the
// client has no peer, to returns the address that the error is about.
func (c *Client) sendResult(op string, to func() net.Addr, n int, err error) error {
	if (n > 0 || err == nil) && !c.sent.Load() {
		c.sent.Store(true)
	}
	if err == nil {
		return nil
	}
	c.lease.recordErr(err)
	if t := c.trace.Load(); t != nil {
		c.traceErr(t, err)
	}
	if !c.sent.Load() {
		err = unsentError{err}
	}
	var addr net.Addr
	if to != nil {
		addr = to()
	}
	return c.opError(op, addr, err)
}

// recordRecv records the end of a receive of n bytes into room.
func (c *Client) recordRecv(n, room int, err error, flags Flag) {
	c.lease.recordRecv(n, room, err, flags)
	if t := c.trace.Load(); t != nil {
		c.traceRecv(t, n, room, err)
	}
}

// recvResult returns the result of a receive of n bytes into room.
func (c *Client) recvResult(op string, from net.Addr, room, n int, err error) (int, error) {
	if icmp, ok := err.(*sock.ICMPError); ok { //nolint:errorlint // as the socket returns it; errors.As allocates
		return n, c.opError(op, netAddr(c.typ, sock.Addr{IP: icmp.To}), &ICMPError{
			Type: icmp.Type, Code: icmp.Code, To: icmp.To, By: icmp.By, MTU: icmp.MTU, Err: icmp.Errno,
		})
	}
	if err != nil {
		return n, c.opError(op, from, err)
	}
	if n > room {
		return room, c.opError(op, from, &TruncatedError{Size: n, Got: room})
	}
	return n, nil
}

// opError adds the operation and the addresses to a cause. peer is for a client that has no
// peer of its own.
func (c *Client) opError(op string, peer net.Addr, cause error) error {
	if cause == io.EOF || cause == io.ErrUnexpectedEOF { //nolint:errorlint // returned unwrapped; within another error they are a cause
		return cause
	}
	cause = c.stopped(cause)
	if remote := c.RemoteAddr(); remote != nil && (peer == nil || !c.unconnected) {
		peer = remote
	}
	return &net.OpError{Op: op, Net: c.network, Source: c.LocalAddr(), Addr: peer, Err: cause}
}

// Close closes the socket. All waiting calls return at once with net.ErrClosed, and so does
// every later call, including a second Close. Close does not wait for those calls: the last
// of them to return calls close(2), and waits there if Options.Linger is positive. The peer
// sees the end after that. A duplicate of the descriptor in another process stays connected.
// Over TLS, Close sends close_notify (RFC 8446, 6.1) if there is room for it.
//
// Close of a client from a Pool returns the connection to the pool; see Pool.
//
// An unreachable Client is closed by the garbage collector, as in package net, without
// close_notify. A client from a Pool is not: it counts as in use until Close or Discard.
func (c *Client) Close() error {
	if c.sock == nil {
		return c.opError(opClose, nil, net.ErrClosed)
	}
	if c.lease != nil {
		return c.closeError(c.lease.conn.release(c, false))
	}
	c.LocalAddr() // stores the address, which a closed socket does not have
	err := c.close()
	if abort := c.abort.Load(); abort != nil {
		(*abort)()
	}
	c.traceClosed(nil)
	return c.closeError(err)
}

func (c *Client) closeError(err error) error {
	if err != nil {
		return c.opError(opClose, nil, err)
	}
	return nil
}

// CloseWrite ends sending on a stream: the peer receives io.EOF after what was sent. Receiving
// goes on. See shutdown(2), SHUT_WR. Over TLS, CloseWrite sends close_notify and leaves the
// socket open; Options.SendTimeout bounds the wait for room. On a datagram client it fails
// with unix.EOPNOTSUPP.
func (c *Client) CloseWrite() error {
	return c.shutdown(unix.SHUT_WR)
}

// CloseRead ends receiving on a stream: Recv returns what has arrived before, and then io.EOF.
// See shutdown(2), SHUT_RD. Systems other than Linux also drop what has arrived before. On a
// datagram client it fails with unix.EOPNOTSUPP.
func (c *Client) CloseRead() error {
	return c.shutdown(unix.SHUT_RD)
}

func (c *Client) shutdown(how int) error {
	err := c.begin(0, 0, c.typ.isStream())
	if err != nil {
		return c.opError(opClose, nil, err)
	}
	defer c.lease.decref()
	c.lease.markFailed()
	if how == unix.SHUT_RD {
		c.lease.markAltered() // the end of the stream is then not the peer's
	}
	switch {
	case !c.typ.isStream():
		err = os.NewSyscallError("shutdown", unix.EOPNOTSUPP)
	case how == unix.SHUT_WR:
		err = c.closeWrite(c.limits().send)
	default:
		err = c.closeRead(c.limits().send)
	}
	return c.closeError(err)
}

// IsConnected reports whether the client is connected. On a stream it also asks the kernel
// whether the peer has closed its side or reset the connection. It receives nothing: data and
// a pending error stay for the next call.
//
// If the peer's machine or network has failed silently, the kernel does not know and
// IsConnected returns true. After CloseRead, and after the peer's close_notify was received,
// it returns false.
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
