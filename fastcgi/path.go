package fastcgi

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// A target is what a URL's path stands for below a document root: a script, with what
// follows it, or a file.
type target struct {
	name string // with a slash in front, and none that is not between two names
	info string // PATH_INFO: what follows a script's name
}

// clean refuses paths that mean something else to somebody on the way, and gives the
// others in their shortest form. Directories keep the slash at their end.
func clean(p string) (string, int) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\x00\n\r") {
		return "", http.StatusBadRequest
	}
	dir := strings.HasSuffix(p, "/")
	p = path.Clean(p)
	if dir && p != "/" {
		p += "/"
	}
	for name := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(name, ".") {
			return "", http.StatusNotFound // dot files are nobody's business
		}
	}
	return p, 0
}

// split divides a path behind the first name that has an extension of a script. Case
// is folded in ASCII alone: of other alphabets what one system takes for the same
// letter, or for one of the same length, another does not. No extensions are .php.
func split(p string, extensions []string) (t target, script bool) {
	if len(extensions) == 0 {
		extensions = []string{".php"}
	}
	for i := 1; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		for _, ext := range extensions {
			if hasSuffixFold(p[:i], ext) {
				return target{name: p[:i], info: p[i:]}, true
			}
		}
	}
	return target{name: p}, false
}

func hasSuffixFold(s, suffix string) bool {
	if suffix == "" || len(s) < len(suffix) {
		return false
	}
	s = s[len(s)-len(suffix):]
	for i := range len(s) {
		if lower(s[i]) != lower(suffix[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// isFile reports whether there is a regular file of that name below a root.
func isFile(root fs.FS, name string) bool {
	info, err := fs.Stat(root, within(name))
	return err == nil && info.Mode().IsRegular()
}

func isDir(root fs.FS, name string) bool {
	info, err := fs.Stat(root, within(name))
	return err == nil && info.IsDir()
}

// within is a path as package fs has it.
func within(name string) string {
	if name = strings.Trim(name, "/"); name == "" {
		return "."
	}
	return name
}
