package client

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/blocksock/client/internal/sock"
)

// parseUnix parses the name of a unix socket: a path, or on Linux "@" and an abstract
// name. A name that is too long is an error: truncated, it could be the name of another
// socket.
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
		return fail(fmt.Sprintf("unix socket name of %d bytes: the maximum is %d", len(address), sock.MaxPath))
	}
	return sock.Addr{Path: address}, nil
}

// inFileSystem reports whether bind(2) to a creates a file.
func inFileSystem(a sock.Addr) bool {
	return a.Path != "" && (a.Path[0] != '@' || !sock.HasAbstractNames)
}

// remover returns a function that removes the file of a socket that has just been bound
// to path. It does not remove another file that has replaced it since.
func remover(path string) func() {
	path, err := filepath.Abs(path) // the working directory may change
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
