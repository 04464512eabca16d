package dtls

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

// A deadline is that of a net.Conn. A call that waits obeys a deadline that is set meanwhile.
type deadline struct {
	mu      sync.Mutex
	at      time.Time
	changed chan struct{} // closed by the next set; nil: no call waits
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *deadline) get() (at time.Time, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.at, d.changed
}

// A socketLimit sets the socket's write deadline to the earlier of the connection's deadline
// and the end of the Send under way.
type socketLimit struct {
	mu       sync.Mutex
	socket   *client.Client
	deadline time.Time
	until    time.Time
	ended    bool
}

func (s *socketLimit) setDeadline(t time.Time) error { return s.set(&s.deadline, t) }
func (s *socketLimit) setUntil(t time.Time)          { _ = s.set(&s.until, t) } // it fails if the socket is closed, and Send does, too

func (s *socketLimit) set(which *time.Time, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	*which = t
	return s.socket.SetWriteDeadline(earlier(s.deadline, s.until))
}

// end removes the limit for good: one that has passed would keep Close from sending close_notify.
func (s *socketLimit) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = s.socket.SetWriteDeadline(time.Time{}) // it fails if the server has ended the connection
}

// earlier returns the earlier of two times. The zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// A limit ends the wait of one call.
type limit struct {
	until    time.Time // the end of the call; zero: none
	deadline *deadline // of the connection
	closed   <-chan struct{}
	dontWait bool
}

func (c *Conn) limit(timeout time.Duration, d *deadline, flags client.Flag) limit {
	l := limit{deadline: d, closed: c.closed, dontWait: flags&client.DontWait != 0}
	if timeout > 0 {
		l.until = time.Now().Add(timeout)
	}
	return l
}

// await receives from a channel. more is false if the channel is closed.
func await[T any](from <-chan T, l limit) (v T, more bool, err error) {
	for {
		at, changed := l.deadline.get()
		at = earlier(at, l.until)
		left := time.Until(at)
		select {
		case <-l.closed:
			return v, false, net.ErrClosed
		default:
		}
		if !at.IsZero() && left <= 0 {
			return v, false, os.ErrDeadlineExceeded
		}
		select {
		case v, more = <-from:
			return v, more, nil
		default:
		}
		if l.dontWait {
			return v, false, unix.EAGAIN
		}
		var over <-chan time.Time
		if !at.IsZero() {
			over = time.After(left)
		}
		select {
		case v, more = <-from:
			return v, more, nil
		case <-l.closed:
		case <-over:
		case <-changed:
		}
	}
}
