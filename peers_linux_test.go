package client_test

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// waitingCalls are the system calls that a call of the library sleeps in.
var waitingCalls = map[int]bool{unix.SYS_RECVFROM: true, unix.SYS_RECVMSG: true, unix.SYS_PPOLL: true}

// signalThreads sends each thread the signal that the Go runtime preempts with. Its
// handler does nothing else, but the signal interrupts system calls.
func signalThreads() {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		}
	}
}

func unshareNetwork() error { return unix.Unshare(unix.CLONE_NEWNET) }

const sndBufForce = unix.SO_SNDBUFFORCE
