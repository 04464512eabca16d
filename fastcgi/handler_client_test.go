package fastcgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// dialAndSend connects to a server and sends a request as it is.
func dialAndSend(t testing.TB, s *httptest.Server, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	return conn
}

// bigResponseLen is more than the buffers of two sockets hold.
const bigResponseLen = 12 << 20

// newBigApplication responds to /big.php with bigResponseLen bytes, to /up.php with the
// length of the request's body, and to others with "ok". It counts the first two.
func newBigApplication(t testing.TB, conns int) (h *Handler, big, ups *atomic.Int64) {
	big, ups = new(atomic.Int64), new(atomic.Int64)
	cl := newApplication(t, func(a *appRequest) bool {
		switch a.params["SCRIPT_NAME"] {
		case "/big.php":
			a.write(t, append([][]byte{appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\n"))}, appendStream(nil, typeStdout, make([]byte, bigResponseLen)), endRecord(0, 0))...)
			big.Add(1)
		case "/up.php":
			ups.Add(1)
			a.write(t, okResponse(fmt.Sprint(len(a.body)))...)
		default:
			a.write(t, okResponse("ok")...)
		}
		return true
	})
	cl.MaxConns, cl.Options = conns, &client.Options{ConnectTimeout: testTimeout}
	return &Handler{Client: cl, Root: writeFiles(t, map[string]string{"big.php": "", "up.php": "", "ok.php": ""})}, big, ups
}

// Four clients that accepted nothing, or sent slowly, occupied all workers. All other
// requests failed with 503 or 504.
func TestHandler_SlowClientsOccupyNoWorker(t *testing.T) {
	const slow = 10
	h, big, ups := newBigApplication(t, 2)
	s := serveHandler(t, h)
	for range slow {
		dialAndSend(t, s, "GET /big.php HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	require.Eventually(t, func() bool { return big.Load() == slow }, testTimeout, time.Millisecond, "the application waits for a client")
	_, body := get(t, s, "/ok.php")
	require.Equal(t, "ok", body)
	t.Setenv("TMPDIR", t.TempDir())
	before := countTempFiles(t)
	for i, header := range []string{"Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000), "Content-Length: 10\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n5\r\nxx"} {
		for range slow {
			dialAndSend(t, s, "POST /up.php HTTP/1.1\r\nHost: x\r\n"+header)
		}
		_, body = get(t, s, "/ok.php")
		require.Equal(t, "ok", body)
		require.Zero(t, ups.Load(), "%d: a request went out before its body had come", i)
	}
	require.Eventually(t, func() bool { return countTempFiles(t) == before+slow }, testTimeout, time.Millisecond)
	names, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, names, "the files have no names")
}

// deadlineWriter is a ResponseWriter that supports read deadlines.
type deadlineWriter struct {
	http.ResponseWriter
	read time.Time
}

func (d *deadlineWriter) SetReadDeadline(t time.Time) error { d.read = t; return nil }

// The goroutine that sends a streamed body may read once more after the reads were
// stopped.
func TestHandler_StoppedReadsStayStopped(t *testing.T) {
	t.Parallel()
	w := &deadlineWriter{ResponseWriter: httptest.NewRecorder()}
	l := (&Handler{}).newClientDeadlines(w, httptest.NewRequest(http.MethodGet, "/", nil))
	begin := time.Now()
	l.startRead()
	require.WithinRange(t, w.read, begin.Add(DefaultClientTimeout), time.Now().Add(DefaultClientTimeout))
	l.stopReads()
	l.startRead()
	require.True(t, w.read.Before(begin))
}

// When a Read of a streamed body times out, net/http cancels the request, and so the reads
// are stopped before that Read has returned. The status was 502 then, instead of 408.
func TestHandler_StoppedReadsDoNotHideATimeout(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{true, false} {
		h := &Handler{ClientTimeout: 20 * time.Millisecond}
		if !late {
			h.ClientTimeout = testTimeout
		}
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		deadlines := h.newClientDeadlines(httptest.NewRecorder(), r)
		in := &clientBody{deadlines: deadlines, Reader: readerFunc(func([]byte) (int, error) {
			if late {
				time.Sleep(h.ClientTimeout)
			}
			deadlines.stopReads()
			return 0, os.ErrDeadlineExceeded
		})}
		_, err := in.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, late, in.err != nil)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// countTempFiles returns the number of open files without a name.
func countTempFiles(t testing.TB) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, link := range links {
		to, _ := os.Readlink(link)
		unnamed := strings.Contains(to, "/#") || strings.Contains(to, "/fastcgi-")
		if unnamed && strings.HasSuffix(to, " (deleted)") {
			n++
		}
	}
	return n
}

// A buffered response is what the application has sent, at whatever speeds the two sides
// go. When the buffer is full, the application waits.
func TestHandler_SlowClientGetsTheWholeResponse(t *testing.T) {
	content := make([]byte, 5<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	for name, most := range map[string]int64{"by default": 0, "a file of 1 MiB": 1 << 20, "of 1 byte": 1, "no file": -1} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			var written atomic.Int64
			cl := newApplication(t, func(a *appRequest) bool {
				a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\n")))
				for size, rest := 1, content; len(rest) > 0; size = size*3%65_521 + 1 {
					p := rest[:min(size, len(rest))]
					a.write(t, appendStream(nil, typeStdout, p))
					rest = rest[len(p):]
					written.Add(int64(len(p)))
				}
				a.write(t, endRecord(0, 0))
				return true
			})
			h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), MaxBufferedResponse: most}
			s := serveHandler(t, h)
			conn := dialAndSend(t, s, "GET /a.php HTTP/1.0\r\n\r\n")
			p := make([]byte, 1)
			_, err := io.ReadFull(conn, p)
			require.NoError(t, err)
			if most == 0 {
				require.Eventually(t, func() bool { return written.Load() == int64(len(content)) }, testTimeout, time.Millisecond)
				require.Equal(t, 1, countTempFiles(t))
			}
			names, err := os.ReadDir(os.Getenv("TMPDIR"))
			require.NoError(t, err)
			require.Empty(t, names, "the file has no name")
			var got bytes.Buffer
			for n := 1; err == nil; n = n*5%40_009 + 1 {
				_, err = io.CopyN(&got, conn, int64(n))
			}
			require.ErrorIs(t, err, io.EOF)
			_, body, _ := bytes.Cut(got.Bytes(), []byte("\r\n\r\n"))
			require.True(t, bytes.Equal(content, body), "%d bytes", len(body))
			require.NoError(t, conn.Close())
			require.Eventually(t, func() bool { return countTempFiles(t) == 0 }, testTimeout, time.Millisecond)
		})
	}
}

