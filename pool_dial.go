package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A pendingDial is a dial under way. The pool's mutex guards it.
//
//	for a waiter ──detach──▶ detached ──────▶ ended
//	                 │         ▲  └──cancel──▶ canceled ──▶ ended
//	                 │     for MinIdle            ▲
//	                 └────────────────────────────┘
//
// It counts as a connection until it has ended: its socket is closed by then.
type pendingDial struct {
	bucket   *bucket
	waiter   *waiter // nil: the dial is detached or canceled
	began    sock.Instant
	cancel   context.CancelFunc
	canceled bool
	limit    *time.Timer // cancels a dial that was detached; nil for MinIdle
}

const (
	// The maximum number of detached dials, per key and in all. Each takes a socket, a
	// goroutine and usually a thread, and while a server does not answer, every caller
	// with a short context leaves one behind. A few are useful: their connections serve
	// the next callers of a server that answers slowly.
	maxDetachedPerKey = 4
	maxDetached       = 32

	// A canceled dial ends at once unless a callback (Control, Setup) goes on. With this
	// many canceled dials of a key still under way, no other begins.
	maxCanceled = 32

	// Where MaxConnsPerKey leaves no room, the oldest detached dial is canceled for a
	// waiter once it is this old: the server may answer a new dial sooner. The age
	// doubles with each cancellation, because a slow server could otherwise never be
	// reached, up to the time after which TCP considers a SYN lost (RFC 6298, 2.1: 1 s).
	// A successful dial resets it.
	minRoomAfter = 100 * time.Millisecond
	maxRoomAfter = time.Second
)

// errDialEnded is what a waiter gets if a callback ended its dial's goroutine, as
// testing.T.FailNow does.
var errDialEnded = errors.New("a callback of the options ended the dial's goroutine (runtime.Goexit): return an error instead")

// startDialLocked dials in the background: for w or, if w is nil, for MinIdle. It closes
// victim first, if that is not nil, and takes its place.
func (p *Pool) startDialLocked(b *bucket, w *waiter, victim *pooledConn) {
	d := &pendingDial{bucket: b, waiter: w, began: sock.Now()}
	b.dialing++
	b.stats.Dials++
	opts, values, until := b.opts, context.Background(), sock.In(DefaultTimeout)
	if limit := opts.limits().connect; limit >= 0 {
		until = sock.In(limit)
	}
	if w != nil {
		opts, values, until = w.opts.clone(), context.WithoutCancel(w.ctx), w.limit
		w.endWaitLocked(b)
		w.dial = d
	}
	ctx, cancel := context.WithCancel(values)
	d.cancel = cancel
	unlink := context.AfterFunc(p.dialsCtx, cancel)
	if w == nil {
		p.addDetachedLocked(d)
	}
	go func() {
		defer cancel()
		defer unlink()
		var k *pooledConn
		err := errDialEnded
		defer func() { p.finishDial(d, k, err, recover()) }()
		if victim != nil {
			victim.close(victim.discard) // before the dial: the server must never see one more
		}
		k, err = p.dialConn(ctx, b, opts, until)
	}()
}

// dialConn dials a connection and runs Setup on it.
func (p *Pool) dialConn(ctx context.Context, b *bucket, opts *Options, until sock.Instant) (*pooledConn, error) {
	c, err := dialUntil(ctx, b.key.network, b.key.address, opts, until)
	if err != nil {
		return nil, err
	}
	k := p.newConn(b, c, bothClocks())
	k.trace = opts.Trace
	if p.opts.Setup != nil {
		if err := k.setUp(ctx, c, opts, until); err != nil {
			return nil, &net.OpError{Op: opDial, Net: k.network, Addr: unresolvedAddr{b.key.network, b.key.address}, Err: &setupError{err}}
		}
	}
	return k, nil
}

// finishDial hands on the result of a dial. The waiter that began it comes first, before
// older ones: their own dials are under way.
func (p *Pool) finishDial(d *pendingDial, k *pooledConn, err error, panicked any) {
	now := bothClocks()
	b := d.bucket
	var excess *pooledConn
	p.mu.Lock()
	w := d.waiter
	b.dialing--
	switch {
	case d.canceled:
		b.canceled--
	case w == nil:
		p.removeDetachedLocked(d)
	default:
		w.dial = nil
	}
	switch {
	case k != nil && p.closed:
		excess = k
		k.discardLocked(DiscardPoolClosed)
		b.closing++
	case k != nil:
		b.roomAfter = 0
		switch {
		case !b.diedUnused:
			b.refillBackoff, b.refillAt = 0, sock.Never
		case w == nil:
			p.postponeRefillLocked(b, now.mono) // the server may close it before its first use again
		}
		if w != nil {
			p.leaseToLocked(b, w, k)
		} else {
			excess = p.putConnLocked(k, now)
		}
	default:
		b.stats.DialErrors++
		switch {
		case w != nil:
			p.finishLocked(b, w, acquireResult{err: err, panicked: panicked})
		case panicked != nil:
			b.dialPanic = panicked
		}
		if w == nil && !d.canceled {
			p.postponeRefillLocked(b, now.mono)
		}
	}
	p.replenishLocked(b)
	p.mu.Unlock()
	if excess != nil {
		p.closeConnsRecover(excess)
	}
}

// detachDialLocked lets a dial go on whose waiter has left, or cancels it if too many go
// on.
func (p *Pool) detachDialLocked(d *pendingDial) {
	d.waiter = nil
	if p.closed || len(d.bucket.detached) >= maxDetachedPerKey || p.numDetached >= maxDetached {
		p.cancelDialLocked(d)
		return
	}
	p.addDetachedLocked(d)
	d.limit = time.AfterFunc(DefaultTimeout, d.cancel) // the dial's own limit may be longer, or none
}

func (p *Pool) addDetachedLocked(d *pendingDial) {
	d.bucket.detached = append(d.bucket.detached, d)
	p.numDetached++
}

func (p *Pool) removeDetachedLocked(d *pendingDial) {
	b := d.bucket
	i := slices.Index(b.detached, d)
	b.detached = slices.Delete(b.detached, i, i+1)
	p.numDetached--
	if d.limit != nil {
		d.limit.Stop()
	}
}

// cancelDialLocked cancels a dial that is not in bucket.detached.
func (p *Pool) cancelDialLocked(d *pendingDial) {
	d.canceled = true
	d.bucket.canceled++
	d.cancel()
}

// makeRoomLocked is called for the n-th waiter for which there is no room. It cancels
// the oldest detached dial if that is old enough; see minRoomAfter. It reports whether a
// canceled dial is going to make room for this waiter.
func (p *Pool) makeRoomLocked(b *bucket, n int) bool {
	if n <= b.canceled {
		return true
	}
	if len(b.detached) == 0 {
		return false
	}
	if b.roomAfter == 0 {
		b.roomAfter = minRoomAfter
	}
	oldest := b.detached[0]
	for _, d := range b.detached {
		if d.began < oldest.began {
			oldest = d
		}
	}
	if left := oldest.began.Add(b.roomAfter).Left(); left > 0 {
		p.replenishAtLocked(b, sock.In(left))
		return false
	}
	b.roomAfter = min(2*b.roomAfter, maxRoomAfter)
	p.removeDetachedLocked(oldest)
	p.cancelDialLocked(oldest)
	return true
}
