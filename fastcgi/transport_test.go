package fastcgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// newTestTransport returns a Transport whose application responds with the text that
// answer returns.
func newTestTransport(t testing.TB, answer func(a *appRequest) string) (*Transport, *Client) {
	t.Helper()
	cl := newApplication(t, func(a *appRequest) bool {
		if text := answer(a); text != "" {
			p := appendRecord(appendStream(nil, typeStdout, []byte(text)), typeStdout, firstRequestID, nil)
			a.write(t, append(p, endRecord(0, 0)...)) // in one piece, so that END_REQUEST arrives with the body
		}
		return true
	})
	return &Transport{Client: cl, ScriptRoot: "/srv", Fallback: "/front.php"}, cl
}

// A trackedBody counts how often it was closed.
type trackedBody struct {
	io.Reader
	closed atomic.Int32
}

func (c *trackedBody) Close() error {
	c.closed.Add(1)
	if r, ok := c.Reader.(io.Closer); ok {
		return r.Close()
	}
	return nil
}

func (c *trackedBody) requireClosed(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return c.closed.Load() > 0 }, testTimeout, time.Millisecond)
	require.EqualValues(t, 1, c.closed.Load())
}

// As in net/http, ContentLength 0 with a Body means an unknown length. Each kind of body
// is sent whole and closed.
func TestTransport_SendsBodiesOfUnknownLength(t *testing.T) {
	t.Parallel()
	tr, _ := newTestTransport(t, func(a *appRequest) string {
		return fmt.Sprintf("A: b\n\n%s %d", a.params["CONTENT_LENGTH"], len(a.body))
	})
	hc := &http.Client{Transport: tr}
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, make([]byte, 50_000), 0o600))
	for size, body := range map[int]func() io.Reader{
		1000:    func() io.Reader { return bytes.NewReader(make([]byte, 1000)) },
		1001:    func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 1001))) },
		100_000: func() io.Reader { return slowBody(t, 10, 10_000, 0) },
		50_000: func() io.Reader {
			f, err := os.Open(file)
			require.NoError(t, err)
			return f
		},
	} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodGet} {
			c := &trackedBody{Reader: body()}
			req, err := http.NewRequest(method, "http://x/a.php", c)
			require.NoError(t, err)
			require.Zero(t, req.ContentLength)
			before := fmt.Sprintf("%+v", req)
			resp, err := hc.Do(req)
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, fmt.Sprint(size, " ", size), string(b))
			require.Equal(t, before, fmt.Sprintf("%+v", req), "a request is not modified")
			c.requireClosed(t)
		}
	}
	for _, body := range []io.Reader{nil, http.NoBody} {
		req, err := http.NewRequest(http.MethodPost, "http://x/a.php", body)
		require.NoError(t, err)
		resp, err := hc.Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, " 0", string(b))
	}
	req, err := http.NewRequest(http.MethodPost, "http://x/a.php", nil)
	require.NoError(t, err)
	req.ContentLength = 5
	_, err = tr.RoundTrip(req) //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "Body is nil")
}

// The body is closed whatever becomes of the request.
func TestTransport_ClosesTheBodyAfterErrors(t *testing.T) {
	t.Parallel()
	tr, cl := newTestTransport(t, func(*appRequest) string { return "broken" })
	cl.Options = &client.Options{RecvTimeout: 200 * time.Millisecond}
	cl.BodyTimeout = 200 * time.Millisecond
	stalled := func() io.Reader {
		r, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		return r
	}
	unreachable := &Client{Network: "unix", Address: filepath.Join(t.TempDir(), "nowhere")}
	defer unreachable.Close()
	for name, test := range map[string]struct {
		tr   *Transport
		url  string
		body io.Reader
		size int64
	}{
		"no script":               {&Transport{Client: cl}, "http://x/x", strings.NewReader("x"), 1},
		"no application":          {&Transport{Client: unreachable}, "http://x/a.php", strings.NewReader("x"), 1},
		"no application, long":    {&Transport{Client: unreachable}, "http://x/a.php", io.LimitReader(zeroReader{}, 1<<20), 1 << 20},
		"no application, unknown": {&Transport{Client: unreachable}, "http://x/a.php", strings.NewReader("x"), -1},
		"malformed answer":        {tr, "http://x/a.php", strings.NewReader("x"), 1},
		"too short":               {tr, "http://x/a.php", strings.NewReader("x"), 2},
		"too long":                {tr, "http://x/a.php", io.LimitReader(zeroReader{}, 1<<20), 1<<20 - 1},
		"stalled, short":          {tr, "http://x/a.php", stalled(), 100},
		"stalled, long":           {tr, "http://x/a.php", stalled(), 1 << 20},
		"stalled, unknown":        {tr, "http://x/a.php", stalled(), -1},
	} {
		t.Run(name, func(t *testing.T) {
			c := &trackedBody{Reader: test.body}
			req, err := http.NewRequest(http.MethodPost, test.url, c)
			require.NoError(t, err)
			req.ContentLength = test.size
			_, err = test.tr.RoundTrip(req) //nolint:bodyclose // there is none
			require.Error(t, err)
			c.requireClosed(t)
		})
	}
}

