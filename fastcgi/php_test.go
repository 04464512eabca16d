package fastcgi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

// A phpFPM is a php-fpm for one test.
type phpFPM struct {
	*testserver.Server
	network string
}

func startPHP(t testing.TB, network string, settings ...string) *phpFPM {
	t.Helper()
	s, err := testserver.PHP(network, settings...)
	p := &phpFPM{testserver.Serve(t, s, err), network}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(p.Dir, "log"))
			t.Logf("its log:\n%s", log)
		}
	})
	return p
}

func (p *phpFPM) client(t testing.TB) *Client {
	t.Helper()
	address := p.Addr
	if p.network == "unix" {
		address = p.Socket()
	}
	cl := &Client{Network: p.network, Address: address, IdleTimeout: testTimeout, Options: &client.Options{Timeout: testTimeout}}
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func siteDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/site")
	require.NoError(t, err)
	return dir
}

// serveSite serves testdata/site.
func serveSite(t testing.TB, cl *Client) *httptest.Server {
	t.Helper()
	h := &Handler{Client: cl, Root: siteDir(t)}
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.Close()
		_ = h.Close()
	})
	return s
}

func get(t testing.TB, s *httptest.Server, path string) (*http.Response, string) {
	t.Helper()
	resp, err := s.Client().Get(s.URL + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func eachNetwork(t *testing.T, f func(t *testing.T, p *phpFPM)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			f(t, startPHP(t, network))
		})
	}
}

func TestPHP_ReceivesTheRequest(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		s := serveSite(t, cl)
		form := url.Values{"a": {"1", "2"}, "long": {strings.Repeat("l", 100_000)}}
		req, err := http.NewRequest(http.MethodPost, s.URL+"/echo.php/info/x?q=1&r[]=2", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Cookie", "one=1; two=2")
		req.Header.Set("X-Long", strings.Repeat("h", 60_000)) // php-fpm accepts little more
		req.Header.Set("X-Longer", strings.Repeat("i", 65_000))
		req.Header.Set("Proxy", "http://attacker")
		req.Header.Set("X_Under", "no")
		req.SetBasicAuth("me", "x")
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var got struct {
			Get, Post, Cookie map[string]any
			Server            map[string]any
			Length            int
		}
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
		require.Equal(t, map[string]any{"q": "1", "r": []any{"2"}}, got.Get)
		require.Equal(t, "2", got.Post["a"])
		require.Len(t, got.Post["long"], 100_000)
		require.Equal(t, map[string]any{"one": "1", "two": "2"}, got.Cookie)
		require.Equal(t, len(form.Encode()), got.Length)
		require.Equal(t, "yes", resp.Cookies()[0].Value)
		host := strings.TrimPrefix(s.URL, "http://")
		hostname, port, err := net.SplitHostPort(host)
		require.NoError(t, err)
		root := siteDir(t)
		for name, want := range map[string]string{
			"REQUEST_METHOD": "POST", "REQUEST_URI": "/echo.php/info/x?q=1&r[]=2", "QUERY_STRING": "q=1&r[]=2",
			"SCRIPT_NAME": "/echo.php", "PATH_INFO": "/info/x", "SCRIPT_FILENAME": root + "/echo.php",
			"DOCUMENT_ROOT": root, "PATH_TRANSLATED": root + "/info/x", "REMOTE_ADDR": "127.0.0.1",
			"SERVER_NAME": hostname, "SERVER_PORT": port, "SERVER_ADDR": "127.0.0.1", "HTTP_HOST": host,
			"SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1", "CONTENT_TYPE": "application/x-www-form-urlencoded",
			"CONTENT_LENGTH": strconv.Itoa(len(form.Encode())), "HTTP_X_LONG": strings.Repeat("h", 60_000), "HTTP_X_LONGER": strings.Repeat("i", 65_000),
			"REQUEST_SCHEME": "http", "PHP_AUTH_USER": "me", "PHP_SELF": "/echo.php/info/x",
			"DOCUMENT_URI": "/echo.php/info/x",
		} {
			require.Equal(t, want, fmt.Sprint(got.Server[name]), name)
		}
		require.NotEmpty(t, got.Server["REMOTE_PORT"])
		for _, name := range []string{"HTTP_PROXY", "HTTP_X_UNDER", "HTTPS", "HTTP_CONTENT_LENGTH", "REMOTE_USER"} {
			require.NotContains(t, got.Server, name)
		}
		require.Eventually(t, func() bool { return cl.Stats().Idle == 1 }, testTimeout, time.Millisecond)
		_, body := get(t, s, "/id.php?id=7")
		require.Equal(t, "7\n", body)
		require.EqualValues(t, 1, cl.Stats().Dials, "%+v", cl.Stats())
	})
}

