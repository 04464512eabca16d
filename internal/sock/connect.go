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

// A Tried is an address and why there is no connection to it.
type Tried struct {
	Addr Addr
	Err  error
}

// Later hands addresses to a First that is under way. The owner closes it when First
// has returned.
type Later struct {
	// Take is called by First after a Notify, with the addresses that are waiting to be
	// tried. It gives those that wait from then on, and whether there may be others yet.
	Take func(waiting []Addr) (now []Addr, more bool)

	waker waker
}

// Notify has First call Take. It may come before, during or after.
func (l *Later) Notify() { l.waker.wake() }

// Close gives the descriptor back.
func (l *Later) Close() { l.waker.close() }

// notified reports whether Notify was called since it was asked before.
func (l *Later) notified() bool {
	if l == nil {
		return false
	}
	l.waker.mu.Lock()
	signaled := l.waker.signaled
	l.waker.mu.Unlock()
	if signaled {
		l.waker.drain()
	}
	return signaled
}

// First connects to the first address to answer. It starts with the first of addrs and
// goes on to the next when an attempt fails or delay has passed, as RFC 8305, section 5,
// has it, but sooner if each address is to have its chance before until. With a negative
// delay an attempt has to end before the next starts, and has an equal share of the
// time. All attempts wait in one ppoll(2) on the caller's thread. later, if not nil,
// brings more addresses; without any, First waits for them.
//
// open gives the socket of an attempt; one that does not win is handed to drop. First
// returns the winner and its address, or a nil Socket and each address's error:
// os.ErrDeadlineExceeded for those that were still waiting when until was over,
// ErrStopped when stop came.
func First(addrs []Addr, later *Later, delay time.Duration, until Instant, stop *Stop,
	open func(Addr) (*Socket, error), drop func(*Socket),
) (*Socket, Addr, []Tried) {
	r := race{waiting: addrs, later: later, delay: delay, until: until, stop: stop, open: open, drop: drop, began: Now()}
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
	waiting []Addr // in the order in which to start them
	later   *Later // nil: there will be no others
	delay   time.Duration
	until   Instant
	stop    *Stop
	open    func(Addr) (*Socket, error)
	drop    func(*Socket)

	nextAt  Instant // when to start another attempt beside those that run
	running []attempt
	winner  attempt // with a socket once there is one
	tried   []Tried // in the order in which they were started
	idle    pause
	began   Instant
}

type attempt struct {
	index int // in tried
	sock  *Socket
	to    Addr
	again bool // connect has to be called again
	early bool // poll said that the connect is through, and it was not
}

func (r *race) run() (*Socket, Addr, []Tried) {
	defer func() { // also if open panics, which runs the caller's code
		for _, a := range r.running {
			if a.sock != r.winner.sock {
				r.drop(a.sock)
			}
		}
	}()
	for {
		if r.later.notified() {
			r.take()
		}
		switch {
		case r.stop.Stopped():
			return nil, Addr{}, r.lost(ErrStopped)
		case r.until.Left() <= 0:
			return nil, Addr{}, r.lost(os.ErrDeadlineExceeded)
		case r.due():
			r.start()
		case len(r.running) == 0 && r.later == nil:
			return nil, Addr{}, r.tried
		default:
			if err := r.wait(); err != nil {
				return nil, Addr{}, r.lost(err)
			}
		}
		if r.winner.sock != nil {
			return r.winner.sock, r.winner.to, nil
		}
	}
}

// take asks for the addresses that have become known.
func (r *race) take() {
	more := false
	if r.waiting, more = r.later.Take(r.waiting); !more {
		r.later = nil
	}
	if r.delay < 0 && len(r.waiting) > 0 { // who runs has to share with them
		r.nextAt = Earlier(r.nextAt, r.until.Share(len(r.waiting)+1))
	}
}

// due reports whether another attempt is to be started now.
func (r *race) due() bool {
	return len(r.waiting) > 0 && (len(r.running) == 0 || r.nextAt.Left() <= 0)
}

func (r *race) start() {
	if r.delay < 0 {
		for len(r.running) > 0 {
			r.fail(0, os.ErrDeadlineExceeded)
		}
	}
	to := r.waiting[0]
	r.waiting = r.waiting[1:]
	i := len(r.tried)
	r.tried = append(r.tried, Tried{Addr: to})
	s, err := r.open(to)
	if err != nil {
		r.tried[i].Err = err
		return // and the next starts at once
	}
	if r.delay < 0 {
		r.nextAt = r.until.Share(len(r.waiting) + 1)
	} else {
		// So little that each of those that are left gets its chance within the limit.
		r.nextAt = In(min(r.delay, max(r.until.Left(), 0)/time.Duration(len(r.waiting)+2)))
	}
	r.running = append(r.running, attempt{index: i, sock: s, to: to})
	r.step(len(r.running)-1, (*attempt).connect)
}

