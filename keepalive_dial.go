package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A pendingDial is a dial under way. It belongs to the pool's mutex.
//
//	for a waiter ──abandon──▶ unawaited ──▶ ended
//	                 │            ▲  └──cancelDial──▶ canceled ──▶ ended
//	                 │       for MinIdle                 ▲
//	                 └───────────────────────────────────┘
//
// It counts as a connection until it has ended: its socket is closed then.
type pendingDial struct {
	shelf    *shelf
	waiter   *waiter // who waits for it; nil: nobody
	began    sock.Instant
	cancel   context.CancelFunc
	canceled bool
	limit    *time.Timer // due when nobody has waited for it for long
}

const (
	// How many dials go on that nobody waits for, of one key and in all. Each is a
	// socket, a goroutine and mostly a thread, and while a server does not answer every
	// caller with a short context leaves one behind. A few are worth it: what comes of
	// them is for the next callers of a server that answers slowly.
	mostUnawaitedPerKey = 4
	mostUnawaited       = 32

	// A dial that is canceled ends at once, unless a function of the caller's (Control,
	// Setup) goes on. When so many of a key have not ended, no further one begins.
	mostEnding = 32

	// When MaxConnsPerKey leaves no room, a caller waits for a dial that nobody else
	// waits for until that has taken so long: then it is canceled and a new one begins,
	// which the server may answer sooner. The time doubles with each, lest a slow server
	// never be reached, up to the time after which TCP takes a SYN for lost (RFC 6298,
	// 2.1: 1 s); a dial that succeeds makes it short again.
	firstPatience   = 100 * time.Millisecond
	longestPatience = time.Second

	// After a dial for MinIdle has failed, the next waits so long, and twice as long
	// after each further one.
	firstRefill   = 100 * time.Millisecond
	longestRefill = 10 * time.Second

	// refillFor is how long after the last caller of a key such dials are repeated.
	refillFor = 10 * time.Minute
)

// startDial dials in the background, for w or, if that is nil, to have one more. If
// victim is not nil, its place is taken: it is closed first.
func (p *Pool) startDial(s *shelf, w *waiter, victim *kept) {
	d := &pendingDial{shelf: s, waiter: w, began: sock.Now()}
	s.dialing++
	s.stats.Dials++
	opts, values, until := s.opts, context.Background(), sock.In(DefaultTimeout)
	if limit := opts.limits().connect; limit >= 0 {
		until = sock.In(limit)
	}
	if w != nil {
		opts, values, until = w.opts.clone(), context.WithoutCancel(w.ctx), w.limit
		w.waited(s)
		w.dial = d
	}
	ctx, cancel := context.WithCancel(values)
	d.cancel = cancel
	unlink := context.AfterFunc(p.life, cancel)
	if w == nil {
		p.addUnawaited(d)
	}
	go func() {
		defer cancel()
		defer unlink()
		var k *kept
		err := errDialEnded
		defer func() { p.dialled(d, k, err, recover()) }()
		if victim != nil {
			victim.close() // a server is never to see one more
		}
		k, err = p.connect(ctx, s, opts, until)
	}()
}

// errDialEnded is for who waits for a dial whose goroutine was ended by a function
// of the options, as testing.T.FailNow does.
var errDialEnded = errors.New("a function of the options has ended the dial's goroutine")

// connect makes a connection of the pool.
func (p *Pool) connect(ctx context.Context, s *shelf, opts *Options, until sock.Instant) (*kept, error) {
	c, err := dialBy(ctx, s.place.network, s.place.address, opts, until)
	if err != nil {
		return nil, err
	}
	k := p.keep(s, c, bothClocks())
	if p.opts.Setup != nil {
		if err := k.setUp(ctx, c, opts, until); err != nil {
			return nil, &net.OpError{Op: opDial, Net: k.network, Addr: target{s.place.network, s.place.address}, Err: &setupError{err}}
		}
	}
	return k, nil
}

// dialled takes what has come of a dial. Who began it is first to get it: another's
// may still take long.
func (p *Pool) dialled(d *pendingDial, k *kept, err error, panicked any) {
	now := bothClocks()
	s := d.shelf
	var excess *kept
	p.mu.Lock()
	w := d.waiter
	s.dialing--
	switch {
	case d.canceled:
		s.ending--
	case w == nil:
		p.removeUnawaited(d)
	default:
		w.dial = nil
	}
	switch {
	case k != nil && p.closed:
		excess = k
		s.stats.Discarded++
		s.closing++
	case k != nil:
		s.patience = 0
		switch {
		case !s.wasted:
			s.backoff, s.refill = 0, sock.Never
		case w == nil:
			p.postponeRefill(s, now.mono) // that it was accepted proves nothing
		}
		if w != nil {
			p.give(s, w, k)
		} else {
			excess = p.deliver(k, now)
		}
	default:
		s.stats.DialErrors++
		switch {
		case w != nil:
			p.leave(s, w, handed{err: err, panicked: panicked})
		case panicked != nil:
			s.panicked = panicked
		}
		if w == nil && !d.canceled {
			p.postponeRefill(s, now.mono)
		}
	}
	p.fill(s)
	p.mu.Unlock()
	if excess != nil {
		p.closeUnseen(excess)
	}
}

