package fastcgi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A Handler serves a document root: scripts by an application, other files itself.
//
// A path that has a name with one of Extensions is that script, if there is such a
// file, and what follows is PATH_INFO. A directory is its first Index that is there. A
// file that is there is sent. All else is Fallback, or 404. Paths with a zero byte or a
// line's end are refused, and so is everything that has a dot at the beginning of one
// of its names.
//
// What goes wrong before the response's header is 502 (an answer that is none), 503
// (Overloaded), 504 (too late, and so if all connections were in use for too long), 411
// or 413 (of the body); after it, the client's connection is ended, so that a part never passes
// for the whole.
type Handler struct {
	Client *Client

	// Root is the directory, as this program has it. AppRoot is what the application
	// calls it, if it sees another file system. Default: Root, made absolute.
	Root    string
	AppRoot string

	// Index are the names of what a directory shows. Default: index.php, index.html.
	Index []string

	// Extensions are those of scripts; ASCII letters count as the same in either case.
	// Default: .php.
	Extensions []string

	// Fallback is the path of a script for all that is not there: "/index.php" for
	// programs that have one entrance. Default: 404.
	Fallback string

	// FollowLinks has symbolic links followed that lead out of the root. By default
	// they are not there.
	FollowLinks bool

	// Params, if not nil, gives parameters that a script gets beside those of the
	// request, or instead of them: nginx's fastcgi_param. It is for what this program
	// knows and the request does not say, as APP_ENV. It is also for TLS that ends in
	// front of this program: HTTPS, REQUEST_SCHEME, SERVER_PORT and REMOTE_ADDR are
	// those of the connection, unless Params has others. A parameter is not to be taken
	// from a header that the server in front does not set itself.
	Params func(*http.Request) map[string]string

	// Log is told what went wrong. Default: the log package's standard logger.
	Log *log.Logger

	once sync.Once
	root fs.FS
	dir  *os.Root // of root, unless FollowLinks
	abs  string
	err  error
}

func (h *Handler) begin() {
	h.once.Do(func() {
		if h.Root == "" {
			h.err = errNoRoot // and not whatever directory this is
			return
		}
		if h.abs, h.err = filepath.Abs(h.Root); h.err != nil {
			return
		}
		if h.FollowLinks {
			h.root = os.DirFS(h.abs)
			return
		}
		if h.dir, h.err = os.OpenRoot(h.abs); h.err == nil {
			h.root = h.dir.FS()
		}
	})
}

var errNoRoot = errors.New("fastcgi: the handler has no root")

func (h *Handler) index() []string {
	if len(h.Index) == 0 {
		return []string{"index.php", "index.html"}
	}
	return h.Index
}

// ServeHTTP serves.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.begin()
	if h.err != nil {
		h.fail(w, r, http.StatusInternalServerError, h.err)
		return
	}
	name := r.URL.Path
	if name == "" && r.URL.Host != "" && r.Method != http.MethodConnect {
		name = "/" // RFC 9110, 4.2.3: of a request target in absolute-form
	}
	p, refused := clean(name)
	if refused != 0 {
		http.Error(w, http.StatusText(refused), refused)
		return
	}
	t, script := split(p, h.Extensions)
	switch {
	case script && isFile(h.root, t.name):
		h.run(w, r, t)
		return
	case script: // never as a file: it is a source
	case isDir(h.root, p):
		if h.directory(w, r, p) {
			return
		}
	case isFile(h.root, p) && !strings.HasSuffix(p, "/"):
		h.file(w, r, p)
		return
	}
	if t, ok := split(h.Fallback, h.Extensions); ok && isFile(h.root, t.name) {
		h.run(w, r, t)
		return
	}
	http.NotFound(w, r)
}