// step takes a running attempt a step further, and out of the race if it fails.
func (r *race) step(i int, take func(*attempt) (through bool, err error)) {
	a := &r.running[i]
	through, err := take(a)
	switch {
	case err != nil:
		r.fail(i, err)
		r.nextAt = Now() // RFC 8305: a failure starts the next at once
	case through:
		r.winner = *a
	}
}

// fail takes a running attempt out of the race.
func (r *race) fail(i int, err error) {
	a := r.running[i]
	r.tried[a.index].Err = err
	r.running = slices.Delete(r.running, i, i+1)
	r.drop(a.sock)
}

// wait sleeps until an attempt may have come further, the next is due, addresses or the
// stop come or the limit is over, and takes those a step on that are ready. The
// oldest of several that are through wins.
func (r *race) wait() error {
	fds := make([]unix.PollFd, len(r.running), len(r.running)+2)
	left := r.until.Left()
	if len(r.waiting) > 0 {
		left = min(left, r.nextAt.Left())
	}
	for i, a := range r.running {
		fds[i] = unix.PollFd{Fd: int32(a.sock.fd), Events: unix.POLLOUT}
		if a.again || a.early {
			fds[i].Fd = -1 // poll(2) passes over it
			left = min(left, r.idle.next())
		}
	}
	watch := func(k *waker) {
		wake, err := k.pollFD()
		if err != nil { // no descriptor is left: look now and then
			wake, left = -1, min(left, longestPause)
		}
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	if r.stop != nil {
		watch(&r.stop.waker)
	}
	if r.later != nil {
		watch(&r.later.waker)
	}
	if errno := r.sleep(fds, max(left, 0)); errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("poll", errno)
	}
	for i := len(r.running) - 1; i >= 0; i-- { //nolint:modernize // step shortens what this goes over
		if fds[i].Fd < 0 || fds[i].Revents != 0 {
			r.step(i, (*attempt).proceed)
		}
	}
	return nil
}

// sleep polls on the thread, if it may be held. Otherwise a single attempt parks, and of
// several it looks at intervals: the next look is up to who calls.
func (r *race) sleep(fds []unix.PollFd, d time.Duration) unix.Errno {
	everybody.enter()
	if mayHold() {
		defer everybody.leave()
		_, errno := sleepPoll(fds, d)
		return errno
	}
	everybody.leave()
	n, errno := sleepPoll(fds, 0)
	if n != 0 || errno != 0 {
		return errno
	}
	if len(r.running) == 1 && r.later == nil && fds[0].Fd >= 0 && r.running[0].sock.parkers() {
		if r.stop.park(r.running[0].sock.wr.parker.Load(), d) {
			fds[0].Revents = unix.POLLOUT
		}
		return 0
	}
	r.stop.rest(min(d, interval(r.began)))
	return 0
}

// lost gives every address its error; err is for those that have none.
func (r *race) lost(err error) []Tried {
	for i := range r.tried {
		if r.tried[i].Err == nil {
			r.tried[i].Err = err
		}
	}
	for _, a := range r.waiting {
		r.tried = append(r.tried, Tried{a, notTried{err}})
	}
	return r.tried
}

// connect starts the attempt and reports whether it is through already.
func (a *attempt) connect() (through bool, err error) {
	var to name
	if err := to.set(a.sock, a.to); err != nil {
		return false, os.NewSyscallError("connect", err)
	}
	a.again = false
	switch errno := a.sock.sysConnect(&to); {
	case errno == 0:
		if a.sock.stream && a.sock.domain != unix.AF_UNIX {
			a.sock.state.Or(deferred) // or it is through; what the first receive then sends is nothing
		}
		return true, a.succeed(a.sock.peerOr(a.to))
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
		return true, a.succeed(peer.addr(a.sock))
	case unix.ENOTCONN:
		a.early = true
		return false, nil
	default:
		return false, a.sock.failure("getpeername", errno)
	}
}

// peerOr is whom an IP socket is connected to, which need not be whom connect(2) was
// asked for: the unspecified address is this machine. It is asked where there is nobody
// to name yet (TCP_FASTOPEN_CONNECT) or any more.
func (s *Socket) peerOr(asked Addr) Addr {
	var peer name
	if s.domain == unix.AF_UNIX || s.sysPeer(&peer) != 0 {
		return asked
	}
	return peer.addr(s)
}

// succeed notes both addresses, while they are what they were.
func (a *attempt) succeed(peer Addr) error {
	var local name
	if errno := a.sock.sysLocal(&local); errno != 0 {
		return a.sock.failure("getsockname", errno)
	}
	a.sock.local, a.sock.peer = local.addr(a.sock), peer
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
	_, _, tried := First([]Addr{to}, nil, 0, until, stop,
		func(Addr) (*Socket, error) { return s, nil },
		func(s *Socket) { s.unconnect() })
	switch {
	case tried == nil:
		return nil
	case s.life.ended():
		return net.ErrClosed
	}
	return tried[0].Err
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
		s.forgetTrain() // one takes the place of one datagram in the queue
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
	if err := n.set(s, a); err != nil {
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
	return n.addr(s)
}
