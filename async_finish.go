package client

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// The kernel resets a TCP connection that is closed with bytes unread, or to which bytes
// arrive afterwards, and then drops what it has accepted and not delivered yet (RFC 1122,
// 4.2.2.13; tcp_close). So Finish ends sending first, and goes on receiving until the peer's
// kernel has everything, or the peer has ended too:
//
//	queue empty ──▶ closeWrite ──▶ receive … ──▶ all acknowledged, or the peer's end ──▶ close

var errDetached = errors.New("detached")

// obey carries out the order to end. Except after Close and Detach, what has arrived is
// delivered first.
func (a *AsyncClient) obey(c *Client, orders uint32) error {
	var err error
	switch {
	case orders&orderClose != 0:
		return nil
	case orders&orderDetach != 0 && orders&orderFail == 0:
		return errDetached
	case orders&orderFail == 0:
		err = a.linger(c)
	}
	err = cmp.Or(err, a.drain(c))
	switch {
	case a.orders.Load()&orderClose != 0:
		return nil
	case orders&orderFail != 0:
		return a.causeOr(err)
	}
	return err
}

// Finish closes the client after all that is queued was sent. It ends sending, goes on
// receiving until the peer's system has everything, and closes then. What arrives until then
// is delivered, or dropped if the client is paused. A peer that reads slowly or never closes
// does not keep the client longer than that. Before OnConnect Finish is Close. It fails with
// net.ErrClosed if the client is closed or about to be.
//
// If a receive fails, other than by the end of the stream, OnClose gets its error. Before all that
// is queued was sent, that ends the client. Afterwards the peer's system gets everything
// nevertheless, and what arrives after the error is dropped.
//
// If for Options.SendTimeout the peer's system acknowledges nothing, OnClose gets
// os.ErrDeadlineExceeded, and the kernel goes on sending in the background, until bytes of the
// peer arrive. On a client of a Pool the connection is not ended if it can go back to the pool.
func (a *AsyncClient) Finish() error {
	c := a.client.Load()
	if c == nil {
		return a.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.queue.refusal; err != nil && !errors.Is(err, unix.EPIPE) {
		return c.opError(opClose, nil, err)
	}
	a.lastItemLocked(c, itemFinish, net.ErrClosed)
	return nil
}

// endSending is the part of Finish that comes last in the queue.
func (c *Client) endSending() error {
	if !c.typ.isStream() || c.goesBack() {
		return nil
	}
	return c.shutdownWrite()
}

// shutdownWrite ends sending.
func (c *Client) shutdownWrite() error {
	c.lease.markFailed()
	err := c.closeWrite(c.limits().send)
	if errors.Is(err, unix.ENOTCONN) {
		return nil // the connection is lost, and a receive tells why
	}
	return err
}

// goesBack reports whether a pool keeps the connection. The peer then has received everything,
// since it has answered.
func (c *Client) goesBack() bool {
	return c.lease != nil && !c.lease.usage.has(usageFailed) && !c.lease.usage.has(usageRequestSent) && !c.isUnanswered()
}

// lingerInterval is the longest time between two looks at what is not acknowledged, for which
// no system wakes anybody up.
const lingerInterval = 50 * time.Millisecond

// linger receives until the peer has acknowledged everything. After an error, which it returns,
// it drops what it receives: to close now could lose what is not acknowledged.
func (a *AsyncClient) linger(c *Client) (failed error) {
	if !a.stream || c.goesBack() {
		return nil
	}
	a.touch() // the end was sent
	least := c.sock.Unacknowledged()
	until := sock.In(c.limits().send)
	for interval := time.Millisecond; least > 0; interval = min(2*interval, lingerInterval) {
		err := a.lingerOnce(c, min(interval, until.Left()))
		n := c.sock.Unacknowledged()
		switch {
		case err == io.EOF || a.orders.Load()&orderClose != 0: //nolint:errorlint // it comes bare
			return failed
		case err != nil && a.recv.drops:
			return cmp.Or(failed, err)
		case err != nil:
			failed, a.recv.drops = err, true
		}
		switch {
		case n < least:
			a.touch()
			least, until, interval = n, sock.In(c.limits().send), time.Millisecond
		case until.Left() <= 0 || a.idleLeft() == 0:
			return cmp.Or(failed, c.opError(opClose, nil, os.ErrDeadlineExceeded))
		}
	}
	return failed
}

// lingerOnce delivers what there is, or waits for a while. The error is what ends receiving.
func (a *AsyncClient) lingerOnce(c *Client, interval time.Duration) error {
	if a.pipe.blocked() && !a.recv.drops {
		a.sleepFor(interval)
		return nil
	}
	_, err := a.takeOrDrop(c)
	if err == unix.EAGAIN { //nolint:errorlint // see next
		err = a.waited(c, c.sock.WaitReadable(interval))
	}
	if err == os.ErrDeadlineExceeded { //nolint:errorlint // see next
		_ = c.sock.SetReadDeadline(sock.Never) // an order has ended the wait
		return nil
	}
	return err
}

// takeOrDrop receives once without waiting, and delivers what it has received. From the first
// Pause on, and after an error in linger, it drops that.
func (a *AsyncClient) takeOrDrop(c *Client) (n int, err error) {
	a.calls.Lock() // as take
	defer a.calls.Unlock()
	switch orders := a.orders.Load(); {
	case orders&orderClose != 0:
		return 0, net.ErrClosed
	case orders&orderPause != 0:
		a.recv.drops = true
	}
	if !a.recv.drops {
		p, err := a.next(c)
		n = len(p) // deliver may overwrite p
		if err == nil {
			err = a.deliver(p)
		}
		return n, err
	}
	defer a.recv.release()
	if n, err = c.dropNow(&a.recv); err != nil {
		err = c.nextErr(err)
	}
	return n, err
}

// dropNow receives from the socket without waiting, and without TLS and framing.
func (c *Client) dropNow(r *recvState) (int, error) {
	lock, err := c.sock.LockRecv(unix.MSG_DONTWAIT, -1)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	return lock.Recv(r.room(&lock, false), 0)
}

// maxDrain is more than what a kernel's receive buffer holds by default. A peer that never
// stops sending does not keep a client from ending.
const maxDrain = 16 << 20

// drain delivers what has arrived, without waiting. The end of a stream is no error.
func (a *AsyncClient) drain(c *Client) error {
	a.recv.readable, a.recv.busy = true, true // receive until there is nothing, not only less than asked for
	for total := 0; total < maxDrain && a.orders.Load()&(orderClose|orderTLS) == 0; {
		n, err := a.takeOrDrop(c)
		switch {
		case err == nil, !a.stream && isPassingDatagramErr(err):
		case err == os.ErrDeadlineExceeded: //nolint:errorlint // see next
			_ = c.sock.SetReadDeadline(sock.Never) // it was to make receive return
		case err == unix.EAGAIN || err == io.EOF: //nolint:errorlint // they come bare
			return nil
		default:
			return err
		}
		total += max(n, 1)
	}
	return nil
}
