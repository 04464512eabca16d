package client

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// PoolOptions are the limits of a Pool. The zero value is the defaults.
type PoolOptions struct {
	// MaxIdle is how many connections are kept in all, and MaxIdlePerKey how many
	// of one key. Where there are more, those go that have not been used for the
	// longest time. Zero is 100 and 10; negative is none.
	MaxIdle       int
	MaxIdlePerKey int

	// MaxActivePerKey is how many connections of one key are in use or being
	// dialled at a time. Who wants one more waits for it, in the order of asking
	// and within the limits of the Dial. Zero is no limit.
	MaxActivePerKey int

	// MinIdle is how many connections of one key are to be there in advance, from
	// the first Dial of the key on. They are dialled in the background, with the
	// options of the first Dial. Default: none.
	MinIdle int

	// IdleTimeout is how long a connection is kept that nobody uses. It is better
	// shorter than the server's own. Zero is a minute; negative is for ever.
	IdleTimeout time.Duration

	// MaxLifetime is how long after its dial a connection is last given out, so
	// that a server behind a balancer, or a new address of a name, gets its share.
	// Each connection's is shorter by a random part of LifetimeJitter, lest all
	// end at once. Zero is for ever, and for LifetimeJitter a tenth of
	// MaxLifetime; a negative LifetimeJitter is none.
	MaxLifetime    time.Duration
	LifetimeJitter time.Duration

	// KeepUnanswered is for protocols without answers. By default a client that
	// has sent something and received nothing since is not kept: what comes after
	// all would be the answer to somebody else.
	KeepUnanswered bool
}

func (o PoolOptions) withDefaults() PoolOptions {
	o.MaxIdle = max(cmp.Or(o.MaxIdle, 100), 0)
	o.MaxIdlePerKey = min(max(cmp.Or(o.MaxIdlePerKey, 10), 0), o.MaxIdle)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	o.LifetimeJitter = min(max(cmp.Or(o.LifetimeJitter, o.MaxLifetime/10), 0), max(o.MaxLifetime, 0))
	return o
}

// A Pool keeps connections from one use to the next. Who dials through it gets
// one that is there, of the same key, and that was alive and had nothing to
// receive a moment ago, by looking at it; or else a new one.
//
// Close of a client from a pool gives the connection back. It is kept only if it
// is as a new one would be: no call on it has failed or is under way, what was
// sent has been answered (see PoolOptions.KeepUnanswered), nothing is left to
// receive, it was neither shut down in one direction nor turned to TLS, and its
// descriptor was in no other hands (SyscallConn). A caller
// who knows that an answer was not received to its end says Discard: the pool
// can see bytes that have come, and not those that will.
//
// The key is network, address, Options.Key, and everything in Options that has to
// do with what the connection is and whom it is with: Proxy, LocalAddr, NoDelay,
// Resolver and Control (the same function value), and all of TLS (Config by its
// pointer). Time limits are those of whoever has the client.
//
// A Pool may be used by any number of goroutines, and has none of its own but for
// dials under way. It is not to be copied. The zero Pool has the default limits.
type Pool struct {
	opts PoolOptions

	life context.Context // of the dials
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	shelves map[place]*shelf // the first of each place
	latest  *shelf           // of them, the one that was asked for last; may be nil
	count   int              // of shelves
	sweepAt int              // how many shelves make it worth looking for empty ones
	idle    stack            // all that are idle, of any key
	blanks  []Client
	clean   *time.Timer // due when the first of the idle has been so for too long
	cleanAt time.Time   // zero: not set
	gone    KeyStats    // of shelves that are there no more
}

// A shelf has all there is of one key. It belongs to the pool's mutex.
type shelf struct {
	place place
	key   poolKey
	tls   tlsKey
	opts  *Options // of the first dial
	next  *shelf   // with the same place and another key

	idle    stack
	active  int
	dialing int
	waiters list.List // of *waiter, who asked first in front
	stats   KeyStats
	used    time.Time
	refill  time.Time // when to try again to have MinIdle, after a failure
}

// A kept is a connection that belongs to a pool, idle or lent.
type kept struct {
	pool  *Pool
	shelf *shelf

	sock    *sock.Socket
	tls     *tlsStream
	typ     Type
	network string
	host    string
	ends    *ends

	uses  int       // how often it was lent
	lent  time.Time // when it was lent last
	since time.Time // when it became idle; zero if it never was
	until time.Time // the end of its life; zero is none

	in [2]links // of the shelf's stack and of the pool's
}

// NewPool makes a pool.
func NewPool(opts PoolOptions) *Pool {
	p := new(Pool)
	p.begin(opts)
	return p
}