func TestPHP_UploadsDownloadsAndErrors(t *testing.T) {
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		s := serveSite(t, cl)
		script := func(name string) *Request {
			return &Request{Params: map[string]string{
				"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": filepath.Join(siteDir(t), name), "SCRIPT_NAME": "/" + name,
			}}
		}
		t.Run("an upload of 50 MiB", func(t *testing.T) {
			skipLoad(t)
			content := make([]byte, 50<<20)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
			for _, chunked := range []bool{false, true} {
				var form bytes.Buffer
				w := multipart.NewWriter(&form)
				require.NoError(t, w.WriteField("word", "hello"))
				part, err := w.CreateFormFile("file", "f")
				require.NoError(t, err)
				_, err = part.Write(content)
				require.NoError(t, err)
				require.NoError(t, w.Close())
				var body io.Reader = &form
				if chunked {
					body = io.MultiReader(&form) // hides the length
				}
				resp, err := s.Client().Post(s.URL+"/upload.php", w.FormDataContentType(), body)
				require.NoError(t, err)
				got, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, fmt.Sprintf("%d %x hello", len(content), sha256.Sum256(content)), string(got))
			}
		})
		t.Run("a download of 100 MiB", func(t *testing.T) {
			skipLoad(t)
			resp, err := s.Client().Get(s.URL + "/download.php")
			require.NoError(t, err)
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, 100<<20, n)
			want := sha256.New()
			for i := range 1600 {
				want.Write(bytes.Repeat([]byte{byte('A' + i%26)}, 1<<16))
			}
			require.Equal(t, want.Sum(nil), sum.Sum(nil))
		})
		t.Run("an upload to a script that prints first", func(t *testing.T) {
			const up, down = 32 << 20, 12 << 20
			resp, err := s.Client().Post(s.URL+"/early.php", "application/octet-stream", io.LimitReader(zeroReader{}, up))
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, fmt.Sprint(up), string(b[down:]))
		})
		t.Run("steps", func(t *testing.T) {
			resp, err := cl.Do(context.Background(), script("steps.php"))
			require.NoError(t, err)
			begin := time.Now()
			first := make([]byte, 7)
			_, err = io.ReadFull(resp.Body, first)
			require.NoError(t, err)
			require.Equal(t, "step 0\n", string(first))
			rest, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "step 1\nstep 2\n", string(rest))
			require.Greater(t, time.Since(begin), 100*time.Millisecond, "the first step arrived before the last was printed")
		})
		t.Run("stderr", func(t *testing.T) {
			resp, body, err := doAndRead(cl, script("stderr.php"))
			require.NoError(t, err)
			require.Equal(t, "done", body)
			require.Contains(t, string(resp.Stderr()), "to the log")
		})
		t.Run("exit", func(t *testing.T) {
			resp, body, err := doAndRead(cl, script("exit.php"))
			require.NoError(t, err)
			require.Equal(t, "short", body)
			require.Equal(t, 418, resp.StatusCode)
			require.Zero(t, resp.AppStatus(), "php-fpm always reports 0")
		})
		t.Run("a fatal error", func(t *testing.T) {
			resp, _, err := doAndRead(cl, script("fatal.php"))
			require.NoError(t, err)
			require.Equal(t, 500, resp.StatusCode)
			require.Contains(t, string(resp.Stderr()), "undefined_function")
		})
		t.Run("not there", func(t *testing.T) {
			resp, _, err := doAndRead(cl, script("nowhere.php"))
			require.NoError(t, err)
			require.Equal(t, 404, resp.StatusCode)
			require.Contains(t, string(resp.Stderr()), "Primary script unknown")
		})
		t.Run("fastcgi_finish_request", func(t *testing.T) {
			for range 3 {
				_, body, err := doAndRead(cl, script("finish.php"))
				require.NoError(t, err)
				require.Equal(t, "answered", body)
			}
		})
		t.Run("too slow", func(t *testing.T) {
			quick := p.client(t)
			quick.Options.RecvTimeout = 50 * time.Millisecond
			begin := time.Now()
			_, body, err := doAndRead(quick, script("sleep.php"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, "", strings.Trim("a little", body+"a little"))
			require.Less(t, time.Since(begin), testTimeout/2)
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			resp, err := cl.Do(ctx, script("sleep.php"))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		t.Run("values", func(t *testing.T) {
			values, err := cl.GetValues(context.Background())
			require.NoError(t, err)
			require.Equal(t, "0", values["FCGI_MPXS_CONNS"], "%v", values)
		})
	})
}