func TestHandler_FullResponseBufferWaitsForTheClient(t *testing.T) {
	t.Parallel()
	h, big, _ := newBigApplication(t, 2)
	h.MaxBufferedResponse = -1
	s := serveHandler(t, h)
	conn := dialAndSend(t, s, "GET /big.php HTTP/1.0\r\n\r\n")
	_, err := io.ReadFull(conn, make([]byte, 1000))
	require.NoError(t, err)
	require.Never(t, func() bool { return big.Load() > 0 }, 100*time.Millisecond, 10*time.Millisecond)
	n, err := io.Copy(io.Discard, conn)
	require.NoError(t, err)
	require.Greater(t, n, int64(bigResponseLen-1000))
}

// Without temporary files, a long request body is an error, but a long response is not.
func TestHandler_WithoutTemporaryFilesOnlyLongRequestBodiesFail(t *testing.T) {
	h, _, ups := newBigApplication(t, 2)
	var logged syncBuffer
	h.ErrorLog = newLogger(&logged)
	s := serveHandler(t, h)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "nowhere"))
	resp, err := s.Client().Get(s.URL + "/big.php")
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.EqualValues(t, bigResponseLen, n)
	resp, err = s.Client().Post(s.URL+"/up.php", "", strings.NewReader(strings.Repeat("x", maxInlineBody+1)))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	require.Contains(t, logged.String(), "nowhere")
	require.Zero(t, ups.Load())
	resp, err = s.Client().Post(s.URL+"/up.php", "", strings.NewReader(strings.Repeat("x", maxInlineBody)))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode, "in memory")

	require.Equal(t, http.StatusInsufficientStorage, statusFor(&TempFileError{&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}}))
	require.Equal(t, http.StatusInsufficientStorage, statusFor(&TempFileError{syscall.EDQUOT}))
	require.Equal(t, http.StatusRequestURITooLong, statusFor(&ParamError{Name: "QUERY_STRING", Err: io.ErrUnexpectedEOF}))
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, statusFor(&ParamError{Name: "HTTP_COOKIE", Err: io.ErrUnexpectedEOF}))
}