func (p *Pool) begin(opts PoolOptions) {
	p.opts = opts.withDefaults()
	p.shelves = make(map[place]*shelf)
	p.idle.which = ofPool
	p.life, p.end = context.WithCancel(context.Background())
}

// Dial gives a client on a connection of the pool, or on a new one. Waiting for
// one, where MaxActivePerKey has it, is a part of the one limit that
// Options.ConnectTimeout is, and ctx ends it. Errors are those of DialContext,
// and net.ErrClosed for a pool that is closed.
//
// A dial whose caller has gone, by ctx, goes on until its limit, and what comes
// of it is kept for the next.
func (p *Pool) Dial(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	return p.dial(ctx, network, address, orDefaults(opts), false)
}

// dial dials through the pool; fresh is for who does not want what was there.
func (p *Pool) dial(ctx context.Context, network, address string, opts *Options, fresh bool) (*Client, error) {
	if ctx.Err() != nil {
		return nil, poolError(network, address, contextual(ctx, sock.ErrStopped))
	}
	packets, err := opts.packets(network)
	if err != nil {
		return nil, poolError(network, address, err)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, poolError(network, address, errPoolClosed)
	}
	if p.shelves == nil {
		p.begin(PoolOptions{})
	}
	s := p.shelf(place{opts.Key, network, address}, opts)
	k, w := p.popOrQueue(ctx, s, opts, nil, fresh)
	c := p.blank()
	p.mu.Unlock()
	for {
		if k == nil {
			var err error
			if k, err = p.await(ctx, s, w); err != nil {
				return nil, poolError(network, address, err)
			}
		}
		now := time.Now()
		cause := k.fitness(now)
		if cause == fit {
			c.packets = packets
			k.lend(c, opts, now)
			return c, nil
		}
		p.mu.Lock()
		s.active--
		s.stats.Reuses--
		s.stats.count(cause)
		next, nextWaiter := p.popOrQueue(ctx, s, opts, w, fresh)
		p.mu.Unlock()
		k.close()
		k, w = next, nextWaiter
	}
}

// blank gives a client that nobody has had: one that was given back is never
// made use of again, since whoever still has it must have nothing.
func (p *Pool) blank() *Client {
	const batch = 15 // made together, so that a checkout does not allocate each time
	if len(p.blanks) == 0 {
		p.blanks = make([]Client, batch)
	}
	c := &p.blanks[0]
	p.blanks = p.blanks[1:]
	return c
}

// poolError gives an error the operation of a dial, unless a dial has done so.
func poolError(network, address string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == opDial {
		return err
	}
	return &net.OpError{Op: opDial, Net: network, Addr: target{network, address}, Err: err}
}

var errPoolClosed = fmt.Errorf("the pool is closed: %w", net.ErrClosed)

// shelf finds the shelf of a key, or puts one up.
func (p *Pool) shelf(at place, opts *Options) *shelf {
	if p.latest == nil || p.latest.place != at {
		p.latest = p.shelves[at]
	}
	for s := p.latest; s != nil; s = s.next {
		if s.isFor(opts) {
			return s
		}
	}
	if p.count >= p.sweepAt {
		p.sweep(time.Now())
	}
	s := &shelf{place: at, key: keyOf(opts), opts: opts.clone(), idle: stack{which: ofShelf}, next: p.shelves[at]}
	if opts.TLS != nil {
		s.tls = tlsKeyOf(opts.TLS)
	}
	p.shelves[at], p.latest = s, s
	p.count++
	return s
}

// sweep takes down the shelves that have not been used for long, so that a pool
// which sees ever new addresses does not grow for ever.
func (p *Pool) sweep(now time.Time) {
	const few = 64
	p.count, p.latest = 0, nil
	for at, s := range p.shelves {
		var left *shelf
		for next := s; next != nil; {
			s, next = next, next.next
			if s.isEmpty() && now.Sub(s.used) > time.Minute {
				p.gone.add(&s.stats)
				continue
			}
			s.next, left = left, s
			p.count++
		}
		if left == nil {
			delete(p.shelves, at)
		} else {
			p.shelves[at] = left
		}
	}
	p.sweepAt = max(2*p.count, few)
}

// all ranges over the shelves.
func (p *Pool) all(yield func(*shelf) bool) {
	for _, first := range p.shelves {
		for s := first; s != nil; s = s.next {
			if !yield(s) {
				return
			}
		}
	}
}

func (s *shelf) isEmpty() bool {
	return s.idle.n == 0 && s.active == 0 && s.dialing == 0 && s.waiters.Len() == 0
}

