package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/blocksock/client/internal/proxy"
	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A ProxyError is the error of a dial through a proxy that could not be reached, did not
// follow the protocol, or refused. Err is then the reason, which is the proxy's own text if
// it refused. The password is in no text, unless the proxy repeats it.
type ProxyError struct {
	Proxy  string     // the URL of the proxy without user and password
	Reply  SOCKSReply // of a SOCKS5 proxy that refused the request; otherwise zero
	Status int        // of an HTTP proxy that refused, such as 407 or 502; otherwise zero
	Err    error
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

func (e *ProxyError) Unwrap() error { return e.Err }

// Timeout reports whether the limit was reached before the proxy had answered.
func (e *ProxyError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is the same as Timeout.
func (e *ProxyError) Temporary() bool { return e.Timeout() }

// A SOCKSReply is the code of a SOCKS5 proxy that refuses to connect (RFC 1928, 6). A
// failed authentication has no code: it comes before the request.
type SOCKSReply uint8

// The codes of RFC 1928. A proxy may send others.
const (
	SOCKSGeneralFailure          SOCKSReply = 1
	SOCKSNotAllowed              SOCKSReply = 2
	SOCKSNetworkUnreachable      SOCKSReply = 3
	SOCKSHostUnreachable         SOCKSReply = 4
	SOCKSConnectionRefused       SOCKSReply = 5
	SOCKSTTLExpired              SOCKSReply = 6
	SOCKSCommandNotSupported     SOCKSReply = 7
	SOCKSAddressTypeNotSupported SOCKSReply = 8
)

// String returns the reply's name in RFC 1928.
func (r SOCKSReply) String() string { return proxy.ReplyText(uint8(r)) }

// proxyConfig parses Proxy. It is nil if there is none.
func (o *Options) proxyConfig(n network) (*proxy.Config, error) {
	if o.Proxy == "" {
		return nil, nil
	}
	c, err := proxy.Parse(o.Proxy)
	switch {
	case err != nil:
		return nil, &OptionError{Option: "Proxy", Reason: err.Error()}
	case !n.isTCP():
		return nil, &OptionError{Option: "Proxy", Reason: "only tcp connections can use a proxy"}
	}
	return c, nil
}

// dialProxy connects to the proxy and has it connect to where, both before until.
func dialProxy(ctx context.Context, where unresolvedAddr, p *dialConfig, until sock.Instant) (*Client, net.Addr, error) {
	host, port, err := p.net.proxyTarget(where.address)
	if err != nil {
		return nil, where, err
	}
	fail := func(err error) (*Client, net.Addr, error) {
		e := &ProxyError{Proxy: p.proxy.URL, Err: err}
		var refused *proxy.RefusedError
		if errors.As(err, &refused) {
			e.Reply, e.Status = SOCKSReply(refused.Reply), refused.Status
		}
		return nil, where, e
	}
	toProxy := *p
	toProxy.net = networks["tcp"]
	c, _, err := dialDirect(ctx, unresolvedAddr{"tcp", p.proxy.Address}, &toProxy, until)
	if err != nil {
		return fail(err)
	}
	err = errNoReturn // if a callback panics
	defer func() {
		if err != nil {
			c.closeFor(err)
		}
	}()
	err = c.traceProxy(p.trace, p.proxy.URL, func() error {
		unwatch := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
		err := p.proxy.Connect(proxyConn{c.sock, until}, host, port)
		if !unwatch() {
			err = sock.ErrStopped
		}
		return contextError(ctx, err)
	})
	if err != nil {
		return fail(err)
	}
	c.sent.Store(false) // the handshake is no request of the caller
	return c, nil, nil
}

// proxyTarget parses the address that the proxy has to connect to. The proxy looks names up.
func (n network) proxyTarget(address string) (host string, port uint16, err error) {
	host, port, err = n.splitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	fail := func(why string) (string, uint16, error) {
		return "", 0, &net.AddrError{Err: why, Addr: address}
	}
	switch {
	case port == 0:
		return fail("port 0 cannot be connected to")
	case host == "":
		return fail("no host: name the one that the proxy has to connect to")
	case len(host) > 255:
		return fail("name has more than 255 bytes")
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		if strings.ContainsFunc(host, notInNames) {
			return fail("name has a character that no name has, or is not in ASCII (RFC 5891)")
		}
		return host, port, nil
	case ip.Zone() != "":
		return fail("a zone has no meaning for a proxy: remove it")
	}
	a, err := n.sockAddr(ip, port)
	return a.IP.Addr().String(), port, err
}

// notInNames reports whether a character must not be in a name: it has a meaning in a request
// line, or is encoded otherwise on the wire.
func notInNames(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`:/?#@[]\%"<>`, r)
}

// A proxyConn is the connection to a proxy during the handshake. It sets no deadline: a client
// that has ever had one does not wait in recv(2) later.
type proxyConn struct {
	sock  *sock.Socket
	until sock.Instant
}

func (c proxyConn) Send(p []byte) error {
	_, err := c.sock.Send(p, 0, c.until.Timeout())
	return err
}

func (c proxyConn) Recv(p []byte) error {
	_, err := c.recv(p, unix.MSG_WAITALL)
	return err
}

func (c proxyConn) Peek(p []byte) (int, error) { return c.recv(p, unix.MSG_PEEK) }

// recv checks the limit before it receives: a proxy that never stops sending would pass it
// otherwise.
func (c proxyConn) recv(p []byte, flags int) (int, error) {
	if c.until.Left() <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.sock.Recv(p, flags, c.until.Timeout(), nil)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
