package tlsconn

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Recv is recv(2) over TLS: MSG_WAITALL, MSG_PEEK and MSG_DONTWAIT mean what they mean on a
// plain stream.
func (c *Conn) Recv(lock *sock.IOLock, p []byte, flags int) (int, error) {
	c.transport.rd, c.transport.mode, c.transport.gotPart = *lock, readWait, false
	if flags&unix.MSG_DONTWAIT != 0 {
		c.transport.mode = readNoWait
	}
	defer func() {
		*lock = c.transport.rd
		if c.recvErr == errCallback { //nolint:errorlint // as it was set
			c.ended.Store(true)
			c.callbackFailed.Store(true)
		}
	}()
	if len(p) == 0 {
		return 0, nil
	}
	want := 1
	if flags&unix.MSG_WAITALL != 0 {
		want = len(p)
	}
	if flags&unix.MSG_PEEK != 0 {
		return c.peek(p, want)
	}
	peeked := copy(p, c.peeked)
	if c.peeked = c.peeked[peeked:]; len(c.peeked) == 0 {
		c.peeked = nil
	}
	n := peeked
	for n < want {
		if n > 0 && c.transport.rd.Expired() { // a peer that sends as fast as we receive
			return n, os.ErrDeadlineExceeded
		}
		m, err := c.decrypt(p[n:])
		n += m
		if err != nil {
			return n, sock.EOFAfter(n, err)
		}
	}
	if peeked > 0 && n == peeked && n < len(p) {
		c.transport.mode = readNoWait // a peek, or a Select, has left the rest of the record
		m, _ := c.decrypt(p[n:])      // which keeps an error for the next call
		n += m
	}
	return n, nil
}

// ReceivedPart reports whether the last Recv has received something from the socket, be it a part
// of a record. It belongs to the receive lock.
func (c *Conn) ReceivedPart() bool { return c.transport.gotPart }

// peek waits for at least want bytes, and copies those and what else has arrived that p has
// room for. They stay to be received.
func (c *Conn) peek(p []byte, want int) (int, error) {
	var err error
	for err == nil && len(c.peeked) < len(p) {
		switch {
		case len(c.peeked) >= want:
			c.transport.mode = readNoWait
		case len(c.peeked) > 0 && c.transport.rd.Expired():
			return copy(p, c.peeked), os.ErrDeadlineExceeded
		}
		have := len(c.peeked)
		c.peeked = slices.Grow(c.peeked, len(p)-have)
		var n int
		n, err = c.decrypt(c.peeked[have:len(p)])
		c.peeked = c.peeked[:have+n]
	}
	n := copy(p, c.peeked)
	if n >= want {
		return n, nil // crypto/tls keeps an error for the next call
	}
	return n, sock.EOFAfter(n, err)
}

// decrypt returns at least one byte of application data, or an error.
func (c *Conn) decrypt(p []byte) (int, error) {
	if c.recvErr == nil && c.callbackFailed.Load() {
		c.recvErr = errCallback
	}
	if c.recvErr != nil {
		return 0, c.recvErr
	}
	c.recvErr = errCallback
	n, err := c.conn.Read(p)
	if n == 0 && c.transport.mode == readLooked && isPending(err) {
		c.transport.mode = readWaitForAlert
		n, err = c.conn.Read(p)
	}
	c.recvErr = nil
	if c.transport.mode != readNoWait {
		c.transport.mode = readWait
	}
	c.push() // crypto/tls may have queued an answer to the peer
	if n > 0 || err == nil {
		return n, nil // an error that came with bytes comes again without them
	}
	var again pending
	if errors.As(err, &again) {
		return 0, again.error
	}
	if errors.Is(err, ErrTruncated) {
		if err = io.ErrUnexpectedEOF; c.readClosed.Load() {
			err = io.EOF
		}
	}
	c.recvErr = err // crypto/tls does not repeat all of them
	c.truncated.Store(c.transport.records.inRecord())
	c.ended.Store(true)
	return 0, err
}

// Probe is Socket.Probe for application data. A session ticket is none; a part of a record
// counts as readable. With fresh it looks also for what was received together with an
// earlier record, which the socket knows nothing of.
func (c *Conn) Probe(fresh bool) sock.ProbeResult {
	if result := c.transport.sock.Probe(); result == sock.Closed || result == sock.Idle && !fresh {
		return result
	}
	lock, ok := c.transport.sock.TryLockRecv()
	if !ok {
		return sock.Readable // for the call that has the lock
	}
	n, err := c.peekOne(lock)
	switch {
	case n > 0 || c.transport.records.inRecord():
		return sock.Readable
	case errors.Is(err, unix.EAGAIN):
		return sock.Idle
	}
	return sock.Closed
}

// Readable reports whether a receive returns at once, with data or an error. inSocket is
// whether the socket is readable: that may be less than a record, or no application data.
func (c *Conn) Readable(lock *sock.IOLock, inSocket bool) bool {
	switch {
	case len(c.peeked) > 0 || c.recvErr != nil:
		return true
	case c.transport.drained && !inSocket:
		return false
	}
	n, err := c.Recv(lock, c.one[:], unix.MSG_DONTWAIT)
	c.peeked = c.one[:n]
	return n > 0 || !errors.Is(err, unix.EAGAIN)
}
