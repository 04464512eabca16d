package sock

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStopped is the error of a connect that a Stop has ended.
var ErrStopped = errors.New("connect stopped")

// First connects to the first of n addresses to answer. It starts with the
// first and goes on to the next when an attempt fails or delay has passed, as
// RFC 8305, section 5, has it; all attempts wait in one ppoll(2) on the
// caller's thread. open gives the socket and the address of attempt i; an
// attempt that does not win is handed to drop. First returns the winner's index,
// or -1 and each attempt's error: os.ErrDeadlineExceeded for those that were
// still waiting when until was over, ErrStopped when stop came.
func First(n int, delay time.Duration, until Instant, stop *Stop,
	open func(i int) (*Socket, Addr, error), drop func(*Socket),
) (winner int, s *Socket, errs []error) {
	r := race{n: n, delay: delay, until: until, stop: stop, open: open, drop: drop, errs: make([]error, n)}
	return r.run()
}

// A race is one call of First.
//
//	open ──▶ connect ──▶ done
//	             │ EINPROGRESS                  │ unix, EAGAIN: backlog full
//	             ▼                              ▼
//	         poll writable ──▶ SO_ERROR     pause ──▶ connect again
type race struct {
	n     int
	delay time.Duration
	until Instant
	stop  *Stop
	open  func(i int) (*Socket, Addr, error)
	drop  func(*Socket)

	next    int     // the attempt to start next
	nextAt  Instant // and when
	running []attempt
	errs    []error
	pause   time.Duration
}

type attempt struct {
	index int
	sock  *Socket
	name  name
	again bool // connect has to be called again, there is nothing to poll
}

func (r *race) run() (int, *Socket, []error) {
	r.pause = firstPause
	for {
		if r.stop.Stopped() {
			return r.lost(ErrStopped)
		}
		for r.due() {
			if a, done := r.start(); done {
				return r.won(a)
			}
		}
		if len(r.running) == 0 {
			return -1, nil, r.errs
		}
		if r.until.Left() <= 0 {
			return r.lost(os.ErrDeadlineExceeded)
		}
		ready, err := r.wait()
		if err != nil {
			return r.lost(err)
		}
		if a, done := r.proceed(ready); done {
			return r.won(a)
		}
	}
}

// proceed takes the attempts that may have come further a step on, and out of
// the race if that failed. The oldest of several that are through wins.
func (r *race) proceed(ready func(i int) bool) (first attempt, done bool) {
	still := r.running[:0]
	for i := range r.running {
		a := r.running[i]
		if ready(i) && !done {
			ok, err := a.proceed()
			if err != nil {
				r.fail(a, err)
				continue
			}
			if ok {
				first, done = a, true
			}
		}
		still = append(still, a)
	}
	r.running = still
	return first, done
}

// due reports whether another attempt is to be started now.
func (r *race) due() bool {
	return r.next < r.n && (len(r.running) == 0 || r.nextAt.Left() <= 0)
}

func (r *race) start() (attempt, bool) {
	a := attempt{index: r.next}
	r.next++
	r.nextAt = In(r.delay)
	s, addr, err := r.open(a.index)
	if err != nil {
		r.errs[a.index], r.nextAt = err, Now()
		return a, false
	}
	a.sock = s
	if err := a.name.set(s.domain, addr); err != nil {
		r.fail(a, os.NewSyscallError("connect", err))
		return a, false
	}
	done, err := a.connect()
	if err != nil {
		r.fail(a, err)
		return a, false
	}
	if !done {
		r.running = append(r.running, a)
	}
	return a, done
}

