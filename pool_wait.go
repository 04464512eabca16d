package client

import (
	"context"
	"os"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A waiter is a caller of acquire that has no connection yet. The pool's mutex guards
// all fields but ready and timer.
type waiter struct {
	ctx   context.Context
	opts  *Options
	mode  acquireMode
	limit sock.Instant // from Options; ctx may end earlier

	queued        bool // it is in the bucket's queue
	ahead, behind *waiter
	dial          *pendingDial // the dial that it has begun, while that is under way
	counted       bool         // KeyStats.Waits includes it
	waitingSince  sock.Instant // since when nothing is on the way to it; Never: something is
	waited        time.Duration

	ready chan acquireResult // gets one result each time the waiter was queued
	timer *time.Timer        // its caller's, stopped between two waits; nil: not made yet
}

// newWaiter returns a waiter, if possible one that was used before: where many callers wait,
// making the channel and the timer costs more than the wait.
func (p *Pool) newWaiter(ctx context.Context, opts *Options, mode acquireMode, now sock.Instant) *waiter {
	w, _ := p.spareWaiters.Get().(*waiter)
	if w == nil {
		w = &waiter{ready: make(chan acquireResult, 1)}
	}
	w.ctx, w.opts, w.mode = ctx, opts, mode
	if limit := opts.limits().connect; limit >= 0 {
		w.limit = now.Add(limit)
	}
	return w
}

// freeWaiter takes a waiter whose wait has returned. Nothing else refers to it then: it has
// left the queue, no dial is for it, and its result was received.
func (p *Pool) freeWaiter(w *waiter) {
	*w = waiter{ready: w.ready, timer: w.timer}
	p.spareWaiters.Put(w)
}

// accepts reports whether the waiter can have a connection.
func (w *waiter) accepts(k *pooledConn) bool { return w.mode == reuseOrDial || k.uses == 0 }

// enqueueLocked puts a waiter into the queue, and serves it if possible. A waiter that
// was given an unusable connection goes to the front again.
func (p *Pool) enqueueLocked(b *bucket, w *waiter, now sock.Instant, again bool) {
	if p.closed {
		w.ready <- acquireResult{err: errPoolClosed}
		return
	}
	b.lastUsed = now
	if again {
		b.waiters.pushFront(w)
	} else {
		b.waiters.pushBack(w)
	}
	p.serveWaitersLocked(b, nil)
	if !w.queued || w.dial != nil {
		return
	}
	w.waitingSince = now
	if !w.counted {
		w.counted = true
		b.stats.Waits++
	}
}

// serveWaitersLocked serves the waiters in FIFO order. Each gets, in this order of
// preference: k, if not nil; an idle connection; a dial, if there is room. A waiter that
// accepts only a new connection and finds no room, or is to replace an idle one, has a
// connection closed that it does not accept. The result is k if no waiter took it.
//
// It is called whenever a connection or room becomes available. There must be no time at
// which there is room, a waiter, and nothing on the way to it.
func (p *Pool) serveWaitersLocked(b *bucket, k *pooledConn) *pooledConn {
	if p.closed {
		return k
	}
	blocked := 0
	for w, behind := b.waiters.first, (*waiter)(nil); w != nil; w = behind {
		behind = w.behind
		replaces := w.mode == replaceIdle && p.opts.MaxConnsPerKey > 0 && b.idle.n > 0
		switch {
		case k != nil && w.accepts(k):
			p.leaseToLocked(b, w, k)
			k = nil
		case b.idle.n > 0 && w.mode == reuseOrDial:
			p.leaseToLocked(b, w, p.popIdleLocked(b))
		case w.dial != nil, b.canceled >= maxCanceled: // its dial is under way, or none may begin
		case b.dialPanic != nil:
			p.finishLocked(b, w, acquireResult{panicked: b.dialPanic})
			b.dialPanic = nil
		case !replaces && (k != nil && p.hasRoomLocked(b, 1) || k == nil && p.hasRoomLocked(b, 0)):
			p.startDialLocked(b, w, nil)
		case b.idle.n > 0:
			victim := b.idle.oldest
			p.removeIdleLocked(victim)
			victim.discardLocked(DiscardOverLimit)
			p.startDialLocked(b, w, victim)
		case k != nil:
			k.discardLocked(DiscardOverLimit)
			p.startDialLocked(b, w, k)
			k = nil
		default:
			if blocked++; !p.makeRoomLocked(b, blocked) {
				return nil // there is nothing for the waiters behind it either
			}
		}
	}
	return k
}

// leaseToLocked gives a connection to a waiter.
func (p *Pool) leaseToLocked(b *bucket, w *waiter, k *pooledConn) {
	b.leaseLocked()
	p.finishLocked(b, w, acquireResult{conn: k})
}

// finishLocked takes a waiter out of the queue and gives it its result. A dial of its
// own that is under way goes on detached.
func (p *Pool) finishLocked(b *bucket, w *waiter, result acquireResult) {
	b.waiters.remove(w)
	w.endWaitLocked(b)
	if d := w.dial; d != nil {
		w.dial = nil
		p.detachDialLocked(d)
	}
	w.ready <- result
}

// endWaitLocked adds the time until something was on the way to KeyStats.WaitTime.
func (w *waiter) endWaitLocked(b *bucket) {
	if w.waitingSince != sock.Never {
		waited := -w.waitingSince.Left()
		b.stats.WaitTime += waited
		w.waited += waited
		w.waitingSince = sock.Never
	}
}

// ownDialGrace is how long a waiter whose limit is over waits for the error of its own
// dial: that has the same limit, and its error says more.
const ownDialGrace = 100 * time.Millisecond

// wait waits for the waiter's result, its limit, or the end of its context. now is when the
// waiter was queued.
func (w *waiter) wait(p *Pool, b *bucket, now sock.Instant) (*pooledConn, error) {
	limit := w.startTimer(now)
	for final := false; ; {
		var err error
		select {
		case r := <-w.ready:
			w.stopTimer()
			if r.panicked != nil {
				panic(r.panicked)
			}
			return r.conn, r.err
		case <-limit:
			err = os.ErrDeadlineExceeded
		case <-w.ctx.Done():
			err = contextError(w.ctx, sock.ErrStopped)
			final = true
		}
		p.mu.Lock()
		switch {
		case !w.queued: // the result is in ready
		case w.dial != nil && !final:
			final = true
			w.timer.Reset(ownDialGrace)
		default:
			p.finishLocked(b, w, acquireResult{err: err})
			p.replenishLocked(b)
		}
		p.mu.Unlock()
	}
}

// startTimer returns a channel that receives at the limit, or nil without a limit.
func (w *waiter) startTimer(now sock.Instant) <-chan time.Time {
	if w.limit == sock.Never {
		return nil
	}
	left := max(w.limit.LeftAt(now), 0)
	if w.timer == nil {
		w.timer = time.NewTimer(left)
	} else {
		w.timer.Reset(left)
	}
	return w.timer.C
}

// stopTimer ends startTimer. A timer that has fired is not used again: with
// GODEBUG=asynctimerchan=1 its channel may be full, which would end the next wait.
func (w *waiter) stopTimer() {
	if w.limit != sock.Never && !w.timer.Stop() {
		w.timer = nil
	}
}
