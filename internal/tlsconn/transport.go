package tlsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A transport is the socket as crypto/tls sees it.
type transport struct {
	sock          *sock.Socket
	local, remote net.Addr

	handshaking bool        // the caller of Handshake has both locks
	wr          sock.IOLock // while handshaking

	// These belong to the receive lock.
	rd      sock.IOLock // of the call that receives
	records recordTracker
	mode    readMode
	gotPart bool // a read of this Recv has got something
	drained bool // the last read got nothing, so crypto/tls has no whole record

	mu   sync.Mutex
	buf  []byte // written by crypto/tls; buf[sent:] is the queue
	sent int
}

var _ net.Conn = (*transport)(nil)

// A readMode says whether a read of crypto/tls waits.
type readMode int

const (
	// readWait waits, except behind the header of an alert: crypto/tls reads ahead for an
	// alert behind the data that it is about to return, and would wait for the rest of it.
	readWait readMode = iota

	// readLooked is readWait after a read that did not wait for the rest of an alert. If
	// there was no data to return, that read is made again with readWaitForAlert.
	readLooked

	readWaitForAlert // waits in any case
	readNoWait       // never waits: MSG_DONTWAIT, or a peek that has what it needs
)

// A pending is the error of a read that can be made again. crypto/tls ends the connection
// after an error that is no timeout.
type pending struct{ error }

func (e pending) Unwrap() error { return e.error }
func (pending) Timeout() bool   { return true }
func (pending) Temporary() bool { return true }

func isPending(err error) bool {
	var p pending
	return errors.As(err, &p)
}

// maxQueued bounds the answers of TLS that wait to be sent. A peer can request key updates
// without end and not receive the answers.
const maxQueued = 64 << 10

var errUnreadAnswers = errors.New("the peer requests more answers of TLS than it receives")

// Read receives what there is. In a handshake the queue goes first: it is what the peer
// answers.
func (t *transport) Read(p []byte) (int, error) {
	flags := 0
	switch {
	case t.handshaking:
		if t.rd.Expired() { // a peer that never stops sending
			return 0, os.ErrDeadlineExceeded
		}
		if _, err := t.flush(&t.wr, 0); err != nil {
			return 0, err
		}
	case len(t.queued()) > maxQueued:
		return 0, errUnreadAnswers
	case t.gotPart && t.rd.Expired(): // a peer that sends a record as slowly as we receive it
		return 0, pending{os.ErrDeadlineExceeded}
	case t.mode == readNoWait:
		flags = unix.MSG_DONTWAIT
	case t.mode != readWaitForAlert && t.records.inAlert():
		t.mode, flags = readLooked, unix.MSG_DONTWAIT
	}
	n, err := t.rd.Recv(p, flags)
	t.records.follow(p[:n])
	t.gotPart = t.gotPart || n > 0
	t.drained = n == 0 && err != nil && isPassing(err)
	switch {
	case errors.Is(err, io.EOF):
		return n, ErrTruncated
	case err != nil && isPassing(err) && !t.handshaking:
		return n, pending{err}
	}
	return n, err
}

// Write queues. The caller of crypto/tls sends the queue.
func (t *transport) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	return len(p), nil
}

// queued is what is to be sent. Write may add to it; only the holder of the send lock
// removes from it.
func (t *transport) queued() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf[t.sent:]
}

// flush sends the queue, with the send lock held, and returns how much went.
func (t *transport) flush(lock *sock.IOLock, flags int) (total int, err error) {
	for {
		p := t.queued()
		if len(p) == 0 {
			return total, nil
		}
		n, err := lock.Send(p, flags)
		total += n
		t.mu.Lock()
		if t.sent += n; t.sent == len(t.buf) {
			t.buf, t.sent = t.buf[:0], 0
		}
		t.mu.Unlock()
		if err != nil {
			return total, err
		}
	}
}

// Close does nothing: Conn.Close closes the socket.
func (t *transport) Close() error { return nil }

// LocalAddr is the socket's own address.
func (t *transport) LocalAddr() net.Addr { return t.local }

// RemoteAddr is the peer's address.
func (t *transport) RemoteAddr() net.Addr { return t.remote }

// SetDeadline does nothing, nor do the other two: the limits are those of the locks.
func (t *transport) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (t *transport) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (t *transport) SetWriteDeadline(time.Time) error { return nil }
