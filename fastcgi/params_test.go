package fastcgi

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newParamsApplication responds with its parameters, one a line.
func newParamsApplication(t testing.TB) *Client {
	return newApplication(t, func(a *appRequest) bool {
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(a.params)) {
			fmt.Fprintf(&lines, "%s=%s\n", name, a.params[name])
		}
		a.write(t, okResponse(lines.String())...)
		return true
	})
}

// parseParams parses a response of newParamsApplication.
func parseParams(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[name] = value
	}
	return env
}

// sendRaw sends a request as it is and reads the response.
func sendRaw(t testing.TB, network, address, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial(network, address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

// PHP turns dots and other characters into underscores: X.Forwarded.For replaced the
// genuine header field, and Remote.User became HTTP_REMOTE_USER.
func TestHandler_FieldNamesHaveOnlyLettersDigitsAndHyphens(t *testing.T) {
	t.Parallel()
	s := serveTestRoot(t, &Handler{Client: newParamsApplication(t)})
	for range 20 { // the order of a map is random
		request := "GET /a.php HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" +
			"X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\nCookie: a=1\r\nCookie: b=2\r\nX-9: nine\r\n" +
			"Content-Type: text/a\r\nContent-Type: text/b\r\nContent-Length: 0\r\nProxy: evil\r\n"
		for _, c := range "!#$%&'*+.^_`|~" {
			request += fmt.Sprintf("X%cForwarded%cFor: evil\r\nRemote%cUser: evil\r\nContent%cType: evil\r\n%cProxy: evil\r\n", c, c, c, c, c)
		}
		resp, body := sendRaw(t, "tcp", s.Listener.Addr().String(), request+"\r\n")
		require.Equal(t, 200, resp.StatusCode)
		require.NotContains(t, body, "evil")
		got := parseParams(body)
		require.Equal(t, "1.1.1.1, 2.2.2.2", got["HTTP_X_FORWARDED_FOR"])
		require.Equal(t, "a=1; b=2", got["HTTP_COOKIE"])
		require.Equal(t, "nine", got["HTTP_X_9"])
		require.Equal(t, "text/a", got["CONTENT_TYPE"])
		require.NotContains(t, got, "HTTP_CONTENT_TYPE")
		require.NotContains(t, got, "HTTP_CONTENT_LENGTH")
		require.NotContains(t, got, "HTTP_PROXY")
	}
}

// A program's own request may have field names that are not canonical.
func TestParams_HeadersOfOneNameAreJoinedInOneOrder(t *testing.T) {
	t.Parallel()
	for range 20 {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header = http.Header{"X-A": {"1"}, "x-a": {"2", "3"}, "x-A": {}, "content-type": {"text/a"}, "proxy": {"evil"}, "host": {"evil"}, "": {"evil"}}
		for _, p := range []map[string]string{transportParams(r, "/", scriptPath{}), serverParams(r, "/", scriptPath{})} {
			require.Equal(t, "1, 2, 3", p["HTTP_X_A"])
			require.Equal(t, "text/a", p["CONTENT_TYPE"])
			for name, value := range p {
				require.NotEqual(t, "evil", value, name)
			}
		}
	}
}

// Scheme and host of an absolute-form request target were trusted: HTTPS was on over plain
// HTTP.
func TestHandler_SchemeIsThatOfTheConnection(t *testing.T) {
	t.Parallel()
	s := serveTestRoot(t, &Handler{Client: newParamsApplication(t)})
	address := s.Listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	for target, want := range map[string]struct{ uri, host, name string }{
		"/a.php?x=1":                            {"/a.php?x=1", "front:81", "front"},
		"https://bank.example/a.php?x=1":        {"/a.php?x=1", "bank.example", "bank.example"},
		"HTTPS://bank.example:444/a.php/http:/": {"/a.php/http:/", "bank.example:444", "bank.example"},
		"http://[::1]:8/a.php":                  {"/a.php", "[::1]:8", "[::1]"},
		"https://me@bank.example/a.php?":        {"/a.php?", "bank.example", "bank.example"},
		"https://bank.example?https://x/":       {"/?https://x/", "bank.example", "bank.example"},
		"https://bank.example":                  {"/", "bank.example", "bank.example"},
		"//a.php?https://x/y":                   {"//a.php?https://x/y", "front:81", "front"},
	} {
		resp, body := sendRaw(t, "tcp", address, "GET "+target+" HTTP/1.1\r\nHost: front:81\r\nConnection: close\r\n\r\n")
		require.Equal(t, 200, resp.StatusCode, target)
		got := parseParams(body)
		require.Equal(t, want.uri, got["REQUEST_URI"], target)
		require.Equal(t, want.host, got["HTTP_HOST"], target)
		require.Equal(t, want.name, got["SERVER_NAME"], target)
		require.Equal(t, "http", got["REQUEST_SCHEME"], target)
		require.Equal(t, port, got["SERVER_PORT"], target)
		require.NotContains(t, got, "HTTPS", target)
	}
	secure := httptest.NewTLSServer(s.Config.Handler)
	defer secure.Close()
	conn, err := tls.Dial("tcp", secure.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET http://bank.example/a.php HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(b), "\nHTTPS=on\n")
	require.Contains(t, string(b), "\nREQUEST_SCHEME=https\n")
}

// Params serve behind a proxy that terminates TLS, and for the application's environment.
func TestHandler_ParamsOverrideAndAdd(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: newParamsApplication(t), Params: func(r *http.Request) map[string]string {
		p := map[string]string{"APP_ENV": "prod", "REMOTE_ADDR": r.Header.Get("X-Real-Ip")}
		if r.Header.Get("X-Forwarded-Proto") == "https" {
			p["HTTPS"], p["REQUEST_SCHEME"], p["SERVER_PORT"] = "on", "https", "443"
		}
		if r.Header.Get("X-Zero") != "" {
			p["APP_ENV"] = "a\x00b"
		}
		return p
	}}
	s := serveTestRoot(t, h)
	ask := func(header string) (*http.Response, map[string]string) {
		resp, body := sendRaw(t, "tcp", s.Listener.Addr().String(), "GET /a.php HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n")
		return resp, parseParams(body)
	}
	_, got := ask("X-Forwarded-Proto: https\r\nX-Real-Ip: 192.0.2.1\r\n")
	for name, want := range map[string]string{
		"APP_ENV": "prod", "REMOTE_ADDR": "192.0.2.1", "HTTPS": "on", "REQUEST_SCHEME": "https", "SERVER_PORT": "443", "SCRIPT_NAME": "/a.php",
	} {
		require.Equal(t, want, got[name], name)
	}
	_, got = ask("")
	require.NotContains(t, got, "HTTPS")
	require.Equal(t, "", got["REMOTE_ADDR"])
	resp, _ := ask("X-Zero: 1\r\n")
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
}

// The address of a unix socket is "@" or a path, which is not a REMOTE_ADDR.
func TestHandler_AddressesAreIPAddressesOrEmpty(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: newParamsApplication(t)}
	serveTestRoot(t, h)
	at := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", at)
	require.NoError(t, err)
	s := &httptest.Server{Listener: ln, Config: &http.Server{Handler: h}} //nolint:gosec // a test's own
	s.Start()
	defer s.Close()
	_, body := sendRaw(t, "unix", at, "GET /a.php HTTP/1.1\r\nHost: [2001:db8::1]:81\r\nConnection: close\r\n\r\n")
	got := parseParams(body)
	require.Equal(t, "[2001:db8::1]", got["SERVER_NAME"])
	require.Equal(t, "80", got["SERVER_PORT"])
	require.Contains(t, got, "REMOTE_ADDR")
	require.Empty(t, got["REMOTE_ADDR"])
	require.NotContains(t, got, "REMOTE_PORT")
	require.NotContains(t, got, "SERVER_ADDR")

	for address, want := range map[string][2]string{
		"192.0.2.1:80": {"192.0.2.1", "80"}, "[2001:db8::1]:80": {"2001:db8::1", "80"}, "[fe80::1%eth0]:80": {"fe80::1", "80"},
		"192.0.2.1": {"192.0.2.1", ""}, "2001:db8::1": {"2001:db8::1", ""}, "@": {}, "/run/s": {}, "": {}, "name:80": {}, "@:1": {},
	} {
		ip, port := splitIPPort(address)
		require.Equal(t, want, [2]string{ip, port}, address)
	}
	for host, want := range map[string]string{
		"": "", "a": "a", "a:80": "a", "[::1]": "[::1]", "[::1]:80": "[::1]", "a:": "a", "192.0.2.1:1": "192.0.2.1",
	} {
		require.Equal(t, want, hostname(host), host)
	}
}

// REMOTE_ADDR is required (RFC 3875, section 4.1.8).
func TestTransport_SetsTheParamsOfTheURL(t *testing.T) {
	t.Parallel()
	tr := &Transport{Client: newParamsApplication(t), ScriptRoot: "/srv"}
	resp, err := (&http.Client{Transport: tr}).Get("https://example.com:444/a.php?x=1")
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	got := parseParams(string(b))
	for name, want := range map[string]string{
		"REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "example.com", "SERVER_PORT": "444", "HTTPS": "on",
		"HTTP_HOST": "example.com:444", "REQUEST_URI": "/a.php?x=1",
	} {
		require.Equal(t, want, got[name], name)
	}

	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: "inside", Path: "/b.php"})
	}})
	defer proxy.Close()
	conn, err := net.Dial("tcp", proxy.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, proxy.URL+"/x?y", nil)
	require.NoError(t, err)
	require.NoError(t, req.Write(conn))
	resp, err = http.ReadResponse(bufio.NewReader(conn), req)
	require.NoError(t, err)
	b, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	got = parseParams(string(b))
	require.Equal(t, conn.LocalAddr().String(), got["REMOTE_ADDR"]+":"+got["REMOTE_PORT"])
	require.Equal(t, "/b.php/x?y", got["REQUEST_URI"])
}
