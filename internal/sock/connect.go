package sock

import (
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrStopped is the error of a connect that a Stop has ended, and of calls on a socket
// that was stopped.
var ErrStopped = errors.New("stopped")

// A notTried is why an attempt never began. It is a timeout if its cause is:
// net.OpError asks the error itself, and not what that wraps.
type notTried struct{ error }

func (e notTried) Error() string   { return "not tried: " + e.error.Error() }
func (e notTried) Unwrap() error   { return e.error }
func (e notTried) Timeout() bool   { return errors.Is(e.error, os.ErrDeadlineExceeded) }
func (e notTried) Temporary() bool { return e.Timeout() }

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
//	open ──▶ connect ──────────────────────────▶ through
//	          │   │ EINPROGRESS                     ▲
//	          │   └──────────▶ poll writable ──▶ SO_ERROR ──▶ failed
//	          │ unix, EAGAIN: the backlog is full
//	          └──▶ pause ──▶ connect again
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
	winner  attempt // with a socket once there is one
	errs    []error
	idle    pause
}

type attempt struct {
	index int
	sock  *Socket
	to    Addr
	again bool // connect has to be called again
	early bool // poll said that the connect is through, and it was not
}

func (r *race) run() (winner int, s *Socket, errs []error) {
	winner = -1
	defer func() { // also if open panics, which runs the caller's code
		for _, a := range r.running {
			if a.index != winner {
				r.drop(a.sock)
			}
		}
	}()
	for {
		switch {
		case r.stop.Stopped():
			return -1, nil, r.lost(ErrStopped)
		case r.until.Left() <= 0:
			return -1, nil, r.lost(os.ErrDeadlineExceeded)
		case r.due():
			r.start()
		case len(r.running) == 0:
			return -1, nil, r.errs
		default:
			if err := r.wait(); err != nil {
				return -1, nil, r.lost(err)
			}
		}
		if r.winner.sock != nil {
			return r.winner.index, r.winner.sock, nil
		}
	}
}

// due reports whether another attempt is to be started now.
func (r *race) due() bool {
	return r.next < r.n && (len(r.running) == 0 || r.nextAt.Left() <= 0)
}

func (r *race) start() {
	i := r.next
	r.next++
	s, addr, err := r.open(i)
	if err != nil {
		r.errs[i] = err
		return // and the next starts at once
	}
	r.nextAt = In(r.delay)
	r.running = append(r.running, attempt{index: i, sock: s, to: addr})
	r.step(len(r.running)-1, (*attempt).connect)
}

// step takes a running attempt a step further, and out of the race if it fails.
func (r *race) step(i int, take func(*attempt) (through bool, err error)) {
	a := &r.running[i]
	through, err := take(a)
	switch {
	case err != nil:
		r.errs[a.index] = err
		r.drop(a.sock)
		r.running = slices.Delete(r.running, i, i+1)
		r.nextAt = Now() // RFC 8305: a failure starts the next at once
	case through:
		r.winner = *a
	}
}

// wait sleeps until an attempt may have come further, the next is due, the stop
// comes or the limit is over, and takes those a step on that are ready. The
// oldest of several that are through wins.
func (r *race) wait() error {
	fds := make([]unix.PollFd, len(r.running), len(r.running)+1)
	left := r.until.Left()
	if r.next < r.n {
		left = min(left, r.nextAt.Left())
	}
	for i, a := range r.running {
		fds[i] = unix.PollFd{Fd: int32(a.sock.fd), Events: unix.POLLOUT}
		if a.again || a.early {
			fds[i].Fd = -1 // poll(2) passes over it
			left = min(left, r.idle.next())
		}
	}
	if r.stop != nil {
		wake, err := r.stop.waker.pollFD()
		if err != nil { // no descriptor is left: look now and then
			wake, left = -1, min(left, longestPause)
		}
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	if _, errno := sleepPoll(fds, max(left, 0)); errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("poll", errno)
	}
	for i := len(r.running) - 1; i >= 0; i-- { //nolint:modernize // step shortens what this goes over
		if fds[i].Fd < 0 || fds[i].Revents != 0 {
			r.step(i, (*attempt).proceed)
		}
	}
	return nil
}

