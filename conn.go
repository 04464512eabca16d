package client

import (
	"net"
	"syscall"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// Read implements net.Conn. It returns what has arrived, and waits for at least one byte.
// Only the read deadline limits it: Options.RecvTimeout does not. A deadline that another
// goroutine sets ends a waiting Read. For the rest see Recv.
func (c *Client) Read(p []byte) (int, error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return 0, c.opError(opRead, nil, err)
	}
	defer c.lease.decref()
	n, err := c.read(p)
	c.recordRecv(n, len(p), err, 0)
	return c.recvResult(opRead, nil, len(p), n, err)
}

// Write implements net.Conn. It sends all of p. Only the write deadline limits it:
// Options.SendTimeout does not. A deadline that another goroutine sets ends a waiting Write.
// For the rest see Send.
func (c *Client) Write(p []byte) (int, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sendResult(opWrite, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.send(p, 0, -1)
	return n, c.sendResult(opWrite, nil, n, err)
}

// SetDeadline sets the read and the write deadline. After it, calls fail with
// os.ErrDeadlineExceeded, including those that wait already. The zero time means no deadline.
func (c *Client) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read, Recv, RecvFrom and the like. All but Read end
// at the earlier of the deadline and Options.RecvTimeout.
func (c *Client) SetReadDeadline(t time.Time) error {
	return c.setDeadline((*sock.Socket).SetReadDeadline, t)
}

// SetWriteDeadline sets the deadline of Write, Send, SendTo, SendFile and the like. All but
// Write end at the earlier of the deadline and Options.SendTimeout.
func (c *Client) SetWriteDeadline(t time.Time) error {
	return c.setDeadline((*sock.Socket).SetWriteDeadline, t)
}

func (c *Client) setDeadline(set func(*sock.Socket, sock.Instant) error, t time.Time) error {
	if c.sock == nil || !c.lease.incref() {
		return c.opError(opSet, nil, net.ErrClosed)
	}
	defer c.lease.decref()
	if err := set(c.sock, sock.At(t)); err != nil {
		return c.opError(opSet, nil, err)
	}
	return nil
}

// LocalAddr returns the client's own address: a *net.TCPAddr, *net.UDPAddr or *net.UnixAddr.
// It is available after Close too.
func (c *Client) LocalAddr() net.Addr {
	if c.sock == nil {
		return nil
	}
	a := c.addrs.Load()
	if !c.sock.Closed() && (a == nil || a.remote == nil || c.unconnected) {
		// The address of an unconnected socket can change: by Bind, or by the first datagram,
		// for which the kernel chooses a port.
		now := &addrPair{local: netAddr(c.typ, c.sock.Local())}
		if a != nil {
			now.remote = a.remote
		}
		c.addrs.CompareAndSwap(a, now)
		a = c.addrs.Load()
	}
	if a == nil {
		return nil
	}
	return a.local
}

// RemoteAddr returns the peer's address, of the same types as LocalAddr, or nil if the client
// is not connected. With Options.Unconnected it is the address that Send sends to. It is
// available after Close too.
func (c *Client) RemoteAddr() net.Addr {
	if c.sock == nil {
		return nil
	}
	if a := c.addrs.Load(); a != nil {
		return a.remote
	}
	return nil
}

// SyscallConn gives callbacks the file descriptor, for what this package has no method for.
//
// Read and Write of the RawConn make the descriptor non-blocking for good, because their
// callbacks expect EAGAIN. Recv and Send then wait in poll(2), which costs one more system
// call. Control leaves the descriptor as it is: on Linux it may block.
//
// Over TLS the descriptor carries TLS records, which no other code may receive. Drivers may
// try to: the connections of a Dialer have no SyscallConn over TLS.
//
// A Pool closes a connection whose descriptor was used.
func (c *Client) SyscallConn() (syscall.RawConn, error) {
	if c.sock == nil || !c.lease.incref() {
		return nil, c.opError(opRaw, nil, net.ErrClosed)
	}
	defer c.lease.decref()
	return rawConn{c, c.sock.Raw()}, nil
}

// A rawConn adds the addresses to the errors of the socket.
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
		r.c.lease.markAltered() // the next client must not find what the callback does
		err = call()
	}
	if err == nil {
		return nil
	}
	return r.c.opError(opRaw, nil, err)
}
