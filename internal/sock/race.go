//go:build race

package sock

import (
	"runtime"
	"syscall"
	"unsafe"
)

// The race detector does not see what the kernel does. Sending happens before
// receiving, and the standard library tells it so in syscall.Read and
// syscall.Write; its variable is not ours to touch, but a read of nothing and a
// failing write are. Without them, a program that hands work over through a
// socket with net at its other end would be reported for races it has not.
var devNull = func() int {
	fd, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}()

func raceBeforeSend() { _, _ = syscall.Write(-1, nil) }

func raceAfterSend(p []byte) {
	if len(p) > 0 {
		runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(p)), len(p))
	}
}

func raceAfterRecv(p []byte) {
	_, _ = syscall.Read(devNull, nil)
	if len(p) > 0 {
		runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(p)), len(p))
	}
}
