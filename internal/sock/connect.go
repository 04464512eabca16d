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

// A notAttempted is why an attempt never began. It is a timeout if its cause is:
// net.OpError asks the error itself, and not what that wraps.
type notAttempted struct{ error }

func (e notAttempted) Error() string   { return "not tried: " + e.error.Error() }
func (e notAttempted) Unwrap() error   { return e.error }
func (e notAttempted) Timeout() bool   { return errors.Is(e.error, os.ErrDeadlineExceeded) }
func (e notAttempted) Temporary() bool { return e.Timeout() }

// A AttemptResult is an address and why there is no connection to it.
type AttemptResult struct {
	Addr Addr
	Err  error
}

// MoreAddrs hands addresses to a First that is under way. The owner closes it when First
// has returned.
type MoreAddrs struct {
	// Update is called by First after a Notify, with the addresses that are waiting to be
	// tried. It gives those that wait from then on, and whether there may be others yet.
	Update func(waiting []Addr) (now []Addr, more bool)

	fdWaker fdWaker
}

// Notify has First call Take. It may come before, during or after.
func (l *MoreAddrs) Notify() { l.fdWaker.wake() }

// Close gives the descriptor back.
func (l *MoreAddrs) Close() { l.fdWaker.close() }

// takeNotification reports whether Notify was called since it was asked before.
func (l *MoreAddrs) takeNotification() bool {
	if l == nil {
		return false
	}
	l.fdWaker.mu.Lock()
	signaled := l.fdWaker.signaled
	l.fdWaker.mu.Unlock()
	if signaled {
		l.fdWaker.drain()
	}
	return signaled
}

// DialParallel connects to the first address to answer. It starts with the first of addrs and
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
func DialParallel(addrs []Addr, more *MoreAddrs, delay time.Duration, until Instant, stop *Stopper,
	open func(Addr) (*Socket, error), drop func(*Socket),
) (*Socket, Addr, []AttemptResult) {
	p := parallelDial{waiting: addrs, more: more, delay: delay, until: until, stop: stop, open: open, drop: drop, began: Now()}
	return p.run()
}

// A parallelDial is one call of First.
//
//	open ──▶ connect ──────────────────────────▶ through
//	          │   │ EINPROGRESS                     ▲
//	          │   └──────────▶ poll writable ──▶ SO_ERROR ──▶ failed
//	          │ unix, EAGAIN: the backlog is full
//	          └──▶ pause ──▶ connect again
type parallelDial struct {
	waiting []Addr     // in the order in which to start them
	more    *MoreAddrs // nil: there will be no others
	delay   time.Duration
	until   Instant
	stop    *Stopper
	open    func(Addr) (*Socket, error)
	drop    func(*Socket)

	nextAt  Instant // when to start another attempt beside those that run
	running []attempt
	winner  attempt         // with a socket once there is one
	results []AttemptResult // in the order in which they were started
	retry   backoff
	began   Instant
}

type attempt struct {
	resultIndex   int // in tried
	socket        *Socket
	to            Addr
	connectAgain  bool // connect has to be called again
	writableEarly bool // poll said that the connect is through, and it was not
}

func (p *parallelDial) run() (*Socket, Addr, []AttemptResult) {
	defer func() { // also if open panics, which runs the caller's code
		for _, a := range p.running {
			if a.socket != p.winner.socket {
				p.drop(a.socket)
			}
		}
	}()
	for {
		if p.more.takeNotification() {
			p.takeMore()
		}
		switch {
		case p.stop.Stopped():
			return nil, Addr{}, p.failures(ErrStopped)
		case p.until.Left() <= 0:
			return nil, Addr{}, p.failures(os.ErrDeadlineExceeded)
		case p.due():
			p.start()
		case len(p.running) == 0 && p.more == nil:
			return nil, Addr{}, p.results
		default:
			if err := p.wait(); err != nil {
				return nil, Addr{}, p.failures(err)
			}
		}
		if p.winner.socket != nil {
			return p.winner.socket, p.winner.to, nil
		}
	}
}

// takeMore asks for the addresses that have become known.
func (p *parallelDial) takeMore() {
	mayFollow := false
	if p.waiting, mayFollow = p.more.Update(p.waiting); !mayFollow {
		p.more = nil
	}
	if p.delay < 0 && len(p.waiting) > 0 { // who runs has to share with them
		p.nextAt = Earlier(p.nextAt, p.until.Partial(len(p.waiting)+1))
	}
}

