package client

import (
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Bind sets the local address of the client before it connects: the address that peers
// send datagrams to. For tcp and udp it is an IP address and a port ("127.0.0.1:5353").
// An empty host means all addresses of this machine. With port 0 the system chooses the
// port, which LocalAddr returns. For unix and unixgram the address is a path, whose file
// is removed on Close, or on Linux "@" and an abstract name.
//
// Bind fails with unix.EADDRINUSE if the address is in use, also by a live connection.
// A TCP port that only closed connections (TIME_WAIT) use is free, unless
// Options.ReuseAddr is SwitchOff. Bind fails with unix.EINVAL if the client is bound,
// unix.EISCONN if it is connected, and unix.EALREADY if Connect is under way.
func (c *Client) Bind(address string) error {
	where := unresolvedAddr{c.network, address}
	if c.sock == nil || c.sock.Closed() || !c.lease.incref() {
		return c.opError(opBind, where, net.ErrClosed)
	}
	defer c.lease.decref()
	addr, err := networks[c.typ.String()].parseLocal(address)
	if err == nil {
		err = c.bindTo(addr, bindNow)
	}
	if err != nil {
		return c.opError(opBind, where, err)
	}
	return nil
}

func (c *Client) bindTo(addr sock.Addr, how bindMode) error {
	c.bind.Lock()
	defer c.bind.Unlock()
	switch state := c.state.Load(); {
	case state == connected:
		return os.NewSyscallError("bind", unix.EISCONN)
	case state == connecting:
		return os.NewSyscallError("bind", unix.EALREADY)
	case c.bound:
		return os.NewSyscallError("bind", unix.EINVAL)
	}
	if err := bindSocket(c.sock, c.typ, addr, c.reuse, how); err != nil {
		return err
	}
	c.bound = true
	c.ownPort = hasExclusivePort(c.typ, addr, c.reuse)
	return nil
}

// A bindMode is when a TCP socket needs its port.
type bindMode int

const (
	bindNow       bindMode = iota // in bind(2)
	bindAtConnect                 // when it connects, if the system chooses the port
	bindShared                    // as bindAtConnect; another attempt of the dial has the port
)

func bindSocket(s *sock.Socket, typ Type, addr sock.Addr, reuse Switch, how bindMode) error {
	addr = withWildcard(typ, addr)
	switch {
	case inFileSystem(addr):
		return s.Bind(addr, func() func() { return remover(addr.Path) })
	case typ.isTCP() && addr.IP.Port() == 0 && how != bindNow:
		return s.BindNoPort(addr)
	case hasExclusivePort(typ, addr, reuse):
		return s.BindPort(addr, how == bindShared)
	}
	return s.Bind(addr, nil)
}

// hasExclusivePort reports whether bind must fail if a live socket uses the port, and only
// then.
func hasExclusivePort(typ Type, addr sock.Addr, reuse Switch) bool {
	return typ.isTCP() && addr.IP.Port() != 0 && reuse == SwitchDefault
}

// ensureNamed gives a unix datagram client a name that peers can answer to, unless it has
// one.
func (c *Client) ensureNamed() error {
	if c.typ != UnixDgram {
		return nil
	}
	c.bind.Lock()
	defer c.bind.Unlock()
	if c.bound {
		return nil
	}
	if err := autobind(c.sock); err != nil {
		return err
	}
	c.bound = true
	return nil
}

// SendTo sends p as one datagram. to is a *net.UDPAddr, a *net.UnixAddr, a HostPort, or any
// net.Addr whose String is an IP address and a port. Options.SendTimeout and the write deadline
// bound the call.
//
// SendTo fails with a *net.AddrError if the port is not in the range 0 to 65535, or if an
// address that is not link-local has a zone. It fails with net.ErrWriteToConnected if the
// client is connected, and with unix.EOPNOTSUPP on a stream.
func (c *Client) SendTo(p []byte, to net.Addr) (int, error) {
	addr, timeout, err := c.destination(to, c.limits().send)
	if err != nil {
		return 0, c.sendResult(opSendTo, func() net.Addr { return to }, 0, err)
	}
	return c.sendTo(p, addr, timeout)
}

// SendToAddrPort is SendTo for a UDP client. It allocates nothing.
func (c *Client) SendToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	if err := checkZone(to.Addr()); err != nil {
		return 0, c.sendResult(opSendTo, func() net.Addr { return net.UDPAddrFromAddrPort(to) }, 0, err)
	}
	return c.sendTo(p, sock.Addr{IP: unmapped(to)}, c.limits().send)
}

func (c *Client) sendTo(p []byte, to sock.Addr, timeout time.Duration) (int, error) {
	n, err := c.sendDatagram(p, &to, timeout)
	return n, c.datagramResult(opSendTo, &to, n, err)
}

// datagramResult is sendResult after sendDatagram.
func (c *Client) datagramResult(op string, to *sock.Addr, n int, err error) error {
	if to == nil || err == nil {
		return c.sendResult(op, nil, n, err)
	}
	return c.sendResult(op, func() net.Addr { return netAddr(c.typ, *to) }, n, err)
}

// sendDatagram sends to an address, or to the peer if there is none.
func (c *Client) sendDatagram(p []byte, to *sock.Addr, timeout time.Duration) (int, error) {
	if to == nil {
		if err := c.beginSend(0); err != nil {
			return 0, err
		}
		defer c.lease.decref()
		return c.send(p, 0, timeout)
	}
	if err := c.beginSendTo(); err != nil {
		return 0, err
	}
	defer c.lease.decref()
	if err := c.ensureNamed(); err != nil {
		return 0, err
	}
	c.lease.markSending()
	return c.sock.SendTo(p, *to, timeout)
}

