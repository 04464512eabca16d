package tlsconn

import (
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// maxPlaintext is what one record holds: RFC 8446, 5.1.
const maxPlaintext = 16 << 10

// Send sends p in records. n counts bytes in records that were made; some is whether the
// kernel has accepted any byte of this call's records. The lock is released with UnlockSend.
func (c *Conn) Send(lock *sock.IOLock, p []byte) (n int, some bool, err error) {
	if c.writeClosed.Load() {
		return 0, false, os.NewSyscallError("sendto", unix.EPIPE)
	}
	if _, err := c.flush(lock); err != nil { // what earlier calls have left
		return 0, false, err
	}
	for n < len(p) {
		if n > 0 && lock.Expired() { // a peer that receives as fast as we send
			return n, true, os.ErrDeadlineExceeded
		}
		record := p[n:min(len(p), n+maxPlaintext)]
		c.sendErr = errCallback
		_, err := c.conn.Write(record)
		c.sendErr = nil
		if err != nil {
			return n, some, err
		}
		sent, err := c.flush(lock)
		some = some || sent > 0
		switch {
		case err == nil:
			n += len(record)
		case isPassing(err): // the rest of the record goes before anything else
			c.unsent.Store(int64(len(record)))
			return n + len(record), some, err
		default:
			return n, some, err
		}
	}
	return n, some, nil
}

// flush sends the queue, and returns how much of it went. An error that does not pass ends
// sending for good: no other record can take the place of one that was made.
func (c *Conn) flush(lock *sock.IOLock) (int, error) {
	if c.sendErr == nil && c.callbackFailed.Load() {
		c.sendErr = errCallback
	}
	if c.sendErr != nil {
		return 0, c.sendErr
	}
	n, err := c.transport.flush(lock, 0)
	switch {
	case err == nil && c.unsent.Load() != 0:
		c.unsent.Store(0)
	case err != nil && !isPassing(err):
		c.sendErr = err
	}
	return n, err
}

// Unsent is how many bytes a Send has counted that are in a record of which a part is not sent.
func (c *Conn) Unsent() int { return int(c.unsent.Load()) }

// UnlockSend releases the send lock. If the queue is not empty, a goroutine sends it first:
// nothing else can be sent before that, and a call that receives may wait for the answer.
func (c *Conn) UnlockSend(lock sock.IOLock) {
	if c.sendErr == errCallback { //nolint:errorlint // as it was set
		c.callbackFailed.Store(true)
	}
	if c.sendErr != nil || len(c.transport.queued()) == 0 {
		lock.Unlock()
		return
	}
	go c.sendRest(lock)
}

// sendRest is a function of its own so that UnlockSend does not move its argument to the heap.
func (c *Conn) sendRest(lock sock.IOLock) {
	defer lock.Unlock()
	lock.SetUninterruptible()
	_, _ = c.flush(&lock)
}

// push sends what crypto/tls has queued while it received, if anything.
func (c *Conn) push() {
	if len(c.transport.queued()) == 0 {
		return
	}
	lock, ok := c.transport.sock.TryLockSend()
	if !ok {
		return // the call that has the lock sends it
	}
	defer c.UnlockSend(lock)
	_, _ = c.flush(&lock)
}

// CloseWrite ends this direction of TLS with close_notify. The socket's stays open for the
// answer. See RFC 8446, 6.1. The lock is released with UnlockSend.
func (c *Conn) CloseWrite(lock *sock.IOLock) error {
	c.writeClosed.Store(true)
	if c.sendErr != nil {
		return c.sendErr
	}
	c.sendErr = errCallback
	err := c.conn.CloseWrite()
	c.sendErr = nil
	if err == nil {
		_, err = c.flush(lock)
	}
	return err
}
