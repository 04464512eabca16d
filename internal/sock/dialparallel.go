package sock

import (
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A notAttempted is the error of an address that was never tried. Its Timeout is that of
// its cause: net.OpError asks the error it contains, and not what that one wraps.
type notAttempted struct{ error }

func (e notAttempted) Error() string   { return "not tried: " + e.error.Error() }
func (e notAttempted) Unwrap() error   { return e.error }
func (e notAttempted) Timeout() bool   { return errors.Is(e.error, os.ErrDeadlineExceeded) }
func (e notAttempted) Temporary() bool { return e.Timeout() }

// An AttemptResult is an address and the error of the attempt to connect to it.
type AttemptResult struct {
	Addr Addr
	Err  error
}

// A MoreAddrs adds addresses to a running DialParallel. The owner closes it when
// DialParallel has returned.
type MoreAddrs struct {
	// DialParallel calls Update after a Notify, with the addresses that it has not tried
	// yet. Update returns the addresses to try from then on, and whether more may follow.
	Update func(waiting []Addr) (now []Addr, more bool)

	fdWaker fdWaker
}

// Notify makes DialParallel call Update. It may be called before, during or after it.
func (l *MoreAddrs) Notify() { l.fdWaker.wake() }

// Close closes the descriptor.
func (l *MoreAddrs) Close() { l.fdWaker.close() }

// takeNotification reports whether Notify was called since the last takeNotification.
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

// DialParallel connects to the address that answers first. It tries the first of addrs,
// and then the next when an attempt fails or delay has passed (RFC 8305, section 5). It
// does so earlier if the limit would not leave time for each address. With a negative
// delay there is one attempt at a time, and each has an equal share of the time left.
// All attempts wait in one ppoll(2) on the caller's thread. If more is not nil, it adds
// addresses, and DialParallel waits for them while it has none to try.
//
// open creates the socket of an attempt. DialParallel passes the sockets that are not
// used to drop, with the error of the attempt, or nil if the attempt is not needed any
// more. It returns the connected socket and its address, or a nil Socket and the error of
// each address: os.ErrDeadlineExceeded for an attempt that was running when until was
// over, ErrStopped after Stop.
func DialParallel(addrs []Addr, more *MoreAddrs, delay time.Duration, until Instant, stop *Stopper,
	open func(Addr) (*Socket, error), drop func(*Socket, Addr, error),
) (*Socket, Addr, []AttemptResult) {
	p := parallelDial{waiting: addrs, more: more, delay: delay, until: until, stop: stop, open: open, drop: drop, began: Now()}
	return p.run()
}

// A parallelDial is one call of DialParallel. Each attempt goes through these states:
//
//	open ──▶ connect ──────────────────────────▶ connected
//	          │   │ EINPROGRESS                     ▲
//	          │   └──────────▶ poll writable ──▶ SO_ERROR ──▶ failed
//	          │ unix, EAGAIN: the backlog is full
//	          └──▶ backoff ──▶ connect again
type parallelDial struct {
	waiting []Addr     // not tried yet, in the order to try them
	more    *MoreAddrs // nil if no address follows
	delay   time.Duration
	until   Instant
	stop    *Stopper
	open    func(Addr) (*Socket, error)
	drop    func(*Socket, Addr, error)

	nextAt  Instant // when to start the next attempt beside the running ones
	running []attempt
	winner  attempt         // has a socket once an attempt is connected
	results []AttemptResult // in the order in which the attempts were started
	retry   backoff
	began   Instant
}

type attempt struct {
	resultIndex   int // in results
	socket        *Socket
	to            Addr
	connectAgain  bool // connect(2) has to be called again
	writableEarly bool // poll(2) reported POLLOUT before the socket was connected
}

func (p *parallelDial) run() (*Socket, Addr, []AttemptResult) {
	returned := false
	defer func() { // also if open or drop, which run the user's code, panics
		for _, a := range p.running {
			if a.socket != p.winner.socket || !returned {
				defer p.drop(a.socket, a.to, p.results[a.resultIndex].Err)
			}
		}
	}()
	s, to, results := p.connect()
	returned = true
	return s, to, results
}

func (p *parallelDial) connect() (*Socket, Addr, []AttemptResult) {
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

// takeMore calls Update.
func (p *parallelDial) takeMore() {
	mayFollow := false
	if p.waiting, mayFollow = p.more.Update(p.waiting); !mayFollow {
		p.more = nil
	}
	if p.delay < 0 && len(p.waiting) > 0 { // the running attempt shares its time with them
		p.nextAt = Earlier(p.nextAt, p.until.Partial(len(p.waiting)+1))
	}
}

// due reports whether to start the next attempt now.
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
		return // the next attempt starts at once
	}
	if p.delay < 0 {
		p.nextAt = p.until.Partial(len(p.waiting) + 1)
	} else {
		// Every address that is left has to be tried within the limit.
		p.nextAt = In(min(p.delay, max(p.until.Left(), 0)/time.Duration(len(p.waiting)+2)))
	}
	p.running = append(p.running, attempt{resultIndex: i, socket: s, to: to})
	p.advance(len(p.running)-1, (*attempt).connect)
}

// advance runs the next step of a running attempt, and removes the attempt if it fails.
func (p *parallelDial) advance(i int, step func(*attempt) (connected bool, err error)) {
	a := &p.running[i]
	connected, err := step(a)
	switch {
	case err != nil:
		p.fail(i, err)
		p.nextAt = Now() // RFC 8305: after a failure the next attempt starts at once
	case connected:
		p.winner = *a
	}
}

// fail removes a running attempt.
func (p *parallelDial) fail(i int, err error) {
	a := p.running[i]
	p.results[a.resultIndex].Err = err
	p.running = slices.Delete(p.running, i, i+1)
	p.drop(a.socket, a.to, err)
}

