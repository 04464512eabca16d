package client

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// recvState is what the goroutine that receives keeps from one receive to the next.
type recvState struct {
	buf      *recvBuffer // between a receive and the end of its callback
	big      []byte      // instead, for a datagram that does not fit into a recvBuffer
	readable bool        // the socket may have more, or what is above it: TLS
	busy     bool        // the last wait was over at once: to receive first saves a system call
	arrived  bool        // the last call of next has received something, be it a part of a packet
	drops    bool        // the client ends, and what arrives is dropped

	sendCalls uint32 // of the socket, when IdleTimeout was over the last time
}

// A recvBuffer holds any datagram of UDP. It is taken when there is something to receive, so
// that an idle client has none.
type recvBuffer [64 << 10]byte

var recvBuffers = sync.Pool{New: func() any { return new(recvBuffer) }}

// room returns the buffer for the next receive. On unixgram, a datagram may be larger than a
// recvBuffer.
func (r *recvState) room(lock *sock.IOLock, isUnixgram bool) []byte {
	if r.buf == nil {
		r.buf = recvBuffers.Get().(*recvBuffer)
	}
	if isUnixgram {
		if n, err := lock.Recv(r.buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil && n > len(r.buf) {
			r.big = make([]byte, n)
			return r.big
		}
	}
	return r.buf[:]
}

func (r *recvState) release() {
	if r.buf != nil {
		recvBuffers.Put(r.buf)
	}
	r.buf, r.big = nil, nil
}

// receive delivers what arrives until the end, and says why the client ends: nil as asked. Few
// calls lie between it and the wait, so that an idle client needs little stack.
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
		case orders&(orderTLS|orderPause) == orderTLS: // the queue is being sent
			a.receiving.Store(false)
			if err := a.sleepUntilIdle(c); err != nil {
				return a.causeOr(err)
			}
			continue
		case orders&orderPause != 0 || a.pipe.blocked():
			a.receiving.Store(false)
			a.sleep()
			a.touch()
			continue
		}
		err := a.take(c)
		if err == unix.EAGAIN { //nolint:errorlint // as take returns it
			err = a.waited(c, c.sock.WaitReadable(a.idleLeft()))
		}
		a.receiving.Store(false)
		if err == nil {
			continue
		}
		if over, err := a.isEnd(c, err); over {
			return err
		}
	}
}

// isEnd reports whether the client ends after a receive that has failed, and with which error.
func (a *AsyncClient) isEnd(c *Client, err error) (over bool, cause error) {
	switch {
	case !a.stream && isPassingDatagramErr(err):
		return false, nil
	case err == os.ErrDeadlineExceeded: //nolint:errorlint // the socket's own comes bare, see next
		_ = c.sock.SetReadDeadline(sock.Never) // an order may have ended the wait
		switch {
		case a.idleLeft() != 0 || a.queueMoves(c):
			return false, nil
		case c.sock.Probe() != sock.Idle: // it has arrived during a long callback
			a.recv.readable = true
			return false, nil
		}
		err = c.opError(opRecv, nil, err)
	case err == io.EOF: //nolint:errorlint // it comes bare
		return true, a.flushAfterEOF(c)
	case a.orders.Load()&orderClose != 0:
		return true, nil
	}
	return true, a.causeOr(err)
}

// take delivers what there is. The error is EAGAIN, without more, if there is nothing.
func (a *AsyncClient) take(c *Client) error {
	a.calls.Lock() // here, so that what was received does not wait for a callback that pauses or closes
	defer a.calls.Unlock()
	if a.orders.Load()&(orderPause|orderClose) != 0 {
		return nil
	}
	p, err := a.next(c)
	switch {
	case err != nil:
		return err
	case a.orders.Load()&orderTLS != 0:
		a.recv.release()
		return c.opError(opStartTLS, nil, errPlaintext)
	}
	a.receiving.Store(false)
	return a.deliver(p)
}

