package client

import (
	"context"
	"errors"
	"net"

	"github.com/blocksock/client/internal/sock"
)

// A checkout:
//
//	acquire ──▶ idle connection ──────────────▶ validate ──▶ attach ──▶ *Client
//	   ▲  │ none is idle                       ▲   │
//	   │  └──▶ queue of waiters ──▶ wait ──────┘   │ dead, dirty or expired: closed
//	   └───────────────────────────────────────────┘
//
// A waiter gets the connection that another client releases, or the one that it has
// dialled itself. See serveWaitersLocked for who gets what.

// An acquireMode says which connections a caller accepts.
type acquireMode int

const (
	reuseOrDial acquireMode = iota // an idle connection or a new one
	newOnly                        // a new one
	replaceIdle                    // a new one; with MaxConnsPerKey an idle one is closed first
)

// An acquireResult is what a waiter gets: a connection, an error, or what a callback
// panicked with.
type acquireResult struct {
	conn     *pooledConn
	err      error
	panicked any
}

// acquire returns a client on a connection of the pool.
func (p *Pool) acquire(ctx context.Context, network, address string, opts *Options, mode acquireMode) (*Client, error) {
	return p.checkout(ctx, network, address, opts, mode, nil)
}

// checkout is acquire. If it finds a Trace, it calls itself with a checkoutTrace.
func (p *Pool) checkout(ctx context.Context, network, address string, opts *Options, mode acquireMode, t *checkoutTrace) (*Client, error) {
	if t == nil && (opts.Trace != nil || ContextTrace(ctx) != nil) {
		return newCheckoutTrace(ctx, network, address, opts).acquire(ctx, p, mode)
	}
	if ctx.Err() != nil {
		return nil, acquireError(network, address, contextError(ctx, sock.ErrStopped))
	}
	frames, err := opts.frames(network)
	if err == nil {
		err = opts.checkKey()
	}
	if err != nil {
		return nil, acquireError(network, address, err)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, acquireError(network, address, errPoolClosed)
	}
	if p.buckets == nil {
		p.init(PoolOptions{})
	}
	b := p.bucketLocked(connKey{opts.PoolKey, network, address}, opts)
	c := p.spareHandleLocked()
	var w *waiter // if no connection is idle
	for again := false; ; again = true {
		var k *pooledConn
		if mode == reuseOrDial {
			k = p.popIdleLocked(b)
		}
		if k != nil {
			b.leaseLocked()
			p.keepMinIdleLocked(b)
			p.mu.Unlock()
		} else {
			began := sock.Now()
			if w == nil {
				w = p.newWaiter(ctx, opts, mode, began)
			}
			p.enqueueLocked(b, w, began, again)
			p.mu.Unlock()
			k, err = w.wait(p, b, began)
			if t != nil {
				t.waitedFor, w.waited = w.waited, 0
			}
			if err != nil {
				p.freeWaiter(w)
				if t != nil {
					t.endWait(err)
				}
				return nil, acquireError(network, address, err)
			}
		}
		now := bothClocks()
		cause := k.validate(now, t)
		if cause == DiscardNone {
			c.frames = frames
			b.countCheckout(k)
			k.attach(c, opts, now)
			if t != nil {
				c.setTrace(t.Trace, opts.Trace, address)
			}
			if w != nil {
				p.freeWaiter(w)
			}
			return c, nil
		}
		p.mu.Lock()
		b.unleaseLocked(cause)
		if cause == DiscardDead && k.uses == 0 {
			p.diedUnusedLocked(b, now.mono)
		}
	}
}

// spareHandleLocked returns an unused Client. A Client is never used again after its
// release: a goroutine that still has it must not reach the connection of another caller.
func (p *Pool) spareHandleLocked() *Client {
	const batch = 15 // allocated together, so that not every checkout allocates
	if len(p.spareHandles) == 0 {
		p.spareHandles = make([]spareHandle, batch)
	}
	h := &p.spareHandles[0]
	p.spareHandles = p.spareHandles[1:]
	h.client.lease = &h.lease
	return &h.client
}

// A spareHandle is a Client that has no connection yet, and its lease.
type spareHandle struct {
	client Client
	lease  lease
}

// acquireError wraps an error as that of a dial, unless it is one already.
func acquireError(network, address string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == opDial {
		return err
	}
	return &net.OpError{Op: opDial, Net: network, Addr: unresolvedAddr{network, address}, Err: err}
}