// Each request gets its own response, although a worker exits after three requests.
func TestLoad_ExitingWorkersFailNoRequest(t *testing.T) {
	skipLoad(t)
	for _, network := range []string{"unix", "tcp"} {
		p := startPHP(t, network, "pm.max_requests = 3")
		for _, at := range []int{1, 16} {
			t.Run(fmt.Sprint(network, " ", at), func(t *testing.T) {
				cl := p.client(t)
				checkResponses(t, cl, at, 10_000/at/loadDivisor(t), nil)
				stats := cl.Stats()
				t.Logf("%+v", stats)
				require.Greater(t, stats.Reuses, stats.Dials)
			})
		}
	}
}

// loadDivisor is by how much a load test does less than with CLIENT_LOAD=full.
func loadDivisor(t testing.TB) int {
	t.Helper()
	if os.Getenv("CLIENT_LOAD") == "full" {
		return 1
	}
	return 10
}

// skipLoad skips a load test with -short.
func skipLoad(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("a load test, without -short")
	}
}

// checkResponses sends requests from several goroutines and checks that each gets its own
// response. It abandons those for which cancels returns true.
func checkResponses(t testing.TB, cl *Client, goroutines, each int, cancels func() bool) (canceled int) {
	t.Helper()
	root := siteDir(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", g, i)
				lines := 1
				giveUp := cancels != nil && cancels()
				if giveUp {
					lines = 50_000
				}
				ctx, cancel := context.WithCancel(context.Background())
				query := fmt.Sprintf("id=%s&lines=%d", id, lines)
				resp, err := cl.Do(ctx, &Request{Idempotent: true, Params: map[string]string{
					"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": root + "/id.php", "QUERY_STRING": query,
					"REQUEST_URI": "/id.php?" + query, "SERVER_PROTOCOL": "HTTP/1.1",
				}})
				if err != nil {
					cancel()
					t.Errorf("%s: %v", id, err)
					return
				}
				if resp.Header.Get("X-Id") != id {
					t.Errorf("%s: the answer to %s", id, resp.Header.Get("X-Id"))
				}
				if giveUp {
					p := make([]byte, len(id)+1)
					_, err = io.ReadFull(resp.Body, p)
					if err != nil || string(p) != id+"\n" {
						t.Errorf("%s: %q %v", id, p, err)
					}
					if i%2 == 0 {
						cancel()
					}
					_ = resp.Body.Close()
					mu.Lock()
					canceled++
					mu.Unlock()
				} else if b, err := io.ReadAll(resp.Body); err != nil || string(b) != id+"\n" {
					t.Errorf("%s: %q %v", id, b, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	return canceled
}

func TestLoad_CanceledRequestsAffectNoOther(t *testing.T) {
	skipLoad(t)
	p := startPHP(t, "unix")
	cl := p.client(t)
	n := checkResponses(t, cl, 8, 21_000/8/loadDivisor(t), func() bool { return rand.N(2) == 0 })
	t.Logf("%d given up: %+v", n, cl.Stats())
	require.Positive(t, cl.Stats().Reuses)
}

func TestLoad_CanceledRequestsToNetHTTPFCGIAffectNoOther(t *testing.T) {
	skipLoad(t)
	cl := newNetHTTPFCGI(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines, _ := strconv.Atoi(r.FormValue("lines"))
		w.Header().Set("X-Id", r.FormValue("id"))
		_, _ = io.WriteString(w, strings.Repeat(r.FormValue("id")+"\n", lines))
	}))
	n := checkResponses(t, cl, 8, 21_000/8/loadDivisor(t), func() bool { return rand.N(2) == 0 })
	t.Logf("%d given up: %+v", n, cl.Stats())
	require.Positive(t, cl.Stats().Reuses)
}

// At a reload, php-fpm lets its workers finish and closes idle connections.
func TestPHP_ReloadFailsNoRequest(t *testing.T) {
	p := startPHP(t, "unix")
	cl := p.client(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 5 {
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
			}
			if err := p.Signal(syscall.SIGUSR2); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
		}
	})
	checkResponses(t, cl, 8, 3000/loadDivisor(t)*3, nil)
	close(stop)
	wg.Wait()
	t.Logf("%+v", cl.Stats())
	require.Greater(t, cl.Stats().Dials, uint64(DefaultMaxConns))
}

