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

// A Socket is a descriptor and what it takes to wait on it and to close it
// while others do. Its methods may be called from several goroutines.
type Socket struct {
	fd     int
	domain int // AF_INET, AF_INET6 or AF_UNIX
	stream bool
	icmp   bool // its errors of others' are queued: SetICMPErrors

	life     life
	fdClosed atomic.Bool // close(2) has returned
	rd, wr   direction

	// polled is set for good once a deadline was set or the descriptor was
	// handed out in non-blocking mode: from then on nothing waits inside recv(2).
	polled     atomic.Bool
	asConn     atomic.Bool  // the last receive was a Read: a driver uses it as a net.Conn
	rcvTimeout atomic.Int64 // the time.Duration that SO_RCVTIMEO was set for, or unknown

	upgraded atomic.Bool // set for good by Take

	streamErr atomic.Uint32 // the unix.Errno that has ended the stream; see loss
	state     atomic.Uint32 // deferred, opening, readClosing, …
	unread    atomic.Int64  // bytes that were queued when reading was closed

	// Of who has the turn to receive, in a crowd.

	mu          sync.Mutex
	file        *os.File // what has the descriptor once a call has parked; belongs to mode
	nonblocking bool     // the descriptor is non-blocking for good; belongs to mode
	polls       []*Poll  // that wait for this socket among others; belongs to mode
	stops       int      // calls of Stop without a Resume; belongs to mode

	localAddr, peerAddr Addr   // as they were when the connect succeeded; written before it returns
	onClose             func() // what is left to do after close(2); written by who holds a use
}

// unknownTimeout is what SO_RCVTIMEO is set for when somebody else may have set it.
const unknownTimeout = math.MinInt64

// Open makes a socket of the domain (unix.AF_INET, …), type (unix.SOCK_STREAM or
// unix.SOCK_DGRAM) and protocol (0 is the usual one). No child process inherits it
// and no write to it raises SIGPIPE.
func Open(domain, typ, protocol int) (*Socket, error) {
	fd, err := sysSocket(domain, typ, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &Socket{fd: fd, domain: domain, stream: typ == unix.SOCK_STREAM}
	// For those who forget to close, as package net has it (net/fd_posix.go) and as
	// drivers have come to rely on. Who is in a call has the socket until its end.
	runtime.SetFinalizer(s, (*Socket).finalize)
	s.rd.init()
	s.wr.init()
	s.polled.Store(alwaysPolled)
	s.invalidateTimeout()
	if domain == unix.AF_INET6 {
		// Systems differ in the default; with the option set, an IPv6 socket
		// is an IPv6 socket on all of them (RFC 3493, 5.3).
		if err := s.SetInt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Finalized counts the sockets that the garbage collector had to close, for tests: this
// library is to close its own.
var Finalized atomic.Int64

func (s *Socket) finalize() {
	if s.Close() == nil {
		Finalized.Add(1)
	}
}

// Finalize closes a socket whose owner is unreachable, as the finalizer does for a socket
// that is unreachable itself. It is for an owner whose goroutine still uses the socket.
func (s *Socket) Finalize() { s.finalize() }

// Closed reports whether Close was called.
func (s *Socket) Closed() bool { return s.life.ended() }

// Close ends every call on the socket and every later one with net.ErrClosed.
// It does not wait for them: the last one out closes the descriptor. It does
// nothing to the connection, which another process may share (dup(2), fork(2)):
// what the peer sees is up to close(2) and SO_LINGER.
func (s *Socket) Close() error {
	first, others := s.life.end()
	if !first {
		return net.ErrClosed
	}
	runtime.SetFinalizer(s, nil)
	if others {
		s.wakeAll()
	}
	return s.decref()
}

// CloseWait is Close that waits, for a time at most, until the calls under way have left
// and close(2) has returned.
func (s *Socket) CloseWait(timeout time.Duration) error {
	err := s.Close()
	for p, end := backoff(0), In(timeout); !s.fdClosed.Load() && end.Left() > 0; {
		time.Sleep(p.next())
	}
	return err
}

// Stop ends every call on the socket, and every later one until Resume, with
// ErrStopped. The socket stays open until Close.
func (s *Socket) Stop() {
	s.mu.Lock()
	s.stops++
	s.life.stop()
	s.mu.Unlock()
	s.wakeAll()
}

// Stopped reports whether calls end with ErrStopped.
func (s *Socket) Stopped() bool { return s.life.isOver() && !s.life.ended() }

// Resume takes one Stop back.
func (s *Socket) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stops--; s.stops == 0 {
		s.life.resume()
	}
}

// wakeAll has all that wait on the socket look again.
func (s *Socket) wakeAll() {
	s.rd.notify()
	s.wr.notify()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.polls {
		p.wake()
	}
}

func (s *Socket) decref() error {
	if !s.life.release() {
		return nil
	}
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

// sysClose wraps close(2), which gives the number back whatever it returns, EINTR included.
func (s *Socket) sysClose() error {
	if s.file == nil {
		return unix.Close(s.fd)
	}
	err := s.file.Close()
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return err
}

// incref takes a use for a call that is over in a moment; the caller releases it.
func (s *Socket) incref() error {
	if !s.life.use() {
		return net.ErrClosed
	}
	return nil
}

// SetReadDeadline bounds the receiving calls, also the one under way.
func (s *Socket) SetReadDeadline(i Instant) error { return s.setDeadline(&s.rd, i) }

// SetWriteDeadline bounds the sending calls, also the one under way.
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

// PeerOpen reports whether the peer of a stream can still answer: false once it has
// closed its side or reset the connection. It asks poll(2), which, unlike a
// peek, leaves both the bytes and a pending error for the next receive.
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
			// Not POLLERR: a queue of errors that nobody reads is no closed peer.
			return errno == 0 && fds[0].Revents&(pollPeerClosed|unix.POLLHUP|unix.POLLNVAL) == 0
		}
	}
}

// invalidateTimeout is for when the descriptor was in other hands.
func (s *Socket) invalidateTimeout() { s.rcvTimeout.Store(unknownTimeout) }

// mustReturn reports whether a call with a limit has to end, because of Close or Stop. One
// that nothing but Close ends goes on.
func (s *Socket) mustReturn(until Instant) bool {
	return s.life.isOver() && (until != Uninterruptible || s.life.ended())
}

// closedErr is the error of calls on a socket that was closed or stopped.
func (s *Socket) closedErr() error {
	if s.life.ended() {
		return net.ErrClosed
	}
	return ErrStopped
}

// syscallErr is what a system call's error means to the caller: whatever it was,
// on a socket that has been closed or stopped meanwhile it is that.
func (s *Socket) syscallErr(call string, errno unix.Errno) error {
	if s.life.isOver() {
		return s.closedErr()
	}
	return os.NewSyscallError(call, errno)
}

// errnoOf is the number of a system call's error, which x/sys/unix gives as an
// error that never holds anything else.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return unix.EINVAL
	}
	return errno
}