// A syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *syncBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The client receives what the application has written so far, with or without buffering.
// X-Accel-Buffering is removed.
func TestHandler_ResponseIsSentWhileItIsWritten(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"events": "Content-Type: Text/Event-Stream; charset=utf-8\n\n", "no buffering": "X-Accel-Buffering: no\nContent-Type: text/plain\n\n",
		"buffering": "X-Accel-Buffering: yes\nContent-Type: text/plain\n\n", "any": "Content-Type: text/html\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{}, 1)
			cl := newApplication(t, func(a *appRequest) bool {
				a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte(header)))
				for i := range 5 {
					if i > 0 || strings.Contains(header, "vent") || strings.Contains(header, "no\n") {
						<-next // the header of an unbuffered response is sent first
					}
					a.write(t, appendRecord(nil, typeStdout, firstRequestID, fmt.Append(nil, i)))
				}
				a.write(t, endRecord(0, 0))
				return true
			})
			s := serveHandler(t, &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""})})
			resp, err := s.Client().Get(s.URL + "/a.php")
			require.NoError(t, err)
			defer resp.Body.Close()
			require.NotContains(t, resp.Header, "X-Accel-Buffering")
			if strings.Contains(header, "vent") || strings.Contains(header, "no\n") {
				next <- struct{}{}
			}
			for i := range 5 {
				p := make([]byte, 1)
				_, err = io.ReadFull(resp.Body, p)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), string(p))
				if i < 4 {
					next <- struct{}{}
				}
			}
			_, err = resp.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// ClientTimeout ends a client that accepts nothing or sends nothing, and its request. It
