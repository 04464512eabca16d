package fastcgi

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// A scriptPath is the path of a URL, split into the parts that CGI knows.
type scriptPath struct {
	prefix   string // removed by a middleware such as http.StripPrefix
	name     string // path of the script or file below the document root, with a leading slash
	pathInfo string // PATH_INFO: what follows the script's name
}

// cleanPath returns the shortest equivalent path. A directory keeps its trailing slash. A
// path that the application could read differently gets a status instead.
func cleanPath(p string) (clean string, status int) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\x00\n\r") {
		return "", http.StatusBadRequest
	}
	isDir := strings.HasSuffix(p, "/")
	p = path.Clean(p)
	if isDir && p != "/" {
		p += "/"
	}
	return p, 0
}

// isHidden reports whether the path of a file has an element that begins with a dot, other
// than a leading /.well-known (RFC 8615). PATH_INFO is not the path of a file.
func isHidden(name string) bool {
	if rest, ok := strings.CutPrefix(name, "/.well-known"); ok && (rest == "" || rest[0] == '/') {
		name = rest
	}
	return strings.Contains(name, "/.")
}

// splitPrefix returns the path of a request, and the prefix that a middleware such as
// http.StripPrefix has removed from it.
func splitPrefix(r *http.Request) (name, prefix string) {
	name = r.URL.Path
	original, _, _ := strings.Cut(requestURI(r), "?")
	if original == name {
		return name, "" // the usual case
	}
	u, err := url.ParseRequestURI(original)
	if err != nil || !strings.HasPrefix(original, "/") {
		return name, ""
	}
	prefix, isSuffix := strings.CutSuffix(u.Path, name)
	if !isSuffix {
		return name, "" // the path was rewritten
	}
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	return name, strings.TrimRight(prefix, "/")
}

// splitPathInfo splits a path after the first element that has one of the extensions, and
// reports whether there is one. Without extensions it looks for .php. Only ASCII letters
// are compared without regard to case: file systems disagree on the case of others.
func splitPathInfo(p string, extensions []string) (s scriptPath, isScript bool) {
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
