package client_test

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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A fakeProxy is a proxy that answers as it is told to and remembers what it
// was asked.
type fakeProxy struct {
	greeting   []byte // SOCKS5: method selection; nil is as asked
	authStatus byte
	reply      []byte // what answers the request
	bytewise   bool
	after      string // sent together with the reply

	beyond func(net.Conn) // whom one reaches; nil is an echo

	target, user, password string
}

func (p *fakeProxy) write(conn net.Conn, b []byte) {
	if !p.bytewise {
		_, _ = conn.Write(b)
		return
	}
	for i := range b {
		_, _ = conn.Write(b[i : i+1])
		time.Sleep(50 * time.Microsecond) // so that they do not travel together
	}
}

func (p *fakeProxy) connect(conn net.Conn) {
	if p.beyond == nil {
		echo(conn)
		return
	}
	p.beyond(conn)
}

func (p *fakeProxy) http(conn net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	p.target = req.RequestURI
	if basic, ok := strings.CutPrefix(req.Header.Get("Proxy-Authorization"), "Basic "); ok {
		pair, _ := base64.StdEncoding.DecodeString(basic)
		p.user, p.password, _ = strings.Cut(string(pair), ":")
	}
	p.write(conn, append(bytes.Clone(p.reply), p.after...))
	p.connect(conn)
}

func (p *fakeProxy) socks5(conn net.Conn) {
	gone := false
	take := func(n int) []byte { // zeros once the client has gone
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err != nil {
			gone = true
		}
		return b
	}
	head := take(2)
	methods := take(int(head[1]))
	method := byte(0)
	if bytes.IndexByte(methods, 2) >= 0 {
		method = 2
	}
	if p.greeting != nil {
		method = p.greeting[1]
		p.write(conn, p.greeting)
	} else {
		p.write(conn, []byte{5, method})
	}
	if method == 2 {
		p.user = string(take(int(take(2)[1])))
		p.password = string(take(int(take(1)[0])))
		p.write(conn, []byte{1, p.authStatus})
	}
	head = take(4)
	host := ""
	switch head[3] {
	case 1:
		host = netip.AddrFrom4([4]byte(take(4))).String()
	case 4:
		host = netip.AddrFrom16([16]byte(take(16))).String()
	case 3:
		host = string(take(int(take(1)[0])))
	}
	port := binary.BigEndian.Uint16(take(2))
	if gone {
		return
	}
	p.target = net.JoinHostPort(host, strconv.Itoa(int(port)))
	p.write(conn, append(bytes.Clone(p.reply), p.after...))
	p.connect(conn)
}

// serve gives the proxy's address; the connection is over when stopped is closed.
func (p *fakeProxy) serve(t *testing.T, conversation func(net.Conn)) (address string, stopped <-chan struct{}) {
	t.Helper()
	ln := listen(t, "tcp")
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conversation(conn)
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String(), done
}

var socksGranted = []byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80}