func TestFCGIWrap_RunsAProgram(t *testing.T) {
	t.Parallel()
	name, err := testserver.Find("fcgiwrap", "fcgiwrap")
	var s *testserver.Server
	if err == nil {
		s, err = testserver.Start(testserver.Spec{
			Path:  name,
			Args:  func(s *testserver.Server) []string { return []string{"-f", "-s", "unix:" + s.Socket(), "-c", "2"} },
			Ready: func(s *testserver.Server) error { return testserver.Answers("unix", s.Socket(), "", "") },
		})
	}
	p := &phpFPM{testserver.Serve(t, s, err), "unix"}
	script := filepath.Join(p.Dir, "hello.cgi")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nprintf 'Status: 203 Maybe\\r\\nX-A: b\\r\\n\\r\\n'\necho careful >&2\ncat\nexit 4\n"), 0o700)) //nolint:gosec // it is a program
	cl := p.client(t)
	cl.MaxConns = 2
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 25 {
				word := fmt.Sprintf("%d %d", i, k)
				resp, body, err := doAndRead(cl, &Request{
					Params:     map[string]string{"REQUEST_METHOD": "POST", "SCRIPT_FILENAME": script},
					Idempotent: k%2 == 0, // on an idle connection, with an ID other than 1
					Body:       strings.NewReader(word), ContentLength: int64(len(word)),
				})
				if err != nil || body != word || resp.StatusCode != 203 || resp.Header.Get("X-A") != "b" {
					t.Errorf("%q: %q %v", word, body, err)
				} else if string(resp.Stderr()) != "careful\n" {
					t.Errorf("%q", resp.Stderr())
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v", cl.Stats())
	require.Positive(t, cl.Stats().Reuses)
}

// A request takes as long next to stalled clients as without them. Four such clients were
// enough to block a site of four workers. The latencies are logged.
func TestLoad_StalledClientsDelayNoOther(t *testing.T) {
	skipLoad(t)
	stalled, requests := 10, 200
	if os.Getenv("CLIENT_LOAD") == "full" {
		stalled, requests = 100, 3000
	}
	p := startPHP(t, "unix")
	cl := p.client(t)
	h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{
		"hello.php": `<?php echo "hello";`, "up.php": `<?php echo "too soon";`,
		"down.php": `<?php for ($i = 0; $i < 128; $i++) echo str_repeat('x', 65536);`,
	})}
	s := serveHandler(t, h)
	gets := func(what string) {
		took := make([]time.Duration, requests)
		for i := range took {
			begin := time.Now()
			resp, body := get(t, s, "/hello.php")
			took[i] = time.Since(begin)
			require.Equal(t, "200 hello", fmt.Sprint(resp.StatusCode, " ", body))
		}
		slices.Sort(took)
		t.Logf("%-40s p50 %v, p99 %v", what, took[len(took)/2], took[len(took)*99/100])
	}
	gets("warming up")
	gets("alone")
	var conns []net.Conn
	for range stalled {
		conns = append(conns, dialAndSend(t, s, "POST /up.php HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 20_000)))
	}
	gets(fmt.Sprintf("beside %d that send nothing", stalled))
	for range stalled {
		conn := dialAndSend(t, s, "GET /down.php HTTP/1.1\r\nHost: x\r\n\r\n")
		conns = append(conns, conn)
		_, err := io.ReadFull(conn, make([]byte, 1)) // its response has begun
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return cl.Stats().Active == 0 }, testTimeout, time.Millisecond, "a worker is waiting for a client")
	gets(fmt.Sprintf("and beside %d that take nothing", stalled))
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return countTempFiles(t) == 0 }, testTimeout, time.Millisecond)
	gets("alone again")
}