// wait waits until an attempt may have made progress, the next one is due, addresses
// were added, the dial was stopped or the limit is over. It advances the attempts that
// are ready. If several are connected, the one that started first wins.
func (p *parallelDial) wait() error {
	fds := make([]unix.PollFd, len(p.running), len(p.running)+2)
	left := p.until.Left()
	if len(p.waiting) > 0 {
		left = min(left, p.nextAt.Left())
	}
	for i, a := range p.running {
		fds[i] = unix.PollFd{Fd: int32(a.socket.fd), Events: unix.POLLOUT}
		if a.connectAgain || a.writableEarly {
			fds[i].Fd = -1 // poll(2) ignores it
			left = min(left, p.retry.next())
		}
	}
	if errno := p.pollWait(fds, max(left, 0)); errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("poll", errno)
	}
	for i := len(p.running) - 1; i >= 0; i-- { //nolint:modernize // advance shortens p.running
		if fds[i].Fd < 0 || fds[i].Revents != 0 {
			p.advance(i, (*attempt).checkConnect)
		}
	}
	return nil
}

// pollWait polls on the thread if the call may hold it. Otherwise, and once it has held its
// thread for longestHold, a single attempt parks. Several attempts are polled once after an
// interval, and the caller calls again.
func (p *parallelDial) pollWait(fds []unix.PollFd, d time.Duration) unix.Errno {
	single, hold := len(p.running) == 1 && p.more == nil && fds[0].Fd >= 0, d
	if single {
		hold = min(d, p.began.Add(longestHold).Left())
	}
	if len(p.running) > 0 && p.running[0].socket.alwaysParks.Load() {
		hold = 0
	}
	if hold > 0 && waits.takeThread() {
		defer waits.giveThread()
		fds, hold = p.addWakers(fds, hold)
		_, errno := sleepPoll(fds, hold)
		return errno
	}
	n, errno := pollNow(fds)
	if n != 0 || errno != 0 {
		return errno
	}
	if single && p.running[0].socket.attachNetpoll(&p.running[0].socket.wr) {
		k, to := p.running[0].socket.wr.netpollWaker.Load(), p.running[0].to
		k.dialing.Store(&to)
		k.began.Store(int64(p.began))
		defer k.dialing.Store(nil)
		defer k.began.Store(int64(Never))
		if p.stop.park(k, d) {
			fds[0].Revents = unix.POLLOUT
		}
		return 0
	}
	p.stop.wait(min(d, pollInterval(p.began)))
	return 0
}

// addWakers adds the descriptors that end a poll, and returns how long the poll may take.
func (p *parallelDial) addWakers(fds []unix.PollFd, d time.Duration) ([]unix.PollFd, time.Duration) {
	add := func(k *fdWaker) {
		wake, err := k.pollFD()
		if err != nil { // the process has no descriptor left: poll at intervals
			wake, d = -1, min(d, maxBackoff)
		}
		fds = append(fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	}
	if p.stop != nil {
		add(&p.stop.fdWaker)
	}
	if p.more != nil {
		add(&p.more.fdWaker)
	}
	return fds, d
}

// failures returns an error for every address; err is for those that have none.
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

// connect starts the attempt. done reports that it is connected already.
func (a *attempt) connect() (done bool, err error) {
	var to rawSockaddr
	if err := to.set(a.socket, a.to); err != nil {
		return false, os.NewSyscallError("connect", err)
	}
	a.connectAgain = false
	if a.socket.unconnected {
		dest := to
		a.socket.dest = &dest
		return true, a.connected(a.to)
	}
	switch errno := a.socket.connectOnce(&to); {
	case errno == 0:
		if a.socket.stream && a.socket.domain != unix.AF_UNIX {
			a.socket.state.Or(connectDeferred) // it may be connected: startHandshake sends nothing then
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

// connectsAtOnce bounds the connect(2) calls of dials that hold no thread. To a server on the
// same machine connect(2) takes long, because it does the server's part of the handshake too,
// and the kernel then often gives the CPU to the server. The Go runtime meanwhile starts
// another thread in its place, so thousands of dials at once would have hundreds of them.
const connectsAtOnce = 4

// longestConnect is how long a connect(2) counts. A longer one sleeps: the name of a unix socket
// may be on a file system that does not answer. It must not keep the others from connecting.
const longestConnect = 10 * time.Millisecond

var connects = make(chan struct{}, connectsAtOnce)

func (s *Socket) connectOnce(to *rawSockaddr) unix.Errno {
	if s.alwaysParks.Load() {
		defer enterConnect()()
	}
	return s.sysConnect(to)
}

// enterConnect waits until fewer than connectsAtOnce calls count.
func enterConnect() (leave func()) {
	connects <- struct{}{}
	timer := time.AfterFunc(longestConnect, func() { <-connects })
	return func() {
		if timer.Stop() {
			<-connects
		}
	}
}

// checkConnect is called when the attempt may have made progress.
func (a *attempt) checkConnect() (done bool, err error) {
	if a.socket.refs.Ending() {
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

// connected stores both addresses, which may change later.
func (a *attempt) connected(peer Addr) error {
	var local rawSockaddr
	if errno := a.socket.sysLocal(&local); errno != 0 {
		return a.socket.syscallErr("getsockname", errno)
	}
	a.socket.localAddr, a.socket.peerAddr = local.addr(a.socket), peer
	a.socket.streamErr.Store(0) // of an earlier attempt
	// If nothing listens on a local port, TCP may choose the same port for this end and
	// connect the socket to itself (RFC 9293, 3.5, simultaneous open).
	if a.socket.stream && a.socket.domain != unix.AF_UNIX && a.socket.localAddr == peer {
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return a.socket.setBlocking()
}
