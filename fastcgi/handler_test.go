package fastcgi

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// serveTestRoot serves a document root whose application responds with the script's name.
func serveTestRoot(t *testing.T, h *Handler) *httptest.Server {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"root/index.php": "secret source", "root/a.php": "secret source", "root/B.PHP": "secret source",
		"root/dir/index.html": "index of dir", "root/dir/file.txt": "text", "root/empty/x": "",
		"root/.env": "secret", "root/.git/config": "secret", "outside.txt": "secret", "outside.php": "secret",
	} {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	for link, to := range map[string]string{"out.txt": "../outside.txt", "out.php": "../outside.php", "in.txt": "dir/file.txt", "outdir": ".."} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, "root", link)))
	}
	h.Root = filepath.Join(dir, "root")
	if h.Client == nil {
		h.Client = newApplication(t, func(a *appRequest) bool {
			a.write(t, okResponse(fmt.Sprintf("%s|%s|%s", strings.TrimPrefix(a.params["SCRIPT_FILENAME"], dir), a.params["SCRIPT_NAME"], a.params["PATH_INFO"]))...)
			return true
		})
	}
	h.ErrorLog = log.New(io.Discard, "", 0)
	s := httptest.NewServer(h)
	s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		s.Close()
		require.NoError(t, h.Close())
	})
	return s
}

func TestHandler_PathsSelectScriptsAndFiles(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]*Handler{"by default": {}, "with a fallback": {Fallback: "/index.php"}, "links": {FollowSymlinks: true}} {
		t.Run(name, func(t *testing.T) {
			s := serveTestRoot(t, h)
			missing := "404 page not found\n"
			if h.Fallback != "" {
				missing = "/root/index.php|/index.php|"
			}
			out := missing
			if h.FollowSymlinks {
				out = "secret"
			}
			for path, want := range map[string]string{
				"/": "/root/index.php|/index.php|", "/a.php": "/root/a.php|/a.php|", "/a.php/x/y?q": "/root/a.php|/a.php|/x/y",
				"/B.PHP": "/root/B.PHP|/B.PHP|", "/b.php": missing, "/a.php/x.php": "/root/a.php|/a.php|/x.php",
				"/dir/": "index of dir", "/dir/file.txt": "text", "/dir/file.txt/": missing, "/in.txt": "text",
				"/empty/": missing, "/nothing": missing, "/nothing.php": missing,
				"/out.txt": out, "/outdir/outside.txt": out,
				"/.env": "Not Found\n", "/.git/config": "Not Found\n", "/a.php/.x": "/root/a.php|/a.php|/.x",
				"/../outside.txt": missing, "/%2e%2e/outside.txt": missing, "/dir/..%2f..%2foutside.txt": missing,
				"/a.php%00.txt": "Bad Request\n", "/a.php%0a": "Bad Request\n",
			} {
				_, body := get(t, s, path)
				require.Equal(t, want, body, path)
			}
			_, body := get(t, s, "/out.php")
			require.Equal(t, h.FollowSymlinks, strings.HasPrefix(body, "/root/out.php|"), body)
			resp, _ := get(t, s, "/dir?x=1")
			require.Equal(t, http.StatusMovedPermanently, resp.StatusCode)
			require.Equal(t, "/dir/?x=1", resp.Header.Get("Location"))
			resp, err := s.Client().Post(s.URL+"/dir/file.txt", "", nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
		})
	}
}

func TestHandler_ErrorsHaveTheirStatus(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: newApplication(t, func(a *appRequest) bool {
		switch a.params["QUERY_STRING"] {
		case "malformed":
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("<html>\n\n")))
		case "overloaded":
			a.write(t, endRecord(0, 2))
		case "role":
			a.write(t, endRecord(0, 3))
		case "silent":
			_, _ = io.Copy(io.Discard, a.conn)
		case "part":
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\npart")))
		case "none":
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("Status: 204\n\nand yet")), endRecord(0, 0))
			return true
		default:
			return false
		}
		return false
	})}
	h.Client.Options = &client.Options{RecvTimeout: time.Second} // enough for the answers that do come
	s := serveTestRoot(t, h)
	for query, want := range map[string]int{
		"malformed": 502, "closes": 502, "role": 502, "overloaded": 503, "silent": 504, "none": 204,
	} {
		resp, _ := get(t, s, "/a.php?"+query)
		require.Equal(t, want, resp.StatusCode, query)
	}
	resp, err := s.Client().Get(s.URL + "/a.php?part")
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "an incomplete response must be an error")
	require.NoError(t, resp.Body.Close())

	unknown := func() io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", 1000))) }
	for spool, want := range map[int64]int{-1: 411, 999: 413} {
		h.Client.MaxBufferedBody = spool
		resp, err := s.Client().Post(s.URL+"/a.php", "text/plain", unknown())
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode)
	}
	h.Client = &Client{Network: "unix", Address: filepath.Join(t.TempDir(), "nowhere")}
	defer h.Client.Close()
	resp, _ = get(t, s, "/a.php")
	require.Equal(t, 502, resp.StatusCode)
}

