package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

func newWakeFDs() (r, w int, err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, -1, os.NewSyscallError("eventfd", err)
	}
	return fd, fd, nil
}

// wakeToken is what eventfd(2) adds: 8 bytes in the host's byte order. It is not zero in
// either order, which makes the descriptor readable.
var wakeToken = [8]byte{1}

func signalFD(fd int) {
	_, _ = unix.Write(fd, wakeToken[:])
}

func drainFD(fd int) {
	var count [8]byte
	_, _ = unix.Read(fd, count[:])
}
