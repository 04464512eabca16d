package fastcgi

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// A target is what a URL's path stands for below a document root: a script, with what
// follows it, or a file.
type scriptPath struct {
	prefix   string // in front of name in the URL, and not in the root
	name     string // with a slash in front, and none that is not between two names
	pathInfo string // PATH_INFO: what follows a script's name
}

// clean refuses paths that mean something else to somebody on the way, and gives the
// others in their shortest form. Directories keep the slash at their end.
func cleanPath(p string) (string, int) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\x00\n\r") {
		return "", http.StatusBadRequest
	}
	dir := strings.HasSuffix(p, "/")
	p = path.Clean(p)
	if dir && p != "/" {
		p += "/"
	}
	return p, 0
}

// hidden reports whether a file's path has a name that begins with a dot. Only
// /.well-known is not hidden (RFC 8615). PATH_INFO is not a file's path.
func isHidden(name string) bool {
	if rest, ok := strings.CutPrefix(name, "/.well-known"); ok && (rest == "" || rest[0] == '/') {
		name = rest
	}
	return strings.Contains(name, "/.")
}

// unstripped gives the path of a request below the handler, and what a middleware like
// http.StripPrefix has removed in front of it.
func strippedPrefix(r *http.Request) (name, prefix string) {
	name = r.URL.Path
	whole, _, _ := strings.Cut(requestURI(r), "?")
	if whole == name {
		return name, "" // most are
	}
	u, err := url.ParseRequestURI(whole)
	if err != nil || !strings.HasPrefix(whole, "/") {
		return name, ""
	}
	prefix, isSuffix := strings.CutSuffix(u.Path, name)
	if !isSuffix {
		return name, "" // it was rewritten
	}
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	return name, strings.TrimRight(prefix, "/")
}

// split divides a path behind the first name that has an extension of a script. Case
// is folded in ASCII alone: of other alphabets what one system takes for the same
// letter, or for one of the same length, another does not. No extensions are .php.
func splitPathInfo(p string, extensions []string) (t scriptPath, script bool) {
	if len(extensions) == 0 {
		extensions = []string{".php"}
	}
	for i := 1; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		for _, ext := range extensions {
			if hasSuffixFold(p[:i], ext) {
				return scriptPath{name: p[:i], pathInfo: p[i:]}, true
			}
		}
	}
	return scriptPath{name: p}, false
}

func hasSuffixFold(s, suffix string) bool {
	if suffix == "" || len(s) < len(suffix) {
		return false
	}
	s = s[len(s)-len(suffix):]
	for i := range len(s) {
		if toLowerASCII(s[i]) != toLowerASCII(suffix[i]) {
			return false
		}
	}
	return true
}

func toLowerASCII(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
