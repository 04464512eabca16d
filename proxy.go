package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/net/proxy"
)

// A ProxyError is what went wrong with or at a proxy: it could not be reached,
// it did not speak its protocol, or it refused, in which case the text of Err
// is the proxy's reason. Its text never has the password.
type ProxyError struct {
	Proxy string // the proxy's URL without user and password
	Err   error
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

func (e *ProxyError) Unwrap() error { return e.Err }

// Timeout reports whether the limit was over before the proxy had answered.
func (e *ProxyError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is the same as Timeout.
func (e *ProxyError) Temporary() bool { return e.Timeout() }

// A via is a proxy to dial through.
type via struct {
	name    string // for errors
	address string
	user    *url.Userinfo
	connect func(v *via, c *handshake, host string, port uint16) error
}

// proxy parses Proxy, giving nil if there is none. What cannot be a proxy is
// refused: to dial directly instead is what nobody who names one wants.
func (o *Options) proxy(n network) (*via, error) {
	if o.Proxy == "" {
		return nil, nil
	}
	bad := func(reason string) (*via, error) {
		return nil, &OptionError{Option: "Proxy", Reason: reason}
	}
	u, err := url.Parse(o.Proxy)
	if err != nil {
		return bad("not a URL") // url.Error would show the password
	}
	v := &via{name: u.Scheme + "://" + u.Host, address: u.Host, user: u.User}
	switch u.Scheme {
	case "socks5", "socks5h":
		v.connect = (*via).socks5
	case "http":
		v.connect = (*via).httpConnect
	default:
		return bad(fmt.Sprintf("scheme %q is neither socks5 nor socks5h nor http", u.Scheme))
	}
	switch host, port, err := splitHostPort(u.Host); {
	case !n.isTCP():
		return bad("only tcp can be dialled through one")
	case err != nil:
		return bad(err.Error())
	case host == "" || port == 0:
		return bad(fmt.Sprintf("%q is not a host and a port", u.Host))
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return bad("has more than a host and a port")
	}
	if password, _ := v.user.Password(); u.Scheme != "http" && v.user != nil &&
		(v.user.Username() == "" || len(v.user.Username()) > 255 || len(password) > 255) {
		return bad("user and password have to have 1 to 255 bytes (RFC 1929)")
	}
	return v, nil
}

// dial connects to the proxy and has it connect to where, all before until.
func (v *via) dial(ctx context.Context, where target, n network, opts *Options, until sock.Instant) (*Client, net.Addr, error) {
	host, port, err := n.proxyTarget(where.address)
	if err != nil {
		return nil, where, err
	}
	c, _, err := dialDirect(ctx, target{where.network, v.address}, networks["tcp"], opts, until)
	if err != nil {
		return nil, where, &ProxyError{Proxy: v.name, Err: err}
	}
	// Whatever is under way, a context that ends has no more use for the connection.
	unwatch := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = v.connect(v, &handshake{c, until}, host, port)
	if !unwatch() {
		return nil, where, contextual(ctx, sock.ErrStopped)
	}
	if err != nil {
		_ = c.Close()
		return nil, where, &ProxyError{Proxy: v.name, Err: contextual(ctx, err)}
	}
	c.sent.Store(false) // what was sent was no request
	return c, nil, nil
}

// proxyTarget reads the address that a proxy is to connect to. Names are the
// proxy's to look up.
func (n network) proxyTarget(address string) (host string, port uint16, err error) {
	host, port, err = splitHostPort(address)
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
		return fail("no host, and a proxy's own is hardly meant")
	case len(host) > 255:
		return fail("name has more than 255 bytes")
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		for _, c := range []byte(host) {
			if c <= ' ' || c == 0x7f {
				return fail("name has a byte that no name has")
			}
		}
		return host, port, nil
	case ip.Zone() != "":
		return fail("a zone means nothing to a proxy")
	}
	a, err := n.suitable(ip, port)
	return a.IP.Addr().String(), port, err
}

// A handshake is a client while it speaks with a proxy: all of it has one limit.
// It sets no deadline, which would keep the client from waiting in recv(2) later.
type handshake struct {
	*Client
	until sock.Instant
}

func (h *handshake) left() time.Duration {
	if h.until == sock.Never {
		return -1
	}
	return max(h.until.Left(), 0)
}

// Recv gives no io.EOF: a proxy that closes in the middle of this is no end.
func (h *handshake) Recv(p []byte, flags Flag) (int, error) {
	n, err := h.sock.Recv(p, int(flags), h.left(), nil)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (h *handshake) Read(p []byte) (int, error)    { return h.Recv(p, 0) }
func (h *handshake) Write(p []byte) (int, error)   { return h.sock.Send(p, 0, h.left()) }
func (h *handshake) SetDeadline(_ time.Time) error { return nil } // x/net sets it to the limit that there is
func (h *handshake) Close() error                  { return nil } // and closes what is dial's to close

// A dialled conn is given to x/net, which wants to dial itself.
type dialled struct{ net.Conn }

func (d dialled) DialContext(context.Context, string, string) (net.Conn, error) { return d.Conn, nil }

// Dial is for an interface; x/net prefers DialContext.
func (d dialled) Dial(string, string) (net.Conn, error) { return d.Conn, nil }

func (v *via) socks5(h *handshake, host string, port uint16) error {
	return v.socks5Over(h, host, port)
}

func (v *via) socks5Over(conn net.Conn, host string, port uint16) error {
	var auth *proxy.Auth
	if v.user != nil {
		password, _ := v.user.Password()
		auth = &proxy.Auth{User: v.user.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", v.address, auth, dialled{conn})
	if err != nil {
		return err
	}
	_, err = d.(proxy.ContextDialer).DialContext(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err // without x/net's addresses, which are ours already
	}
	return err
}

// maxReply bounds the header of a proxy's reply.
const maxReply = 64 << 10

func (v *via) httpConnect(h *handshake, host string, port uint16) error {
	authority := net.JoinHostPort(host, strconv.Itoa(int(port)))
	var request bytes.Buffer
	fmt.Fprintf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", authority, authority)
	if v.user != nil {
		password, _ := v.user.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(v.user.Username() + ":" + password))
		fmt.Fprintf(&request, "Proxy-Authorization: Basic %s\r\n", credentials)
	}
	request.WriteString("\r\n")
	if _, err := h.Write(request.Bytes()); err != nil {
		return err
	}
	for {
		resp, err := readReply(h)
		switch {
		case err != nil:
			return err
		case resp.StatusCode >= 200 && resp.StatusCode < 300:
			return nil // and whatever it says of a body: RFC 9110, 9.3.6
		case resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			continue // interim: RFC 9110, 15.2
		}
		return fmt.Errorf("refused: %s", resp.Status)
	}
}

// readReply reads the header of a reply and not one byte more: what follows it
// comes from whom the proxy has connected to. Peeking shows where it ends.
func readReply(r interface {
	Recv(p []byte, flags Flag) (int, error)
},
) (*http.Response, error) {
	var head []byte
	buf := make([]byte, 4<<10)
	for end := 0; end == 0; {
		n, err := r.Recv(buf[:min(len(buf), maxReply-len(head))], Peek)
		if err != nil {
			return nil, err
		}
		seen := append(head, buf[:n]...)
		end = headerEnd(seen, len(head))
		take := n
		if end > 0 {
			take = end - len(head)
		}
		if _, err := r.Recv(buf[:take], WaitAll); err != nil {
			return nil, err
		}
		head = seen[:len(head)+take]
		if end == 0 && len(head) == maxReply {
			return nil, fmt.Errorf("the header of its reply has no end within %d bytes", maxReply)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("malformed reply: %w", err)
	}
	_ = resp.Body.Close() // of a reader that has no more
	return resp, nil
}

// headerEnd is where the empty line ends that ends a header, 0 if there is none
// yet; known is how much was looked at before. Lines may end in LF alone (RFC
// 9112, 2.2).
func headerEnd(p []byte, known int) int {
	for i := max(known-2, 0); i < len(p); i++ {
		if p[i] != '\n' {
			continue
		}
		switch rest := p[i+1:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 2
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 3
		}
	}
	return 0
}