// does not end a client that is only slow.
func TestHandler_ClientTimeoutEndsStalledClients(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	for name, kind := range map[string]string{"buffered": "", "streamed": "X-Accel-Buffering: no\n"} {
		t.Run(name+", accepts nothing", func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			var once sync.Once
			cl := newApplication(t, func(a *appRequest) bool {
				if a.params["SCRIPT_NAME"] == "/ok.php" {
					a.write(t, okResponse("ok")...)
					return true
				}
				a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte(kind+"A: b\n\n")))
				for { // an endless response
					if _, err := a.conn.Write(a.withID(appendRecord(nil, typeStdout, firstRequestID, make([]byte, 60_000)))); err != nil {
						once.Do(func() { close(ended) })
						return false
					}
				}
			})
			h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": "", "ok.php": ""}), ClientTimeout: limit, MaxBufferedResponse: 1 << 20}
			s := serveHandler(t, h)
			begin := time.Now()
			conn := dialAndSend(t, s, "GET /a.php HTTP/1.0\r\n\r\n")
			select {
			case <-ended:
			case <-time.After(testTimeout):
				t.Fatal("the application still writes")
			}
			require.GreaterOrEqual(t, time.Since(begin), limit)
			_, err := io.Copy(io.Discard, conn)
			if err != nil {
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
			_, body := get(t, s, "/ok.php")
			require.Equal(t, "ok", body)
		})
	}
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("sends nothing, streamed: ", stream), func(t *testing.T) {
			t.Parallel()
			h, _, ups := newBigApplication(t, 2)
			h.ClientTimeout, h.StreamBody = limit, stream
			s := serveHandler(t, h)
			for _, header := range []string{"Content-Length: 100000\r\n\r\nx", "Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
				begin := time.Now()
				conn := dialAndSend(t, s, "POST /up.php HTTP/1.1\r\nHost: x\r\n"+header)
				b, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(string(b), "HTTP/1.1 408 "), "%q", b)
				require.GreaterOrEqual(t, time.Since(begin), limit)
			}
			require.Zero(t, ups.Load())
		})
	}
	t.Run("a file", func(t *testing.T) {
		t.Parallel()
		root := writeFiles(t, map[string]string{"a.bin": strings.Repeat("x", 32<<20)})
		h := &Handler{Client: &Client{}, Root: root, ClientTimeout: limit}
		done := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			close(done)
		}))
		defer s.Close()
		defer h.Close()
		begin := time.Now()
		dialAndSend(t, s, "GET /a.bin HTTP/1.0\r\n\r\n")
		select {
		case <-done:
		case <-time.After(testTimeout):
			t.Fatal("it still waits")
		}
		require.GreaterOrEqual(t, time.Since(begin), limit)
	})
	t.Run("sends slowly", func(t *testing.T) {
		t.Parallel()
		h, _, _ := newBigApplication(t, 2)
		h.ClientTimeout = 2 * time.Second
		s := serveHandler(t, h)
		resp, err := s.Client().Post(s.URL+"/up.php", "", slowBody(t, 30, 1000, 100*time.Millisecond))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "30000", string(b))
	})
	t.Run("accepts slowly", func(t *testing.T) {
		t.Parallel()
		h, _, _ := newBigApplication(t, 2)
		h.ClientTimeout = 2 * time.Second
		s := serveHandler(t, h)
		conn := dialAndSend(t, s, "GET /big.php HTTP/1.0\r\n\r\n")
		total := int64(0)
		for begin := time.Now(); time.Since(begin) < 3*time.Second; {
			n, err := io.CopyN(io.Discard, conn, 200_000)
			require.NoError(t, err)
			total += n
			time.Sleep(50 * time.Millisecond)
		}
		n, err := io.Copy(io.Discard, conn)
		require.NoError(t, err)
		require.Greater(t, total+n, int64(bigResponseLen))
	})
}

// ClientTimeout ends neither a request while the application works on it, nor a later
// request on the connection.
func TestHandler_ClientTimeoutEndsWithItsReadOrWrite(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	cl := newApplication(t, func(a *appRequest) bool {
		time.Sleep(3 * limit)
		a.write(t, okResponse(fmt.Sprint(len(a.body)))...)
		return true
	})
	h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), ClientTimeout: limit}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			time.Sleep(2 * limit)
			_, _ = io.WriteString(w, "other")
			return
		}
		h.ServeHTTP(w, r)
	}))
	s.Config.ReadTimeout = 2 * limit   // bounds the request, but not its response
	s.Config.IdleTimeout = time.Minute // by default ReadTimeout, after which a POST finds the connection closed
	s.Start()
	defer s.Close()
	defer h.Close()
	for _, size := range []int{10, 100_000} {
		resp, err := s.Client().Post(s.URL+"/a.php", "", strings.NewReader(strings.Repeat("x", size)))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, fmt.Sprint(size), string(b))
		time.Sleep(2 * limit)
		_, body := get(t, s, "/other")
		require.Equal(t, "other", body)
	}
}

