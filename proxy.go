package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
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
	"unicode"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A ProxyError is what went wrong with or at a proxy: it could not be reached,
// it did not speak its protocol, or it refused. The text of Err is then the proxy's
// reason, and Reply or Status is its code, if it sent one. Nothing but the proxy
// itself puts the password there.
type ProxyError struct {
	Proxy  string     // the proxy's URL without user and password
	Reply  SOCKSReply // the reply of a SOCKS5 proxy that refused to connect; otherwise zero
	Status int        // the status of an HTTP proxy that refused, such as 407 or 502; otherwise zero
	Err    error
}

// A SOCKSReply is the code with which a SOCKS5 proxy refuses to connect (RFC 1928, 6).
// There is no code for a failed authentication, which comes before the request.
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

// String gives the reply's name in RFC 1928.
func (r SOCKSReply) String() string {
	switch r {
	case 0:
		return "succeeded"
	case SOCKSGeneralFailure:
		return "general SOCKS server failure"
	case SOCKSNotAllowed:
		return "connection not allowed by ruleset"
	case SOCKSNetworkUnreachable:
		return "network unreachable"
	case SOCKSHostUnreachable:
		return "host unreachable"
	case SOCKSConnectionRefused:
		return "connection refused"
	case SOCKSTTLExpired:
		return "TTL expired"
	case SOCKSCommandNotSupported:
		return "command not supported"
	case SOCKSAddressTypeNotSupported:
		return "address type not supported"
	}
	return fmt.Sprintf("unknown code: %d", uint8(r))
}

// A proxyRefusal is the error of a proxy that understood the request and refused it.
type proxyRefusal struct {
	reason string
	reply  SOCKSReply
	status int
}

func (r *proxyRefusal) Error() string { return "refused: " + r.reason }

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
	connect func(v *via, c proxyConn, host string, port uint16) error
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
func (v *via) dial(ctx context.Context, where target, p *dialConfig, until sock.Instant) (*Client, net.Addr, error) {
	host, port, err := p.net.proxyTarget(where.address)
	if err != nil {
		return nil, where, err
	}
	toProxy := *p
	toProxy.net = networks["tcp"]
	c, _, err := dialDirect(ctx, target{"tcp", v.address}, &toProxy, until)
	if err != nil {
		return nil, where, v.failed(err)
	}
	fail := func(err error) (*Client, net.Addr, error) {
		return nil, where, v.failed(contextual(ctx, err))
	}
	// Whatever is under way, a context that ends has no more use for the connection.
	unwatch := context.AfterFunc(ctx, func() { _ = c.Close() })
	h := &handshake{sock: c.sock, until: until}
	err = v.connect(v, h, host, port)
	if refusal := (*proxyRefusal)(nil); h.unsent != nil && !errors.As(err, &refusal) {
		err = h.unsent
	}
	if !unwatch() {
		return fail(sock.ErrStopped)
	}
	if err != nil {
		_ = c.Close()
		return fail(err)
	}
	c.network = where.network
	c.sent.Store(false) // what was sent was no request
	return c, nil, nil
}

// failed wraps an error of the proxy or of the way to it.
func (v *via) failed(err error) error {
	e := &ProxyError{Proxy: v.name, Err: err}
	var refusal *proxyRefusal
	if errors.As(err, &refusal) {
		e.Reply, e.Status = refusal.reply, refusal.status
	}
	return e
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
	a, err := n.sockAddr(ip, port)
	return a.IP.Addr().String(), port, err
}

// notInNames keeps what means something in a request line, or is to be spelled
// otherwise on the wire, from getting there as a part of a name.
func notInNames(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`:/?#@[]\%"<>`, r)
}

