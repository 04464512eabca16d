package fastcgi

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// serveIndex serves the index of a directory. It reports whether there is one.
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
		if s, isScript := splitPathInfo(full, q.Extensions); isScript {
			q.serveScript(s)
		} else {
			q.serveFile(full)
		}
		return true
	}
	return false
}

// redirectToSlash redirects to a directory's path with a trailing slash, on which relative
// links in the index depend.
func (q *httpRequest) redirectToSlash(p string) {
	u := url.URL{RawQuery: q.r.URL.RawQuery, ForceQuery: q.r.URL.ForceQuery}
	u.Path = "/" + strings.Trim(q.prefix+p, "/") + "/" // one leading slash: two begin a host
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
