package fastcgi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// With fewer workers than MaxConns, an idle connection may occupy the only worker. A
// request on a new connection waited in the backlog until IdleTimeout closed the idle one.
// Here IdleTimeout is longer than all other timeouts.
func TestPHP_NewConnectionDoesNotWaitBehindAnIdleOne(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{"a.php": `<?php echo $_SERVER['REQUEST_METHOD'], strlen(file_get_contents('php://input'));`})
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			cl := startPHP(t, network, "pm.max_children = 1").client(t)
			cl.Options.Timeout, cl.IdleTimeout = testTimeout/4, 10*testTimeout
			for _, method := range []string{"GET", "POST", "GET", "POST", "POST", "GET"} {
				for _, size := range []int{0, 100, 100_000} {
					r := newScriptRequest(filepath.Join(root, "a.php"))
					r.Idempotent, r.Params["REQUEST_METHOD"] = false, method
					if size > 0 {
						r.Body, r.ContentLength = bytes.NewReader(make([]byte, size)), int64(size)
					}
					_, body, err := doAndRead(cl, r)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(method, size), body)
				}
			}
			_, err := cl.GetValues(context.Background())
			require.NoError(t, err)
		})
	}
}

// A worker that still writes the output of its previous script does not read the next
// request, and its output is not read until that request is sent. A request that did not
// fit into the socket's buffer never arrived.
func TestPHP_LongRequestDoesNotWaitForThePreviousScript(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{
		"late.php": `<?php echo "answered"; fastcgi_finish_request(); usleep(200000); echo str_repeat("late", 2000000);`,
		"next.php": `<?php echo strlen(implode('', array_filter($_SERVER, fn($k) => str_starts_with($k, 'HTTP_LONG'), ARRAY_FILTER_USE_KEY)));`,
	})
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		cl.MaxConns, cl.Options.Timeout = 1, testTimeout/4
		for _, pieces := range []int{1, 10, 20, 50} {
			_, body, err := doAndRead(cl, newScriptRequest(filepath.Join(root, "late.php")))
			require.NoError(t, err)
			require.Equal(t, "answered", body)
			r := newScriptRequest(filepath.Join(root, "next.php"))
			for i := range pieces {
				r.Params[fmt.Sprint("HTTP_LONG_", i)] = strings.Repeat("l", 60_000)
			}
			_, body, err = doAndRead(cl, r)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(pieces*60_000), body)
		}
	})
}

// newLingeringApplication sends a whole response and then waits. When true is sent on the
// channel, it ends the request. After false, it sends true when the connection is closed.
func newLingeringApplication(t *testing.T, head string) (*Client, chan bool) {
	t.Helper()
	proceed, over := make(chan bool), make(chan struct{})
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendStream(nil, typeStdout, []byte(head)))
		select {
		case ends := <-proceed:
			if ends {
				break
			}
			_, _ = io.Copy(io.Discard, a.conn) // until the connection is closed
			select {
			case proceed <- true:
			case <-over:
			}
			return false
		case <-over:
			return false
		}
		a.write(t, appendStream(nil, typeStderr, []byte("later")), endRecord(3, 0))
		return true
	})
	t.Cleanup(func() { close(over) })
	cl.MaxConns, cl.Options = 1, &client.Options{Timeout: testTimeout / 4}
	return cl, proceed
}

// A response ends with the last byte of its Content-Length, as with http.Transport, and
// not when the script ends. Neither Close nor the request's context ends the script. Its
// connection is used again.
func TestClient_ResponseEndsBeforeItsScript(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ method, head, body string }{
		"a body":    {"GET", "Content-Length: 5\n\nhello", "hello"},
		"HEAD":      {"HEAD", "Content-Length: 5\n\n", ""},
		"HEAD, too": {"HEAD", "A: b\n\n", ""},
		"204":       {"GET", "Status: 204 Nothing\n\n", ""},
		"304":       {"GET", "Status: 304 Same\n\n", ""},
		"empty":     {"GET", "Content-Length: 0\n\n", ""},
	} {
		for _, consume := range []string{"read", "copied", "closed"} {
			t.Run(name+" "+consume, func(t *testing.T) {
				cl, proceed := newLingeringApplication(t, test.head)
				var stderr []string
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				r := &Request{Params: map[string]string{"REQUEST_METHOD": test.method}, Stderr: func(p []byte) { stderr = append(stderr, string(p)) }}
				resp, err := cl.Do(ctx, r)
				require.NoError(t, err)
				var body bytes.Buffer
				switch consume {
				case "read":
					_, err = body.ReadFrom(struct{ io.Reader }{resp.Body})
				case "copied":
					_, err = io.Copy(&body, resp.Body)
				}
				require.NoError(t, err)
				if consume != "closed" {
					require.Equal(t, test.body, body.String())
					n, err := resp.Body.Read(make([]byte, 1))
					require.Zero(t, n)
					require.Equal(t, io.EOF, err)
				}
				require.NoError(t, resp.Body.Close())
				cancel()
				require.EqualValues(t, 1, cl.Stats().Active, "the worker is not free")
				proceed <- true
				require.Eventually(t, func() bool { return cl.Stats().Idle == 1 }, testTimeout, time.Millisecond)
				require.Equal(t, "later", string(resp.Stderr()))
				require.EqualValues(t, 3, resp.AppStatus())
				require.Empty(t, stderr, "after the end of the body")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					proceed <- true
				}()
				_, again, err := doAndRead(cl, r)
				require.NoError(t, err)
				require.Equal(t, test.body, again)
				<-ended
			})
		}
	}
}