func TestProxy_ReachesTargetAndLosesNothingAfterReply(t *testing.T) {
	inParallelIfShort(t)
	for _, target := range []string{"name.test:80", "192.0.2.1:443", "[2001:db8::1]:8080"} {
		for _, user := range []*url.Userinfo{nil, url.UserPassword("me", "pass:w\u00f6rd@")} {
			for _, bytewise := range []bool{false, true} {
				for scheme, reply := range map[string][][]byte{
					"socks5": {
						socksGranted,
						append([]byte{5, 0, 0, 4}, make([]byte, 18)...),
						[]byte("\x05\x00\x00\x03\x04name\x00\x50"),
					},
					"socks5h": {socksGranted},
					"http": {
						[]byte("HTTP/1.1 200 Connection established\r\n\r\n"),
						[]byte("HTTP/1.0 204 Yes\nX-A: b\n\n"),
						[]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
						[]byte("HTTP/1.1 200 OK\r\nContent-Length: abc\r\nTransfer-Encoding: gzip\r\n\r\n"),
						[]byte("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
					},
				} {
					for i, r := range reply {
						t.Run(fmt.Sprintf("%s %s %s %d %t", scheme, user, target, i, bytewise), func(t *testing.T) {
							p := &fakeProxy{reply: r, bytewise: bytewise, after: "\r\n\r\nhello"}
							conversation := p.socks5
							if scheme == "http" {
								conversation = p.http
							}
							address, stopped := p.serve(t, conversation)
							c, err := client.Dial("tcp", target, &client.Options{
								Timeout: testTimeout, Proxy: (&url.URL{Scheme: scheme, User: user, Host: address}).String(),
							})
							require.NoError(t, err)
							require.Equal(t, address, c.RemoteAddr().String())
							got := make([]byte, len(p.after))
							_, err = c.Recv(got, client.WaitAll)
							require.NoError(t, err)
							require.Equal(t, p.after, string(got))
							require.NoError(t, roundTrip(c, make([]byte, 1000)))
							require.NoError(t, c.Close())
							<-stopped
							require.Equal(t, target, p.target)
							if user != nil {
								require.Equal(t, "me", p.user)
								require.Equal(t, "pass:w\u00f6rd@", p.password)
							}
						})
					}
				}
			}
		}
	}
}

// Each refusal is an error at once, with the proxy's reason, and never a limit
// that is waited out.
func TestProxy_RefusalIsAnErrorAtOnce(t *testing.T) {
	type test struct {
		proxy  fakeProxy
		scheme string
		user   string
		text   string
	}
	tests := map[string]test{
		"no method": {fakeProxy{greeting: []byte{5, 0xff}}, "socks5", "", "no acceptable authentication methods"},
		"password":  {fakeProxy{authStatus: 1, reply: socksGranted}, "socks5", "me:secret@", "authentication failed"},
		"version":   {fakeProxy{greeting: []byte{4, 0}}, "socks5", "", "unexpected protocol version 4"},
		"reserved":  {fakeProxy{reply: []byte{5, 0, 1, 1, 0, 0, 0, 0, 0, 0}}, "socks5", "", "non-zero reserved"},
		"address":   {fakeProxy{reply: []byte{5, 0, 0, 9, 0, 0, 0, 0, 0, 0}}, "socks5", "", "unknown address type 9"},
		"endless":   {fakeProxy{reply: bytes.Repeat([]byte("a"), 70<<10)}, "http", "", "is longer than 65536 bytes"},
		"not HTTP":  {fakeProxy{reply: []byte("SSH-2.0-x\r\n\r\n")}, "http", "", "malformed"},
		"unasked":   {fakeProxy{greeting: []byte{5, 2}, reply: socksGranted}, "socks5", "", "method 2 was chosen, which was not offered"},
		"unasked 1": {fakeProxy{greeting: []byte{5, 1}, reply: socksGranted, bytewise: true}, "socks5", "me:secret@", "method 1 was chosen, which was not offered"},
		"099":       {fakeProxy{reply: []byte("HTTP/1.1 099 What\r\n\r\n")}, "http", "", "malformed"},
		"flood":     {fakeProxy{reply: bytes.Repeat([]byte("HTTP/1.1 100 Continue\r\n\r\n"), 1000)}, "http", "", "interim"},
		"controls":  {fakeProxy{reply: []byte("HTTP/1.1 500 a\x1b[31mb" + strings.Repeat("c", 5000) + "\r\n\r\n")}, "http", "", "500 a[31mbccc"},
		"fields":    {fakeProxy{reply: []byte("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: gzip\r\nno colon\r\n\r\n")}, "http", "", "403 Forbidden"},
		"101":       {fakeProxy{reply: []byte("HTTP/1.1 101 Switching Protocols\r\n\r\n")}, "http", "", "101 Switching Protocols"},
	}
	for code, reason := range []string{
		1: "general SOCKS server failure", "connection not allowed by ruleset", "network unreachable", "host unreachable",
		"connection refused", "TTL expired", "command not supported", "address type not supported", "unknown code",
	} {
		if code > 0 {
			tests[reason] = test{fakeProxy{reply: []byte{5, byte(code), 0, 1, 0, 0, 0, 0, 0, 0}}, "socks5", "", reason}
		}
	}
	for _, status := range []string{"300 Multiple Choices", "403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway", "504 Gateway Timeout"} {
		tests[status] = test{fakeProxy{reply: []byte("HTTP/1.1 " + status + "\r\nContent-Length: 1000\r\n\r\n")}, "http", "me:secret@", "refused: " + status}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := &test.proxy
			conversation := p.socks5
			if test.scheme == "http" {
				conversation = p.http
			}
			address, _ := p.serve(t, conversation)
			_, err := client.Dial("tcp", "name.test:80", &client.Options{Timeout: -1, Proxy: test.scheme + "://" + test.user + address})
			var pe *client.ProxyError
			require.ErrorAs(t, err, &pe)
			require.Equal(t, test.scheme+"://"+address, pe.Proxy)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "dial tcp name.test:80: proxy "+test.scheme+"://"+address+": ")
			require.NotContains(t, err.Error(), "secret")
			require.Less(t, len(err.Error()), 400)
			require.False(t, timedOut(err))
			require.True(t, client.SafeToRetry(err))
		})
	}
}

