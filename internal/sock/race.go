//go:build race

package sock

import (
	"runtime"
	"syscall"
	"unsafe"
)

// The race detector does not see what the kernel does. Sending happens before receiving,
// and syscall.Read and syscall.Write tell it so by a variable of package syscall. This
// package cannot use that variable, but it can make a read from /dev/null and a failing
// write. Without them, the detector reports a race in a program that hands over data
// through a socket to package net.
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

func (g *gather) raceAfterSend(n int) {
	for i := 0; n > 0; i++ {
		p := g.piece(i, false, 0)
		p = p[:min(len(p), n)]
		raceAfterSend(p)
		n -= len(p)
	}
}