// directory shows a directory's index, if it has one.
func (h *Handler) directory(w http.ResponseWriter, r *http.Request, p string) bool {
	for _, name := range h.index() {
		full := path.Join(p, name)
		if !isFile(h.root, full) {
			continue
		}
		if !strings.HasSuffix(p, "/") {
			u := *r.URL
			u.Path, u.RawPath = "/"+strings.TrimLeft(p, "/")+"/", ""
			u.Scheme, u.Host, u.User = "", "", nil
			http.Redirect(w, r, u.String(), http.StatusMovedPermanently)
			return true
		}
		if t, script := split(full, h.Extensions); script {
			h.run(w, r, t)
		} else {
			h.file(w, r, full)
		}
		return true
	}
	return false
}

func (h *Handler) file(w http.ResponseWriter, r *http.Request, p string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	f, err := h.root.Open(within(p))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	content, ok := f.(io.ReadSeeker)
	if err != nil || !ok || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, info.Name(), info.ModTime(), content)
}

// run has the application answer.
func (h *Handler) run(w http.ResponseWriter, r *http.Request, t target) {
	root := h.AppRoot
	if root == "" {
		root = h.abs
	}
	params := handlerParams(r, root, t)
	if h.Params != nil {
		maps.Copy(params, h.Params(r))
	}
	req, err := newRequest(r, params)
	if err != nil {
		h.fail(w, r, http.StatusBadRequest, err)
		return
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		req.Body, req.ContentLength = r.Body, r.ContentLength
	}
	control := http.NewResponseController(w)
	if req.ContentLength > shortBody {
		// It is read while there is a response already, but not after this has
		// returned. It is closed here: what the server reads itself, after a handler
		// that was allowed this, has it panic (Go 1.26). And the connection ends if
		// there was a response before the body's end, lest what is left of the body be
		// taken for the next request.
		_ = control.EnableFullDuplex()
		req.interrupt = func() { _ = control.SetReadDeadline(time.Unix(1, 0)) }
	}
	resp, err := h.Client.Do(r.Context(), req)
	if req.interrupt != nil {
		defer func() {
			if err != nil || !resp.x.sent() {
				req.interrupt() // or Close would wait for what is still to come
			}
			_ = r.Body.Close()
		}()
		if err != nil || !resp.x.sent() {
			w.Header().Set("Connection", "close")
		}
	}
	if err != nil {
		h.fail(w, r, statusFor(err), err)
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		if !ofConnection[name] {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(resp.StatusCode)
	_, err = resp.Body.(io.WriterTo).WriteTo(&flusher{w, control})
	if said := resp.Stderr(); len(said) > 0 {
		h.logf("%s %s: %s", r.Method, t.name, said)
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			h.logf("%s %s: %v", r.Method, t.name, err)
		}
		panic(http.ErrAbortHandler)
	}
}

// ofConnection are header fields that are the server's own (RFC 9110, 7.6.1).
var ofConnection = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true,
	"Te": true, "Trailer": true, "Upgrade": true,
}

// A flusher sends on at once what comes.
type flusher struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return len(p), nil // of a status that has none
	case err == nil:
		_ = f.c.Flush()
	}
	return n, err
}

// statusFor is what an HTTP client is told of an error.
func statusFor(err error) int {
	var refusal Refusal
	var late interface{ Timeout() bool }
	switch {
	case errors.Is(err, ErrLengthRequired):
		return http.StatusLengthRequired
	case errors.Is(err, ErrBodyTooLong):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrBodyTooShort):
		return http.StatusBadRequest
	case errors.As(err, &refusal) && refusal == Overloaded:
		return http.StatusServiceUnavailable
	case errors.As(err, &late) && late.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	if !errors.Is(err, context.Canceled) { // the HTTP client has gone
		h.logf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	http.Error(w, http.StatusText(status), status)
}

func (h *Handler) logf(format string, args ...any) {
	if h.Log != nil {
		h.Log.Printf(format, args...)
		return
	}
	log.Printf("fastcgi: "+format, args...)
}

// Close lets go of the root. The Client is the caller's.
func (h *Handler) Close() error {
	h.begin()
	if h.dir != nil {
		return h.dir.Close()
	}
	return nil
}
