package client

import (
	"context"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A checkoutTrace calls the functions of a Trace during one checkout of a Pool.
type checkoutTrace struct {
	*Trace
	GetConnInfo
	opts *Options

	waitedFor time.Duration // of a wait that has ended and was not reported
	idle      time.Duration // how long the connection was idle
}

func newCheckoutTrace(ctx context.Context, network, address string, opts *Options) *checkoutTrace {
	return &checkoutTrace{
		Trace:       ContextTrace(ctx).before(opts.Trace),
		GetConnInfo: GetConnInfo{opts.PoolKey, network, address},
		opts:        opts,
	}
}

// acquire is Pool.acquire between GetConn and GotConn.
func (t *checkoutTrace) acquire(ctx context.Context, p *Pool, mode acquireMode) (c *Client, err error) {
	notify(t.GetConn, t.GetConnInfo)
	began, returned := time.Now(), false
	defer func() {
		if !returned && c != nil { // GotConn has panicked
			_ = c.Discard()
		}
	}()
	err = errNoReturn // if a callback panics
	defer func() {
		got := GotConnInfo{
			PoolKey: t.PoolKey, Network: t.Network, Address: t.Address,
			Duration: time.Since(began), Err: err,
		}
		if c != nil {
			got.Conn, got.Reused, got.IdleTime = c.connInfo(), c.Reused(), t.idle
		}
		notify(t.GotConn, got)
		returned = true
	}()
	c, err = p.checkout(ctx, t.Network, t.Address, t.opts, mode, t)
	return c, err
}

// endWait reports a wait that has ended.
func (t *checkoutTrace) endWait(err error) {
	if t.waitedFor == 0 {
		return
	}
	waited := t.waitedFor
	t.waitedFor = 0
	notify(t.Waited, WaitedInfo{t.PoolKey, t.Network, t.Address, waited, err})
}

// probed reports the check of a connection that existed before the checkout.
func (t *checkoutTrace) probed(k *pooledConn, verdict DiscardCause, now moment) {
	t.idle = 0
	if !k.wasPooled() {
		return
	}
	if k.idleSince.mono != sock.Never {
		t.idle = time.Duration(now.mono - k.idleSince.mono)
	}
	notify(t.ProbedConn, ProbedConnInfo{k.connInfo(), t.idle, verdict})
}

func (k *pooledConn) connInfo() ConnInfo {
	return k.addressing.connInfo(k.network, k.bucket.key.address)
}

// traceClosed calls Closed, once.
func (k *pooledConn) traceClosed(cause DiscardCause) {
	if k.trace != nil && !k.reported.Swap(true) {
		notify(k.trace.Closed, ClosedInfo{k.connInfo(), k.endedBy, cause})
	}
}