// ReadTimeout and WriteTimeout of http.Server bound the whole request.
func TestHandler_TimeoutsOfTheServerHold(t *testing.T) {
	t.Parallel()
	h, _, _ := newBigApplication(t, 2)
	h.ErrorLog = newLogger(io.Discard)
	s := httptest.NewUnstartedServer(h)
	s.Config.ReadTimeout, s.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	s.Start()
	defer s.Close()
	defer h.Close()
	conn := dialAndSend(t, s, "POST /up.php HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
	begin := time.Now()
	for time.Since(begin) < testTimeout {
		if _, err := conn.Write([]byte("x")); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Less(t, time.Since(begin), testTimeout)
	conn = dialAndSend(t, s, "GET /big.php HTTP/1.0\r\n\r\n")
	time.Sleep(time.Second) // accept nothing meanwhile
	n, _ := io.Copy(io.Discard, conn)
	require.Less(t, n, int64(bigResponseLen))
}

// The status of http.MaxBytesReader's error was 502, and so was that of malformed chunked
// encoding.
func TestHandler_InvalidBodyIsAClientError(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{false, true} {
		h, _, ups := newBigApplication(t, 2)
		h.StreamBody = stream
		serveHandler(t, h)
		s := httptest.NewServer(http.MaxBytesHandler(h, 100_000))
		defer s.Close()
		long := strings.Repeat("x", 1<<20)
		for _, body := range []io.Reader{strings.NewReader(long), io.MultiReader(strings.NewReader(long))} {
			resp, err := s.Client().Post(s.URL+"/up.php", "", body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		}
		for request, want := range map[string]int{
			"Transfer-Encoding: chunked\r\n\r\nZZ\r\n": 400, "Transfer-Encoding: chunked\r\n\r\n5\r\nxxxxxyy": 400,
			"Transfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n0\r\n\r\n": 200, "Content-Length: 2\r\n\r\nxx": 200,
		} {
			resp, _ := sendRaw(t, "tcp", s.Listener.Addr().String(), "POST /up.php HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+request)
			require.Equal(t, want, resp.StatusCode, request)
		}
		require.EqualValues(t, 2, ups.Load())
		if !stream {
			h.Client.MaxBufferedBody = 1000
			resp, err := s.Client().Post(s.URL+"/up.php", "", strings.NewReader(strings.Repeat("x", 1001)))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		}
	}
}

// If all connections are in use, the status is 503 with Retry-After.
func TestHandler_BusyApplicationIs503WithRetryAfter(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	cl := newApplication(t, func(a *appRequest) bool {
		if a.params["QUERY_STRING"] == "overloaded" {
			a.write(t, endRecord(0, 2))
			return false
		}
		<-release
		a.write(t, okResponse("ok")...)
		return true
	})
	cl.MaxConns, cl.Options = 1, &client.Options{ConnectTimeout: 200 * time.Millisecond, RecvTimeout: testTimeout}
	var logged syncBuffer
	s := serveHandler(t, &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), ErrorLog: newLogger(&logged)})
	t.Cleanup(answer)
	resp, _ := get(t, s, "/a.php?overloaded")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, retryAfter, resp.Header.Get("Retry-After"))
	first := make(chan int, 1)
	go func() {
		resp, err := s.Client().Get(s.URL + "/a.php")
		if err != nil {
			first <- 0
			return
		}
		_ = resp.Body.Close()
		first <- resp.StatusCode
	}()
	require.Eventually(t, func() bool { return cl.Stats().Active == 1 }, testTimeout, time.Millisecond)
	resp, _ = get(t, s, "/a.php")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, retryAfter, resp.Header.Get("Retry-After"))
	require.Contains(t, logged.String(), "raise MaxConns")
	answer()
	require.Equal(t, http.StatusOK, <-first)
}

