package sock

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parked counts the calls that wait without a thread.
var Parked atomic.Int64

// A netpollWaker parks the goroutine that holds the I/O lock of one direction in the Go
// runtime's poller, and wakes it by a deadline in the past. It must not refer to the
// socket, whose finalizer would never run.
//
//	parked call: prepare, check for a reason to return, park
//	other call:  create the reason, wake
type netpollWaker struct {
	file    *os.File // owns the descriptor
	raw     syscall.RawConn
	forRead bool
	wakes   atomic.Uint32 // calls of wake

	// For LongestParked.
	began   atomic.Int64         // the Instant since which the parked call waits; 0: none is parked
	dialing atomic.Pointer[Addr] // the address that a parked dial connects to

	// Of the parked call.
	armed   Instant // the file's deadline, set when wakes was armedAt
	armedAt uint32
	events  int16
	seen    uint32                // wakes at prepare
	looked  bool                  // isDone has polled
	parked  bool                  // the socket was not ready at once
	done    func(fd uintptr) bool // isDone, allocated once
}

// newNetpollWaker makes the netpollWaker of a direction in which the file has no deadline.
func newNetpollWaker(file *os.File, raw syscall.RawConn, forRead bool) *netpollWaker {
	k := &netpollWaker{file: file, raw: raw, forRead: forRead, armed: Never}
	k.done = k.isDone
	return k
}

// prepare forgets earlier wakes. The caller then checks for a reason not to park.
func (k *netpollWaker) prepare() { k.seen = k.wakes.Load() }

// wake makes the parked goroutine return. One that is about to park does not park. If
// none does, the next call of park replaces the deadline that wake sets.
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

// park waits for events, POLLIN or POLLOUT, for at most d. It reports whether the socket
// may be ready: false after d and after wake. refused reports that the poller does not
// wait, as for a read while it knows of nothing but an error, EPOLLERR: the socket's error
// queue has entries and its send buffer is full.
func (k *netpollWaker) park(events int16, now Instant, d time.Duration) (ready, refused bool) {
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
	if !waits.unparked.Load() {
		waits.unparked.Store(true)
	}
	if err != nil {
		k.armedAt = k.seen - 1 // the file's deadline is over
		return false, !errors.Is(err, os.ErrDeadlineExceeded)
	}
	return k.wakes.Load() == k.seen, false
}

// arm sets the file's deadline to d from now. An earlier one that is not over stays,
// because setting a deadline costs as much as a system call. The caller waits again when
// it comes.
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
	// This comes before isDone reads wakes. A wake that isDone does not see sets its
	// deadline later than this one.
	k.setDeadline(deadline)
	k.armed, k.armedAt = limit, k.seen
}

// isDone is called before the goroutine parks, when the poller has forgotten earlier
// events, and each time it wakes up.
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

// attachNetpoll creates the netpollWaker of a direction, and gives the socket's descriptor to
// an os.File. It reports false where the poller does not take the descriptor.
func (s *Socket) attachNetpoll(d *direction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.unpollable = !s.openFileLocked()
	}
	if s.unpollable {
		return false
	}
	if d.netpollWaker.Load() == nil {
		raw, err := s.file.SyscallConn()
		if err != nil {
			return false
		}
		k := newNetpollWaker(s.file, raw, d == &s.rd)
		d.netpollWaker.Store(k)
		addParkable(k, s.domain, s.stream)
	}
	return true
}

// openFileLocked reports whether the file is in the poller. The caller holds mu.
func (s *Socket) openFileLocked() bool {
	// os.NewFile adds a descriptor to the poller only if it is non-blocking then.
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
	return s.file.SetDeadline(time.Time{}) == nil // os.ErrNoDeadline: not in the poller
}
