package client

import (
	"context"
	"net"

	"github.com/blocksock/client/internal/sock"
)

// A HostPort is an address for SendTo whose host may be a name: "host:port", as for Dial. It
// is looked up for each datagram, as Options.Resolver does it, in the address family of the
// client's socket. The datagram goes to the first address.
//
// Options.SendTimeout bounds the lookup and the send together. The write deadline, Close and
// Watch end the lookup, too. The error is a *net.DNSError if the host does not exist, or if the
// limit ends the lookup.
//
// Nothing is cached: for more than a few datagrams, use a Resolver with a cache, or look the
// name up once and use SendToAddrPort.
type HostPort string

// Network returns "udp".
func (HostPort) Network() string { return "udp" }

// String returns the address.
func (a HostPort) String() string { return string(a) }

// sendToHost is SendTo for a HostPort.
func (c *Client) sendToHost(p []byte, to HostPort) (int, error) {
	until := sock.In(c.limits().send)
	err := c.begin(0, 0, false)
	if err == nil {
		defer c.lease.decref()
		err = c.checkSendTo()
	}
	if err == nil && c.sock.Closed() {
		err = net.ErrClosed
	}
	var addr sock.Addr
	if err == nil {
		addr, err = c.lookUp(string(to), until)
	}
	if err != nil {
		return 0, c.sendResult(opSendTo, func() net.Addr { return to }, 0, err)
	}
	return c.sendTo(p, addr, until.Timeout())
}

// lookUp returns the first address that the client's socket can use.
func (c *Client) lookUp(address string, until sock.Instant) (sock.Addr, error) {
	ctx, rethrow := guardResolver(context.Background(), c.resolver)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var addrs []sock.Addr
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		var search *addrLookup
		addrs, search, err = resolve(ctx, networks[c.typ.String()], nil, address, c.resolver, until, nil)
		search.close()
	}()
	ended := c.sock.AwaitSend(done)
	cancel()
	<-done // at once
	rethrow(nil)
	switch {
	case ended != nil:
		return sock.Addr{}, ended
	case err != nil:
		return sock.Addr{}, err
	}
	return addrs[0], nil
}
