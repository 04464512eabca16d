package client

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// recvState is what the goroutine that receives keeps from one receive to the next.
type recvState struct {
	buf  *recvBuffer // between a receive and the end of its callback
	big  []byte      // instead, for a datagram that does not fit into a recvBuffer
	more bool        // the last receive has filled the buffer, so there may be more
}

// A recvBuffer holds any datagram of UDP. It is taken when there is something to receive, so
// that an idle client has none.
type recvBuffer [64 << 10]byte

var recvBuffers = sync.Pool{New: func() any { return new(recvBuffer) }}

func (r *recvState) room() []byte {
	if r.buf == nil {
		r.buf = recvBuffers.Get().(*recvBuffer)
	}
	return r.buf[:]
}

func (r *recvState) release() {
	if r.buf != nil {
		recvBuffers.Put(r.buf)
	}
	r.buf, r.big = nil, nil
}

// receive delivers what arrives until the end, and says why the client ends: nil as asked.
func (a *AsyncClient) receive(c *Client) error {
	for {
		a.receiving.Store(true)
		orders := a.orders.Load()
		switch {
		case orders&(orderClose|orderFinish|orderFail|orderDetach) != 0:
			a.receiving.Store(false)
			return a.obey(c, orders)
		case orders&orderHandshake != 0:
			a.receiving.Store(false)
			if err := a.handshake(c); err != nil {
				return err
			}
			continue
		case orders&(orderTLS|orderPause) != 0 || a.pipe.blocked():
			a.receiving.Store(false)
			<-a.wake
			a.touch()
			continue
		}
		p, err := a.next(c, 0)
		a.receiving.Store(false)
		switch {
		case err == nil && a.orders.Load()&orderTLS != 0:
			a.recv.release()
			return c.opError(opStartTLS, nil, errPlaintext)
		case err == nil:
			err = a.deliver(p)
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = c.sock.SetReadDeadline(sock.Never)
			if a.cfg.IdleTimeout == 0 || a.idleLeft() > 0 {
				continue
			}
			err = c.opError(opRecv, nil, os.ErrDeadlineExceeded)
		}
		switch {
		case err == nil || !a.stream && isPassingDatagramErr(err):
		case err == io.EOF: //nolint:errorlint // it comes bare
			return a.flushAfterEOF(c)
		case a.orders.Load()&orderClose != 0:
			return nil
		default:
			return a.causeOr(c, err)
		}
	}
}

// causeOr returns the error of a send that failed first, or err.
func (a *AsyncClient) causeOr(c *Client, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost != nil {
		return a.lost
	}
	return err
}

// obey carries out the order to end. Except after Close and Detach, what has arrived is
// delivered first.
func (a *AsyncClient) obey(c *Client, orders uint32) error {
	switch {
	case orders&orderClose != 0:
		return nil
	case orders&orderDetach != 0 && orders&orderFail == 0:
		return errDetached
	}
	a.drain(c)
	if orders&orderFail != 0 && a.orders.Load()&orderClose == 0 {
		return a.causeOr(c, nil)
	}
	return nil
}

var errDetached = errors.New("detached")

// maxDrain is more than what a kernel's receive buffer holds by default. A peer that never
// stops sending does not keep a client from ending.
const maxDrain = 16 << 20

// drain delivers what has arrived, without waiting.
func (a *AsyncClient) drain(c *Client) {
	for total := 0; total < maxDrain; {
		if a.orders.Load()&(orderClose|orderPause|orderTLS) != 0 || a.pipe.blocked() {
			return
		}
		p, err := a.next(c, DontWait)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && a.orders.Load()&orderClose == 0:
			_ = c.sock.SetReadDeadline(sock.Never) // it was to make receive return
			continue
		case err != nil && !(!a.stream && isPassingDatagramErr(err)):
			return
		case err != nil:
			continue
		}
		total += max(len(p), 1)
		if a.deliver(p) != nil {
			return
		}
	}
}

// deliver passes on what was received.
func (a *AsyncClient) deliver(p []byte) error {
	defer a.recv.release()
	a.touch()
	if a.pipe.active() {
		return a.pipe.send(a, p)
	}
	a.calls.Lock()
	defer a.calls.Unlock()
	a.cfg.OnReceive(a, p)
	spoil(p)
	return nil
}

// next receives once, or a packet. With DontWait it does not wait.
func (a *AsyncClient) next(c *Client, flags Flag) (p []byte, err error) {
	if err := c.begin(0, 0, a.stream); err != nil {
		return nil, c.opError(opRecv, nil, err)
	}
	defer c.lease.decref()
	lock, err := c.sock.LockRecv(int(flags), a.idleLeft())
	if err == nil {
		p, err = c.stream.recvParked(&lock, flags, &a.recv, c.typ == UnixDgram)
		lock.Unlock()
	}
	if err == nil {
		c.lease.recordRecv(len(p), 1, nil, 0)
		return p, nil
	}
	a.recv.release()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EAGAIN) {
		return nil, err // no operation of the program has failed
	}
	c.lease.recordRecv(0, 1, err, 0)
	_, err = c.recvResult(opRecv, nil, 0, 0, packetErr(err))
	return nil, err
}

// idleLeft is the time until IdleTimeout ends the client. Negative: never.
func (a *AsyncClient) idleLeft() time.Duration {
	if a.cfg.IdleTimeout == 0 {
		return -1
	}
	return max(sock.Instant(a.active.Load()).Add(a.cfg.IdleTimeout).Left(), 0)
}

// isPassingDatagramErr reports whether an error is about a datagram that was sent, so that
// others may be received.
func isPassingDatagramErr(err error) bool {
	for _, errno := range [...]unix.Errno{
		unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.EMSGSIZE, unix.EPROTO, unix.ECONNRESET, unix.ENOPROTOOPT, unix.EACCES,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// recvParked receives what there is into r, or a packet. Except with DontWait it waits
// before it needs a buffer.
func (s *stream) recvParked(lock *sock.IOLock, flags Flag, r *recvState, sized bool) ([]byte, error) {
	t := s.tls.Load()
	// TLS may have data in its buffer, so it is asked before the socket.
	wait := t == nil && !r.more && !s.sock.Buffered()
	r.more = false
	for {
		size := 0
		if s.frames != nil {
			var p []byte
			var err error
			if p, size, err = s.frames.Next(); p != nil || err != nil {
				return p, err
			}
		}
		if wait && flags&DontWait == 0 {
			r.release()
			if err := lock.WaitReadable(); err != nil {
				return nil, err
			}
		}
		var room []byte
		switch {
		case s.frames != nil:
			room, _ = s.frames.Room(size)
		case sized:
			if n, err := lock.Recv(r.room(), unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil && n > len(r.buf) {
				r.big = make([]byte, n)
			}
			room = r.big
			fallthrough
		default:
			if room == nil {
				room = r.room()
			}
		}
		n, err := s.recvBytes(lock, room, DontWait)
		if s.frames != nil {
			s.frames.Filled(n)
		}
		switch {
		case err != nil && errors.Is(err, unix.EAGAIN) && flags&DontWait == 0:
			wait = true
		case err != nil:
			return nil, sock.EOFAfter(s.frames.Len(), err)
		case s.frames == nil:
			r.more = n == len(room)
			return room[:min(n, len(room))], nil
		default:
			wait = t == nil && n < len(room)
		}
	}
}
