package client

import (
	"net"
	"syscall"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// Read receives as net.Conn has it: what is there, at least one byte, limited
// by the read deadline alone and not by the client's timeouts. Setting the
// deadline from another goroutine ends a Read that waits. See Recv for the rest.
func (c *Client) Read(p []byte) (int, error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return 0, c.failed(opRead, nil, err)
	}
	defer c.lease.decref()
	n, err := c.stream.read(p)
	c.lease.recordRecv(n, len(p), err, 0)
	return c.received(opRead, nil, len(p), n, err)
}

// Write sends all of p as net.Conn has it: limited by the write deadline alone
// and not by the client's timeouts. Setting the deadline from another goroutine
// ends a Write that waits. See Send for the rest.
func (c *Client) Write(p []byte) (int, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sentSome(opWrite, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.stream.send(p, 0, -1)
	return n, c.sentSome(opWrite, nil, n, err)
}

// SetDeadline sets the read and the write deadline: the point in time after
// which calls fail with os.ErrDeadlineExceeded, also those that wait already.
// The zero time is no deadline.
func (c *Client) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read, Recv and RecvFrom. The last two
// obey it beside Options.RecvTimeout, whichever is over first.
func (c *Client) SetReadDeadline(t time.Time) error {
	return c.setDeadline((*sock.Socket).SetReadDeadline, t)
}

// SetWriteDeadline sets the deadline of Write, Send and SendTo. The last two
// obey it beside Options.SendTimeout, whichever is over first.
func (c *Client) SetWriteDeadline(t time.Time) error {
	return c.setDeadline((*sock.Socket).SetWriteDeadline, t)
}

func (c *Client) setDeadline(set func(*sock.Socket, sock.Instant) error, t time.Time) error {
	if c.sock == nil || !c.lease.incref() {
		return c.failed(opSet, nil, net.ErrClosed)
	}
	defer c.lease.decref()
	if err := set(c.sock, sock.At(t)); err != nil {
		return c.failed(opSet, nil, err)
	}
	return nil
}

// LocalAddr is the client's own address: a *net.TCPAddr, *net.UDPAddr or
// *net.UnixAddr. It is still known after Close.
func (c *Client) LocalAddr() net.Addr {
	if c.sock == nil {
		return nil
	}
	e := c.ends.Load()
	if !c.sock.Closed() && (e == nil || e.remote == nil) {
		// Unconnected, the address can still change: by Bind, or by the first
		// datagram, for which the kernel picks a port.
		c.ends.CompareAndSwap(e, &ends{local: netAddr(c.typ, c.sock.Local())})
		e = c.ends.Load()
	}
	if e == nil {
		return nil
	}
	return e.local
}

// RemoteAddr is the peer's address, of the same types as LocalAddr, or nil if
// the client is not connected. It is still known after Close.
func (c *Client) RemoteAddr() net.Addr {
	if c.sock == nil {
		return nil
	}
	if e := c.ends.Load(); e != nil {
		return e.remote
	}
	return nil
}

// SyscallConn lends the descriptor, for what this package has no method for.
// Read and Write make it non-blocking for good, so that a callback which expects
// EAGAIN gets it; Recv and Send then wait in poll(2), which costs a system call
// more. Control leaves the descriptor as it is: on Linux it may block. Over TLS
// what goes through the descriptor is TLS records, which nobody else may take, and
// drivers may: a Dialer gives them none, Dial does. A
// client whose descriptor was lent is not given back to a Pool.
func (c *Client) SyscallConn() (syscall.RawConn, error) {
	if c.sock == nil || !c.lease.incref() {
		return nil, c.failed(opRaw, nil, net.ErrClosed)
	}
	defer c.lease.decref()
	return rawConn{c, c.sock.Raw()}, nil
}

// A rawConn gives the socket's errors their addresses.
type rawConn struct {
	c   *Client
	raw sock.RawConn
}

func (r rawConn) Control(f func(fd uintptr)) error {
	return r.do(func() error { return r.raw.Control(f) })
}

func (r rawConn) Read(f func(fd uintptr) bool) error {
	return r.do(func() error { return r.raw.Read(f) })
}

func (r rawConn) Write(f func(fd uintptr) bool) error {
	return r.do(func() error { return r.raw.Write(f) })
}

func (r rawConn) do(call func() error) error {
	err := net.ErrClosed
	if r.c.lease.incref() {
		defer r.c.lease.decref()
		r.c.lease.markAltered() // whatever it is lent for, the next one must not find it done
		err = call()
	}
	if err == nil {
		return nil
	}
	return r.c.failed(opRaw, nil, err)
}