// A program can tell refusals apart by their code: RFC 1928's reply or HTTP's status. Some
// SOCKS5 proxies send a refusal of three bytes, without an address, and close.
func TestProxy_RefusalHasReplyOrStatus(t *testing.T) {
	type test struct {
		name   string
		scheme string // with the user
		parts  []string
		reply  client.SOCKSReply
		status int
		text   string
	}
	names := []string{
		1: "general SOCKS server failure", "connection not allowed by ruleset", "network unreachable", "host unreachable",
		"connection refused", "TTL expired", "command not supported", "address type not supported", "unknown code: 9", 255: "unknown code: 255",
	}
	var tests []test
	for code, name := range names {
		if name == "" {
			continue
		}
		reply := client.SOCKSReply(code)
		require.Equal(t, name, reply.String())
		whole := "\x05" + string([]byte{byte(code)}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
		for _, n := range []int{2, 3, 4, 9, 10} {
			tests = append(tests, test{fmt.Sprintf("%s in %d bytes", name, n), "socks5://", []string{"\x05\x00", whole[:n]}, reply, 0, "refused: " + name})
		}
	}
	require.Equal(t, "succeeded", client.SOCKSReply(0).String())
	tests = append(tests,
		test{"no method, nobody offered", "socks5://", []string{"\x05\xff"}, 0, 0, "refused: no acceptable authentication methods: set user and password"},
		test{"no method", "socks5://me:secret@", []string{"\x05\xff"}, 0, 0, "refused: no acceptable authentication methods"},
		test{"wrong password", "socks5://me:secret@", []string{"\x05\x02", "\x01\x01"}, 0, 0, "refused: username/password authentication failed"},
		test{"wrong password, another status", "socks5://me:secret@", []string{"\x05\x02", "\x01\xff"}, 0, 0, "refused: username/password authentication failed"},
		test{"half a refusal", "socks5://", []string{"\x05\x00", "\x05"}, 0, 0, "unexpected EOF"},
		test{"half a grant", "socks5://", []string{"\x05\x00", "\x05\x00\x00"}, 0, 0, "unexpected EOF"},
		test{"SOCKS4 to the request", "socks5://", []string{"\x05\x00", "\x00\x5b"}, 0, 0, "unexpected protocol version 0"},
		test{"another protocol for the password", "socks5://me:secret@", []string{"\x05\x02", "\x05\x00"}, 0, 0, "unexpected version 5"},
	)
	for _, status := range []string{"300 Multiple Choices", "403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway", "504 "} {
		code, err := strconv.Atoi(status[:3])
		require.NoError(t, err)
		for _, version := range []string{"HTTP/1.0 ", "HTTP/1.1 "} {
			line := version + status + "\r\n"
			tests = append(tests,
				test{version + status, "http://", []string{line + "\r\n"}, 0, code, "refused: " + status},
				test{version + status + ", the line alone", "http://", []string{line}, 0, code, "refused: " + status},
				test{version + status + ", cut in its fields", "http://", []string{line + "Proxy-Authen"}, 0, code, "refused: " + status},
				test{version + status + ", after an interim reply", "http://", []string{"HTTP/1.1 103 Early Hints\r\n\r\n" + line}, 0, code, "refused: " + status},
			)
		}
	}
	tests = append(tests,
		test{"no status line", "http://", []string{"HTTP/1.1 403 Forb"}, 0, 0, "unexpected EOF"},
		test{"half a grant by HTTP", "http://", []string{"HTTP/1.1 200 OK\r\n"}, 0, 0, "unexpected EOF"},
	)
	// The header of another version may end elsewhere.
	for _, version := range []string{"HTTP/2.0", "HTTP/3.0", "HTTP/1.2", "HTTP/0.9", "HTTP/9.9"} {
		for _, status := range []string{" 200 OK", " 403 Forbidden", " 103 Early Hints"} {
			tests = append(tests, test{version + status, "http://", []string{version + status + "\r\n\r\n"}, 0, 0, "the reply is " + version})
		}
	}
	for _, line := range []string{"HTTP/1.10 200 OK", "HTTP/2 200 OK", "http/1.1 200 OK", "ICY 200 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 OK", "200 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 000 OK", "HTTP/1.1 600 OK", "HTTP/1.1 999 OK"} {
		tests = append(tests, test{line, "http://", []string{line + "\r\n\r\n"}, 0, 0, "malformed"})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address, _ := new(fakeProxy).serve(t, func(conn net.Conn) {
				for _, part := range test.parts {
					_, _ = conn.Read(make([]byte, 1000))
					_, _ = conn.Write([]byte(part))
				}
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			})
			c, err := client.Dial("tcp", "name.test:80", &client.Options{Timeout: testTimeout, Proxy: test.scheme + address})
			require.Nil(t, c)
			var pe *client.ProxyError
			require.ErrorAs(t, err, &pe)
			require.Equal(t, test.reply, pe.Reply)
			require.Equal(t, test.status, pe.Status)
			require.ErrorContains(t, err, test.text)
			require.NotContains(t, err.Error(), "secret")
			require.False(t, timedOut(err))
			require.True(t, client.SafeToRetry(err))
			require.Equal(t, strings.Contains(test.text, "EOF"), errors.Is(err, io.ErrUnexpectedEOF))
		})
	}
}

