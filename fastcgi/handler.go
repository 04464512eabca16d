package fastcgi

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A Handler is an http.Handler that serves a document root. The application runs the
// scripts; the Handler serves the other files itself.
//
// If the path of a URL has an element with one of Extensions and that script exists, the
// script is run and the rest of the path is its PATH_INFO. For a directory, the first
// existing file of Index is served. A file is served as it is. For any other path, Fallback
// is run; without Fallback, the status is 404. A path with a zero byte or a line break has
// status 400. Files and directories whose name begins with a dot are hidden, except
// /.well-known (RFC 8615), unless ServeDotFiles is set.
//
// If http.StripPrefix or another middleware shortens the path, SCRIPT_NAME and redirects
// contain the removed prefix.
//
// A slow HTTP client does not occupy a worker. The Handler receives a request's body whole
// before it sends the request to the application. It receives the response at the
// application's speed and sends it at the client's speed. Both are stored in memory up to
// a small size and then in unnamed temporary files. The Handler sends what it has as soon
// as the client accepts it. It does not buffer a response of type text/event-stream or
// with "X-Accel-Buffering: no".
//
// An error before the response's header has one of these statuses:
//
//	400  the request or its body is malformed
//	408  the HTTP client has stopped sending the body
//	411  the body has no known length and Client.MaxBufferedBody is negative
//	413  the body is longer than Client.MaxBufferedBody or http.MaxBytesReader allows
//	414  php-fpm does not accept a query this long
//	431  php-fpm does not accept a header field this long
//	500  an error of this machine, such as a missing Root
//	502  the application cannot be reached, closes the connection, or sends a malformed
//	     response
//	503  the application is overloaded, or no connection was free within
//	     Options.ConnectTimeout; with Retry-After
//	504  another timeout
//	507  the disk for temporary files is full
//
// After an error in the response's body, the HTTP client's connection is closed, or over
// HTTP/2 its stream is reset, so that an incomplete response cannot pass for a complete one.
type Handler struct {
	Client *Client

	// Root is the directory as this program sees it. If it is or contains a symbolic
	// link, each request uses the directory to which the link leads at that time.
	Root string

	// ScriptRoot is the directory as the application sees it, for example in a container.
	// Default: Root, made absolute.
	ScriptRoot string

	// ResolveRootSymlink resolves the symbolic links of Root in DOCUMENT_ROOT and
	// SCRIPT_FILENAME, as nginx's $realpath_root does. PHP's opcode cache then notices
	// that a link was switched to another release. ScriptRoot is not resolved.
	ResolveRootSymlink bool

	// Index are the files that are served for a directory. Default: index.php,
	// index.html.
	Index []string

	// Extensions are the extensions of scripts. The case of ASCII letters is ignored.
	// Default: .php.
	Extensions []string

	// Fallback is the path of the script for a URL that names no existing file, such as
	// "/index.php" for WordPress, Laravel and Symfony. It is nginx's "try_files $uri $uri/
	// /index.php?$query_string". The script always receives the query; the endings
	// "?$query_string", "?$args" and "$is_args$args" are accepted and ignored. Default:
	// such a URL has status 404.
	Fallback string

	// FollowSymlinks follows symbolic links that lead out of Root. Default: only links
	// that lead to a file below Root are followed; others have status 404.
	FollowSymlinks bool

	// ServeDotFiles serves files and directories whose name begins with a dot, such as
	// .env and .git. Default: only those below /.well-known are served.
	ServeDotFiles bool

	// StreamBody sends a request's body to the application while the HTTP client sends
	// it, as nginx's "fastcgi_request_buffering off" does. A slow client then occupies a
	// worker. Default: the body is received first, up to 16 KiB in memory, a longer one
	// in a temporary file of up to Client.MaxBufferedBody. If MaxBufferedBody is
	// negative, bodies of known length are streamed. A body of unknown length is never
	// streamed, because CONTENT_LENGTH is sent before it.
	StreamBody bool

	// MaxBufferedResponse is how much of a response is stored in a temporary file for a
	// slow client, beyond 64 KiB in memory. When the file is full, the application waits
	// for the client. Default: 1 GiB. Negative: no file.
	MaxBufferedResponse int64

	// ClientTimeout bounds the time in which an HTTP client sends nothing of a request's
	// body, and the time in which it accepts the next 32 KiB of a response, 4 KiB over
	// HTTP/2. Then the connection is closed, or over HTTP/2 the stream is reset.
	// http.Server's ReadTimeout and WriteTimeout apply too. Default: 60 s. Negative: no
	// limit.
	ClientTimeout time.Duration

	// Params, if not nil, returns parameters that are added to those of the request, or
	// replace them, as nginx's fastcgi_param does. Use it for what the request does not
	// say, such as APP_ENV. Behind a proxy that terminates TLS, also use it for HTTPS,
	// REQUEST_SCHEME, SERVER_PORT and REMOTE_ADDR, which are otherwise those of the
	// connection. Take a parameter from a header field only if the proxy always sets
	// that field itself.
	Params func(*http.Request) map[string]string

	// ErrorLog receives one line for each error. Unprintable characters are escaped.
	// Default: the log package's standard logger.
	ErrorLog *log.Logger

	once     sync.Once
	rootPath string     // Root, made absolute
	fallback scriptPath // Fallback, parsed
	initErr  error

	mu     sync.Mutex
	root   *documentRoot
	closed bool
}

