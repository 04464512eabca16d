package fastcgi

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
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
// line's end are refused. Files and directories whose name begins with a dot are not
// there, unless ServeDotFiles is set; /.well-known is (RFC 8615).
//
// Under http.StripPrefix, or what else shortens the path of a request's URL, SCRIPT_NAME
// and redirects have the prefix that was removed.
//
// A slow client holds no worker: a request's body is received whole before the
// application is asked, and what the application answers is received at its speed and
// passed on at the client's. Both are kept in memory up to a small size, and then in
// temporary files, which have no name. An answer of type text/event-stream, or with
// "X-Accel-Buffering: no", is passed on as it comes. So is any other as soon as the
// client takes it.
//
// What goes wrong before the response's header has a status. Of the request: 400, 408
// (the client stopped sending), 411, 413 (also where http.MaxBytesReader says so). Of
// this machine: 500, 507 (no room for a body). Of the application: 502 (an answer that
// is none), 503 with Retry-After (StatusOverloaded, or all connections were in use for
// Options.ConnectTimeout), 504 (another limit). After the header, the client's
// connection is ended, or its stream over HTTP/2, so that a part never passes for the
// whole.
type Handler struct {
	Client *Client

	// Root is the directory, as this program has it. If it is a symbolic link, or is
	// below one, each request is served from where the link leads at that time.
	// ScriptRoot is what the application calls the directory, if it sees another file
	// system. Default: Root, made absolute.
	Root       string
	ScriptRoot string

	// ResolveRootSymlink has the application get Root with its symbolic links resolved,
	// in DOCUMENT_ROOT and SCRIPT_FILENAME: nginx's $realpath_root. PHP's opcode cache
	// then sees that a link was switched to another release. ScriptRoot is not resolved.
	ResolveRootSymlink bool

	// Index are the names of what a directory shows. Default: index.php, index.html.
	Index []string

	// Extensions are those of scripts; ASCII letters count as the same in either case.
	// Default: .php.
	Extensions []string

	// Fallback is the path of a script for all that is not there: "/index.php" makes
	// WordPress, Laravel, Symfony and other programs with a front controller work. It
	// is nginx's "try_files $uri $uri/ /index.php?$query_string". The query is passed
	// on in any case, and nginx's ways to say so at the path's end are accepted:
	// "?$query_string", "?$args", "$is_args$args". Default: 404.
	Fallback string

	// FollowSymlinks has symbolic links followed that lead out of the root. By default
	// they are not there. Links that stay inside are followed in any case.
	FollowSymlinks bool

	// ServeDotFiles has files and directories served whose name begins with a dot, such as
	// .env and .git. By default only /.well-known is.
	ServeDotFiles bool

	// StreamBody has the application get a request's body as the client sends it:
	// nginx's fastcgi_request_buffering off. The worker waits for the client meanwhile.
	// By default a body is received first: up to 16 KiB in memory, and up to
	// Client.MaxBufferedBody in a temporary file. A longer one is 413. If MaxBufferedBody is
	// negative, bodies of known length are streamed. A body of unknown length is
	// received first in any case, since the application has to know the length.
	StreamBody bool

	// MaxBufferedResponse is how much of an answer is kept in a temporary file for a
	// client that takes it slowly; 64 KiB are in memory. Once there is so much the
	// application waits for the client. Default: 1 GiB. Negative: no file.
	MaxBufferedResponse int64

	// ClientTimeout is how long an HTTP client may send nothing of a body, or take less
	// than 32 KiB of an answer, 4 KiB over HTTP/2. It ends the connection, or the stream
	// over HTTP/2. http.Server's ReadTimeout and WriteTimeout bound the whole as ever.
	// Default: 60 s. Negative: no limit.
	ClientTimeout time.Duration

	// Params, if not nil, gives parameters that a script gets beside those of the
	// request, or instead of them: nginx's fastcgi_param. It is for what this program
	// knows and the request does not say, as APP_ENV. It is also for TLS that ends in
	// front of this program: HTTPS, REQUEST_SCHEME, SERVER_PORT and REMOTE_ADDR are
	// those of the connection, unless Params has others. A parameter is not to be taken
	// from a header that the server in front does not set itself.
	Params func(*http.Request) map[string]string

	// ErrorLog is told what went wrong, a line each time, in which what is not printable is
	// escaped. Default: the log package's standard logger.
	ErrorLog *log.Logger

	once     sync.Once
	rootPath string     // Root
	fallback scriptPath // Fallback
	initErr  error

	mu     sync.Mutex
	root   *documentRoot
	closed bool
}

func (h *Handler) init() {
	h.once.Do(func() {
		if h.Root == "" {
			h.initErr = errNoRoot // and not whatever directory this is
			return
		}
		if h.rootPath, h.initErr = filepath.Abs(h.Root); h.initErr == nil {
			h.fallback, h.initErr = h.parseFallback()
		}
	})
}

var errNoRoot = errors.New("fastcgi: the handler has no root")

