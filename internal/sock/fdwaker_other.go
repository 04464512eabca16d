//go:build darwin || freebsd

package sock

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func newWakeFDs() (r, w int, err error) {
	var p [2]int
	// pipe(2) does not set CLOEXEC. The lock prevents a fork until the flag is set.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := unix.Pipe(p[:]); err != nil {
		return -1, -1, os.NewSyscallError("pipe", err)
	}
	for _, fd := range p {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(p[0])
			_ = unix.Close(p[1])
			return -1, -1, os.NewSyscallError("fcntl", err)
		}
	}
	return p[0], p[1], nil
}

func signalFD(fd int) {
	_, _ = unix.Write(fd, []byte{1})
}

func drainFD(fd int) {
	var b [16]byte
	_, _ = unix.Read(fd, b[:])
}