// due reports whether another attempt is to be started now.
func (p *parallelDial) due() bool {
	return len(p.waiting) > 0 && (len(p.running) == 0 || p.nextAt.Left() <= 0)
}

func (p *parallelDial) start() {
	if p.delay < 0 {
		for len(p.running) > 0 {
			p.fail(0, os.ErrDeadlineExceeded)
		}
	}
	to := p.waiting[0]
	p.waiting = p.waiting[1:]
	i := len(p.results)
	p.results = append(p.results, AttemptResult{Addr: to})
	s, err := p.open(to)
	if err != nil {
		p.results[i].Err = err
		return // and the next starts at once
	}
	if p.delay < 0 {
		p.nextAt = p.until.Partial(len(p.waiting) + 1)
	} else {
		// So little that each of those that are left gets its chance within the limit.
		p.nextAt = In(min(p.delay, max(p.until.Left(), 0)/time.Duration(len(p.waiting)+2)))
	}
	p.running = append(p.running, attempt{resultIndex: i, socket: s, to: to})
	p.advance(len(p.running)-1, (*attempt).connect)
}

// advance takes a running attempt a step further, and out of the race if it fails.
func (p *parallelDial) advance(i int, step func(*attempt) (connected bool, err error)) {
	a := &p.running[i]
	connected, err := step(a)
	switch {
	case err != nil:
		p.fail(i, err)
		p.nextAt = Now() // RFC 8305: a failure starts the next at once
	case connected:
		p.winner = *a
	}
}

// fail takes a running attempt out of the race.
func (p *parallelDial) fail(i int, err error) {
	a := p.running[i]
	p.results[a.resultIndex].Err = err
	p.running = slices.Delete(p.running, i, i+1)
	p.drop(a.socket)
}

// wait sleeps until an attempt may have come further, the next is due, addresses or the
// stop come or the limit is over, and takes those a step on that are ready. The
// oldest of several that are through wins.
func (p *parallelDial) wait() error {
	fds := make([]unix.PollFd, len(p.running), len(p.running)+2)
	left := p.until.Left()
	if len(p.waiting) > 0 {
		left = min(left, p.nextAt.Left())
	}
	for i, a := range p.running {
		fds[i] = unix.PollFd{Fd: int32(a.socket.fd), Events: unix.POLLOUT}
		if a.connectAgain || a.writableEarly {
			fds[i].Fd = -1 // poll(2) passes over it
			left = min(left, p.retry.next())
		}
	}
	addWaker := func(k *fdWaker) {
		wake, err := k.pollFD()
		if err != nil { // no descriptor is left: look now and then
			wake, left = -1, min(left, maxBackoff)
		}
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	if p.stop != nil {
		addWaker(&p.stop.fdWaker)
	}
	if p.more != nil {
		addWaker(&p.more.fdWaker)
	}
	if errno := p.pollWait(fds, max(left, 0)); errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("poll", errno)
	}
	for i := len(p.running) - 1; i >= 0; i-- { //nolint:modernize // step shortens what this goes over
		if fds[i].Fd < 0 || fds[i].Revents != 0 {
			p.advance(i, (*attempt).checkConnect)
		}
	}
	return nil
}

// pollWait polls on the thread, if it may be held. Otherwise a single attempt parks, and of
// several it looks at intervals: the next look is up to who calls.
func (p *parallelDial) pollWait(fds []unix.PollFd, d time.Duration) unix.Errno {
	if waits.takeThread() {
		defer waits.giveThread()
		_, errno := sleepPoll(fds, d)
		return errno
	}
	n, errno := pollNow(fds)
	if n != 0 || errno != 0 {
		return errno
	}
	if len(p.running) == 1 && p.more == nil && fds[0].Fd >= 0 && p.running[0].socket.attachNetpoll() {
		if p.stop.park(p.running[0].socket.wr.netpollWaker.Load(), d) {
			fds[0].Revents = unix.POLLOUT
		}
		return 0
	}
	p.stop.wait(min(d, pollInterval(p.began)))
	return 0
}

// failures gives every address its error; err is for those that have none.
func (p *parallelDial) failures(err error) []AttemptResult {
	for i := range p.results {
		if p.results[i].Err == nil {
			p.results[i].Err = err
		}
	}
	for _, a := range p.waiting {
		p.results = append(p.results, AttemptResult{a, notAttempted{err}})
	}
	return p.results
}