// A response ends at its Content-Length, and one that must not have a body has none. If
// the script prints more, neither this response nor the next one is affected.
func TestTransport_BodiesHaveTheirContentLength(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method, answer string
		status         int
		length         int64
		body           string
		err            error
		isReusable     bool
	}{
		"as long":              {"GET", "Content-Length: 5\n\nhello", 200, 5, "hello", nil, true},
		"longer":               {"GET", "Content-Length: 5\n\nhello\n\n", 200, 5, "hello", nil, false},
		"much longer":          {"GET", "Content-Length: 5\n\nhello" + strings.Repeat("x", 200_000), 200, 5, "hello", nil, false},
		"shorter":              {"GET", "Content-Length: 6\n\nhello", 200, 6, "hello", io.ErrUnexpectedEOF, true},
		"none of it":           {"GET", "Content-Length: 6\n\n", 200, 6, "", io.ErrUnexpectedEOF, true},
		"unknown":              {"GET", "A: b\n\nhello", 200, -1, "hello", nil, true},
		"no number":            {"GET", "Content-Length: five\n\nhello", 200, -1, "hello", nil, true},
		"the same twice":       {"GET", "Content-Length: 5\nContent-Length: 5\n\nhello", 200, 5, "hello", nil, true},
		"empty":                {"GET", "Content-Length: 0\n\n", 200, 0, "", nil, true},
		"empty, and yet":       {"GET", "Content-Length: 0\n\nhello", 200, 0, "", nil, false},
		"HEAD":                 {"HEAD", "Content-Length: 5\n\n", 200, 5, "", nil, true},
		"HEAD of unknown":      {"HEAD", "A: b\n\n", 200, -1, "", nil, true},
		"HEAD with a body":     {"HEAD", "Content-Length: 5\n\nhello", 200, 5, "", nil, false},
		"204":                  {"GET", "Status: 204 Nothing\n\n", 204, 0, "", nil, true},
		"204 with a body":      {"GET", "Status: 204 Nothing\n\nhello", 204, 0, "", nil, false},
		"304":                  {"GET", "Status: 304 Same\nContent-Length: 5\n\n", 304, 0, "", nil, true},
		"304 with a body":      {"GET", "Status: 304 Same\n\nhello", 304, 0, "", nil, false},
		"an error with a body": {"GET", "Status: 500 No\nContent-Length: 5\n\nhello", 500, 5, "hello", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			tr, cl := newTestTransport(t, func(*appRequest) string { return test.answer })
			for _, consume := range []string{"read", "copied", "closed"} {
				req, err := http.NewRequest(test.method, "http://x/a.php", nil)
				require.NoError(t, err)
				resp, err := (&http.Client{Transport: tr}).Do(req)
				require.NoError(t, err)
				require.Equal(t, test.status, resp.StatusCode)
				require.Equal(t, test.length, resp.ContentLength)
				require.Same(t, req, resp.Request)
				require.False(t, resp.Uncompressed)
				var body bytes.Buffer
				switch consume {
				case "read":
					_, err = body.ReadFrom(struct{ io.Reader }{resp.Body})
				case "copied":
					_, err = io.Copy(&body, resp.Body)
				}
				if consume != "closed" {
					require.Equal(t, test.body, body.String(), consume)
					require.Equal(t, test.err, err, consume) // not wrapped, as in net/http
				}
				require.NoError(t, resp.Body.Close())
				require.NoError(t, resp.Body.Close())
				if consume != "closed" || test.body == "" && test.err == nil {
					if test.isReusable {
						require.Eventually(t, func() bool { return cl.Stats().Idle == 1 }, testTimeout, time.Millisecond, consume)
					} else {
						require.Zero(t, cl.Stats().Idle, consume)
					}
				}
			}
		})
	}
	tr, _ := newTestTransport(t, func(*appRequest) string { return "Content-Length: 5\nContent-Length: 6\n\nhello!" })
	_, err := (&http.Client{Transport: tr}).Get("http://x/a.php") //nolint:bodyclose // there is none
	var malformed *HeaderError
	require.ErrorAs(t, err, &malformed)
}

// A body of known length is complete even if the application closes the connection without
// END_REQUEST. A body of unknown length is not.
func TestClient_BodyOfKnownLengthIsCompleteWithoutEndRequest(t *testing.T) {
	t.Parallel()
	for head, want := range map[string]error{"Content-Length: 5\n\n": nil, "A: b\n\n": io.ErrUnexpectedEOF} {
		cl := newApplication(t, func(a *appRequest) bool {
			a.write(t, appendStream(nil, typeStdout, []byte(head+"hello")))
			return false
		})
		_, body, err := doAndRead(cl, &Request{})
		require.Equal(t, want, err)
		require.Equal(t, "hello", body)
		require.Zero(t, cl.Stats().Idle)
	}
}