// A proxy that refuses before it has read the request may reset the connection. The write
// that fails then must not hide the refusal, which has arrived. The request to the HTTP
// proxy is so long that its write is under way when the reset comes. With SOCKS5 that is up
// to the kernel, so the case is repeated.
func TestProxy_RefusalBeforeResetIsReceived(t *testing.T) {
	inParallelIfShort(t)
	for _, test := range []struct {
		scheme, sent string
		reply        client.SOCKSReply
		status       int
		rounds       int
	}{
		{"socks5://", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", 2, 0, 50},
		{"http://me:" + strings.Repeat("x", 16<<20) + "@", "HTTP/1.1 503 Service Unavailable\r\n\r\n", 0, 503, 3},
	} {
		t.Run(test.scheme[:4], func(t *testing.T) {
			for range test.rounds {
				address, _ := new(fakeProxy).serve(t, func(conn net.Conn) {
					_, _ = conn.Read(make([]byte, 3))
					_, _ = conn.Write([]byte(test.sent))
					_ = conn.(*net.TCPConn).SetLinger(0)
				})
				_, err := client.Dial("tcp", "name.test:80", &client.Options{Timeout: testTimeout, Proxy: test.scheme + address})
				var pe *client.ProxyError
				require.ErrorAs(t, err, &pe)
				require.Equalf(t, test.reply, pe.Reply, "%v", err)
				require.Equalf(t, test.status, pe.Status, "%v", err)
			}
		})
	}
}

func TestProxy_ClosingOrStallingAnywhereFailsDial(t *testing.T) {
	inParallelIfShort(t)
	scripts := map[string][]byte{
		"http":   []byte("HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
		"socks5": append([]byte{5, 0}, socksGranted...),
	}
	for scheme, script := range scripts {
		for n := range script {
			for _, closes := range []bool{true, false} {
				release := make(chan struct{})
				p := &fakeProxy{}
				address, stopped := p.serve(t, func(conn net.Conn) {
					_, _ = conn.Read(make([]byte, 1000))
					_, _ = conn.Write(script[:n])
					if closes {
						_ = conn.(*net.TCPConn).CloseWrite()
					}
					<-release
				})
				const limit = 20 * time.Millisecond
				opts := &client.Options{Timeout: testTimeout, Proxy: scheme + "://" + address}
				if !closes {
					opts.Timeout = limit
				}
				start := time.Now()
				_, err := client.Dial("tcp", "name.test:80", opts)
				took := time.Since(start)
				close(release)
				<-stopped
				if closes {
					require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%s after %d bytes", scheme, n)
					continue
				}
				require.ErrorIs(t, err, os.ErrDeadlineExceeded, "%s after %d bytes", scheme, n)
				require.True(t, timedOut(err))
				require.GreaterOrEqual(t, took, limit)
			}
		}
	}
}

func TestProxy_ContextEndsHandshake(t *testing.T) {
	for _, scheme := range []string{"http", "socks5"} {
		asked := make(chan struct{})
		release := make(chan struct{})
		address, _ := new(fakeProxy).serve(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1000))
			close(asked)
			<-release
		})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := client.DialContext(ctx, "tcp", "name.test:80", &client.Options{Timeout: -1, Proxy: scheme + "://" + address})
			result <- err
		}()
		<-asked
		cancel()
		err := <-result
		require.ErrorIs(t, err, context.Canceled)
		var pe *client.ProxyError
		require.ErrorAs(t, err, &pe)
		close(release)
	}
}