// popOrQueue gives the connection that was used last, or a waiter in the queue,
// with a dial under way if there may be one. An old waiter is one that was given
// a connection which was of no use: it has been at the front already.
func (p *Pool) popOrQueue(ctx context.Context, s *shelf, opts *Options, old *waiter, fresh bool) (*kept, *waiter) {
	if k := s.idle.newest; k != nil && !fresh {
		s.idle.remove(k)
		p.idle.remove(k)
		s.active++
		s.stats.Reuses++
		p.keepMinIdle(s)
		return k, nil
	}
	w := &waiter{ctx: ctx, opts: opts, fresh: fresh, ready: make(chan handed, 1)}
	if old != nil {
		w.until, w.asked = old.until, old.asked
		w.place = s.waiters.PushFront(w)
	} else {
		w.until = deadline(ctx, opts.limits().connect)
		w.place = s.waiters.PushBack(w)
	}
	if p.closed {
		w.leave(s, handed{err: errPoolClosed})
		return nil, w
	}
	if p.mayDial(s) {
		p.startDial(s, w)
	} else {
		w.asked = time.Now()
		s.stats.Waits++
	}
	return nil, w
}

func (p *Pool) mayDial(s *shelf) bool {
	return p.opts.MaxActivePerKey <= 0 || s.active+s.dialing < p.opts.MaxActivePerKey
}

// lend makes c a client on the connection.
func (k *kept) lend(c *Client, opts *Options, now time.Time) {
	c.sock, c.typ, c.network, c.host = k.sock, k.typ, k.network, k.host
	c.limits = opts.limits()
	c.ends.Store(k.ends)
	if k.tls != nil {
		c.tls.Store(k.tls)
	}
	c.state.Store(connected)
	c.kept, c.reused, c.reuses = k, k.isOld(), k.uses
	k.lent = now
	k.uses++
}

// isOld reports whether the connection was there before whoever gets it asked.
func (k *kept) isOld() bool { return k.uses > 0 || !k.since.IsZero() }

// giveBack ends a loan.
func (k *kept) giveBack(c *Client, discard bool) error {
	first, inUse := c.gate.shut()
	if !first {
		return net.ErrClosed
	}
	cause := discarded
	switch {
	case !discard:
		cause = k.afterUse(c, inUse)
	case c.note.has(isBroken):
		cause = broken
	}
	k.pool.back(k, cause)
	return nil
}

// afterUse judges a connection by how it was used and what there is on it.
func (k *kept) afterUse(c *Client, inUse bool) cause {
	switch {
	case inUse || c.note.has(isBroken):
		return broken
	case c.note.has(isAsked) && !k.pool.opts.KeepUnanswered, c.packets.buffered() > 0:
		return dirty
	}
	k.sock.Renew()
	return causeOf(k.pending(true))
}

// back takes a connection from who had it, for the next who waits, to be idle, or
// to be closed.
func (p *Pool) back(k *kept, cause cause) {
	// Half the price of time.Now, which asks two clocks. If the machine slept in
	// between, that counts as time in which nobody used the connection.
	now := k.lent.Add(time.Since(k.lent))
	p.mu.Lock()
	k.shelf.active--
	k.shelf.used = now
	var excess *kept
	if cause == fit && !k.until.IsZero() && now.After(k.until) {
		cause = expired
	}
	if cause == fit && p.closed {
		cause = discarded
	}
	if cause == fit {
		excess = p.deliver(k, now)
	} else {
		excess = k
		k.shelf.stats.count(cause)
	}
	p.fill(k.shelf)
	p.mu.Unlock()
	if excess != nil {
		excess.close()
	}
}

// deliver gives a connection to the first who waits, or puts it on the shelf and
// gives the one that has to go for that, if one has to.
func (p *Pool) deliver(k *kept, now time.Time) (excess *kept) {
	s := k.shelf
	for e := s.waiters.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		if w.fresh && k.uses > 0 {
			continue
		}
		s.active++
		if k.isOld() {
			s.stats.Reuses++
		}
		w.leave(s, handed{kept: k})
		return nil
	}
	k.since = now
	s.idle.push(k)
	p.idle.push(k)
	switch {
	case s.idle.n > p.opts.MaxIdlePerKey:
		excess = s.idle.oldest
	case p.idle.n > p.opts.MaxIdle:
		excess = p.idle.oldest
	}
	if excess != nil {
		excess.shelf.idle.remove(excess)
		p.idle.remove(excess)
		excess.shelf.stats.OverLimit++
	}
	if excess != k {
		p.cleanBy(k.expiry(), now)
	}
	return excess
}

