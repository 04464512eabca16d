package client

import (
	"context"
	"net"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A HostPort is an address for SendTo whose host may be a name: "host:port", as for Dial. It
// is looked up for each datagram, as Options.Resolver does it, in the address family of the
// client's socket. The datagram goes to the first address.
//
// Options.SendTimeout bounds the lookup and the send together. The write deadline, Close and
// Watch end the lookup, too. The error is a *net.DNSError if the host does not exist, or if the
// limit ends the lookup. AsyncClient.SendTo, which does not wait, takes only IP addresses.
//
// Nothing is cached: for more than a few datagrams, use a Resolver with a cache, or look the
// name up once and use SendToAddrPort.
type HostPort string

// Network returns "udp".
func (HostPort) Network() string { return "udp" }

// String returns the address.
func (a HostPort) String() string { return string(a) }

// hostAddr is destination for a HostPort.
func (c *Client) hostAddr(to HostPort, timeout time.Duration) (addr sock.Addr, left time.Duration, err error) {
	until := sock.In(timeout)
	switch {
	case c.sock.Closed():
		err = net.ErrClosed
	case timeout == 0 && networks[c.typ.String()].hasName(string(to)):
		err = &net.AddrError{Err: "AsyncClient.SendTo does not look up host names: look this one up before", Addr: string(to)}
	default:
		addr, err = c.lookUp(string(to), until)
	}
	return addr, until.Timeout(), err
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