// Close ends a Read in another goroutine, as it does in net/http. A context ends
// everything.
func TestTransport_CloseAndContextEndReads(t *testing.T) {
	t.Parallel()
	disconnected := make(chan struct{}, 10)
	cl := newApplication(t, func(a *appRequest) bool {
		if a.params["QUERY_STRING"] != "silent" {
			a.write(t, appendStream(nil, typeStdout, []byte("A: b\n\npart")))
		}
		_, _ = io.Copy(io.Discard, a.conn)
		disconnected <- struct{}{}
		return false
	})
	hc := &http.Client{Transport: &Transport{Client: cl, ScriptRoot: "/srv"}}
	for _, copies := range []bool{false, true} {
		resp, err := hc.Get("http://x/a.php")
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, 4))
		require.NoError(t, err)
		over := make(chan error)
		go func() {
			var err error
			if copies {
				_, err = io.Copy(io.Discard, resp.Body)
			} else {
				_, err = resp.Body.Read(make([]byte, 1))
			}
			over <- err
		}()
		time.Sleep(20 * time.Millisecond) // let the Read begin to wait
		require.NoError(t, resp.Body.Close())
		require.ErrorIs(t, <-over, errBodyClosed)
		_, err = resp.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, errBodyClosed)
		<-disconnected
	}
	for _, query := range []string{"silent", "part"} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/a.php?"+query, nil)
		require.NoError(t, err)
		resp, err := hc.Do(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, resp.Body.Close())
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-disconnected
		cancel()
	}
	hc.Timeout = 50 * time.Millisecond
	_, err := hc.Get("http://x/a.php?silent") //nolint:bodyclose // there is none
	var late interface{ Timeout() bool }
	require.True(t, errors.As(err, &late) && late.Timeout(), err)
	<-disconnected
}

// An httputil.ReverseProxy with a Transport serves php-fpm: bodies of known and unknown
// length, limits, statuses, and clients that disconnect.
func TestTransport_BehindAReverseProxy(t *testing.T) {
	root := writeFiles(t, map[string]string{
		"up.php":     `<?php header('Content-Type: text/plain'); echo strlen(file_get_contents('php://input')), ' ', $_SERVER['REMOTE_ADDR'], ' ', $_SERVER['REQUEST_URI'];`,
		"longer.php": "<?php header('Content-Length: 5'); echo 'hello'; ?>\n\n",
		"none.php":   `<?php http_response_code(204); echo "and yet";`,
	})
	p := startPHP(t, "unix")
	cl := p.client(t)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "php" },
		Transport: &Transport{Client: cl, ScriptRoot: root},
		ErrorLog:  log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			var tooLong *http.MaxBytesError
			if errors.As(err, &tooLong) {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		http.StripPrefix("/app", proxy).ServeHTTP(w, r)
	}))
	defer s.Close()
	for _, size := range []int{0, 10, maxInlineBody, maxInlineBody + 1, 1 << 20} {
		for _, body := range []io.Reader{bytes.NewReader(make([]byte, size)), io.MultiReader(bytes.NewReader(make([]byte, size)))} {
			resp, err := http.Post(s.URL+"/app/up.php?q=1", "application/octet-stream", body)
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, fmt.Sprint(size, " 127.0.0.1 /up.php?q=1"), string(b))
		}
	}
	for _, body := range []io.Reader{bytes.NewReader(make([]byte, 1<<20+1)), io.MultiReader(bytes.NewReader(make([]byte, 1<<20+1)))} {
		resp, err := http.Post(s.URL+"/app/up.php", "application/octet-stream", body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	}
	for script, want := range map[string]string{"longer.php": "200 hello", "none.php": "204 "} {
		resp, body := get(t, s, "/app/"+script)
		require.Equal(t, want, fmt.Sprint(resp.StatusCode, " ", body))
		head, err := s.Client().Head(s.URL + "/app/" + script)
		require.NoError(t, err)
		require.NoError(t, head.Body.Close())
		require.Equal(t, resp.StatusCode, head.StatusCode)
	}
	var wg sync.WaitGroup
	for i := range 40 { // uploads that are canceled
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			r, w := io.Pipe()
			go func() {
				_, _ = w.Write(make([]byte, 40_000))
				cancel()
				_ = w.Close()
			}()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/app/up.php", r)
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				req.ContentLength = 100_000
			}
			if resp, err := s.Client().Do(req); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()
	_, body := get(t, s, "/app/up.php")
	require.Equal(t, "0 127.0.0.1 /up.php", body)
}

// REMOTE_ADDR is the address of the proxy's client, or 127.0.0.1 without a proxy.
func TestTransport_RemoteAddrIsThatOfTheRequest(t *testing.T) {
	t.Parallel()
	tr, _ := newTestTransport(t, func(a *appRequest) string { return "A: b\n\n" + a.params["REMOTE_ADDR"] })
	for remote, want := range map[string]string{"": "127.0.0.1", "192.0.2.7:1234": "192.0.2.7", "[2001:db8::1]:1234": "2001:db8::1"} {
		req, err := http.NewRequest(http.MethodGet, "http://x/a.php", nil)
		require.NoError(t, err)
		req.RemoteAddr = remote
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, string(b))
	}
}