// fill starts the dials that waiters are owed: when one in use is gone, or when a
// dial has been another's.
func (p *Pool) fill(s *shelf) {
	if p.closed {
		return
	}
	for e := s.waiters.Front(); e != nil && s.waiters.Len() > s.dialing && p.mayDial(s); e = e.Next() {
		if w := e.Value.(*waiter); !w.dialing {
			p.startDial(s, w)
		}
	}
	p.keepMinIdle(s)
}

// keepMinIdle starts the dials that make MinIdle true again.
func (p *Pool) keepMinIdle(s *shelf) {
	missing := min(p.opts.MinIdle, p.opts.MaxIdlePerKey) - s.idle.n - max(s.dialing-s.waiters.Len(), 0)
	if missing <= 0 || p.closed || time.Now().Before(s.refill) {
		return
	}
	for ; missing > 0 && p.mayDial(s); missing-- {
		p.startDial(s, nil)
	}
}

// A waiter is somebody who has asked for a connection and has none yet.
type waiter struct {
	ctx     context.Context
	opts    *Options
	fresh   bool // wants one that nobody has had
	until   sock.Instant
	place   *list.Element // in the queue; nil when it has left
	dialing bool          // there is a dial that it has begun
	asked   time.Time     // when it began to wait for somebody else
	giveUp  func()        // has the dial end some time
	ready   chan handed
}

// handed is what a waiter gets: a connection that is its own, or an error.
type handed struct {
	kept *kept
	err  error
}

// leave takes a waiter out of the queue with what it waited for.
func (w *waiter) leave(s *shelf, h handed) {
	s.waiters.Remove(w.place)
	w.place = nil
	if !w.asked.IsZero() {
		s.stats.WaitTime += time.Since(w.asked)
	}
	w.ready <- h
}

// await waits until w has a connection, an error, or no more time.
func (p *Pool) await(ctx context.Context, s *shelf, w *waiter) (*kept, error) {
	var over <-chan time.Time
	if limit := w.until.Timeout(); limit >= 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	for {
		var err error
		select {
		case h := <-w.ready:
			return h.kept, h.err
		case <-over:
			err = contextual(ctx, os.ErrDeadlineExceeded)
		case <-ctx.Done():
			err = contextual(ctx, sock.ErrStopped)
		}
		p.mu.Lock()
		if ctx.Err() == nil && w.place != nil && w.dialing {
			p.mu.Unlock()
			over = nil // the dial has the same limit, and a better error
			continue
		}
		if w.place != nil {
			w.leave(s, handed{err: err})
		}
		giveUp := w.giveUp
		p.mu.Unlock()
		if giveUp != nil {
			giveUp()
		}
		h := <-w.ready
		if h.kept != nil && ctx.Err() != nil { // it came together with the end
			h.kept.lent = time.Now()
			p.back(h.kept, fit)
			return nil, err
		}
		return h.kept, h.err
	}
}

// startDial dials in the background for whoever will be first to want it when it
// is done. w, if not nil, is who gets the error.
func (p *Pool) startDial(s *shelf, w *waiter) {
	s.dialing++
	s.stats.Dials++
	opts, values, until := s.opts, context.Background(), sock.In(s.opts.limits().connect)
	if w != nil {
		opts, values, until = w.opts.clone(), context.WithoutCancel(w.ctx), w.until
	}
	ctx, cancel := context.WithCancel(values)
	if w != nil {
		w.dialing = true
		w.giveUp = func() {
			if until == sock.Never { // for the sake of nobody it is not to last for ever
				time.AfterFunc(DefaultTimeout, cancel)
			}
		}
	}
	unlink := context.AfterFunc(p.life, cancel)
	go func() {
		defer cancel()
		defer unlink()
		c, err := dialBy(ctx, s.place.network, s.place.address, opts, until)
		p.dialled(s, w, c, err)
	}()
}

// dialled takes what has come of a dial.
func (p *Pool) dialled(s *shelf, w *waiter, c *Client, err error) {
	now := time.Now()
	var excess *kept
	p.mu.Lock()
	s.dialing--
	s.used = now
	if w != nil {
		w.dialing = false
	}
	switch {
	case err != nil:
		s.stats.DialErrors++
		if p.closed {
			err = errPoolClosed
		}
		if w != nil && w.place != nil {
			w.leave(s, handed{err: err})
		} else {
			s.refill = now.Add(time.Second)
		}
	default:
		k := p.keep(s, c, now)
		if excess = k; !p.closed {
			excess = p.deliver(k, now)
		}
	}
	p.fill(s)
	p.mu.Unlock()
	if excess != nil {
		excess.close()
	}
}

