//go:build darwin || freebsd

package client

import (
	"os"
	"path/filepath"

	"github.com/blocksock/client/internal/sock"
)

// autobind gives a unix datagram socket a name that peers can answer to: a file in a
// private directory. Both are removed when the socket is closed. They stay if the process
// is killed.
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
