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
type docRoot struct {
	path string // Handler.Root, made absolute
	real string // path without symbolic links
	info fs.FileInfo
	dir  *os.Root // nil: links are followed wherever they lead

	users  int  // requests; Handler.mu is held
	former bool // another has taken its place
}

func openRoot(path string, followLinks bool) (d *docRoot, err error) {
	for range 3 { // a release may be removed in the moment in which it is opened
		if d, err = tryRoot(path, followLinks); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return d, err
}

func tryRoot(path string, followLinks bool) (*docRoot, error) {
	d := &docRoot{path: path}
	var err error
	if d.real, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if followLinks {
		d.info, err = os.Stat(d.real)
		return d, err
	}
	if d.dir, err = os.OpenRoot(d.real); err != nil {
		return nil, err
	}
	if d.info, err = d.dir.Stat("."); err != nil {
		_ = d.dir.Close()
		return nil, err
	}
	return d, nil
}

// acquire gives the document root, which release is to be called with.
func (h *Handler) acquire() (*docRoot, error) {
	info, err := os.Stat(h.abs)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, http.ErrServerClosed
	}
	if h.root == nil || !os.SameFile(info, h.root.info) {
		d, err := openRoot(h.abs, h.FollowSymlinks)
		if err != nil {
			return nil, err
		}
		h.retireLocked()
		h.root = d
	}
	h.root.users++
	return h.root, nil
}

func (h *Handler) release(d *docRoot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.users--
	d.closeUnused()
}

func (h *Handler) retireLocked() {
	if h.root != nil {
		h.root.former = true
		h.root.closeUnused()
		h.root = nil
	}
}

func (d *docRoot) closeUnused() {
	if d.former && d.users == 0 && d.dir != nil {
		_ = d.dir.Close()
	}
}

// open opens what a path of a URL names. Names are bytes, of whatever encoding.
func (d *docRoot) open(name string) (*os.File, error) {
	if d.dir == nil {
		return os.Open(d.join(d.path, name))
	}
	f, err := d.dir.Open(within(name))
	if inside := d.resolve(name, err); inside != "" {
		return d.dir.Open(inside)
	}
	return f, err
}

func (d *docRoot) stat(name string) (fs.FileInfo, error) {
	if d.dir == nil {
		return os.Stat(d.join(d.path, name))
	}
	info, err := d.dir.Stat(within(name))
	if inside := d.resolve(name, err); inside != "" {
		return d.dir.Stat(inside)
	}
	return info, err
}

// resolve gives the path below the root to which the links of a name lead. os.Root
// refuses a link that is absolute, or that leaves the root on its way back into it.
// What it has refused is resolved here, and then opened by os.Root all the same: what
// another process changes meanwhile leads nowhere else. Empty: there is none.
func (d *docRoot) resolve(name string, err error) string {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	resolved, err := filepath.EvalSymlinks(d.join(d.real, name))
	if err != nil {
		return ""
	}
	inside, err := filepath.Rel(d.real, resolved)
	if err != nil || !filepath.IsLocal(inside) {
		return ""
	}
	return inside
}

func (*docRoot) join(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }

func (d *docRoot) isFile(name string) bool {
	info, err := d.stat(name)
	return err == nil && info.Mode().IsRegular()
}

func (d *docRoot) isDir(name string) bool {
	info, err := d.stat(name)
	return err == nil && info.IsDir()
}

// within is a path of a URL as os.Root has it.
func within(name string) string {
	if name = strings.Trim(name, "/"); name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}
