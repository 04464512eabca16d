//go:build darwin || freebsd

package client

import (
	"os"
	"path/filepath"

	"github.com/blocksock/client/internal/sock"
)

// autobind gives a unix datagram socket a name that it can be answered at: a
// file in a directory of its own that nobody else can enter. Both are removed
// when the socket is closed, and stay behind if the process is killed.
func autobind(s *sock.Socket) error {
	dir, err := os.MkdirTemp("", "client-") // mode 0700
	if err != nil {
		return err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	a, err := parseUnix(filepath.Join(dir, "s"))
	if err == nil {
		err = s.Bind(a, func() func() { return remove })
	}
	if err != nil {
		remove()
	}
	return err
}
