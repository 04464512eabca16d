package client

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Pause stops receiving, until Resume: at most one OnReceive, for what was received just
// then, comes after Pause has returned, and none if Pause is called in a callback. The
// peer's data stays in the kernel, whose buffers make the peer stop sending. A paused client
// does not see the peer's end, so only Close, Finish and sends that fail end it. What has
// arrived and was not received by then is dropped.
func (a *AsyncClient) Pause() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orderLocked(orderPause)
}

// Resume undoes Pause.
func (a *AsyncClient) Resume() {
	a.touch() // IdleTimeout begins anew
	a.orders.And(^uint32(orderPause))
	a.wakeReceiver()
}

// CloseWrite tells the peer of a stream that nothing more will be sent, after all that is
// queued; see Client.CloseWrite. Finish also closes the client, and loses nothing. Further sends fail with unix.EPIPE. Receiving goes on. A
// datagram client gives unix.EOPNOTSUPP.
func (a *AsyncClient) CloseWrite() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opClose)
	if err != nil {
		return err
	}
	if !a.stream {
		return c.opError(opClose, nil, os.NewSyscallError("shutdown", unix.EOPNOTSUPP))
	}
	a.lastItemLocked(c, itemCloseWrite, unix.EPIPE)
	return nil
}

// lastItemLocked queues an item after which sends fail with an error.
func (a *AsyncClient) lastItemLocked(c *Client, kind itemKind, refusal error) {
	a.queue.items = append(a.queue.items, &sendItem{kind: kind})
	a.queue.refusal = refusal
	a.queuedLocked(c)
}

// Close closes the client now. What is queued is dropped: OnClose then gets an *UnsentError.
// If bytes of the peer have not been received, or arrive afterwards, TCP resets the connection,
// and the kernel drops what it has not delivered, too: see Finish.
// Before OnConnect it ends the connect: OnError gets net.ErrClosed. Except for that last
// callback none begins after Close has returned, if Close is called in a callback; otherwise
// one more OnReceive may.
//
// A second Close fails with net.ErrClosed. If Options.Linger is positive, Close may wait for
// so long. The function Closed of a Trace is called in Close.
func (a *AsyncClient) Close() error {
	a.mu.Lock()
	c, cancel := a.client.Load(), a.cancel
	if a.ended || a.orders.Load()&orderClose != 0 {
		defer a.mu.Unlock()
		return a.failedLocked(c, opClose, net.ErrClosed)
	}
	a.queue.refusal = net.ErrClosed
	a.orderLocked(orderClose)
	if c != nil && c.lease != nil { // end gives it back to the pool
		_ = c.sock.SetReadDeadline(pastDeadline)
		_ = c.sock.SetWriteDeadline(pastDeadline)
	}
	a.mu.Unlock()
	switch {
	case c == nil && cancel != nil:
		cancel()
	case c != nil && c.lease == nil:
		_ = c.Close()
	}
	return nil
}

// Detach makes the client a blocking one again, after all that is queued was sent: f, which
// is required, gets it in the last callback, instead of OnClose. Data that was received with
// an earlier packet, with Options.Framing, is in it. If the client ends before, OnClose is
// called and f is not.
func (a *AsyncClient) Detach(f func(*Client)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.client.Load()
	if err := a.queue.refusal; err != nil && !errors.Is(err, unix.EPIPE) {
		return a.failedLocked(c, opAsync, err)
	}
	if f == nil {
		return c.opError(opAsync, nil, unix.EINVAL)
	}
	a.detach = f
	a.lastItemLocked(c, itemDetach, net.ErrClosed)
	return nil
}

// flushAfterEOF sends what is queued after the peer's end: it may have ended one direction
// only. While other clients are piped into this one, it waits for more. IdleTimeout ends both.
func (a *AsyncClient) flushAfterEOF(c *Client) error {
	a.pipe.sourceEnded(a, true)
	a.touch() // the end was received
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		hasSources := len(a.pipe.sources) > 0
		if !hasSources {
			a.queue.refusal = net.ErrClosed
		}
		orders := a.orders.Load()
		switch {
		case orders&orderClose != 0:
			return nil
		case a.lost != nil:
			return a.lost
		case orders&orderFinish != 0:
			return nil
		case orders&orderDetach != 0:
			return errDetached
		case orders&orderHandshake != 0, !hasSources && len(a.queue.items) == 0 && !a.queue.writing:
			return io.EOF
		}
		a.mu.Unlock()
		err := a.sleepUntilIdle(c)
		a.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// end releases everything and makes the last callback.
func (a *AsyncClient) end(c *Client, err error) {
	a.mu.Lock()
	a.ended = true
	if piped, ok := err.(pipeError); ok { //nolint:errorlint // as deliver returns it
		err = piped.OpError
	}
	if a.orders.Load()&orderClose != 0 {
		err = nil
	}
	a.queue.refusal = net.ErrClosed
	_ = c.sock.SetWriteDeadline(pastDeadline)
	for a.queue.writing {
		a.mu.Unlock()
		a.sleep()
		a.mu.Lock()
	}
	unsent, detach, sources := a.queue.unsent()+int64(c.unsent()), a.detach, a.pipe.sources
	a.pipe.sources = nil
	a.mu.Unlock()

	a.pipe.sourceEnded(a, false)
	for _, s := range sources {
		s.pipeBroken(c)
	}
	a.recv.release()
	_ = c.sock.SetReadDeadline(sock.Never)
	_ = c.sock.SetWriteDeadline(sock.Never)
	c.sock.AlwaysPark(false)
	c.lease.decref() // see Async
	defer a.finish()
	if err == errDetached { //nolint:errorlint // as obey returns it
		a.calls.Lock()
		defer a.calls.Unlock()
		a.over = true
		detach(c)
		return
	}
	if unsent > 0 {
		if err == nil {
			err = net.ErrClosed
		}
		err = &UnsentError{Bytes: unsent, Err: err}
	}
	if err != nil {
		c.lease.markFailed()
	}
	_ = c.Close()
	a.calls.Lock()
	defer a.calls.Unlock()
	a.over = true
	if a.cfg.OnClose != nil {
		a.cfg.OnClose(a, err)
	}
}

// finish releases the callbacks after the last one.
func (a *AsyncClient) finish() {
	a.calls.Lock()
	a.cfg.OnConnect, a.cfg.OnReceive, a.cfg.OnError, a.cfg.OnClose = nil, nil, nil, nil
	a.cfg.OnBufferFull, a.cfg.OnBufferEmpty = nil, nil
	a.calls.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.detach, a.finished = nil, true
	if a.done != nil {
		close(a.done)
	}
}