// A handshake is the connection to a proxy during its handshake. All calls have one limit.
// It sets no deadline, which would keep the client from waiting in recv(2) later.
type handshake struct {
	sock   *sock.Socket
	until  sock.Instant
	unsent error // of the first Write that failed
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

// Write sends all of p. It never fails: a proxy that refuses early may have reset the
// connection, and its refusal is still to be read. dial returns unsent if there is none.
func (h *handshake) Write(p []byte) (int, error) {
	if h.unsent == nil {
		_, h.unsent = h.sock.Send(p, 0, h.until.Timeout())
	}
	return len(p), nil
}

// A proxyConn is what the proxies' protocols need of a handshake.
type proxyConn interface {
	Recv(p []byte, flags Flag) (int, error)
	Write(p []byte) (int, error)
}

// socks5 requests a connection (RFC 1928) and reads no byte after the reply: those are from
// the target. Two bytes of a reply are enough to recognise a refusal. Some proxies send no
// more before they close.
func (v *via) socks5(c proxyConn, host string, port uint16) error {
	const noAuth, userAndPassword, noneAcceptable = 0, 2, 0xff
	offers := []byte{5, 1, noAuth}
	if v.user != nil {
		offers = []byte{5, 2, noAuth, userAndPassword}
	}
	if _, err := c.Write(offers); err != nil {
		return err
	}
	var head [2]byte
	read := func() error { _, err := c.Recv(head[:], WaitAll); return err }
	if err := read(); err != nil {
		return err
	}
	switch method := head[1]; {
	case head[0] != 5:
		return fmt.Errorf("unexpected protocol version %d", head[0])
	case method == noAuth:
	case method == userAndPassword && v.user != nil: // RFC 1929
		user := v.user.Username()
		password, _ := v.user.Password()
		request := append([]byte{1, byte(len(user))}, user...)
		request = append(append(request, byte(len(password))), password...)
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := read(); err != nil {
			return err
		}
		switch {
		case head[0] != 1:
			return fmt.Errorf("unexpected version %d of its user and password protocol", head[0])
		case head[1] != 0:
			return &proxyRefusal{reason: "username/password authentication failed"}
		}
	case method == noneAcceptable && v.user == nil:
		return &proxyRefusal{reason: "no acceptable authentication methods: set user and password in Proxy"}
	case method == noneAcceptable:
		return &proxyRefusal{reason: "no acceptable authentication methods"}
	default:
		return fmt.Errorf("chose authentication method %d, which was not offered", method)
	}

	const v4, name, v6 = 1, 3, 4
	request := []byte{5, 1, 0}
	if ip, err := netip.ParseAddr(host); err != nil {
		request = append(append(request, name, byte(len(host))), host...)
	} else if ip.Is4() {
		request = append(append(request, v4), ip.AsSlice()...)
	} else {
		request = append(append(request, v6), ip.AsSlice()...)
	}
	if _, err := c.Write(binary.BigEndian.AppendUint16(request, port)); err != nil {
		return err
	}
	if err := read(); err != nil {
		return err
	}
	switch {
	case head[0] != 5:
		return fmt.Errorf("unexpected protocol version %d", head[0])
	case head[1] != 0:
		reply := SOCKSReply(head[1])
		return &proxyRefusal{reason: reply.String(), reply: reply}
	}
	if err := read(); err != nil { // RSV and ATYP
		return err
	}
	if head[0] != 0 {
		return errors.New("non-zero reserved field")
	}
	var rest int
	switch head[1] {
	case v4:
		rest = net.IPv4len
	case v6:
		rest = net.IPv6len
	case name:
		if _, err := c.Recv(head[:1], WaitAll); err != nil {
			return err
		}
		rest = int(head[0])
	default:
		return fmt.Errorf("unknown address type %d", head[1])
	}
	_, err := c.Recv(make([]byte, rest+2), WaitAll) // and the port
	return err
}

const (
	maxReply   = 64 << 10 // bytes of the header of a proxy's reply
	maxInterim = 16       // replies before the one that counts, and that one
)

func (v *via) httpConnect(c proxyConn, host string, port uint16) error {
	authority := net.JoinHostPort(host, strconv.Itoa(int(port)))
	var request bytes.Buffer
	fmt.Fprintf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", authority, authority)
	if v.user != nil {
		password, _ := v.user.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(v.user.Username() + ":" + password))
		fmt.Fprintf(&request, "Proxy-Authorization: Basic %s\r\n", credentials)
	}
	request.WriteString("\r\n")
	if _, err := c.Write(request.Bytes()); err != nil {
		return err
	}
	for range maxInterim {
		resp, err := readReply(c)
		switch {
		case err != nil:
			return err
		case resp.StatusCode >= 200 && resp.StatusCode < 300:
			return nil
		case resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			continue // interim: RFC 9110, 15.2
		}
		return &proxyRefusal{reason: printable(resp.Status), status: resp.StatusCode}
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
// comes from the target. Peeking shows where it ends. A complete status line is enough to
// recognise a refusal, if the proxy closes before the end of the header.
func readReply(r proxyConn) (*http.Response, error) {
	var head []byte
	buf := make([]byte, 4<<10)
	for end := 0; end == 0; {
		n, err := r.Recv(buf[:min(len(buf), maxReply-len(head))], Peek)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
			if resp, bad := parseStatus(head); bad == nil && resp.StatusCode >= 300 {
				return resp, nil
			}
		}
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
	return parseStatus(head)
}

// parseStatus reads the status line of a reply and ignores the fields: what they say of a
// body does not count (RFC 9110, 9.3.6), and a malformed field must not hide a refusal.
func parseStatus(head []byte) (*http.Response, error) {
	status, _, whole := bytes.Cut(head, []byte("\n"))
	if !whole {
		return nil, io.ErrUnexpectedEOF
	}
	line := append(bytes.Clone(status), "\n\r\n"...)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(line)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("malformed reply: %w", err)
	}
	_ = resp.Body.Close()                               // of a reader that has no more
	if resp.StatusCode < 100 || resp.StatusCode > 599 { // net/http accepts "+20" and "000"
		return nil, errors.New("malformed reply: its status is not one of 100 to 599 (RFC 9110, 15)")
	}
	if resp.ProtoMajor != 1 || resp.ProtoMinor > 1 {
		return nil, fmt.Errorf("its reply is %s, and CONNECT is answered in HTTP/1.0 or HTTP/1.1 (RFC 9112, 2.3)", resp.Proto)
	}
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