// causeOr returns the error of a send that failed first, or err. If the send tells only that the
// connection is lost, a receive may tell why: the peer has sent an alert before.
func (a *AsyncClient) causeOr(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	tellsWhy := err != nil && !isLoss(err) && !isTimeout(err)
	if a.lost == nil || isLoss(a.lost) && tellsWhy {
		return err
	}
	return a.lost
}

// deliver passes on what was received. The caller holds calls.
func (a *AsyncClient) deliver(p []byte) error {
	defer a.recv.release()
	a.touch()
	if a.pipe.active() {
		return a.pipe.send(p)
	}
	a.cfg.OnReceive(a, p)
	spoil(p)
	return nil
}

// next receives once, or a packet, without waiting. EAGAIN, if there is nothing, and
// os.ErrDeadlineExceeded, after an order, come bare. In another error they are about something
// else: the context of Watch, or what a LengthFunc has met.
func (a *AsyncClient) next(c *Client) (p []byte, err error) {
	if err := c.begin(0, 0, a.stream); err != nil {
		return nil, c.opError(opRecv, nil, err)
	}
	defer c.lease.decref()
	a.recv.arrived = false
	if p, err = c.recvNow(&a.recv); err == nil {
		c.recordRecv(len(p), 1, nil, 0)
		return p, nil
	}
	a.recv.release()
	if a.recv.arrived {
		a.touch()
	}
	return nil, c.nextErr(err)
}

// nextErr gives the error of a receive its form: see next.
func (c *Client) nextErr(err error) error {
	err = packetErr(err)
	switch _, isPacket := err.(*PacketError); { //nolint:errorlint // as packetErr returns it
	case isPacket:
	case errors.Is(err, os.ErrDeadlineExceeded): // no operation of the program has failed
		return os.ErrDeadlineExceeded
	case errors.Is(err, unix.EAGAIN):
		return unix.EAGAIN
	}
	c.recordRecv(0, 1, err, 0)
	_, err = c.recvResult(opRecv, nil, 0, 0, err)
	return err
}

func (c *Client) recvNow(r *recvState) ([]byte, error) {
	lock, err := c.sock.LockRecv(unix.MSG_DONTWAIT, -1)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock() // also if a callback ends the goroutine: the lock keeps the descriptor open
	return c.recvSome(&lock, r, c.typ == UnixDgram)
}

// waited follows a wait for the socket to be readable.
func (a *AsyncClient) waited(c *Client, err error) error {
	if err == nil {
		a.recv.readable, a.recv.busy = true, !c.sock.Slept()
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.opError(opRecv, nil, err)
	}
	return err
}

// sleepUntilIdle is sleep that fails once IdleTimeout is over.
func (a *AsyncClient) sleepUntilIdle(c *Client) error {
	left := a.idleLeft()
	switch {
	case left == 0 && a.queueMoves(c):
	case left == 0:
		return c.opError(opRecv, nil, os.ErrDeadlineExceeded)
	case left < 0:
		a.sleep()
	default:
		a.sleepFor(left)
	}
	return nil
}

// idleLeft is the time until IdleTimeout ends the client. Negative: never.
func (a *AsyncClient) idleLeft() time.Duration {
	if a.cfg.IdleTimeout == 0 || a.orders.Load()&orderPause != 0 {
		return -1
	}
	return max(sock.Instant(a.active.Load()).Add(a.cfg.IdleTimeout).Left(), 0)
}

// queueMoves reports whether the queue of a stream has moved since the last call: a send of much
// data to a slow peer returns late.
func (a *AsyncClient) queueMoves(c *Client) bool {
	last := a.recv.sendCalls
	a.recv.sendCalls = c.sock.SendCalls()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stream || !a.queue.writing || a.recv.sendCalls == last {
		return false
	}
	a.touch()
	return true
}

// isPassingDatagramErr reports whether an error is about a datagram that was sent, so that
// others may be received.
func isPassingDatagramErr(err error) bool {
	is := func(errno unix.Errno) bool { return errors.Is(err, errno) }
	return is(unix.ENETDOWN) || is(unix.ECONNRESET) || slices.ContainsFunc(sock.ICMPErrnos, is)
}
