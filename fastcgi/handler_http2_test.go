package fastcgi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serveHTTP2 serves a Handler over HTTP/2.
func serveHTTP2(t testing.TB, h *Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = newLogger(io.Discard)
	s.StartTLS()
	t.Cleanup(func() {
		s.Close()
		_ = h.Close()
	})
	return s
}

// A write's deadline stayed set after the write. It reset the stream of a client that had
// accepted everything, while the application paused.
func TestHandlerHTTP2_ClientTimeoutDoesNotEndAPausingApplication(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	p := startPHP(t, "unix")
	for name, kind := range map[string]string{"buffered": "", "streamed": `header("X-Accel-Buffering: no");`, "events": `header("Content-Type: text/event-stream");`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &Handler{Client: p.client(t), ClientTimeout: limit, Root: writeFiles(t, map[string]string{
				"a.php": `<?php ` + kind + ` echo "one\n"; flush(); usleep(2500000); echo "two\n";`,
			})}
			resp, body := get(t, serveHTTP2(t, h), "/a.php")
			require.Equal(t, 2, resp.ProtoMajor)
			require.Equal(t, "one\ntwo\n", body)
		})
	}
}

// A read's deadline stayed set after the read. The status was 408 because the application
// did not read.
func TestHandlerHTTP2_ApplicationMayReadTheBodyLate(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	p := startPHP(t, "unix")
	h := &Handler{Client: p.client(t), ClientTimeout: limit, StreamBody: true, Root: writeFiles(t, map[string]string{
		"a.php": `<?php usleep(2500000); echo strlen(file_get_contents('php://input'));`,
	})}
	s := serveHTTP2(t, h)
	req, err := http.NewRequest(http.MethodPut, s.URL+"/a.php", strings.NewReader(strings.Repeat("x", 8<<20)))
	require.NoError(t, err)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "200 OK 8388608", resp.Status+" "+string(b))
}

// A client with small flow-control windows accepts little at a time. It did not accept 32
// KiB within ClientTimeout although it made progress.
func TestHandlerHTTP2_SlowClientIsServed(t *testing.T) {
	t.Parallel()
	h, _, _ := newBigApplication(t, 2)
	h.ClientTimeout = 700 * time.Millisecond
	h.Root = writeFiles(t, map[string]string{"big.php": "", "a.bin": strings.Repeat("x", bigResponseLen)})
	s := serveHTTP2(t, h)
	for _, path := range []string{"/big.php", "/a.bin"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			transport := s.Client().Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
			resp, err := (&http.Client{Transport: transport}).Get(s.URL + path)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, 2, resp.ProtoMajor)
			total := 0
			begin := time.Now()
			for total < 160<<10 { // more than is received before the stream is reset
				// 2 KiB in 50 ms are 28 KiB within ClientTimeout.
				n, err := io.ReadFull(resp.Body, make([]byte, 2<<10))
				total += n
				require.NoError(t, err, "after %v and %d bytes", time.Since(begin), total)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
}
