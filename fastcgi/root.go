package fastcgi

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// A documentRoot is an open document root. Deployments switch a symbolic link from one
// release to the next and then delete the old release. So each request looks where
// Handler.Root leads now, and opens that if it is another directory. While the old
// directory is open, its inode number is not used again.
type documentRoot struct {
	path     string // Handler.Root, made absolute
	realPath string // path with its symbolic links resolved
	info     fs.FileInfo
	dir      *os.Root // nil with Handler.FollowSymlinks

	refs     int  // requests that use it; guarded by Handler.mu
	replaced bool // another directory has become the root; guarded by Handler.mu
}

func openRoot(path string, followSymlinks bool) (d *documentRoot, err error) {
	for range 3 { // a deployment may delete the directory while it is being opened
		if d, err = openRootOnce(path, followSymlinks); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return d, err
}

func openRootOnce(path string, followSymlinks bool) (*documentRoot, error) {
	d := &documentRoot{path: path}
	var err error
	if d.realPath, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if followSymlinks {
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

// acquireRoot returns the document root. The caller must call releaseRoot.
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

// open opens the file that the path of a URL names. The name may have any encoding.
func (d *documentRoot) open(name string) (*os.File, error) {
	if d.dir == nil {
		return os.Open(d.join(d.path, name))
	}
	f, err := d.dir.Open(relativeName(name))
	if resolved := d.resolveLink(name, err); resolved != "" {
		return d.dir.Open(resolved)
	}
	return f, err
}

func (d *documentRoot) stat(name string) (fs.FileInfo, error) {
	if d.dir == nil {
		return os.Stat(d.join(d.path, name))
	}
	info, err := d.dir.Stat(relativeName(name))
	if resolved := d.resolveLink(name, err); resolved != "" {
		return d.dir.Stat(resolved)
	}
	return info, err
}

// resolveLink returns the path below the root to which the symbolic links of name lead, or
// "". os.Root fails with err for an absolute link, and for a link that leaves the root and
// comes back into it. The caller opens the result through os.Root again, so that a link
// that changes meanwhile cannot lead out of the root.
func (d *documentRoot) resolveLink(name string, err error) string {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	resolved, err := filepath.EvalSymlinks(d.join(d.realPath, name))
	if err != nil {
		return ""
	}
	relative, err := filepath.Rel(d.realPath, resolved)
	if err != nil || !filepath.IsLocal(relative) {
		return ""
	}
	return relative
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

// relativeName returns the path of a URL as a path for os.Root.
func relativeName(name string) string {
	if name = strings.Trim(name, "/"); name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}