func (h *Handler) parseFallback() (scriptPath, error) {
	if h.Fallback == "" {
		return scriptPath{}, nil
	}
	name := h.Fallback
	for _, query := range []string{"?$query_string", "?$args", "$is_args$args"} {
		name = strings.TrimSuffix(name, query)
	}
	t, script := splitPathInfo(name, h.Extensions)
	if !script || !strings.HasPrefix(name, "/") || strings.ContainsAny(name, "?$") {
		return scriptPath{}, fmt.Errorf("fastcgi: Fallback %q is not the path of a script: set it to one like /index.php", h.Fallback)
	}
	return t, nil
}

func (h *Handler) indexNames() []string {
	if len(h.Index) == 0 {
		return []string{"index.php", "index.html"}
	}
	return h.Index
}

// ServeHTTP serves.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.init()
	root, err := (*documentRoot)(nil), h.initErr
	if err == nil {
		root, err = h.acquireRoot()
	}
	name, prefix := strippedPrefix(r)
	q := &httpRequest{Handler: h, root: root, w: w, r: r, prefix: prefix, deadlines: h.newClientDeadlines(w, r)}
	defer q.deadlines.startWrite() // for what the server writes after this
	if err != nil {
		q.fail(http.StatusInternalServerError, err)
		return
	}
	defer h.releaseRoot(root)
	p, refused := cleanPath(name)
	if refused != 0 {
		q.writeStatus(refused)
		return
	}
	t, script := splitPathInfo(p, h.Extensions)
	switch {
	case !h.ServeDotFiles && isHidden(t.name):
		q.writeStatus(http.StatusNotFound)
		return
	case script && root.isFile(t.name):
		q.serveScript(t)
		return
	case script: // never as a file: it is a source
	case root.isDir(p):
		if q.serveIndex(p) {
			return
		}
	case root.isFile(p) && !strings.HasSuffix(p, "/"):
		q.serveFile(p)
		return
	}
	if h.Fallback != "" {
		if root.isFile(h.fallback.name) {
			q.serveScript(h.fallback)
			return
		}
		h.logf("%s %s: no Fallback %s in %s", r.Method, r.URL.Path, h.fallback.name, root.path)
	}
	q.notFound()
}

// A request is one that a Handler has received.
type httpRequest struct {
	*Handler
	root      *documentRoot
	w         http.ResponseWriter
	r         *http.Request
	prefix    string // what a middleware has taken off the path
	deadlines *clientDeadlines
	stderr    []byte // by the application, on its stderr
}

// refuse answers with a status alone.
func (q *httpRequest) writeStatus(status int) {
	q.closeUnreadBody()
	http.Error(q.w, http.StatusText(status), status)
}

func (q *httpRequest) notFound() {
	q.closeUnreadBody()
	http.NotFound(q.w, q.r)
}

// unread is called before an answer to a request whose body has not been read. Over
// HTTP/1 net/http reads some of it: before it writes the header, unless it closes the
// connection, and then after the answer. Neither has a limit of its own.
func (q *httpRequest) closeUnreadBody() {
	if q.r.Body == nil || q.r.Body == http.NoBody || !q.deadlines.startRead() {
		return
	}
	if q.r.ProtoMajor == 1 {
		q.w.Header().Set("Connection", "close")
	}
}

// directory shows a directory's index, if it has one.
func (q *httpRequest) serveIndex(p string) bool {
	for _, name := range q.indexNames() {
		full := path.Join(p, name)
		if !q.root.isFile(full) {
			continue
		}
		target, _, _ := strings.Cut(requestURI(q.r), "?")
		if !strings.HasSuffix(p, "/") || p == "/" && q.r.URL.Path == "" && !strings.HasSuffix(target, "/") {
			q.redirectToSlash(p)
			return true
		}
		if t, script := splitPathInfo(full, q.Extensions); script {
			q.serveScript(t)
		} else {
			q.serveFile(full)
		}
		return true
	}
	return false
}

// redirect adds the slash at the end of a directory's path, without which relative
// links in it would lead elsewhere.
func (q *httpRequest) redirectToSlash(p string) {
	u := url.URL{RawQuery: q.r.URL.RawQuery, ForceQuery: q.r.URL.ForceQuery}
	u.Path = "/" + strings.Trim(q.prefix+p, "/") + "/" // two slashes would be another host's
	q.closeUnreadBody()
	http.Redirect(q.w, q.r, u.String(), http.StatusMovedPermanently)
}

func (q *httpRequest) serveFile(p string) {
	if q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		q.w.Header().Set("Allow", "GET, HEAD")
		q.writeStatus(http.StatusMethodNotAllowed)
		return
	}
	f, err := q.root.open(p)
	if err != nil {
		q.notFound()
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		q.notFound()
		return
	}
	q.closeUnreadBody()
	http.ServeContent(&clientWriter{q.w, q.deadlines}, q.r, path.Base(p), info.ModTime(), f)
}

// Close closes the root, when no request is in it any more. The Client is the caller's.
func (h *Handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.dropRootLocked()
	return nil
}
