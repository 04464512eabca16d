package client

import (
	"net"
	"net/netip"
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Bind gives the client an address of its own, before it connects: the address
// that datagrams are sent to it at. For tcp and udp it is an IP address and a
// port ("127.0.0.1:5353"), an empty host being all of the machine's addresses
// and port 0 one of the system's choice, which LocalAddr tells. For unix and
// unixgram it is a path, whose file is removed on Close, or on Linux "@" and an
// abstract name.
//
// It fails with unix.EADDRINUSE for an address that is taken, by a live connection
// too, unix.EINVAL for a client that has one, unix.EISCONN for a client that is
// connected and unix.EALREADY for one that is about to be. A TCP port on which there
// are only connections that are over (TIME_WAIT) is not taken, unless
// Options.ReuseAddr is SwitchOff.
func (c *Client) Bind(address string) error {
	where := target{c.network, address}
	if c.sock == nil || c.sock.Closed() || !c.hold() {
		return c.failed(opBind, where, net.ErrClosed)
	}
	defer c.end()
	addr, err := networks[c.typ.String()].parseLocal(address)
	if err == nil {
		err = c.bindTo(addr, bindNow)
	}
	if err != nil {
		return c.failed(opBind, where, err)
	}
	return nil
}

func (c *Client) bindTo(addr sock.Addr, how binding) error {
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
	c.ownPort = ownPort(c.typ, addr, c.reuse)
	return nil
}

// A binding is when a TCP socket needs its port.
type binding int

const (
	bindNow     binding = iota // by bind(2)
	bindLate                   // when it connects, if the port is the system's choice
	bindAnother                // late, and another attempt of the same dial has the port
)

func bindSocket(s *sock.Socket, typ Type, addr sock.Addr, reuse Switch, how binding) error {
	addr = wildcard(typ, addr)
	switch {
	case inFileSystem(addr):
		return s.Bind(addr, func() func() { return remover(addr.Path) })
	case typ.isTCP() && addr.IP.Port() == 0 && how != bindNow:
		return s.BindNoPort(addr)
	case ownPort(typ, addr, reuse):
		return s.BindPort(addr, how == bindAnother)
	}
	return s.Bind(addr, nil)
}

// ownPort reports whether addr is to be had unless something alive has it.
func ownPort(typ Type, addr sock.Addr, reuse Switch) bool {
	return typ.isTCP() && addr.IP.Port() != 0 && reuse == SwitchDefault
}

// bindToBeAnswered gives a unix datagram client a name if it has none yet.
func (c *Client) bindToBeAnswered() error {
	if c.typ != UnixDgram {
		return nil
	}
	c.bind.Lock()
	defer c.bind.Unlock()
	if c.bound {
		return nil
	}
	if err := bindAnywhere(c.sock); err != nil {
		return err
	}
	c.bound = true
	return nil
}

// SendTo sends p as one datagram to an address: a *net.UDPAddr or *net.UnixAddr,
// or any net.Addr whose String is an IP address and port. A port that is none, and a
// zone of an address that is not link-local, are a *net.AddrError. Options.SendTimeout
// and the write deadline bound the call. On a client that is connected it fails
// with net.ErrWriteToConnected, on a stream with unix.EOPNOTSUPP.
func (c *Client) SendTo(p []byte, to net.Addr) (int, error) {
	addr, err := c.peerAddr(to)
	if err != nil {
		return 0, c.sentSome(opSendTo, func() net.Addr { return to }, 0, err)
	}
	return c.sendTo(p, addr)
}

// SendToAddrPort is SendTo for a UDP client. It allocates nothing.
func (c *Client) SendToAddrPort(p []byte, to netip.AddrPort) (int, error) {
	if err := checkZone(to.Addr()); err != nil {
		return 0, c.sentSome(opSendTo, func() net.Addr { return net.UDPAddrFromAddrPort(to) }, 0, err)
	}
	return c.sendTo(p, sock.Addr{IP: unmap(to)})
}

func (c *Client) sendTo(p []byte, to sock.Addr) (int, error) {
	n := 0
	err := c.begin(0, 0, false)
	if err == nil {
		defer c.end()
		err = c.unconnectedDatagrams()
	}
	if err == nil {
		err = c.bindToBeAnswered()
	}
	if err == nil {
		n, err = c.sock.SendTo(p, to, c.limits.send)
	}
	if err != nil {
		return n, c.sentSome(opSendTo, func() net.Addr { return netAddr(c.typ, to) }, n, err)
	}
	return n, c.sentSome(opSendTo, nil, n, nil)
}

func (c *Client) unconnectedDatagrams() error {
	switch {
	case c.typ.isStream():
		return os.NewSyscallError("sendto", unix.EOPNOTSUPP)
	case c.state.Load() == connected && !c.sock.Closed():
		// Linux would send it, and then drop the answer, which is not from
		// the peer; other systems refuse.
		return net.ErrWriteToConnected
	}
	return nil
}

// RecvFrom receives one datagram and tells who sent it: a *net.UDPAddr, or a
// *net.UnixAddr, or nil if the sender has no name. It is Recv in all else. On a
// stream it fails with unix.EOPNOTSUPP.
func (c *Client) RecvFrom(p []byte, flags Flag) (int, net.Addr, error) {
	var from sock.Addr
	n, err := c.recvFrom(p, flags, &from)
	if from.IsZero() {
		return n, nil, err
	}
	return n, netAddr(c.typ, from), err
}

// RecvFromAddrPort is RecvFrom for a UDP client. It allocates nothing. The zone
// of a link-local IPv6 address is the interface's name.
func (c *Client) RecvFromAddrPort(p []byte, flags Flag) (int, netip.AddrPort, error) {
	var from sock.Addr
	n, err := c.recvFrom(p, flags, &from)
	return n, from.IP, err
}

func (c *Client) recvFrom(p []byte, flags Flag, from *sock.Addr) (int, error) {
	if err := c.begin(recvFlags, flags, false); err != nil {
		return 0, c.failed(opRecvFrom, nil, err)
	}
	defer c.end()
	if c.typ.isStream() {
		return 0, c.failed(opRecvFrom, nil, os.NewSyscallError("recvfrom", unix.EOPNOTSUPP))
	}
	n, err := c.sock.Recv(p, int(flags), c.limits.recv, from)
	c.note.received(n, len(p), err, flags)
	if n > len(p) {
		return c.received(opRecvFrom, netAddr(c.typ, *from), len(p), n, err)
	}
	return c.received(opRecvFrom, nil, len(p), n, err)
}

// peerAddr reads the address of a datagram's receiver.
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
		return sock.Addr{}, &net.AddrError{Err: "no address to send to"}
	default:
		if ap, err := netip.ParseAddrPort(to.String()); err == nil && !c.typ.isUnix() {
			return sock.Addr{IP: unmap(ap)}, checkZone(ap.Addr())
		}
	}
	return sock.Addr{}, &net.AddrError{Err: "wrong kind of address for " + c.network, Addr: to.String()}
}

// udpAddr refuses what does not fit into an address on the wire.
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
		return bad("zone of an address that is not link-local")
	}
	ip = ip.WithZone(a.Zone)
	return sock.Addr{IP: unmap(netip.AddrPortFrom(ip, uint16(a.Port)))}, checkZone(ip)
}

// unmap gives an IPv4 address that is written as an IPv6 one its own form.
func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// A packetConn is a datagram client as drivers know them, from a Dialer: what
// asks a connection whether it is a net.PacketConn, to know datagrams from a
// stream, gets yes for an answer (package net's own resolver does).
type packetConn struct{ *Client }

var _ net.PacketConn = packetConn{}

// ReadFrom is Read, and tells the peer's address.
func (c packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

// WriteTo fails with net.ErrWriteToConnected: there is one peer, for Write.
func (c packetConn) WriteTo(p []byte, to net.Addr) (int, error) { return c.SendTo(p, to) }
