package fastcgi

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

// rawGet returns a response as it is: no HTTP client accepts some of nginx's.
func rawGet(t testing.TB, address, path string) (status int, header, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	_, err = io.WriteString(conn, "GET "+path+" HTTP/1.0\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	b, _ := io.ReadAll(conn) // Handler closes the connection of a short response
	head, rest, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	require.True(t, ok, "%q", b)
	require.Greater(t, len(head), len("HTTP/1.1 200"))
	status, err = strconv.Atoi(string(head[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
	require.NoError(t, err)
	return status, string(head), string(rest)
}

// A response header is treated as nginx treats it, except for those that are listed as
// safer: readers of such a response could disagree on what it is.
func TestHandler_HeadersAreToleratedAsByNginx(t *testing.T) {
	t.Parallel()
	const safer = 502
	tests := map[string]int{ // the status where it differs from nginx's
		"\r\n": 0, "\n": 0, "A: b\nC: d\r\n\n": 0,
		"X-Ok: 1\r\nhello\r\n\r\n": 0, "X-Ok: 1\nHTTP/1.1 404 Not Found\n\n": 0,
		"X-Ok: 1\nA b: c\n\n": 0, "X-Ok: 1\nA : c\n\n": 0, "X-Ok: 1\n: c\n\n": 0, "X-Ok: 1\nA: b\n c\n\n": 0,
		"X-Ok: 1\nA: b\x00c\n\n": 0, "X-Ok: 1\nA: b\rc\n\n": 0, "X-Ok: 1\nA: b\rSet-Cookie: x=1\n\n": 0, "X-Ok: 1\r\nA: b\r\r\n\r\n": 0,
		"X-Ok: 1\nA: b\x01c\n\n": 0, "X-Ok: 1\nA: b\x1b[31mc\n\n": 0, "X-Ok: 1\nA: b\x7fc\n\n": 0, "X-Ok: 1\nA: \xe4\n\n": 0,
		"X-Ok: 1\nA\x01b: c\n\n": 0, "X-Ok: 1\nA\tb: c\n\n": 0, "X-Ok: 1\nA\x7fb: c\n\n": 0,
		"X-Ok: 1\nA\u00e4: c\n\n": 0, "X-Ok: 1\nA(b): c\n\n": 0, "X-Ok: 1\nA/b: c\n\n": 0, "X-Ok: 1\nA_b: c\n\n": 0, "X-Ok: 1\nA:\n\n": 0, "X-Ok: 1\nA:   \n\n": 0,
		"Status: 404 Not Found\n\n": 0, "Status: 404\n\n": 0, "Status: 404Not\n\n": 0, "Status: x\n\n": 0, "Status: 20\n\n": 0, "Status: +20\n\n": 0, "Status:\n\n": 0,
		"Status: 600 x\n\n": 0, "Status: 999 x\n\n": 0, "Status: 404 x\nStatus: 404 x\n\n": 0, "Location: /x\n\n": 0,
		"X-Ok: 1\nContent-Length: 4\n\n": 0, "X-Ok: 1\nContent-Length: 2\n\n": 0, "X-Ok: 1\nContent-Length: 9\n\n": 0, "X-Ok: 1\nContent-Length: 4\nContent-Length: 4\n\n": 0,
		"X-Ok: 1\nContent-Length: x\n\n": 0, "X-Ok: 1\nContent-Length:\n\n": 0, "X-Ok: 1\nContent-Length: -1\n\n": 0, "X-Ok: 1\nContent-Length: +4\n\n": 0,
		"X-Ok: 1\nContent-Length: 4, 4\n\n": 0, "X-Ok: 1\nContent-Length: 99999999999999999999\n\n": 0,
		"X-Ok: 1\nTransfer-Encoding: chunked\n\n": 0, "Status: 204 x\n\n": 0, "Status: 304 x\n\n": 0, "A: b\r\n": 0, "": 0,

		"X-Ok: 1\nContent-Length: 4\nContent-Length: 3\n\n": safer, // ambiguous
		"Status: 100 x\n\n": safer, "Status: 103 x\n\n": safer, // the final response would still follow
		"Status: 099 x\n\n": safer, "Status: 2000\n\n": safer, // not a status
		"Status: 200 OK\nStatus: 404 x\n\n": safer,
		"<html>\n\n":                        safer, // a page without a header
	}
	cl := newApplication(t, func(a *appRequest) bool {
		head, _ := url.QueryUnescape(a.params["QUERY_STRING"])
		text := head
		if strings.HasSuffix(head, "\n\n") || strings.HasSuffix(head, "\n\r\n") || head == "\n" || head == "\r\n" {
			text += "body"
		}
		a.write(t, appendStream(nil, typeStdout, []byte(text)), appendRecord(nil, typeStdout, firstRequestID, nil), endRecord(0, 0))
		return true
	})
	root := writeFiles(t, map[string]string{"a.php": ""})
	h := &Handler{Client: cl, Root: root, ErrorLog: log.New(io.Discard, "", 0)}
	s := httptest.NewServer(h)
	defer h.Close()
	defer s.Close()
	nginx := strings.TrimPrefix(startNginx(t, &phpFPM{&testserver.Server{Dir: filepath.Dir(cl.Address)}, "unix"}, root), "http://")
	for head, want := range tests {
		path := "/a.php?" + url.QueryEscape(head)
		status, header, body := rawGet(t, nginx, path)
		ownStatus, ownHeader, ownBody := rawGet(t, s.Listener.Addr().String(), path)
		switch {
		case want != 0:
			require.NotEqual(t, want, status, "%q: not safer, but the same", head)
			require.Equal(t, want, ownStatus, "%q", head)
			continue
		case status == safer:
			require.Equal(t, status, ownStatus, "%q", head)
			continue
		}
		require.Equal(t, status, ownStatus, "%q", head)
		require.Equal(t, body, ownBody, "%q", head)
		require.Equal(t, strings.Contains(header, "X-Ok: 1"), strings.Contains(ownHeader, "X-Ok: 1"), "%q: %q", head, ownHeader)
		require.False(t, strings.ContainsAny(ownHeader, "\x00\x01\x1b\x7f"), "%q: %q", head, ownHeader)
		require.NotContains(t, ownHeader, "Set-Cookie")
	}
}