// keep makes a connection of the pool of a client that was dialled.
func (p *Pool) keep(s *shelf, c *Client, now time.Time) *kept {
	k := &kept{
		pool: p, shelf: s,
		sock: c.sock, tls: c.tls.Load(), typ: c.typ, network: c.network, host: c.host, ends: c.ends.Load(),
	}
	if p.opts.MaxLifetime > 0 {
		k.until = now.Add(p.opts.MaxLifetime - rand.N(p.opts.LifetimeJitter+1))
	}
	return k
}

// fitness judges a connection before it is lent.
func (k *kept) fitness(now time.Time) cause {
	if !k.isOld() {
		return fit // it has just been dialled
	}
	if end := k.expiry(); !end.IsZero() && passed(end, now) {
		return expired
	}
	sight := k.pending(false)
	if sight == sock.Bytes && k.uses == 0 {
		return fit // a server's greeting, for the first who comes
	}
	return causeOf(sight)
}

// passed reports whether a time is over by either clock: the monotonic one stands
// still while the machine sleeps, and servers elsewhere do not.
func passed(end, now time.Time) bool {
	return now.After(end) || now.Round(0).After(end.Round(0))
}

// pending looks what there is to receive; see tlsStream.pending for afresh.
func (k *kept) pending(afresh bool) sock.Sight {
	if k.tls != nil {
		return k.tls.pending(afresh)
	}
	return k.sock.Pending()
}

// expiry is when an idle connection is to be closed; zero is never.
func (k *kept) expiry() time.Time {
	if k.pool.opts.IdleTimeout < 0 || k.since.IsZero() {
		return k.until
	}
	end := k.since.Add(k.pool.opts.IdleTimeout)
	if !k.until.IsZero() && k.until.Before(end) {
		return k.until
	}
	return end
}

func (k *kept) close() {
	if k.tls != nil {
		k.tls.bye()
	}
	_ = k.sock.Close() // of no interest to anybody
}

// cleanBy sees to it that the pool is cleaned at a time, or before.
func (p *Pool) cleanBy(at, now time.Time) {
	if at.IsZero() || !p.cleanAt.IsZero() && !at.Before(p.cleanAt) {
		return
	}
	p.cleanAt = at
	if wait := max(at.Sub(now), 0); p.clean == nil {
		p.clean = time.AfterFunc(wait, p.cleanUp)
	} else {
		p.clean.Reset(wait)
	}
}

// cleanUp closes what has been idle for too long, or has lived for too long.
func (p *Pool) cleanUp() {
	now := time.Now()
	var old []*kept
	p.mu.Lock()
	p.cleanAt = time.Time{}
	var next time.Time
	for k := p.idle.oldest; k != nil; {
		newer := k.in[ofPool].newer
		switch end := k.expiry(); {
		case end.IsZero():
		case passed(end, now):
			k.shelf.idle.remove(k)
			p.idle.remove(k)
			k.shelf.stats.Expired++
			old = append(old, k)
		case next.IsZero() || end.Before(next):
			next = end
		}
		k = newer
	}
	p.cleanBy(next, now)
	for _, k := range old {
		p.keepMinIdle(k.shelf)
	}
	p.mu.Unlock()
	for _, k := range old {
		k.close()
	}
}

// CloseIdle closes the connections that nobody uses.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	all := p.takeIdle()
	p.mu.Unlock()
	for _, k := range all {
		k.close()
	}
}

// takeIdle takes all that is idle.
func (p *Pool) takeIdle() (all []*kept) {
	for k := p.idle.newest; k != nil; k = p.idle.newest {
		k.shelf.idle.remove(k)
		p.idle.remove(k)
		all = append(all, k)
	}
	if p.clean != nil {
		p.clean.Stop()
		p.cleanAt = time.Time{}
	}
	return all
}

// Close closes the pool and what is idle in it, ends dials under way, and has
// those who wait fail with net.ErrClosed. It waits for nobody: a client that is in
// use stays so, and its Close then closes the connection. Closing again is
// net.ErrClosed.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errPoolClosed
	}
	p.closed = true
	all := p.takeIdle()
	for s := range p.all {
		for e := s.waiters.Front(); e != nil; e = s.waiters.Front() {
			e.Value.(*waiter).leave(s, handed{err: errPoolClosed})
		}
	}
	end := p.end
	p.mu.Unlock()
	if end != nil {
		end()
	}
	for _, k := range all {
		k.close()
	}
	return nil
}