// connect starts the attempt and reports whether it is through already.
func (a *attempt) connect() (done bool, err error) {
	var to rawSockaddr
	if err := to.set(a.socket, a.to); err != nil {
		return false, os.NewSyscallError("connect", err)
	}
	a.connectAgain = false
	switch errno := a.socket.sysConnect(&to); {
	case errno == 0:
		if a.socket.stream && a.socket.domain != unix.AF_UNIX {
			a.socket.state.Or(connectDeferred) // or it is through; what the first receive then sends is nothing
		}
		return true, a.connected(a.socket.peerOrElse(a.to))
	case a.socket.domain == unix.AF_UNIX && (errno == unix.EAGAIN || errno == unix.EINTR):
		a.connectAgain = true
		return false, nil
	case errno == unix.EINPROGRESS || errno == unix.EINTR:
		return false, nil
	default:
		return false, a.socket.syscallErr("connect", errno)
	}
}

// checkConnect is called when the attempt may have come further.
func (a *attempt) checkConnect() (done bool, err error) {
	if a.socket.life.isOver() {
		return false, a.socket.closedErr()
	}
	if a.connectAgain {
		return a.connect()
	}
	soError, err := unix.GetsockoptInt(a.socket.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, os.NewSyscallError("getsockopt", err)
	}
	if soError != 0 {
		return false, a.socket.syscallErr("connect", unix.Errno(soError))
	}
	var peer rawSockaddr
	switch errno := a.socket.sysPeer(&peer); errno {
	case 0:
		return true, a.connected(peer.addr(a.socket))
	case unix.ENOTCONN:
		a.writableEarly = true
		return false, nil
	default:
		return false, a.socket.syscallErr("getpeername", errno)
	}
}

// peerOrElse is whom an IP socket is connected to, which need not be whom connect(2) was
// asked for: the unspecified address is this machine. It is asked where there is nobody
// to name yet (TCP_FASTOPEN_CONNECT) or any more.
func (s *Socket) peerOrElse(asked Addr) Addr {
	var peer rawSockaddr
	if s.domain == unix.AF_UNIX || s.sysPeer(&peer) != 0 {
		return asked
	}
	return peer.addr(s)
}

// connected notes both addresses, while they are what they were.
func (a *attempt) connected(peer Addr) error {
	var local rawSockaddr
	if errno := a.socket.sysLocal(&local); errno != 0 {
		return a.socket.syscallErr("getsockname", errno)
	}
	a.socket.localAddr, a.socket.peerAddr = local.addr(a.socket), peer
	a.socket.streamErr.Store(0) // an earlier attempt's
	// TCP may pick the very port that it is told to connect to, where nobody
	// listens, and then meets itself (RFC 9293, 3.5, simultaneous open).
	if a.socket.stream && a.socket.domain != unix.AF_UNIX && a.socket.localAddr == peer {
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return a.socket.setBlocking()
}

// Connect connects the socket to one address, as First does. Close ends it too.
// After a failure another address may be tried on Linux; other systems leave
// such a socket unusable.
func (s *Socket) Connect(to Addr, until Instant, stop *Stopper) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	_, _, results := DialParallel([]Addr{to}, nil, 0, until, stop,
		func(Addr) (*Socket, error) { return s, nil },
		func(s *Socket) { s.disconnect() })
	switch {
	case results == nil:
		return nil
	case s.life.ended():
		return net.ErrClosed
	}
	return results[0].Err
}

// Addrs gives the socket's own and its peer's address as they were when it
// connected. It is for who connected it; others ask for Local.
func (s *Socket) Addrs() (local, peer Addr) { return s.localAddr, s.peerAddr }

// DiscardQueued throws away the datagrams that were queued when the socket had no
// peer yet and took anybody's. It reads no more of them than the queue can have
// held by then: what is left after that is the peer's. If another goroutine is
// receiving, that one has been taking them.
func (s *Socket) DiscardQueued() {
	if ok, _ := s.tryLock(&s.rd); !ok {
		return
	}
	defer s.unlock(&s.rd)
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
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	var n rawSockaddr
	if err := n.set(s, a); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if errno := s.sysBind(&n); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	if made != nil {
		s.onClose = made()
	}
	return nil
}

// Local is the socket's own address, zero if it has none.
func (s *Socket) Local() Addr {
	if s.incref() != nil {
		return Addr{}
	}
	defer s.decref()
	var n rawSockaddr
	if s.sysLocal(&n) != 0 {
		return Addr{}
	}
	return n.addr(s)
}
