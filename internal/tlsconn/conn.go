// Package tlsconn is TLS records over a socket of internal/sock: with time limits that hold,
// peeks, and sends that end in the middle. The caller holds the socket's I/O lock of the
// direction in every call that takes one.
package tlsconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"sync/atomic"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A Conn is a TLS client on a connected socket. crypto/tls makes and reads the records. It
// must never wait while it holds one of its locks, because no limit ends that wait, and it
// ends its connection after a write that failed. So it writes to a queue, which is sent
// outside of it, and it reads under the receive lock and the limit of the call that receives:
//
//	Send ─▶ tls.Conn.Write ─▶ queue ─▶ socket   (send lock)
//	Recv ─▶ tls.Conn.Read ──────────▶ socket    (receive lock)
//	                   └─▶ queue                key updates, alerts
//
// A record that was made has to go out before any other: its sequence number is used up. So
// a Send that ends in the middle of a record counts all of it, and the rest goes out as soon
// as there is room, as bytes in the kernel's buffer do. A goroutine does that, which ends
// when the rest is sent or the socket is closed.
type Conn struct {
	transport transport
	conn      *tls.Conn

	// VerifiedChains is what ConnectionState reports. It is set before the first use.
	VerifiedChains [][]*x509.Certificate

	callbackFailed atomic.Bool // see errCallback

	// These belong to the receive lock.
	peeked  []byte // decrypted by a peek, and not received yet
	one     [1]byte
	recvErr error // why nothing more will be received

	sendErr error // why nothing more can be sent; belongs to the send lock

	unsent atomic.Int64 // see Unsent

	ended       atomic.Bool // recvErr is set
	truncated   atomic.Bool // and the stream ended within a record
	readClosed  atomic.Bool // by CloseRead
	writeClosed atomic.Bool // by CloseWrite
	closing     atomic.Bool // by Close
}

// ErrTruncated is the end of the socket's stream without close_notify. It is not io.EOF,
// which crypto/tls would take for an end between two records.
var ErrTruncated = errors.New("the peer closed the connection without ending TLS (close_notify)")

// errCallback is the error of every call after one in which a callback of the tls.Config
// (ClientSessionCache, Time, Rand) panicked or ended its goroutine. The state of crypto/tls
// is then undefined, so both directions fail. It is set before each call of crypto/tls and
// cleared after it: it stays if the call does not return.
var errCallback = errors.New("a callback of TLSOptions.Config panicked or ended its goroutine in an earlier call: close the client and dial again")

// Handshake makes a TLS connection of a socket, with both of its locks held. The locks'
// limits bound it. local and remote are the addresses that callbacks of config see.
func Handshake(ctx context.Context, s *sock.Socket, rd, wr sock.IOLock, local, remote net.Addr, config *tls.Config) (*Conn, error) {
	c := &Conn{transport: transport{sock: s, local: local, remote: remote, rd: rd, wr: wr, handshaking: true}}
	c.conn = tls.Client(&c.transport, config)
	err := c.conn.HandshakeContext(ctx)
	if err == nil {
		_, err = c.transport.flush(&c.transport.wr, 0)
	}
	if err != nil {
		_, _ = c.transport.flush(&c.transport.wr, unix.MSG_DONTWAIT) // an alert that says why
		return nil, err
	}
	c.transport.handshaking = false
	return c, nil
}

// ConnectionState is what the handshake negotiated.
func (c *Conn) ConnectionState() tls.ConnectionState {
	state := c.conn.ConnectionState()
	state.VerifiedChains = c.VerifiedChains
	return state
}

// Ended reports whether nothing more will be received.
func (c *Conn) Ended() bool { return c.ended.Load() }

// Truncated reports whether the stream ended within a record.
func (c *Conn) Truncated() bool { return c.truncated.Load() }

// CloseRead has the end of the socket's stream read as io.EOF: it is this side's.
func (c *Conn) CloseRead() { c.readClosed.Store(true) }

// Close sends close_notify and closes the socket, also if a callback panics in between. If
// calls overlap, the first one reports success, and the others net.ErrClosed.
func (c *Conn) Close() (err error) {
	if c.closing.Swap(true) {
		return net.ErrClosed
	}
	defer func() { err = c.transport.sock.Close() }()
	c.CloseNotify()
	return nil
}

// CloseNotify does before close(2) what can be done without waiting. It receives what the
// peer's TLS has sent of its own accord: close(2) with session tickets unread resets a TCP
// connection, and what was sent last is lost with it. Then it sends close_notify.
func (c *Conn) CloseNotify() {
	if lock, ok := c.transport.sock.TryLockRecv(); ok {
		_, _ = c.peekOne(lock)
	}
	if lock, ok := c.transport.sock.TryLockSend(); ok {
		defer lock.Unlock()
		_ = c.CloseWrite(&lock)
	}
}

// peekOne receives a byte to be received again, and releases the lock.
func (c *Conn) peekOne(lock sock.IOLock) (int, error) {
	defer lock.Unlock()
	return c.Recv(&lock, make([]byte, 1), unix.MSG_PEEK)
}

// isPassing reports whether a call may succeed after one with this error of the socket.
func isPassing(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EAGAIN) || errors.Is(err, sock.ErrStopped)
}
