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
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/net/proxy"
)

// A ProxyError is what went wrong with or at a proxy: it could not be reached,
// it did not speak its protocol, or it refused, in which case the text of Err
// is the proxy's reason. Nothing but the proxy itself puts the password there.
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
	switch host, port, err := n.splitHostPort(u.Host); {
	case !n.isTCP():
		return bad("only tcp can be dialled through one")
	case err != nil || host == "" || port == 0:
		// u.Host may be the beginning of a password that has a "/" in it.
		return bad("has no host and port, or a user or password with / ? # that are not escaped (%2F %3F %23)")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return bad("has more than a host and a port")
	}
	if v.user == nil {
		return v, nil
	}
	password, _ := v.user.Password()
	switch user := v.user.Username(); {
	case user == "":
		return bad("has a password and no user")
	case u.Scheme == "http" && strings.Contains(user, ":"):
		return bad("has a user with a colon (RFC 7617)")
	case u.Scheme != "http" && (len(user) > 255 || len(password) > 255):
		return bad("has a user or a password of more than 255 bytes (RFC 1929)")
	}
	return v, nil
}

// dial connects to the proxy and has it connect to where, all before until.
func (v *via) dial(ctx context.Context, where target, p *plan, until sock.Instant) (*Client, net.Addr, error) {
	host, port, err := p.net.proxyTarget(where.address)
	if err != nil {
		return nil, where, err
	}
	toProxy := *p
	toProxy.net = networks["tcp"]
	c, _, err := dialDirect(ctx, target{"tcp", v.address}, &toProxy, until)
	if err != nil {
		return nil, where, &ProxyError{Proxy: v.name, Err: err}
	}
	// Whatever is under way, a context that ends has no more use for the connection.
	unwatch := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = v.connect(v, &handshake{c, until}, host, port)
	if !unwatch() {
		return nil, where, &ProxyError{Proxy: v.name, Err: contextual(ctx, sock.ErrStopped)}
	}
	if err != nil {
		_ = c.Close()
		return nil, where, &ProxyError{Proxy: v.name, Err: contextual(ctx, err)}
	}
	c.network = where.network
	c.sent.Store(false) // what was sent was no request
	return c, nil, nil
}

// proxyTarget reads the address that a proxy is to connect to. Names are the
// proxy's to look up.
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
		return fail("no host, and a proxy's own is hardly meant")
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
		return fail("a zone means nothing to a proxy")
	}
	a, err := n.suitable(ip, port)
	return a.IP.Addr().String(), port, err
}

// notInNames keeps what means something in a request line, or is to be spelled
// otherwise on the wire, from getting there as a part of a name.
func notInNames(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`:/?#@[]\%"<>`, r)
}

// A handshake is a client while it speaks with a proxy: all of it has one limit.
// It sets no deadline, which would keep the client from waiting in recv(2) later.
type handshake struct {
	*Client
	until sock.Instant
}

// Recv gives no io.EOF: a proxy that closes in the middle of this is no end. And
// it looks at the limit first, for a proxy that never stops talking.
func (h *handshake) Recv(p []byte, flags Flag) (int, error) {
	if h.until.Left() <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := h.sock.Recv(p, int(flags), h.until.Timeout(), nil)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (h *handshake) Read(p []byte) (int, error)    { return h.Recv(p, 0) }
func (h *handshake) Write(p []byte) (int, error)   { return h.sock.Send(p, 0, h.until.Timeout()) }
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
	auth, conn := (*proxy.Auth)(nil), net.Conn(&offered{Conn: conn, auth: v.user != nil})
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
		err = op.Err // without x/net's addresses, which are ours already
	}
	if reason, ok := strings.CutPrefix(fmt.Sprint(err), "unknown error "); ok && err != nil {
		return errors.New("refused: " + reason) // a reply code; x/net knows its name
	}
	return err
}

// offered sees to it that the proxy takes an authentication method that was
// offered to it, which x/net does not. The second byte that comes says which.
type offered struct {
	net.Conn
	auth bool // user and password were offered as well as nothing
	got  int
}

func (o *offered) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	if o.got < 2 && o.got+n >= 2 {
		const nothing, password, none = 0, 2, 0xff
		if m := p[1-o.got]; m != nothing && m != none && (m != password || !o.auth) {
			return 0, fmt.Errorf("chose authentication method %d, which was not offered", m)
		}
	}
	o.got += n
	return n, err
}

const (
	maxReply   = 64 << 10 // bytes of the header of a proxy's reply
	maxInterim = 16       // replies before the one that counts, and that one
)

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
	for range maxInterim {
		resp, err := readReply(h)
		switch {
		case err != nil:
			return err
		case resp.StatusCode >= 200 && resp.StatusCode < 300:
			return nil
		case resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			continue // interim: RFC 9110, 15.2
		}
		return fmt.Errorf("refused: %s", printable(resp.Status))
	}
	return fmt.Errorf("sends more than %d interim replies", maxInterim)
}

// printable is what a stranger said, fit for a log: short and without controls.
func printable(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return s[:min(len(s), most)]
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
	// The status line is all that counts. What fields say of a body has to be
	// ignored (RFC 9110, 9.3.6), and a broken one must not hide a refusal.
	status, _, _ := bytes.Cut(head, []byte("\n"))
	head = append(bytes.Clone(status), "\n\r\n"...)
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