// destination returns where SendTo sends, and the part of timeout that the lookup of a host name
// leaves. A call that must not wait has the timeout 0,
// and fails for a host name.
func (c *Client) destination(to net.Addr, timeout time.Duration) (addr sock.Addr, left time.Duration, err error) {
	host, isHost := to.(HostPort)
	if !isHost || c.typ.isUnix() {
		addr, err = c.peerAddr(to)
		return addr, timeout, err
	}
	if err := c.beginSendTo(); err != nil {
		return sock.Addr{}, 0, err
	}
	defer c.lease.decref()
	return c.hostAddr(host, timeout)
}

// beginSendTo is begin for a call that sends to an address.
func (c *Client) beginSendTo() error {
	err := c.begin(0, 0, false)
	if err != nil {
		return err
	}
	if err = c.checkSendTo(); err != nil {
		c.lease.decref()
	}
	return err
}

// hasPeer reports whether the kernel sends to one address, and receives from it, only.
func (c *Client) hasPeer() bool { return c.state.Load() == connected && !c.unconnected }

func (c *Client) checkSendTo() error {
	switch {
	case c.typ.isStream():
		return os.NewSyscallError("sendto", unix.EOPNOTSUPP)
	case c.hasPeer() && !c.sock.Closed():
		// Linux would send the datagram and drop the answer, which is not from the
		// connected peer. Other systems fail.
		return net.ErrWriteToConnected
	}
	return nil
}

// RecvFrom receives one datagram and returns the address of its sender: a *net.UDPAddr or
// a *net.UnixAddr, or nil if the sender has no name. In other respects it is Recv. On a
// stream it fails with unix.EOPNOTSUPP.
func (c *Client) RecvFrom(p []byte, flags Flag) (int, net.Addr, error) {
	return c.recvFromAddr(p, flags, c.limits().recv)
}

func (c *Client) recvFromAddr(p []byte, flags Flag, timeout time.Duration) (int, net.Addr, error) {
	var from sock.Addr
	n, err := c.recvFrom(p, flags, timeout, &from)
	if from.IsZero() {
		return n, nil, err
	}
	return n, netAddr(c.typ, from), err
}

// RecvFromAddrPort is RecvFrom for a UDP client. It allocates nothing. The zone of a
// link-local IPv6 address is the name of the interface.
func (c *Client) RecvFromAddrPort(p []byte, flags Flag) (int, netip.AddrPort, error) {
	var from sock.Addr
	n, err := c.recvFrom(p, flags, c.limits().recv, &from)
	return n, from.IP, err
}

func (c *Client) recvFrom(p []byte, flags Flag, timeout time.Duration, from *sock.Addr) (int, error) {
	if err := c.begin(recvFlags, flags, false); err != nil {
		return 0, c.opError(opRecvFrom, nil, err)
	}
	defer c.lease.decref()
	if c.typ.isStream() {
		return 0, c.opError(opRecvFrom, nil, os.NewSyscallError("recvfrom", unix.EOPNOTSUPP))
	}
	n, err := c.sock.Recv(p, int(flags), timeout, from)
	c.recordRecv(n, len(p), err, flags)
	if n > len(p) {
		return c.recvResult(opRecvFrom, netAddr(c.typ, *from), len(p), n, err)
	}
	return c.recvResult(opRecvFrom, nil, len(p), n, err)
}

// peerAddr converts the address of a datagram's receiver.
func (c *Client) peerAddr(to net.Addr) (sock.Addr, error) {
	switch a := to.(type) {
	case *net.UnixAddr:
		if a != nil && c.typ == UnixDgram {
			return parseUnix(a.Name)
		}
	case *net.UDPAddr:
		if a != nil && !c.typ.isUnix() {
			return c.udpAddr(a)
		}
	case nil:
		return sock.Addr{}, &net.AddrError{Err: "the address is nil"}
	default:
		if ap, err := netip.ParseAddrPort(to.String()); err == nil && !c.typ.isUnix() {
			return sock.Addr{IP: unmapped(ap)}, checkZone(ap.Addr())
		}
	}
	return sock.Addr{}, &net.AddrError{Err: "wrong kind of address for " + c.network, Addr: to.String()}
}

// udpAddr converts a, or fails if a value of it does not fit into an address.
func (c *Client) udpAddr(a *net.UDPAddr) (sock.Addr, error) {
	bad := func(why string) (sock.Addr, error) {
		return sock.Addr{}, &net.AddrError{Err: why, Addr: a.String()}
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	switch {
	case a.Port < 0 || a.Port > 65535:
		return bad("port is not a number from 0 to 65535")
	case len(a.IP) == 0 && a.Zone == "": // this machine, as in package net
		ip = loopback[c.typ.domain()]
	case !ok:
		return bad("not an IP address")
	case a.Zone != "" && ip.Unmap().Is4():
		return bad("zone on an IPv4 address: remove the zone")
	}
	ip = ip.WithZone(a.Zone)
	return sock.Addr{IP: unmapped(netip.AddrPortFrom(ip, uint16(a.Port)))}, checkZone(ip)
}

// unmapped converts an IPv4-mapped IPv6 address to IPv4.
func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// A packetConn is a datagram client from a Dialer. It is a net.PacketConn: some packages,
// such as package net's resolver, use that to tell datagrams from a stream.
type packetConn struct{ *Client }

var _ net.PacketConn = packetConn{}

// ReadFrom is Read. It also returns the sender's address.
func (c packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.hasPeer() {
		n, err := c.Read(p)
		return n, c.RemoteAddr(), err
	}
	return c.recvFromAddr(p, 0, -1)
}

// WriteTo is SendTo. On a connected client it fails with net.ErrWriteToConnected: use Write.
func (c packetConn) WriteTo(p []byte, to net.Addr) (int, error) { return c.SendTo(p, to) }