// recv(2) first and the limit after it would never come to the limit.
func TestProxy_EndlessReplyDoesNotExtendLimit(t *testing.T) {
	release := make(chan struct{})
	address, stopped := new(fakeProxy).serve(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1000))
		for {
			select {
			case <-release:
				return
			case <-time.After(time.Millisecond):
			}
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
		}
	})
	const limit = 50 * time.Millisecond
	start := time.Now()
	_, err := client.Dial("tcp", "name.test:80", &client.Options{Timeout: limit, Proxy: "http://" + address})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(start), limit)
	require.Less(t, time.Since(start), limit+testTimeout)
	close(release)
	<-stopped
}

// Never a direct connection, whatever is wrong with the proxy's name.
func TestProxy_InvalidURLOrTargetFailsBeforeConnecting(t *testing.T) {
	ln := listen(t, "tcp")
	made := func(string, string, syscall.RawConn) error {
		t.Error("a socket was made")
		return nil
	}
	target := ln.Addr().String()
	for _, test := range []struct{ network, proxy, target string }{
		{"tcp", "socks5://127.0.0.1", target},
		{"tcp", "http://127.0.0.1", target},
		{"tcp", "socks5://:1080", target},
		{"tcp", "socks5://127.0.0.1:0", target},
		{"tcp", "socks5://127.0.0.1:http", target},
		{"tcp", "socks4://127.0.0.1:1080", target},
		{"tcp", "https://127.0.0.1:1080", target},
		{"tcp", "127.0.0.1:1080", target},
		{"tcp", "socks5://me:secret%zz@127.0.0.1:1080", target},
		{"tcp", "socks5://127.0.0.1:1080/path", target},
		{"tcp", "socks5://me:123456/secret@127.0.0.1:1080", target},
		{"tcp", "http://me:0/secret@127.0.0.1:1080", target},
		{"tcp", "http://me%3Ax:secret@127.0.0.1:1080", target},
		{"tcp", "http://127.0.0.1:1080", "[a:b]:80"},
		{"tcp", "http://127.0.0.1:1080", "u@h:80"},
		{"tcp", "http://127.0.0.1:1080", "b\u00fccher.test:80"},
		{"tcp", "socks5://:secret@127.0.0.1:1080", target},
		{"tcp", "socks5://" + strings.Repeat("u", 256) + ":secret@127.0.0.1:1080", target},
		{"udp", "socks5://127.0.0.1:1080", target},
		{"unix", "http://127.0.0.1:1080", "/path"},
		{"tcp", "socks5://127.0.0.1:1080", strings.Repeat("n", 256) + ":80"},
		{"tcp", "http://127.0.0.1:1080", "name\r\nX: y:80"},
		{"tcp", "http://127.0.0.1:1080", ":80"},
		{"tcp", "http://127.0.0.1:1080", "name"},
		{"tcp", "http://127.0.0.1:1080", "name:0"},
		{"tcp", "http://127.0.0.1:1080", "[fe80::1%1]:80"},
		{"tcp6", "http://127.0.0.1:1080", "127.0.0.1:80"},
	} {
		_, err := client.Dial(test.network, test.target, &client.Options{Proxy: test.proxy, Control: made})
		var option *client.OptionError
		var addr *net.AddrError
		require.True(t, errors.As(err, &option) && option.Option == "Proxy" || errors.As(err, &addr), "%+v: %v", test, err)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), "123456")
	}
	_, err := client.NewTCP(&client.Options{Proxy: "http://127.0.0.1:1080"})
	var option *client.OptionError
	require.ErrorAs(t, err, &option)
}