// abandon is for a dial whose waiter has left.
func (p *Pool) abandon(d *pendingDial) {
	d.waiter = nil
	if p.closed || len(d.shelf.unawaited) >= mostUnawaitedPerKey || p.unawaited >= mostUnawaited {
		p.cancelDial(d)
		return
	}
	p.addUnawaited(d)
	d.limit = time.AfterFunc(DefaultTimeout, d.cancel) // its own limit may be far away, or none
}

func (p *Pool) addUnawaited(d *pendingDial) {
	d.shelf.unawaited = append(d.shelf.unawaited, d)
	p.unawaited++
}

func (p *Pool) removeUnawaited(d *pendingDial) {
	s := d.shelf
	i := slices.Index(s.unawaited, d)
	s.unawaited = slices.Delete(s.unawaited, i, i+1)
	p.unawaited--
	if d.limit != nil {
		d.limit.Stop()
	}
}

// cancelDial ends a dial. It is no longer among the unawaited.
func (p *Pool) cancelDial(d *pendingDial) {
	d.canceled = true
	d.shelf.ending++
	d.cancel()
}

// makeRoom sees to it that the n-th of those for whom there is no room gets some: by
// the end of a dial that nobody waits for, and that has taken long. It reports whether
// anything of that kind is under way.
func (p *Pool) makeRoom(s *shelf, n int) bool {
	if n <= s.ending {
		return true
	}
	if len(s.unawaited) == 0 {
		return false
	}
	if s.patience == 0 {
		s.patience = firstPatience
	}
	d := s.unawaited[0]
	for _, other := range s.unawaited {
		if other.began < d.began {
			d = other
		}
	}
	if left := d.began.Add(s.patience).Left(); left > 0 {
		p.fillBy(s, sock.In(left))
		return false
	}
	s.patience = min(2*s.patience, longestPatience)
	p.removeUnawaited(d)
	p.cancelDial(d)
	return true
}

// keepMinIdle starts the dials that make MinIdle true again, or has that done later.
func (p *Pool) keepMinIdle(s *shelf) {
	if p.opts.MinIdle <= 0 || p.closed {
		return
	}
	// If there is room, each waiter has a dial.
	missing := p.opts.MinIdle - s.idle.n - max(s.dialing-s.ending-s.waiters.Len(), 0)
	if missing <= 0 {
		return
	}
	if s.refill != sock.Never { // the last one has failed
		switch now := sock.Now(); {
		case s.refill > now:
			if s.used.Add(refillFor) > now {
				p.fillBy(s, s.refill)
			}
			return
		case len(s.unawaited) > 0:
			return // it will tell whether the server is back
		}
		missing = 1
	}
	for ; missing > 0 && p.hasRoom(s, 0) && s.ending < mostEnding; missing-- {
		if p.unawaited >= mostUnawaited {
			p.postponeRefill(s, sock.Now())
			return
		}
		p.startDial(s, nil, nil)
	}
}

// diedUnused counts a connection that the peer has closed before its first use as a dial
// that has failed: else each caller has all of MinIdle dialled, by a server that accepts
// and closes.
func (p *Pool) diedUnused(s *shelf, now sock.Instant) {
	s.wasted = true
	if s.refill < now { // once for those that died together
		p.postponeRefill(s, now)
	}
}

// postponeRefill is for a dial for MinIdle that has failed, or could not begin.
func (p *Pool) postponeRefill(s *shelf, now sock.Instant) {
	s.backoff = min(max(2*s.backoff, firstRefill), longestRefill)
	s.refill = now.Add(s.backoff + rand.N(s.backoff/4)) // lest all processes come at once
}

// fillBy has what is missing of a key looked for at a time, or before.
func (p *Pool) fillBy(s *shelf, at sock.Instant) {
	if s.fillAt != sock.Never && s.fillAt <= at {
		return
	}
	s.fillAt = at
	if s.filler != nil {
		s.filler.Reset(at.Timeout())
		return
	}
	s.filler = time.AfterFunc(at.Timeout(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.fillAt = sock.Never
		p.fill(s)
	})
}