func (h *Handler) init() {
	h.once.Do(func() {
		if h.Root == "" {
			h.initErr = errNoRoot // filepath.Abs would return the working directory
			return
		}
		if h.rootPath, h.initErr = filepath.Abs(h.Root); h.initErr == nil {
			h.fallback, h.initErr = h.parseFallback()
		}
	})
}

var errNoRoot = errors.New("fastcgi: Handler.Root is empty: set it to the document root")

func (h *Handler) parseFallback() (scriptPath, error) {
	if h.Fallback == "" {
		return scriptPath{}, nil
	}
	name := h.Fallback
	for _, query := range []string{"?$query_string", "?$args", "$is_args$args"} {
		name = strings.TrimSuffix(name, query)
	}
	s, isScript := splitPathInfo(name, h.Extensions)
	if !isScript || !strings.HasPrefix(name, "/") || strings.ContainsAny(name, "?$") {
		return scriptPath{}, fmt.Errorf("fastcgi: Handler.Fallback %q is not the path of a script: set it to one such as /index.php", h.Fallback)
	}
	return s, nil
}

func (h *Handler) indexNames() []string {
	if len(h.Index) == 0 {
		return []string{"index.php", "index.html"}
	}
	return h.Index
}

// ServeHTTP serves a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.init()
	root, err := (*documentRoot)(nil), h.initErr
	if err == nil {
		root, err = h.acquireRoot()
	}
	name, prefix := splitPrefix(r)
	q := &httpRequest{Handler: h, root: root, w: w, r: r, prefix: prefix, deadlines: h.newClientDeadlines(w, r)}
	defer q.deadlines.startWrite() // for what the server writes after this method
	if err != nil {
		q.fail(http.StatusInternalServerError, err)
		return
	}
	defer h.releaseRoot(root)
	p, status := cleanPath(name)
	if status != 0 {
		q.writeStatus(status)
		return
	}
	s, isScript := splitPathInfo(p, h.Extensions)
	switch {
	case !h.ServeDotFiles && isHidden(s.name):
		q.writeStatus(http.StatusNotFound)
		return
	case isScript && root.isFile(s.name):
		q.serveScript(s)
		return
	case isScript: // never serve it as a file, which would show its source
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
		h.logf("%s %s: Fallback %s does not exist in %s", r.Method, r.URL.Path, h.fallback.name, root.path)
	}
	q.notFound()
}

// An httpRequest is a request that a Handler has received.
type httpRequest struct {
	*Handler
	root      *documentRoot
	w         http.ResponseWriter
	r         *http.Request
	prefix    string // removed from the path by a middleware
	deadlines *clientDeadlines
	stderr    []byte // of the application
}

// Close closes the document root when the last request has ended. It does not close
// Client.
func (h *Handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.dropRootLocked()
	return nil
}
