package client

import (
	"context"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// StartTLS begins TLS on a connected stream, as Client.StartTLS does, after all that is queued
// was sent. Call it when the peer's agreement was received: from then on nothing is received
// until the handshake is over, and bytes that have arrived end the client. Later sends wait
// for the handshake.
//
// onSecured, if not nil, is called when the handshake is over. If it fails, OnClose gets the
// error. StartTLS itself returns an *OptionError, unix.EALREADY if the client uses TLS or
// is about to, unix.EOPNOTSUPP on a datagram client, or what Send would.
func (a *AsyncClient) StartTLS(t *TLSOptions, onSecured func(a *AsyncClient)) error {
	if t == nil {
		t = &TLSOptions{}
	}
	t = (&Options{TLS: t}).clone().TLS
	sec, err := t.load()
	a.mu.Lock()
	defer a.mu.Unlock()
	c, refused := a.sendableLocked(opStartTLS)
	switch {
	case refused != nil:
		return refused
	case !a.stream:
		err = unix.EOPNOTSUPP
	case c.hasTLS() || a.orders.Load()&orderTLS != 0:
		err = errTLSAlready
	case err == nil:
		_, err = sec.forHost(c.host)
	}
	if err != nil {
		return c.opError(opStartTLS, nil, err)
	}
	c.lease.markAltered() // the peer has agreed, and expects the handshake also if Close comes before
	a.queue.items = append(a.queue.items, &sendItem{kind: itemTLS, tls: t, onSecured: onSecured})
	a.orderLocked(orderTLS)
	a.queuedLocked(c)
	return nil
}

// handshake makes the handshake that is the first item of the queue.
func (a *AsyncClient) handshake(c *Client) error {
	a.mu.Lock()
	it := a.queue.items[0]
	// An order may have set it. None does while receiving is false.
	_ = c.sock.SetReadDeadline(sock.Never)
	a.mu.Unlock()
	if a.orders.Load()&orderClose != 0 {
		return nil
	}
	if err := c.StartTLS(context.Background(), it.tls); err != nil {
		return err
	}
	a.recv.readable = true
	a.touch()
	a.mu.Lock()
	a.queue.pop()
	a.orders.And(^uint32(orderTLS | orderHandshake))
	a.queuedLocked(c)
	a.mu.Unlock()
	if it.onSecured != nil {
		a.call(it.onSecured)
	}
	return nil
}
