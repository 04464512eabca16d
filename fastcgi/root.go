package fastcgi

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// A docRoot is a document root as it was when it was opened. Deployments switch a
// symbolic link from one release to the next, and then remove the old one: each
// request looks where Root leads now, and opens it anew if that is another directory.
// The descriptor keeps the inode number of a directory that was removed from being
// used again.
type documentRoot struct {
	path     string // Handler.Root, made absolute
	realPath string // path without symbolic links
	info     fs.FileInfo
	dir      *os.Root // nil: links are followed wherever they lead

	refs     int  // requests; Handler.mu is held
	replaced bool // another has taken its place
}

func openRoot(path string, followLinks bool) (d *documentRoot, err error) {
	for range 3 { // a release may be removed in the moment in which it is opened
		if d, err = openRootOnce(path, followLinks); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return d, err
}

func openRootOnce(path string, followLinks bool) (*documentRoot, error) {
	d := &documentRoot{path: path}
	var err error
	if d.realPath, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if followLinks {
		d.info, err = os.Stat(d.realPath)
		return d, err
	}
	if d.dir, err = os.OpenRoot(d.realPath); err != nil {
		return nil, err
	}
	if d.info, err = d.dir.Stat("."); err != nil {
		_ = d.dir.Close()
		return nil, err
	}
	return d, nil
}

// acquire gives the document root, which release is to be called with.
func (h *Handler) acquireRoot() (*documentRoot, error) {
	info, err := os.Stat(h.rootPath)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, http.ErrServerClosed
	}
	if h.root == nil || !os.SameFile(info, h.root.info) {
		d, err := openRoot(h.rootPath, h.FollowSymlinks)
		if err != nil {
			return nil, err
		}
		h.dropRootLocked()
		h.root = d
	}
	h.root.refs++
	return h.root, nil
}

func (h *Handler) releaseRoot(d *documentRoot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.refs--
	d.closeUnusedLocked()
}

func (h *Handler) dropRootLocked() {
	if h.root != nil {
		h.root.replaced = true
		h.root.closeUnusedLocked()
		h.root = nil
	}
}

func (d *documentRoot) closeUnusedLocked() {
	if d.replaced && d.refs == 0 && d.dir != nil {
		_ = d.dir.Close()
	}
}

// open opens what a path of a URL names. Names are bytes, of whatever encoding.
func (d *documentRoot) open(name string) (*os.File, error) {
	if d.dir == nil {
		return os.Open(d.join(d.path, name))
	}
	f, err := d.dir.Open(relativeName(name))
	if inside := d.resolveLink(name, err); inside != "" {
		return d.dir.Open(inside)
	}
	return f, err
}

func (d *documentRoot) stat(name string) (fs.FileInfo, error) {
	if d.dir == nil {
		return os.Stat(d.join(d.path, name))
	}
	info, err := d.dir.Stat(relativeName(name))
	if inside := d.resolveLink(name, err); inside != "" {
		return d.dir.Stat(inside)
	}
	return info, err
}

// resolve gives the path below the root to which the links of a name lead. os.Root
// refuses a link that is absolute, or that leaves the root on its way back into it.
// What it has refused is resolved here, and then opened by os.Root all the same: what
// another process changes meanwhile leads nowhere else. Empty: there is none.
func (d *documentRoot) resolveLink(name string, err error) string {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	resolved, err := filepath.EvalSymlinks(d.join(d.realPath, name))
	if err != nil {
		return ""
	}
	inside, err := filepath.Rel(d.realPath, resolved)
	if err != nil || !filepath.IsLocal(inside) {
		return ""
	}
	return inside
}

func (*documentRoot) join(dir, name string) string {
	return filepath.Join(dir, filepath.FromSlash(name))
}

func (d *documentRoot) isFile(name string) bool {
	info, err := d.stat(name)
	return err == nil && info.Mode().IsRegular()
}

func (d *documentRoot) isDir(name string) bool {
	info, err := d.stat(name)
	return err == nil && info.IsDir()
}

// within is a path of a URL as os.Root has it.
func relativeName(name string) string {
	if name = strings.Trim(name, "/"); name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}