// RecvTimeout ends a script that goes on, and Client.Close ends it earlier.
func TestClient_RecvTimeoutEndsAScriptThatGoesOn(t *testing.T) {
	t.Parallel()
	for _, closes := range []bool{false, true} {
		cl, proceed := newLingeringApplication(t, "Content-Length: 5\n\nhello")
		limit := 300 * time.Millisecond
		if closes {
			limit = testTimeout
		}
		cl.Options = &client.Options{RecvTimeout: limit}
		_, body, err := doAndRead(cl, &Request{})
		require.NoError(t, err)
		require.Equal(t, "hello", body)
		begin := time.Now()
		proceed <- false
		if closes {
			require.NoError(t, cl.Close())
		}
		<-proceed
		require.Less(t, time.Since(begin), testTimeout/2)
		require.Eventually(t, func() bool { return cl.Stats().Active == 0 }, testTimeout, time.Millisecond)
	}
}

// Header and body arrive while the PHP script sleeps, by every way to send a request. The
// script then finishes.
func TestPHP_ScriptThatGoesOnDelaysNoResponse(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{
		"a.php": `<?php header('Content-Length: 5'); echo "hello"; flush(); usleep(1500000); file_put_contents($_GET['f'], 'done');`,
		"b.php": `<?php echo "next";`,
	})
	p := startPHP(t, "unix", "pm.max_children = 10")
	for _, by := range []string{"Transport", "ReverseProxy", "Handler"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			cl := p.client(t)
			tr := &Transport{Client: cl, ScriptRoot: root}
			hc, url := &http.Client{Transport: tr, Timeout: testTimeout}, "http://php"
			switch by {
			case "ReverseProxy":
				s := httptest.NewServer(&httputil.ReverseProxy{
					Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "php" },
					Transport: tr,
				})
				defer s.Close()
				hc, url = s.Client(), s.URL
			case "Handler":
				s := serveHandler(t, &Handler{Client: cl, Root: root})
				hc, url = s.Client(), s.URL
			}
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				f := filepath.Join(t.TempDir(), "f")
				begin := time.Now()
				req, err := http.NewRequest(method, url+"/a.php?f="+f, nil)
				require.NoError(t, err)
				resp, err := hc.Do(req)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.EqualValues(t, 5, resp.ContentLength)
				if method == http.MethodGet {
					require.Equal(t, "hello", string(body))
					require.Less(t, time.Since(begin), 1400*time.Millisecond)
					require.NoFileExists(t, f)
					require.Eventually(t, func() bool { return cl.Stats().Active == 0 }, testTimeout, time.Millisecond)
					require.FileExists(t, f)
				}
				resp, err = hc.Get(url + "/b.php")
				require.NoError(t, err)
				body, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, "next", string(body))
			}
		})
	}
}

// php-fpm closes the connection if a parameter does not fit into a record. The error names
// the parameter, because the end of the connection alone would not explain it.
func TestPHP_TooLongParameterIsNamed(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{"a.php": `<?php echo strlen($_SERVER['QUERY_STRING']);`})
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		for _, length := range []int{65_000, 65_600, 200_000} {
			r := newScriptRequest(filepath.Join(root, "a.php"))
			r.Params["QUERY_STRING"] = strings.Repeat("q", length)
			_, body, err := doAndRead(cl, r)
			if length == 65_000 {
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(length), body)
				continue
			}
			var long *ParamError
			require.ErrorAs(t, err, &long)
			require.Equal(t, "QUERY_STRING", long.Name)
			require.Equal(t, length, long.Length)
		}
	})
}
