package sock

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parked counts the calls that are parked, for tests.
var Parked atomic.Int64

// A netpollWaker parks the goroutine that has the turn on one side of a socket, in the poller of
// the Go runtime. It must not refer to the socket, whose finalizer would never run.
type netpollWaker struct {
	file    *os.File // has the descriptor, and closes it
	raw     syscall.RawConn
	forRead bool
	wakes   atomic.Uint32 // of wake

	// Of who parks.
	armed   Instant // the file's deadline, as set when wakes was armedAt
	armedAt uint32
	events  int16
	seen    uint32
	looked  bool
	parked  bool                  // it was not ready at once
	done    func(fd uintptr) bool // what raw calls, made once
}

func newNetpollWaker(file *os.File, raw syscall.RawConn, forRead bool) *netpollWaker {
	k := &netpollWaker{file: file, raw: raw, forRead: forRead}
	k.done = k.isDone
	k.armedAt = k.seen - 1
	return k
}

// prepare is for before the look that decides whether to park.
func (k *netpollWaker) prepare() { k.seen = k.wakes.Load() }

// wake has the goroutine come back, or not park if it is about to. It may be called with
// nobody parked: the deadline that it leaves is replaced by the next to park.
func (k *netpollWaker) wake() {
	k.wakes.Add(1)
	k.setDeadline(time.Unix(1, 0))
}

func (k *netpollWaker) setDeadline(t time.Time) {
	if k.forRead {
		_ = k.file.SetReadDeadline(t)
	} else {
		_ = k.file.SetWriteDeadline(t)
	}
}

// park waits for events, POLLIN or POLLOUT, for a time at most. It reports whether they may
// have come: false after that time and after wake.
func (k *netpollWaker) park(events int16, now Instant, d time.Duration) bool {
	k.events, k.looked = events, false
	k.arm(now, d)
	Parked.Add(1)
	defer Parked.Add(-1)
	var err error
	if k.forRead {
		err = k.raw.Read(k.done)
	} else {
		err = k.raw.Write(k.done)
	}
	if err != nil {
		k.armedAt = k.seen - 1 // that deadline is over, whoever has set it
	}
	return err == nil && k.wakes.Load() == k.seen
}

// arm has the file's deadline come no later than d from now. One that comes before is left,
// because to set it costs as much as a system call: the caller looks again when it comes.
func (k *netpollWaker) arm(now Instant, d time.Duration) {
	limit := Never
	if d != forever {
		limit = now.Add(d)
	}
	if k.armedAt == k.seen && (k.armed == limit || k.armed > now && (limit == Never || k.armed < limit)) {
		return
	}
	var deadline time.Time
	if limit != Never {
		deadline = time.Now().Add(d)
	}
	// This comes before isDone looks at wakes. So a wake that isDone does not see sets its
	// deadline after this one.
	k.setDeadline(deadline)
	k.armed, k.armedAt = limit, k.seen
}

// isDone is called before the goroutine parks, when the poller has forgotten what it has told
// before, and each time it wakes.
func (k *netpollWaker) isDone(fd uintptr) bool {
	if k.looked || k.wakes.Load() != k.seen {
		return true
	}
	k.looked = true
	fds := [...]unix.PollFd{{Fd: int32(fd), Events: k.events}}
	n, errno := pollNow(fds[:])
	k.parked = n == 0 && errno == 0
	return !k.parked
}

// attachNetpoll makes a socket's parkers, and with them has its descriptor belong to an os.File.
// There are none where the poller does not take the descriptor.
func (s *Socket) attachNetpoll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		return s.rd.netpollWaker.Load() != nil
	}
	// os.NewFile has the poller watch a descriptor that does not block at that moment.
	flags, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if flags&unix.O_NONBLOCK == 0 {
		if unix.SetNonblock(s.fd, true) != nil {
			return false
		}
		defer func() { _ = unix.SetNonblock(s.fd, false) }()
	}
	s.file = os.NewFile(uintptr(s.fd), "socket")
	raw, err := s.file.SyscallConn()
	if err != nil || s.file.SetDeadline(time.Time{}) != nil { // os.ErrNoDeadline: it is not watched
		return false
	}
	s.rd.netpollWaker.Store(newNetpollWaker(s.file, raw, true))
	s.wr.netpollWaker.Store(newNetpollWaker(s.file, raw, false))
	return true
}