// Set-Cookie and Vary of a middleware were replaced, and net/http guessed a missing
// Content-Type.
func TestHandler_HeaderFieldsOfAMiddlewareRemain(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("Set-Cookie: app=1\nSet-Cookie: app=2\nVary: Accept\nCache-Control: private\nX-Frame-Options: DENY\nConnection: close\n\n<html>")), endRecord(0, 0))
		return true
	})
	h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""})}
	serveHandler(t, h)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "middleware=1")
		w.Header().Add("Vary", "Origin")
		w.Header().Set("Cache-Control", "public")
		w.Header().Set("X-Frame-Options", "SAMEORIGIN")
		h.ServeHTTP(w, r)
	}))
	defer s.Close()
	resp, body := get(t, s, "/a.php")
	require.Equal(t, "<html>", body)
	require.Equal(t, []string{"middleware=1", "app=1", "app=2"}, resp.Header.Values("Set-Cookie"))
	require.Equal(t, []string{"Origin", "Accept"}, resp.Header.Values("Vary"))
	require.Equal(t, []string{"private"}, resp.Header.Values("Cache-Control"))
	require.Equal(t, []string{"DENY"}, resp.Header.Values("X-Frame-Options"))
	require.NotContains(t, resp.Header, "Content-Type")
	require.NotContains(t, resp.Header, "Connection")
}

// A log entry is one line, without control sequences for a terminal.
func TestHandler_LogEscapesControlCharacters(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStderr, firstRequestID, []byte("PHP message: \x1b[2J\r\n2026/01/01 forged\x00\xff\u202e caf\u00e9 C:\\x\n")))
		a.write(t, okResponse("ok")...)
		return true
	})
	var logged syncBuffer
	s := serveHandler(t, &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), ErrorLog: newLogger(&logged)})
	get(t, s, "/a.php/%1b%5b31m%7f%c2%85x")
	require.Equal(t, "GET /a.php/\\x1b[31m\\x7f\\u0085x: PHP message: \\x1b[2J\\r\\n2026/01/01 forged\\x00\\xff\\u202e caf\u00e9 C:\\x\n", logged.String())
	for in, want := range map[string]string{"": "", "a": "a", "\ufffd": "\ufffd", "\xc3": `\xc3`, "a\nb\n": `a\nb`} {
		require.Equal(t, want, escapeLine(in), "%q", in)
	}
}

// A panic of the ResponseWriter reaches ServeHTTP's caller although another goroutine
// writes.
func TestHandler_PanicOfTheResponseWriterReachesTheCaller(t *testing.T) {
	t.Parallel()
	h, _, _ := newBigApplication(t, 2)
	serveHandler(t, h)
	for _, path := range []string{"/ok.php", "/big.php"} {
		require.PanicsWithValue(t, "no", func() {
			h.ServeHTTP(panickingWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, path, nil))
		})
	}
}

type panickingWriter struct{ *httptest.ResponseRecorder }

func (panickingWriter) Write([]byte) (int, error) { panic("no") }

