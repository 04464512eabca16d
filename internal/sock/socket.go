package sock

import (
	"errors"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Socket is a socket's file descriptor, with the state that waiting and closing need.
// Its methods may be called from several goroutines.
type Socket struct {
	fd     int
	domain int // AF_INET, AF_INET6 or AF_UNIX
	stream bool
	icmp   bool // SetICMPErrors: the kernel queues ICMP errors
	shared bool // FromFD: the socket has other owners
	dual   bool // an IPv6 socket of another program's that also uses IPv4
	dgrams datagrams

	unconnected bool         // SetUnconnected
	dest        *rawSockaddr // of what is sent without an address; nil: the peer

	refs     Refcount
	fdClosed atomic.Bool // close(2) has returned, see CloseWait
	rd, wr   direction

	// polled is true once a deadline was set or the descriptor became non-blocking for
	// good. From then on no call waits inside recvfrom(2).
	polled      atomic.Bool
	asConn      atomic.Bool  // the last receive was a Read: a driver uses the socket as a net.Conn
	alwaysParks atomic.Bool  // see AlwaysPark
	rcvTimeout  atomic.Int64 // the time.Duration in SO_RCVTIMEO, or unknownTimeout
	lentTimeout atomic.Int64 // SO_RCVTIMEO when other code got the descriptor, if it was this package's

	streamErr atomic.Uint32 // the unix.Errno that ended the stream; see recordErr
	state     atomic.Uint32 // connectDeferred, handshaking, readClosing, …
	unread    atomic.Int64  // bytes still to be received after Shutdown(SHUT_RD)

	mu          sync.Mutex
	file        *os.File // owns the descriptor once a call has parked
	nonblocking bool     // the descriptor is non-blocking for good
	unpollable  bool     // the runtime's poller does not take the file
	polls       []*Poll  // the Polls that wait for this socket
	stops       int      // calls of Stop without a Resume

	localAddr, peerAddr Addr   // set by a successful connect, before it returns
	onClose             func() // called after close(2); set by a call that holds a reference
}

// unknownTimeout says that other code may have set SO_RCVTIMEO.
const unknownTimeout = math.MinInt64

// Open creates a socket. domain is unix.AF_INET, AF_INET6 or AF_UNIX, typ is
// unix.SOCK_STREAM or SOCK_DGRAM, protocol 0 is the default one. The descriptor is
// close-on-exec, and writing to it does not raise SIGPIPE.
func Open(domain, typ, protocol int) (*Socket, error) {
	fd, err := sysSocket(domain, typ, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := newSocket(fd, domain, typ == unix.SOCK_STREAM)
	if domain == unix.AF_INET6 {
		// The default differs between systems. With the option set, an IPv6 socket
		// uses IPv6 only on all of them (RFC 3493, 5.3).
		if err := s.SetInt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}

func newSocket(fd, domain int, stream bool) *Socket {
	s := &Socket{fd: fd, domain: domain, stream: stream}
	// An unreachable socket is closed, as in package net (net/fd_posix.go): drivers rely
	// on it. A socket is reachable while a call on it runs.
	runtime.SetFinalizer(s, (*Socket).finalize)
	s.rd.init(recvLocked)
	s.wr.init(sendLocked)
	s.polled.Store(alwaysPolled)
	s.invalidateTimeout()
	return s
}

// Finalized counts the sockets that the garbage collector closed. It is for tests: this
// library has to close its own sockets.
var Finalized atomic.Int64

func (s *Socket) finalize() {
	if s.Close() == nil {
		Finalized.Add(1)
	}
}

// Finalize closes a socket whose owner is unreachable, as the finalizer closes an
// unreachable socket. It is for an owner whose goroutine still refers to the socket.
func (s *Socket) Finalize() { s.finalize() }

// Closed reports whether Close was called.
func (s *Socket) Closed() bool { return s.refs.Closed() }

// Close makes every call on the socket, and every later one, return net.ErrClosed. It
// does not wait for them: the last call to return closes the descriptor. It does not
// act on the connection, which another process may share (dup(2), fork(2)): what the
// peer sees depends on close(2) and SO_LINGER.
func (s *Socket) Close() error {
	first, others := s.refs.IncrefAndClose()
	if !first {
		return net.ErrClosed
	}
	runtime.SetFinalizer(s, nil)
	if others {
		s.wakeAll()
	}
	return s.decref()
}

// CloseWait is Close that waits until the running calls have returned and close(2) has
// too, for at most timeout.
func (s *Socket) CloseWait(timeout time.Duration) error {
	err := s.Close()
	for p, end := backoff(0), In(timeout); !s.fdClosed.Load() && end.Left() > 0; {
		time.Sleep(p.next())
	}
	return err
}

// Stop makes every call on the socket, and every later one until Resume, return
// ErrStopped. The socket stays open until Close.
func (s *Socket) Stop() {
	s.mu.Lock()
	s.stops++
	s.refs.Stop()
	s.mu.Unlock()
	s.wakeAll()
}

// Stopped reports whether calls return ErrStopped.
func (s *Socket) Stopped() bool { return s.refs.Ending() && !s.refs.Closed() }

// Resume undoes one Stop.
func (s *Socket) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stops--; s.stops == 0 {
		s.refs.Resume()
	}
}

// wakeAll makes every waiting call check again whether the socket is closed or stopped.
func (s *Socket) wakeAll() {
	s.rd.notify()
	s.wr.notify()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.polls {
		p.wake()
	}
}

// decref releases a reference. Releasing the last one of a closed socket closes the
// descriptor.
func (s *Socket) decref() error {
	if !s.refs.Decref() {
		return nil
	}
	return s.closeFD()
}

// closeFD closes the descriptor, which has no reference left.
func (s *Socket) closeFD() error {
	s.clearTimeout()
	err := s.sysClose()
	s.fdClosed.Store(true)
	s.rd.fdWaker.close()
	s.wr.fdWaker.close()
	if s.onClose != nil {
		s.onClose()
	}
	return os.NewSyscallError("close", err)
}

// sysClose wraps close(2), which releases the descriptor's number whatever it returns,
// EINTR included.
func (s *Socket) sysClose() error {
	if s.file == nil {
		return unix.Close(s.fd)
	}
	removeParkable(s.file)
	err := s.file.Close()
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return err
}

// incref takes a reference to the descriptor, which stays open until decref.
func (s *Socket) incref() error {
	if !s.refs.Incref() {
		return net.ErrClosed
	}
	return nil
}

// SetReadDeadline sets the deadline of receiving calls, including a running one.
func (s *Socket) SetReadDeadline(i Instant) error { return s.setDeadline(&s.rd, i) }

// SetWriteDeadline sets the deadline of sending calls, including a running one.
func (s *Socket) SetWriteDeadline(i Instant) error { return s.setDeadline(&s.wr, i) }

func (s *Socket) setDeadline(d *direction, i Instant) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	if i != Never && !s.polled.Load() {
		s.polled.Store(true)
	}
	d.setDeadline(i)
	return nil
}

// PeerOpen reports whether the peer of a stream can still answer: false after it closed
// its side or reset the connection. It uses poll(2), which, unlike MSG_PEEK, leaves a
// pending error to the next receive.
func (s *Socket) PeerOpen() bool {
	if s.incref() != nil {
		return false
	}
	defer s.decref()
	return s.peerOpen()
}

func (s *Socket) peerOpen() bool {
	fds := [...]unix.PollFd{{Fd: int32(s.fd), Events: pollPeerClosed}}
	for {
		if _, errno := pollNow(fds[:]); errno != unix.EINTR {
			// Not POLLERR: an error queue with unread entries is no closed peer.
			return errno == 0 && fds[0].Revents&(pollPeerClosed|unix.POLLHUP|unix.POLLNVAL) == 0
		}
	}
}

// invalidateTimeout is called after other code had the descriptor.
func (s *Socket) invalidateTimeout() { s.rcvTimeout.Store(unknownTimeout) }

// mustReturn reports whether a call with this limit has to return because of Close or
// Stop. Only Close ends an uninterruptible one.
func (s *Socket) mustReturn(until Instant) bool {
	return s.refs.Ending() && (until != Uninterruptible || s.refs.Closed())
}

// closedErr is the error of calls on a closed or stopped socket.
func (s *Socket) closedErr() error {
	if s.refs.Closed() {
		return net.ErrClosed
	}
	return ErrStopped
}

// syscallErr wraps the error of a system call. On a socket that is closed or stopped it
// is closedErr, whatever the system call returned.
func (s *Socket) syscallErr(call string, errno unix.Errno) error {
	if s.refs.Ending() {
		return s.closedErr()
	}
	return os.NewSyscallError(call, errno)
}

// errnoOf is the errno in an error of x/sys/unix, which never contains anything else.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return unix.EINVAL
	}
	return errno
}
