package fastcgi

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// net/http reads part of an unread body before it writes the header. A client that sent
// one byte of its body got no response, and its connection had no deadline.
func TestHandler_RejectedRequestIsAnsweredBeforeItsBodyArrives(t *testing.T) {
	t.Parallel()
	h, _, ups := newBigApplication(t, 2)
	h.Root = writeFiles(t, map[string]string{"up.php": "", "a.txt": "text", "dir/index.html": "", ".env": ""})
	h.ClientTimeout = 500 * time.Millisecond
	h.Client.MaxBufferedBody = 900
	s := serveHandler(t, h)
	var wg sync.WaitGroup
	for _, length := range []string{"Content-Length: 1000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n5\r\nx", "Content-Length: 10000000\r\n\r\nx"} {
		for target, want := range map[string]int{
			"POST /missing": 404, "GET /missing": 404, "POST /missing.php": 404, "POST /a.txt": 405, "GET /a.txt": 200,
			"POST /dir": 301, "GET /dir/": 200, "POST /.env": 404, "POST /%00": 400, "POST /up.php": 413,
		} {
			if want == 413 && strings.Contains(length, "chunked") {
				continue // the body is not yet too long
			}
			wg.Go(func() {
				conn := dialAndSend(t, s, target+" HTTP/1.1\r\nHost: x\r\n"+length)
				_ = conn.SetDeadline(time.Now().Add(testTimeout))
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != want {
					t.Errorf("%s %s: %v %v", target, length, resp, err)
					return
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				if _, err = r.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s %s: the connection stays: %v", target, length, err)
				}
			})
		}
	}
	wg.Wait()
	require.Zero(t, ups.Load())
}

// An error of the application does not close the client's connection.
func TestHandler_ErrorAfterTheBodyLeavesTheConnectionOpen(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: newApplication(t, func(*appRequest) bool { return false }), Root: writeFiles(t, map[string]string{"a.php": ""}), ErrorLog: newLogger(io.Discard)}
	s := serveHandler(t, h)
	for _, n := range []int{10, maxInlineBody + 1} {
		conn := dialAndSend(t, s, "")
		r := bufio.NewReader(conn)
		for range 2 {
			_, err := io.WriteString(conn, "POST /a.php HTTP/1.1\r\nHost: x\r\nContent-Length: "+strconv.Itoa(n)+"\r\n\r\n"+strings.Repeat("x", n))
			require.NoError(t, err)
			resp, err := http.ReadResponse(r, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusBadGateway, resp.StatusCode)
		}
	}
}

// The cause that PHP had written to standard error was lost if the response had no header.
func TestHandler_StderrIsLoggedWithoutAResponseToo(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStderr, firstRequestID, []byte("PHP message: the ")), appendRecord(nil, typeStderr, firstRequestID, []byte("cause\n")))
		switch a.params["QUERY_STRING"] {
		case "malformed":
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("<html>\n\n")))
		case "nothing":
			a.write(t, endRecord(255, 0))
		case "silent":
			_, _ = io.Copy(io.Discard, a.conn)
		case "part":
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\npart")))
		}
		return false
	})
	cl.Options = &client.Options{RecvTimeout: 200 * time.Millisecond}
	var logged syncBuffer
	s := serveHandler(t, &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), ErrorLog: newLogger(&logged)})
	for i, query := range []string{"malformed", "nothing", "silent", "closes", "part"} {
		resp, err := s.Client().Get(s.URL + "/a.php?" + query)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, i+1, strings.Count(logged.String(), "GET /a.php: PHP message: the cause\n"), query)
	}
}

// X-Accel-Redirect is the path of a file for the web server to send. nginx hides all
// X-Accel fields.
func TestHandler_XAccelFieldsAreRemoved(t *testing.T) {
	t.Parallel()
	p := startPHP(t, "unix")
	h := &Handler{Client: p.client(t), Root: writeFiles(t, map[string]string{"a.php": `<?php
		foreach (['Redirect: /secret', 'Expires: 0', 'Limit-Rate: 1', 'Charset: x', 'Buffering: yes'] as $field) header("x-accel-$field");
		header("X-Accelerate: yes");`})}
	resp, _ := get(t, serveHandler(t, h), "/a.php")
	for name := range resp.Header {
		require.False(t, strings.HasPrefix(name, "X-Accel-"), name)
	}
	require.Equal(t, "yes", resp.Header.Get("X-Accelerate"))
}

// The target of "GET http://host?q" has no path, which means the root.
func TestHandler_AbsoluteTargetWithoutAPathIsNotRedirected(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: &Client{}, Root: writeFiles(t, map[string]string{"index.html": "the index"})}
	s := serveHandler(t, h)
	for _, target := range []string{"http://x?q", "http://x", "http://x/?q", "/?q"} {
		resp, body := sendRaw(t, "tcp", s.Listener.Addr().String(), "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.Equal(t, http.StatusOK, resp.StatusCode, target)
		require.Equal(t, "the index", body)
	}
}

// Behind a ResponseWriter without Unwrap, a Read of the body cannot be interrupted. The
// response to a stalled client waited for it.
func TestHandler_BodyTimeoutIsAnsweredBehindAWriterWithoutUnwrap(t *testing.T) {
	t.Parallel()
	h, _, ups := newBigApplication(t, 2)
	h.StreamBody, h.Client.BodyTimeout = true, 200*time.Millisecond
	serveHandler(t, h)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	}))
	defer s.Close()
	conn := dialAndSend(t, s, "POST /up.php HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
	require.Zero(t, ups.Load())
}