// A canceled request closed the HTTP/2 connection (GOAWAY), and with it the requests on
// its other streams.
func TestHandlerHTTP2_CanceledRequestEndsOnlyItsStream(t *testing.T) {
	for _, streamBody := range []bool{false, true} {
		t.Run(fmt.Sprint("bodies streamed: ", streamBody), func(t *testing.T) {
			const streams = 50
			started := make(chan struct{}, streams)
			release := make(chan struct{})
			cl := newApplication(t, func(a *appRequest) bool {
				switch {
				case a.params["HTTP_BREAK"] != "":
					a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\npart")))
					return false
				case a.params["HTTP_STREAM"] != "": // with an endless body
					started <- struct{}{}
					_, _ = io.Copy(io.Discard, a.conn)
					return false
				case a.params["HTTP_CANCEL"] != "":
					if a.params["HTTP_CANCEL"] == "body" {
						a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\npart")))
					}
					started <- struct{}{}
					_, _ = io.Copy(io.Discard, a.conn) // until the client closes the connection
					return false
				}
				started <- struct{}{}
				<-release
				a.write(t, okResponse(a.params["QUERY_STRING"]+strings.Repeat(".", 200_000))...)
				return true
			})
			cl.MaxConns = 2 * streams
			h := &Handler{Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), StreamBody: streamBody}
			h.ErrorLog = newLogger(io.Discard)
			s := httptest.NewUnstartedServer(h)
			s.EnableHTTP2 = true
			s.Config.ErrorLog = newLogger(io.Discard)
			var conns atomic.Int64
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
			s.StartTLS()
			defer h.Close()
			defer s.Close()
			ask := func(ctx context.Context, i int, header string, body io.Reader) (string, error) {
				method := http.MethodGet
				if body != nil {
					method = http.MethodPost
				}
				req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/a.php?%d", s.URL, i), body)
				if err != nil {
					return "", err
				}
				if name, value, ok := strings.Cut(header, ":"); ok {
					req.Header.Set(name, value)
				}
				if body != nil {
					req.ContentLength = 1 << 20
				}
				resp, err := s.Client().Do(req)
				if err != nil {
					return "", err
				}
				defer resp.Body.Close()
				if resp.ProtoMajor != 2 {
					return "", errors.New("not HTTP/2")
				}
				b, err := io.ReadAll(resp.Body)
				return strings.TrimRight(string(b), "."), err
			}
			// After this request, the others share its connection.
			_, err := ask(t.Context(), 0, "Break: 1", nil)
			require.Error(t, err, "an incomplete response must be an error")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			waits := 0
			for i := range streams {
				header, body := "", io.Reader(nil)
				switch i % 6 {
				case 1:
					header = "Cancel: header"
				case 3:
					header = "Cancel: body"
				case 5:
					header = "Stream: 1" // sent at once if bodies are streamed
					pr, pw := io.Pipe()
					defer pw.Close()
					go func() { _, _ = pw.Write(make([]byte, 200_000)) }()
					body = pr
				}
				if i%6 != 5 || streamBody {
					waits++
				}
				wg.Go(func() {
					if header != "" {
						if _, err := ask(ctx, i, header, body); !errors.Is(err, context.Canceled) {
							t.Errorf("%d: %v", i, err)
						}
						return
					}
					if got, err := ask(t.Context(), i, "", nil); err != nil || got != fmt.Sprint(i) {
						t.Errorf("%d: %.40q %v", i, got, err)
					}
				})
			}
			for range waits {
				<-started
			}
			cancel() // half of the requests
			close(release)
			wg.Wait()
			got, err := ask(t.Context(), 77, "", nil)
			require.NoError(t, err)
			require.Equal(t, "77", got)
			require.EqualValues(t, 1, conns.Load(), "TCP connections")
		})
	}
}

// ClientTimeout resets one stream and leaves the others.
func TestHandlerHTTP2_ClientTimeoutEndsOnlyTheStream(t *testing.T) {
	t.Parallel()
	h, big, ups := newBigApplication(t, 2)
	h.ClientTimeout = 300 * time.Millisecond
	ended := make(chan string, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- r.URL.Path }()
		h.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog, h.ErrorLog = newLogger(io.Discard), newLogger(io.Discard)
	var conns atomic.Int64
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	defer h.Close()
	defer s.Close()
	resp, err := s.Client().Get(s.URL + "/big.php")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "/big.php", <-ended)
	require.EqualValues(t, 1, big.Load(), "the application did not wait for the client")
	_, err = io.Copy(io.Discard, resp.Body)
	require.Error(t, err, "an incomplete response must be an error")

	pr, pw := io.Pipe()
	defer pw.Close()
	up, err := s.Client().Post(s.URL+"/up.php", "", pr)
	require.NoError(t, err)
	require.NoError(t, up.Body.Close())
	require.Equal(t, http.StatusRequestTimeout, up.StatusCode)
	require.Zero(t, ups.Load())

	_, body := get(t, s, "/ok.php")
	require.Equal(t, "ok", body)
	require.EqualValues(t, 1, conns.Load())
}
