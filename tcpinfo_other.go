//go:build !linux

package client

import (
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

func tcpInfo(*sock.Socket) (*TCPInfo, error) {
	return nil, os.NewSyscallError("getsockopt", unix.EOPNOTSUPP)
}
