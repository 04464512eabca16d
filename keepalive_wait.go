package client

import (
	"container/list"
	"context"
	"errors"
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

	place   *list.Element // in the queue; nil when it has left
	dialing bool          // there is a dial that it has begun
	endDial func()        // has that dial end, if it has no limit of its own
	orphan  *time.Timer   // due to do so, when nobody waits for the dial
	waits   bool          // it has been counted among those who had to wait
	asked   time.Time     // when it began to wait for others to give back; zero: it does not
	ready   chan handed
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

func (p *Pool) hasRoom(s *shelf) bool {
	return p.opts.MaxActivePerKey <= 0 || s.active+s.dialing < p.opts.MaxActivePerKey
}

// queue puts a waiter into the queue: in front if it has been there before and was
// given a connection that was of no use.
func (p *Pool) queue(s *shelf, w *waiter, again bool) {
	if p.closed {
		w.ready <- handed{err: errPoolClosed}
		return
	}
	if again {
		w.place = s.waiters.PushFront(w)
	} else {
		w.place = s.waiters.PushBack(w)
	}
	if w.orphan != nil {
		w.orphan.Stop() // if it is late, this is one dial that failed
	}
	p.settle(s, w.place, nil)
	if w.place == nil || w.dialing {
		return
	}
	w.asked = time.Now()
	if !w.waits {
		w.waits = true
		s.stats.Waits++
	}
}

// settle gives to those who wait, in their order, what there is room for: k, if
// not nil, or another connection that is idle, or a dial. It
// returns k if nobody took it. There is to be no time with room, somebody who
// waits, and nothing on its way to them.
func (p *Pool) settle(s *shelf, from *list.Element, k *kept) *kept {
	if p.closed {
		return k
	}
	for e := from; e != nil && p.hasRoom(s); {
		w := e.Value.(*waiter)
		e = e.Next()
		switch {
		case k != nil && (!w.fresh || k.uses == 0):
			s.give(w, k)
			k = nil
		case s.idle.n > 0 && !w.fresh:
			s.give(w, p.takeNewest(s))
		case !w.dialing:
			p.startDial(s, w)
		}
	}
	return k
}

// fill has all that there is room for on its way.
func (p *Pool) fill(s *shelf) {
	p.settle(s, s.waiters.Front(), nil)
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
	if k.isOld() {
		s.stats.Reuses++
	}
}

func (s *shelf) give(w *waiter, k *kept) {
	s.lends(k)
	w.leave(s, handed{kept: k})
}

// leave takes a waiter out of the queue with what it waited for.
func (w *waiter) leave(s *shelf, h handed) {
	s.waiters.Remove(w.place)
	w.place = nil
	w.waited(s)
	if w.dialing && w.endDial != nil {
		// For the sake of nobody a dial is not to last for ever.
		w.orphan = time.AfterFunc(DefaultTimeout, w.endDial)
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

// await waits until w has a connection, an error, or no more time.
func (w *waiter) await(p *Pool, s *shelf) (*kept, error) {
	var over <-chan time.Time
	if limit := w.limit.Timeout(); limit >= 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	for {
		var err error
		select {
		case h := <-w.ready:
			if h.panicked != nil {
				panic(h.panicked)
			}
			return h.kept, h.err
		case <-over:
			over, err = nil, os.ErrDeadlineExceeded
		case <-w.ctx.Done():
			err = contextual(w.ctx, sock.ErrStopped)
		}
		p.mu.Lock()
		// A dial of its own has the same limit, and a better error.
		if w.place != nil && (!w.dialing || w.ctx.Err() != nil) {
			w.leave(s, handed{err: err})
		}
		p.mu.Unlock()
	}
}

// startDial dials in the background, for w or, if that is nil, to have one more.
func (p *Pool) startDial(s *shelf, w *waiter) {
	s.dialing++
	s.stats.Dials++
	opts, values, until := s.opts, context.Background(), sock.In(DefaultTimeout)
	if limit := opts.limits().connect; limit >= 0 {
		until = sock.In(limit)
	}
	if w != nil {
		opts, values, until = w.opts.clone(), context.WithoutCancel(w.ctx), w.limit
	}
	ctx, cancel := context.WithCancel(values)
	if w != nil {
		w.waited(s)
		w.dialing, w.endDial = true, nil
		if until == sock.Never {
			w.endDial = cancel
		}
	}
	unlink := context.AfterFunc(p.life, cancel)
	go func() {
		defer cancel()
		defer unlink()
		var c *Client
		err := errDialEnded
		defer func() { p.dialled(s, w, c, err, recover()) }()
		c, err = dialBy(ctx, s.place.network, s.place.address, opts, until)
	}()
}

// errDialEnded is for who waits for a dial whose goroutine was ended by a function
// of the options, as testing.T.FailNow does.
var errDialEnded = errors.New("a function of the options has ended the dial's goroutine")

// dialled takes what has come of a dial. Who began it is first to get it: another's
// may still take long.
func (p *Pool) dialled(s *shelf, w *waiter, c *Client, err error, panicked any) {
	now := bothClocks()
	var excess *kept
	p.mu.Lock()
	s.dialing--
	s.used = now.mono
	if w != nil {
		w.dialing = false
	}
	isAwaited := w != nil && w.place != nil
	switch {
	case c != nil && p.closed:
		excess = p.keep(s, c, now)
		s.stats.Discarded++
	case c != nil && isAwaited:
		s.give(w, p.keep(s, c, now))
	case c != nil:
		excess = p.deliver(p.keep(s, c, now), now)
	default:
		s.stats.DialErrors++
		if isAwaited {
			w.leave(s, handed{err: err, panicked: panicked})
			panicked = nil
		} else {
			s.refill = now.mono.Add(time.Second)
		}
	}
	p.fill(s)
	p.mu.Unlock()
	if excess != nil {
		excess.close()
	}
	if panicked != nil {
		panic(panicked) // there is nobody else to hear of it
	}
}

// keepMinIdle starts the dials that make MinIdle true again.
func (p *Pool) keepMinIdle(s *shelf) {
	// If there is room, each waiter has a dial.
	missing := p.opts.MinIdle - s.idle.n - max(s.dialing-s.waiters.Len(), 0)
	if missing <= 0 || p.closed || sock.Now() < s.refill {
		return
	}
	for ; missing > 0 && p.hasRoom(s); missing-- {
		p.startDial(s, nil)
	}
}
