package client

import (
	"container/list"
	"context"
	"os"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A waiter is somebody who has asked for a connection and has none yet. All but
// ready belongs to the pool's mutex.
type waiter struct {
	ctx   context.Context
	opts  *Options
	fresh bool         // wants one that nobody has had
	limit sock.Instant // without what the context adds

	instead bool // if fresh: has an idle one closed first, also if there is room

	place *list.Element // in the queue; nil when it has left
	dial  *pendingDial  // that it has begun; nil: none, or none any more
	waits bool          // it has been counted among those who had to wait
	asked time.Time     // when it began to wait for others to give back; zero: it does not
	ready chan handed
}

// handed is what a waiter gets: a connection that is its own, an error, or what a
// function of its options has panicked with.
type handed struct {
	kept     *kept
	err      error
	panicked any
}

func newWaiter(ctx context.Context, opts *Options, fresh bool) *waiter {
	return &waiter{
		ctx: ctx, opts: opts, fresh: fresh,
		limit: sock.In(opts.limits().connect), ready: make(chan handed, 1),
	}
}

// open counts all connections of a key that the server may see.
func (s *shelf) open() int { return s.active + s.dialing + s.idle.n + s.closing }

// hasRoom reports whether there may be one more connection, besides what is open and
// another n.
func (p *Pool) hasRoom(s *shelf, n int) bool {
	return p.opts.MaxConnsPerKey <= 0 || s.open()+n < p.opts.MaxConnsPerKey
}

// queue puts a waiter into the queue: in front if it has been there before and was
// given a connection that was of no use.
func (p *Pool) queue(s *shelf, w *waiter, again bool) {
	if p.closed {
		w.ready <- handed{err: errPoolClosed}
		return
	}
	s.used = sock.Now()
	if again {
		w.place = s.waiters.PushFront(w)
	} else {
		w.place = s.waiters.PushBack(w)
	}
	p.settle(s, nil)
	if w.place == nil || w.dial != nil {
		return
	}
	w.asked = time.Now()
	if !w.waits {
		w.waits = true
		s.stats.Waits++
	}
}

// settle gives to those who wait, in their order, what there is: k, if not nil, or
// another connection that is idle, or a dial for which there is room. Who wants a new
// one and finds no room, or wants it instead of an idle one, has a connection closed that
// it does not want. It returns k if nobody took it. There is to be no time with room,
// somebody who waits, and nothing on its way to them.
func (p *Pool) settle(s *shelf, k *kept) *kept {
	if p.closed {
		return k
	}
	blocked := 0
	for e := s.waiters.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		switch {
		case k != nil && (!w.fresh || k.uses == 0):
			p.give(s, w, k)
			k = nil
		case s.idle.n > 0 && !w.fresh:
			p.give(s, w, p.takeNewest(s))
		case w.dial != nil, s.ending >= mostEnding:
		case s.panicked != nil:
			p.leave(s, w, handed{panicked: s.panicked})
			s.panicked = nil
		case (!w.instead || s.idle.n == 0) && (k != nil && p.hasRoom(s, 1) || k == nil && p.hasRoom(s, 0)):
			p.startDial(s, w, nil)
		case s.idle.n > 0:
			victim := s.idle.oldest
			p.unshelve(victim)
			s.stats.OverLimit++
			p.startDial(s, w, victim)
		case k != nil:
			s.stats.OverLimit++
			p.startDial(s, w, k)
			k = nil
		default:
			if blocked++; !p.makeRoom(s, blocked) {
				return nil // those behind can have nothing either
			}
		}
	}
	return k
}

// fill has all that there is room for on its way.
func (p *Pool) fill(s *shelf) {
	p.settle(s, nil)
	p.keepMinIdle(s)
}

// takeNewest takes the idle connection that was used last, or nil.
func (p *Pool) takeNewest(s *shelf) *kept {
	k := s.idle.newest
	if k != nil {
		p.unshelve(k)
	}
	return k
}

// lends counts a connection as lent.
func (s *shelf) lends(k *kept) {
	s.active++
	if k.uses > 0 {
		s.stats.Reuses++
	}
}

func (p *Pool) give(s *shelf, w *waiter, k *kept) {
	s.lends(k)
	p.leave(s, w, handed{kept: k})
}

// leave takes a waiter out of the queue with what it waited for.
func (p *Pool) leave(s *shelf, w *waiter, h handed) {
	s.waiters.Remove(w.place)
	w.place = nil
	w.waited(s)
	if d := w.dial; d != nil {
		w.dial = nil
		p.abandon(d)
	}
	w.ready <- h
}

// waited counts the time until something is on its way to the waiter.
func (w *waiter) waited(s *shelf) {
	if !w.asked.IsZero() {
		s.stats.WaitTime += time.Since(w.asked)
		w.asked = time.Time{}
	}
}

// lateDial is how long a waiter waits, once its limit is over, for the error of its own
// dial, which has the same limit and says more.
const lateDial = 100 * time.Millisecond

// await waits until w has a connection, an error, or no more time.
func (w *waiter) await(p *Pool, s *shelf) (*kept, error) {
	var timer *time.Timer
	var over <-chan time.Time
	if limit := w.limit.Timeout(); limit >= 0 {
		timer = time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	for late := false; ; {
		var err error
		select {
		case h := <-w.ready:
			if h.panicked != nil {
				panic(h.panicked)
			}
			return h.kept, h.err
		case <-over:
			err = os.ErrDeadlineExceeded
		case <-w.ctx.Done():
			err = contextual(w.ctx, sock.ErrStopped)
			late = true
		}
		p.mu.Lock()
		switch {
		case w.place == nil: // it is ready
		case w.dial != nil && !late:
			late = true
			timer.Reset(lateDial)
		default:
			p.leave(s, w, handed{err: err})
			p.fill(s)
		}
		p.mu.Unlock()
	}
}