// wait sleeps until an attempt may have come further, the next is due, the stop
// comes or the limit is over.
func (r *race) wait() (ready func(i int) bool, err error) {
	fds := make([]unix.PollFd, len(r.running), len(r.running)+1)
	left := r.until.Left()
	if r.next < r.n {
		left = min(left, r.nextAt.Left())
	}
	for i, a := range r.running {
		fds[i] = unix.PollFd{Fd: int32(a.sock.fd), Events: unix.POLLOUT}
		if a.again {
			fds[i].Fd = -1 // poll(2) passes over it
			left = min(left, r.pause)
			r.pause = nextPause(r.pause)
		}
	}
	if r.stop != nil {
		wake, err := r.stop.waker.pollFD()
		if err != nil {
			return nil, err
		}
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	if _, errno := sleepPoll(fds, max(left, 0)); errno != 0 && errno != unix.EINTR {
		return nil, os.NewSyscallError("poll", errno)
	}
	return func(i int) bool { return fds[i].Fd < 0 || fds[i].Revents != 0 }, nil
}

func (r *race) fail(a attempt, err error) {
	r.errs[a.index] = err
	r.nextAt = Now() // a failure starts the next at once
	r.drop(a.sock)
}

func (r *race) lost(err error) (int, *Socket, []error) {
	for _, a := range r.running {
		r.fail(a, err)
	}
	for i := range r.errs {
		if r.errs[i] == nil {
			r.errs[i] = err
		}
	}
	return -1, nil, r.errs
}

func (r *race) won(a attempt) (int, *Socket, []error) {
	for _, b := range r.running {
		if b.index != a.index {
			r.drop(b.sock)
		}
	}
	return a.index, a.sock, nil
}

// connect starts the attempt and reports whether it is through already.
func (a *attempt) connect() (done bool, err error) {
	switch errno := a.sock.sysConnect(&a.name); {
	case errno == 0:
		return a.established()
	case errno == unix.EAGAIN && a.sock.domain == unix.AF_UNIX:
		a.again = true
		return false, nil
	case errno == unix.EINPROGRESS || errno == unix.EINTR:
		return false, nil
	default:
		return false, a.sock.failure("connect", errno)
	}
}

// proceed is called when the attempt may have come further.
func (a *attempt) proceed() (done bool, err error) {
	if a.sock.life.ended() {
		return false, net.ErrClosed
	}
	if a.again {
		return a.connect()
	}
	soError, err := unix.GetsockoptInt(a.sock.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, os.NewSyscallError("getsockopt", err)
	}
	if soError != 0 {
		return false, a.sock.failure("connect", unix.Errno(soError))
	}
	return a.established()
}

// established reports false if the poll that led here was a false alarm.
func (a *attempt) established() (bool, error) {
	var peer, local name
	switch errno := a.sock.sysPeer(&peer); errno {
	case 0:
	case unix.ENOTCONN:
		return false, nil
	default:
		return false, a.sock.failure("getpeername", errno)
	}
	if errno := a.sock.sysLocal(&local); errno != 0 {
		return false, a.sock.failure("getsockname", errno)
	}
	// TCP may pick the very port that it is told to connect to, where nobody
	// listens, and then meets itself (RFC 9293, 3.5, simultaneous open).
	if a.sock.domain != unix.AF_UNIX && a.sock.stream && local.addr() == peer.addr() {
		return false, os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return true, a.sock.unblocked()
}

// Connect connects the socket to one address, as First does. Close ends it too.
// After a failure another address may be tried on Linux; other systems leave
// such a socket unusable.
func (s *Socket) Connect(to Addr, until Instant, stop *Stop) error {
	if err := s.hold(); err != nil {
		return err
	}
	defer s.release()
	s.connecting.Store(stop)
	defer s.connecting.Store(nil)
	if s.life.ended() {
		return net.ErrClosed // by a Close that came before the store and saw no stop
	}
	_, _, errs := First(1, 0, until, stop,
		func(int) (*Socket, Addr, error) { return s, to, nil },
		func(s *Socket) { s.unconnect() })
	switch {
	case errs == nil:
		return nil
	case s.life.ended():
		return net.ErrClosed
	}
	return errs[0]
}

// Discard throws away the datagrams that arrived before now: those which were
// queued when the socket had no peer yet and took anybody's. It stops at until,
// for a peer could send faster than it reads. If another goroutine is receiving,
// that one has been taking them.
func (s *Socket) Discard(until Instant) error {
	if ok, err := s.tryEnter(&s.rd); !ok {
		return err
	}
	defer s.leave(&s.rd)
	for {
		switch _, errno := s.sysRecv(nil, unix.MSG_DONTWAIT, false, nil); errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return nil
		default:
			return s.failure("recvfrom", errno)
		}
		if until.Left() <= 0 {
			return os.ErrDeadlineExceeded
		}
	}
}

// Bind gives the socket an address of its own; the zero Addr asks Linux for an
// abstract unix name that nobody else has (unix(7), autobind). made, if not nil,
// is called once that is done and gives what is to be called after close(2), to
// undo what binding left behind.
func (s *Socket) Bind(a Addr, made func() (undo func())) error {
	if err := s.hold(); err != nil {
		return err
	}
	defer s.release()
	var n name
	if err := n.set(s.domain, a); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if errno := s.sysBind(&n); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	if made != nil {
		s.undo = made()
	}
	return nil
}

// Local is the socket's own address, zero if it has none.
func (s *Socket) Local() Addr { return s.name(s.sysLocal) }

// Peer is the address the socket is connected to, zero if it is not.
func (s *Socket) Peer() Addr { return s.name(s.sysPeer) }

func (s *Socket) name(get func(*name) unix.Errno) Addr {
	if s.hold() != nil {
		return Addr{}
	}
	defer s.release()
	var n name
	if get(&n) != 0 {
		return Addr{}
	}
	return n.addr()
}