func TestProxy_OptionsApplyToConnectionToProxy(t *testing.T) {
	p := &fakeProxy{reply: socksGranted}
	address, _ := p.serve(t, p.socks5)
	var tried attempts
	c, err := client.Dial("tcp", "name.test:80", &client.Options{
		Proxy: "socks5://proxy.test:" + portOf(t, address), LocalAddr: "127.0.0.1:0", Control: tried.record,
		Resolver: names(t, map[string][]string{"proxy.test.": {"127.0.0.1"}}),
	})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{address}, tried.addresses)

	q := &fakeProxy{reply: socksGranted}
	address, _ = q.serve(t, q.socks5)
	d, err := client.Dial("tcp6", "[2001:db8::1]:80", &client.Options{
		Proxy: "socks5://" + address, LocalAddr: "127.0.0.1:0", // the way to the proxy is of another family
		Control: func(network, at string, _ syscall.RawConn) error {
			require.Equal(t, []string{"tcp4", address}, []string{network, at})
			return nil
		},
	})
	require.NoError(t, err)
	require.NoError(t, d.Close())

	_, err = client.Dial("tcp", "name.test:80", &client.Options{Proxy: "http://" + refused(t, "tcp")})
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	var pe *client.ProxyError
	require.ErrorAs(t, err, &pe)
}

func TestProxy_RealServers(t *testing.T) {
	echoing := listen(t, "tcp")
	go func() {
		for {
			conn, err := echoing.Accept()
			if err != nil {
				return
			}
			go func() { echo(conn); _ = conn.Close() }()
		}
	}()
	nobody := refused(t, "tcp")
	for _, test := range []struct {
		program, debian, scheme, user string
		args                          func(t *testing.T, port string) []string
		wrong                         string // what a wrong password gives
	}{
		{"microsocks", "microsocks", "socks5", "me:secret@", func(_ *testing.T, port string) []string {
			return []string{"-i", "127.0.0.1", "-p", port, "-u", "me", "-P", "secret"}
		}, "authentication failed"},
		{"danted", "dante-server", "socks5", "", func(t *testing.T, port string) []string {
			return []string{"-f", config(t, `
				internal: 127.0.0.1 port = `+port+`
				external: lo
				socksmethod: none
				clientmethod: none
				errorlog: stderr
				client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
				socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }`), "-p", filepath.Join(t.TempDir(), "pid")}
		}, ""},
		{"tinyproxy", "tinyproxy-bin", "http", "me:secret@", func(t *testing.T, port string) []string {
			return []string{"-d", "-c", config(t, "Port "+port+"\nListen 127.0.0.1\nBasicAuth me secret\nMaxClients 10\n")}
		}, "refused: 40"},
		{"squid", "squid", "http", "", func(t *testing.T, port string) []string {
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, 0o777)) // squid, started by root, becomes another user
			return []string{"-N", "-f", config(t, "http_port 127.0.0.1:"+port+`
				http_access allow all
				cache deny all
				access_log none
				cache_log /dev/stderr
				shutdown_lifetime 0 seconds
				pinger_enable off
				pid_filename none
				coredump_dir `+dir+"\n")}
		}, ""},
	} {
		t.Run(test.program, func(t *testing.T) {
			path := requireProgram(t, test.program, test.debian)
			s := startServer(t, path, func(port string) []string { return test.args(t, port) }, func(s *testserver.Server) error {
				c, err := client.Dial("tcp", s.Addr, nil)
				if err != nil {
					return err
				}
				return c.Close()
			})
			via := func(user string) *client.Options {
				return &client.Options{Timeout: testTimeout, Proxy: test.scheme + "://" + user + s.Addr}
			}
			for _, target := range []string{echoing.Addr().String(), "localhost:" + portOf(t, echoing.Addr().String())} {
				c, err := client.Dial("tcp", target, via(test.user))
				require.NoError(t, err)
				for range 100 {
					require.NoError(t, roundTrip(c, randomBytes(1000)))
				}
				require.NoError(t, c.Close())
			}
			var pe *client.ProxyError
			_, err := client.Dial("tcp", nobody, via(test.user))
			require.ErrorAs(t, err, &pe)
			require.False(t, timedOut(err))
			require.Truef(t, test.scheme == "http" && pe.Status >= 500 || pe.Reply == client.SOCKSConnectionRefused, "%+v", pe)
			if test.wrong != "" {
				_, err = client.Dial("tcp", echoing.Addr().String(), via("me:wrong@"))
				require.ErrorAs(t, err, &pe)
				require.ErrorContains(t, err, test.wrong)
			}
		})
	}
}

// config writes a server's configuration, and gives the file's path.
func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644)) // squid reads it as another user
	return path
}
