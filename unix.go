package client

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/blocksock/client/internal/sock"
)

// parseUnix reads the name of a unix socket: a path, or on Linux "@" and an
// abstract name. A name that is too long is refused, never cut: cut, it might
// be somebody else's.
func parseUnix(address string) (sock.Addr, error) {
	fail := func(why string) (sock.Addr, error) {
		return sock.Addr{}, &net.AddrError{Err: why, Addr: address}
	}
	switch {
	case address == "" || address == "@":
		return fail("empty unix socket name")
	case strings.IndexByte(address, 0) >= 0 && inFileSystem(sock.Addr{Path: address}):
		return fail("unix socket path has a zero byte")
	case len(address) > sock.MaxPath:
		return fail(fmt.Sprintf("unix socket name has %d bytes, the system takes %d", len(address), sock.MaxPath))
	}
	return sock.Addr{Path: address}, nil
}

// inFileSystem reports whether binding to a leaves a file behind.
func inFileSystem(a sock.Addr) bool {
	return a.Path != "" && (a.Path[0] != '@' || !sock.HasAbstractNames)
}

// remover gives the function that removes the file which a socket that has just
// been bound to path has made; it spares one that has taken its place since.
func remover(path string) func() {
	path, err := filepath.Abs(path) // the program may change its directory
	if err != nil {
		return nil
	}
	ours, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	return func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(ours, now) {
			_ = os.Remove(path)
		}
	}
}
