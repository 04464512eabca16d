package sock

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// longestSleep bounds the sleep of a thread that only a signal wakes. In a program that
// ignores SIGURG (os/signal.Ignore), Close and a deadline end a call up to this much late.
const longestSleep = longestHold

// interrupt sends the thread SIGURG, which the Go runtime uses to preempt goroutines and
// expects at any time (runtime, sigPreempt). A system call that sleeps with a time limit
// then returns EINTR (signal(7)). A signal between the check and the system call is
// lost, so interrupt sends it until the thread has returned.
func (w *threadWaker) interrupt() {
	pid := os.Getpid()
	signal := func() {
		if tid := w.tid.Load(); tid != 0 {
			_ = unix.Tgkill(pid, int(tid), unix.SIGURG)
		}
	}
	signal()
	go func() {
		for p := backoff(0); w.tid.Load() != 0 && w.woken.Load(); signal() {
			time.Sleep(p.next())
		}
	}()
}

// sleep is the only function in which a thread waits in the kernel for a socket. A nil w
// is for a call that a descriptor in fds wakes.
//
// The goroutine must stay on one thread from gettid(2) to the system call. A nosplit
// function has no preemption points (cmd/compile), and Syscall6 does not change the
// thread. If that changes, the signals go to another thread, and longestSleep bounds how
// late the call ends.
//
//go:nosplit
func (w *threadWaker) sleep(trap uintptr, fd int, p unsafe.Pointer, n, flags int, a, b unsafe.Pointer) (int, unix.Errno) {
	if w != nil {
		tid, _, _ := unix.RawSyscall(unix.SYS_GETTID, 0, 0, 0)
		w.tid.Store(int32(tid))
		if w.woken.Load() {
			w.tid.Store(0)
			return 0, unix.EINTR
		}
	}
	var r uintptr
	var errno unix.Errno
	if trap == unix.SYS_PPOLL {
		r, _, errno = unix.Syscall6(trap, uintptr(p), uintptr(n), uintptr(a), 0, 0, 0)
	} else {
		r, _, errno = unix.Syscall6(trap, uintptr(fd), uintptr(p), uintptr(n), uintptr(flags), uintptr(a), uintptr(b))
	}
	if w != nil {
		w.tid.Store(0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// sleepPoll wraps ppoll(2), with a limit in nanoseconds.
func (w *threadWaker) sleepPoll(fds []unix.PollFd, d time.Duration) (ready int, errno unix.Errno) {
	var limit *unix.Timespec
	if d != forever {
		const longest = 24 * time.Hour // fits a 32-bit timespec; the caller polls again
		ts := unix.NsecToTimespec(int64(min(d, longest)))
		limit = &ts
	}
	var first unsafe.Pointer
	if len(fds) > 0 {
		first = unsafe.Pointer(&fds[0])
	}
	return w.sleep(unix.SYS_PPOLL, 0, first, len(fds), 0, unsafe.Pointer(limit), nil)
}

// sleepPoll is for a poll that only a descriptor in fds wakes.
func sleepPoll(fds []unix.PollFd, d time.Duration) (ready int, errno unix.Errno) {
	return (*threadWaker)(nil).sleepPoll(fds, d)
}

// pollNow is poll(2) without a wait, so that the scheduler need not be told.
func pollNow(fds []unix.PollFd) (ready int, errno unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(fds))), uintptr(len(fds)),
		uintptr(unsafe.Pointer(new(unix.Timespec))), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