// lost gives every attempt its error; err is for those that have none.
func (r *race) lost(err error) []error {
	for i := range r.errs {
		switch {
		case r.errs[i] != nil:
		case i >= r.next:
			r.errs[i] = notTried{err}
		default:
			r.errs[i] = err
		}
	}
	return r.errs
}

// connect starts the attempt and reports whether it is through already.
func (a *attempt) connect() (through bool, err error) {
	var to name
	if err := to.set(a.sock.domain, a.to); err != nil {
		return false, os.NewSyscallError("connect", err)
	}
	a.again = false
	switch errno := a.sock.sysConnect(&to); {
	case errno == 0:
		if a.sock.stream && a.sock.domain != unix.AF_UNIX {
			a.sock.state.Or(deferred) // or it is through; what the first receive then sends is nothing
		}
		return true, a.succeed(a.to)
	case a.sock.domain == unix.AF_UNIX && (errno == unix.EAGAIN || errno == unix.EINTR):
		a.again = true
		return false, nil
	case errno == unix.EINPROGRESS || errno == unix.EINTR:
		return false, nil
	default:
		return false, a.sock.failure("connect", errno)
	}
}

// proceed is called when the attempt may have come further.
func (a *attempt) proceed() (through bool, err error) {
	if a.sock.life.isOver() {
		return false, a.sock.ended()
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
	var peer name
	switch errno := a.sock.sysPeer(&peer); errno {
	case 0:
		return true, a.succeed(peer.addr())
	case unix.ENOTCONN:
		a.early = true
		return false, nil
	default:
		return false, a.sock.failure("getpeername", errno)
	}
}

// succeed notes both addresses, while they are what they were.
func (a *attempt) succeed(peer Addr) error {
	var local name
	if errno := a.sock.sysLocal(&local); errno != 0 {
		return a.sock.failure("getsockname", errno)
	}
	a.sock.local, a.sock.peer = local.addr(), peer
	a.sock.lost.Store(0) // an earlier attempt's
	// TCP may pick the very port that it is told to connect to, where nobody
	// listens, and then meets itself (RFC 9293, 3.5, simultaneous open).
	if a.sock.stream && a.sock.domain != unix.AF_UNIX && a.sock.local == peer {
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return a.sock.unblocked()
}

// Connect connects the socket to one address, as First does. Close ends it too.
// After a failure another address may be tried on Linux; other systems leave
// such a socket unusable.
func (s *Socket) Connect(to Addr, until Instant, stop *Stop) error {
	if err := s.hold(); err != nil {
		return err
	}
	defer s.release()
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

// Ends gives the socket's own and its peer's address as they were when it
// connected. It is for who connected it; others ask for Local.
func (s *Socket) Ends() (local, peer Addr) { return s.local, s.peer }

// Discard throws away the datagrams that were queued when the socket had no
// peer yet and took anybody's. It reads no more of them than the queue can have
// held by then: what is left after that is the peer's. If another goroutine is
// receiving, that one has been taking them.
func (s *Socket) Discard() {
	if ok, _ := s.tryEnter(&s.rd); !ok {
		return
	}
	defer s.leave(&s.rd)
	const least = 256 // bytes of the receive buffer that a datagram takes, an empty one too
	room, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return
	}
	for range room/least + 1 {
		if _, errno := s.sysRecv(nil, unix.MSG_DONTWAIT, false, nil); errno != 0 && errno != unix.EINTR {
			return
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
func (s *Socket) Local() Addr {
	if s.hold() != nil {
		return Addr{}
	}
	defer s.release()
	var n name
	if s.sysLocal(&n) != 0 {
		return Addr{}
	}
	return n.addr()
}