func TestHandler_MissingRootIs500(t *testing.T) {
	t.Parallel()
	for _, root := range []string{"", filepath.Join(t.TempDir(), "nowhere")} {
		h := &Handler{Client: &Client{}, Root: root, ErrorLog: log.New(io.Discard, "", 0)}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/main_test.go", nil))
		require.Equal(t, http.StatusInternalServerError, w.Code)
		require.NoError(t, h.Close())
	}
}

// A body that arrives slowly does not delay the response.
func TestHandler_StreamedBodyThatStallsIsAnswered(t *testing.T) {
	t.Parallel()
	h := &Handler{StreamBody: true, Client: newApplication(t, func(*appRequest) bool {
		return false // without reading the body
	})}
	h.Client.Options = &client.Options{RecvTimeout: 300 * time.Millisecond}
	h.Client.BodyTimeout = 300 * time.Millisecond
	s := serveTestRoot(t, h)
	ends := func(header string, size, sent int, status string) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST /a.php HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", header, size, make([]byte, sent))
		require.NoError(t, err)
		answer, _ := io.ReadAll(conn) // the server closes the connection
		require.True(t, strings.HasPrefix(string(answer), "HTTP/1.1 "+status), "%q", answer)
	}
	for _, size := range []int{100_000, 1_000_000} { // less and more than net/http reads of an unread body
		for _, sent := range []int{10, maxInlineBody + 1, 99_999} {
			ends("Stream: 1\r\n", size, sent, "502") // the application closes the connection at once
			ends("", size, sent, "408")              // the application waits for the body
		}
	}
	resp, err := s.Client().Post(s.URL+"/a.php", "", strings.NewReader(strings.Repeat("x", 100_000)))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 502, resp.StatusCode)
}

func TestHandler_ClientThatDisconnectsEndsItsRequest(t *testing.T) {
	t.Parallel()
	disconnected := make(chan struct{})
	s := serveTestRoot(t, &Handler{Client: newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\n\npart")))
		_, _ = io.Copy(io.Discard, a.conn)
		close(disconnected)
		return false
	})})
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/a.php", nil)
	require.NoError(t, err)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	_, err = io.ReadFull(resp.Body, make([]byte, 4))
	require.NoError(t, err)
	cancel()
	require.NoError(t, resp.Body.Close())
	select {
	case <-disconnected:
	case <-time.After(testTimeout):
		t.Fatal("the connection to the application is still open")
	}
}

type closeNotifier struct {
	io.Reader
	closed chan struct{}
}

func (c closeNotifier) Close() error { close(c.closed); return nil }

func TestTransport_SendsRequestsToScripts(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStdout, firstRequestID, fmt.Appendf(nil,
			"Status: 202 Soon\nContent-Length: 4\nX-Is: %s %s %s %s\n\nbody", a.params["SCRIPT_FILENAME"], a.params["PATH_INFO"], a.params["HTTPS"], a.body)),
			endRecord(0, 0))
		return true
	})
	hc := &http.Client{Transport: &Transport{Client: cl, ScriptRoot: "/srv", Fallback: "/front.php"}}
	body := closeNotifier{strings.NewReader("question"), make(chan struct{})}
	req, err := http.NewRequest(http.MethodPost, "https://example.com/a.php/info", body)
	require.NoError(t, err)
	req.ContentLength = 8
	resp, err := hc.Do(req)
	require.NoError(t, err)
	require.Equal(t, "202 Soon", resp.Status)
	require.EqualValues(t, 4, resp.ContentLength)
	require.Equal(t, "/srv/a.php /info on question", resp.Header.Get("X-Is"))
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "body", string(b))
	<-body.closed
	resp, err = hc.Get("http://example.com")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "/srv/front.php", resp.Header.Get("X-Is"))

	body = closeNotifier{strings.NewReader("question"), make(chan struct{})}
	_, err = hc.Post("http://example.com/.env", "", body) //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "is not allowed")
	<-body.closed
	hc.Transport = &Transport{Client: cl}
	_, err = hc.Get("http://example.com/x") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, `path "/x" names no script`)
}
