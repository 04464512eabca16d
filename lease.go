package client

import (
	"errors"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A lease is a client's part of a pooled connection. Close and Discard end it. A goroutine
// that still has the client then must not reach the connection, which another client may
// have. So every call holds a reference, and the call that ends the lease learns whether
// there are others. A client that is not from a pool has no lease.
type lease struct {
	conn       *pooledConn
	refs       sock.Refcount
	usage      usage
	wasPooled  bool // the connection existed before the client asked for one
	reuseCount int
}

// incref begins a call on a client. It fails if the lease has ended.
func (l *lease) incref() bool { return l == nil || l.refs.Incref() }

// ended reports whether the lease has ended.
func (l *lease) ended() bool { return l != nil && l.refs.Closed() }

// decref ends a call.
func (l *lease) decref() {
	if l != nil {
		l.refs.Decref()
	}
}

// end ends the lease. It reports whether that is the first time, and whether a call is under
// way.
func (l *lease) end() (first, inUse bool) {
	first, inUse = l.refs.IncrefAndClose()
	if first {
		l.refs.Decref()
	}
	return first, inUse
}

// A usage is what a pool has to know of what was done with a connection.
type usage struct{ bits atomic.Uint32 }

const (
	usageFailed       = 1 << iota // a call failed, or ended a direction
	usageConnLost                 // a call failed because the connection is dead
	usageAltered                  // a call changed what the connection is, or had its descriptor
	usageRequestSent              // something was sent, and nothing was received since
	usageResponseSeen             // something was received
)

func (u *usage) has(bit uint32) bool { return u.bits.Load()&bit != 0 }

// set writes only what changes.
func (u *usage) set(bit uint32) {
	if !u.has(bit) {
		u.bits.Or(bit)
	}
}

// recordErr records the error of a call.
func (l *lease) recordErr(err error) {
	if l == nil {
		return
	}
	l.usage.set(usageFailed)
	if isLoss(err) {
		l.usage.set(usageConnLost)
	}
}

// markFailed records that a direction was shut down, or that the calls were ended.
func (l *lease) markFailed() {
	if l != nil {
		l.usage.set(usageFailed)
	}
}

// markAltered records that the next client must not find the connection as it is.
func (l *lease) markAltered() {
	if l != nil {
		l.usage.set(usageAltered)
	}
}

// markSending records a request. It comes before the send: the answer may be received before the
// send returns.
func (l *lease) markSending() {
	if l != nil {
		l.usage.set(usageRequestSent)
	}
}

// recordRecv records the end of a receive of n bytes into room.
func (l *lease) recordRecv(n, room int, err error, flags Flag) {
	if l == nil {
		return
	}
	if n > 0 || err == nil && room > 0 { // also an empty datagram
		l.usage.set(usageResponseSeen)
		if flags&Peek == 0 && l.usage.has(usageRequestSent) {
			l.usage.bits.And(^uint32(usageRequestSent))
		}
	}
	nothingThere := errors.Is(err, unix.EAGAIN) && (n == 0 || flags&Peek != 0)
	if err != nil && !nothingThere {
		l.recordErr(err)
	}
}

// isLoss reports whether the error of a call says that the connection is dead. A
// timeout does not, the kernel's own (ETIMEDOUT) included: the peer may be carrying
// the request out. Neither do the client's own Close, a file, or a LengthFunc.
func isLoss(err error) bool {
	switch err.(type) { //nolint:errorlint // as the call gives it: what it wraps may be from elsewhere
	case *PacketError, *FileError, *fs.PathError:
		return false
	}
	for _, loss := range [...]error{
		io.EOF, io.ErrUnexpectedEOF,
		unix.ECONNRESET, unix.EPIPE, unix.ECONNABORTED,
		unix.ECONNREFUSED, unix.ENOTCONN, // of datagrams, whose peer was started again
		unix.ENETRESET, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EHOSTDOWN,
	} {
		if errors.Is(err, loss) {
			return true
		}
	}
	return false
}
