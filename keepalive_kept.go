package client

import (
	"math/rand/v2"
	"net"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A kept is a connection that belongs to a pool, idle or lent.
type kept struct {
	pool  *Pool
	shelf *shelf

	sock       *sock.Socket
	tls        *tlsStream
	typ        Type
	network    string
	addressing *addressing

	uses   int    // how often it was lent
	begun  bool   // Setup has had an answer on it: what comes now is no greeting
	served bool   // its last client has received something
	lent   moment // when it was lent last
	since  moment // when it became idle; zero if it never was
	until  moment // the end of its life; zero is none

	in [2]links // of the shelf's stack and of the pool's
}

// keep makes a connection of the pool of a client that was dialled.
func (p *Pool) keep(s *shelf, c *Client, now moment) *kept {
	k := &kept{
		pool: p, shelf: s,
		sock: c.sock, tls: c.tls.Load(), typ: c.typ, network: c.network, addressing: c.addressing,
	}
	if life := p.opts.MaxLifetime; life > 0 {
		if jitter := p.opts.LifetimeJitter; jitter > 0 {
			life -= rand.N(jitter)
		}
		k.until = now.add(life)
	}
	return k
}

// lend makes c a client on the connection.
func (k *kept) lend(c *Client, opts *Options, now moment) {
	c.sock, c.typ, c.network, c.addressing = k.sock, k.typ, k.network, k.addressing
	c.limits = opts.limits()
	if k.tls != nil {
		c.tls.Store(k.tls)
	}
	c.state.Store(connected)
	c.kept, c.old, c.reuses = k, k.isOld(), k.uses
	k.lent = now
	k.uses++
}

// isOld reports whether the connection was there before whoever gets it asked.
func (k *kept) isOld() bool { return k.uses > 0 || k.since != moment{} }

// giveBack ends a loan.
func (k *kept) giveBack(c *Client, discard bool) error {
	first, inUse := c.gate.shut()
	if c.endWatches() {
		c.note.broken() // its calls have ended
	}
	switch {
	case !first:
		return net.ErrClosed
	case k.uses == 0: // Setup has it
		k.close()
		return nil
	}
	cause := broken // if a callback does not return, which the look through TLS may call
	defer func() { k.pool.back(k, cause) }()
	switch {
	case !discard:
		cause = k.afterUse(c, inUse)
	case !c.note.has(isBroken):
		cause = discarded
	}
	return nil
}

// afterUse judges a connection by how it was used and what there is on it.
func (k *kept) afterUse(c *Client, inUse bool) cause {
	switch {
	case inUse || c.note.has(isBroken) || c.note.has(isAltered):
		return broken
	case c.packets.buffered() > 0:
		return dirty
	case !k.pool.opts.ReuseUnanswered && (c.note.has(isAsked) || c.packets.unanswered()):
		return dirty
	}
	k.served = c.note.has(isAnswered)
	k.sock.ResetDeadlines()
	return causeOf(k.pending(true))
}

// back takes a connection from who had it, for the next who waits, to be idle, or
// to be closed.
func (p *Pool) back(k *kept, cause cause) {
	// Half the price of time.Now, which asks two clocks. If the machine slept in
	// between, that counts as time in which nobody used the connection.
	now := k.lent.add(time.Duration(sock.Now() - k.lent.mono))
	if cause == fit && k.until.isOver(now) {
		cause = expired
	}
	if cause == fit {
		p.returned(k, cause, now)
		return
	}
	defer p.returned(k, cause, now) // also if a callback in there does not return
	k.close()                       // before its place is another's: a server is never to see one more
}

// returned is back for a connection that is fit, or closed.
func (p *Pool) returned(k *kept, cause cause, now moment) {
	k.since = now
	s := k.shelf
	var excess *kept
	p.mu.Lock()
	s.active--
	s.used = now.mono
	switch {
	case cause != fit:
		s.stats.count(cause)
	case p.closed:
		s.stats.Discarded++
		s.closing++
		excess = k
	default:
		if s.wasted && k.served {
			s.wasted, s.backoff, s.refill = false, 0, sock.Never
		}
		excess = p.deliver(k, now)
	}
	p.fill(s)
	p.mu.Unlock()
	if excess != nil {
		p.closeAll(excess)
	}
}

// deliver gives a connection to the first who waits, or puts it on the shelf and
// gives the one that has to go for that, if one has to, for closeAll.
func (p *Pool) deliver(k *kept, now moment) (excess *kept) {
	s := k.shelf
	if k = p.settle(s, k); k == nil {
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
		p.unshelve(excess)
		excess.shelf.stats.OverLimit++
		excess.shelf.closing++
	}
	if excess != k {
		p.cleanBy(k.expiry().mono)
	}
	return excess
}

// unshelve takes an idle connection from where it is kept.
func (p *Pool) unshelve(k *kept) {
	k.shelf.idle.remove(k)
	p.idle.remove(k)
}

// inspect judges a connection that its client is about to have, and closes one that is
// not fit: before its place is another's, since a server is never to see one more.
func (k *kept) inspect(now moment) (judged cause) {
	done := false
	defer func() {
		if done {
			return
		}
		// A callback has panicked, or ended the goroutine.
		_ = k.sock.Close()
		k.pool.mu.Lock()
		defer k.pool.mu.Unlock()
		k.shelf.takesBack(k, broken)
		k.pool.fill(k.shelf)
	}()
	if judged = k.fitness(now); judged != fit {
		k.close()
	}
	done = true
	return judged
}

// takesBack counts a connection as one that was not lent.
func (s *shelf) takesBack(k *kept, cause cause) {
	s.active--
	if k.uses > 0 {
		s.stats.Reuses--
	}
	s.stats.count(cause)
}

// fitness judges a connection before it is lent.
func (k *kept) fitness(now moment) cause {
	if !k.isOld() {
		return fit // it has just been dialled
	}
	if k.expiry().isOver(now) {
		return expired
	}
	sight := k.pending(false)
	if sight == sock.Readable && k.uses == 0 && !k.begun {
		return fit // a server's greeting, for the first who comes
	}
	return causeOf(sight)
}

// pending looks what there is to receive; see tlsStream.pending for afresh.
func (k *kept) pending(afresh bool) sock.ProbeResult {
	if k.tls != nil {
		return k.tls.pending(afresh)
	}
	return k.sock.Probe()
}

// expiry is when an idle connection is to be closed; zero is never.
func (k *kept) expiry() moment {
	limit := k.pool.opts.IdleTimeout
	if limit < 0 || k.since == (moment{}) {
		return k.until
	}
	return earlier(k.until, k.since.add(limit))
}

// close closes the connection before its place is another's: also what a call under way
// holds, which leaves at once, unless it is a function that was lent the descriptor.
func (k *kept) close() {
	const most = time.Second
	defer func() { _ = k.sock.CloseWait(most) }() // the error is of no interest to anybody
	if k.tls != nil {
		k.tls.bye()
	}
}

// closeAll closes connections that count as being closed, each whatever a callback does
// when another one is.
func (p *Pool) closeAll(all ...*kept) {
	if len(all) == 0 {
		return
	}
	defer p.closeAll(all[1:]...)
	k := all[0]
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		k.shelf.closing--
		p.settle(k.shelf, nil)
	}()
	k.close()
}

// closeUnseen is closeAll for a goroutine of the pool's own, which has no caller to panic in.
func (p *Pool) closeUnseen(all ...*kept) {
	if len(all) == 0 {
		return
	}
	defer p.closeUnseen(all[1:]...)
	k := all[0]
	defer func() {
		if panicked := recover(); panicked != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			k.shelf.panicked = panicked
		}
	}()
	p.closeAll(k)
}

// cleanBy sees to it that the pool is cleaned at a time, or before.
func (p *Pool) cleanBy(at sock.Instant) {
	if at == sock.Never || p.cleanAt != sock.Never && at >= p.cleanAt {
		return
	}
	p.cleanAt = at
	if wait := at.Timeout(); p.clean == nil {
		p.clean = time.AfterFunc(wait, p.cleanUp)
	} else {
		p.clean.Reset(wait)
	}
}

// cleanUp closes what has been idle for too long, or has lived for too long.
func (p *Pool) cleanUp() {
	now := bothClocks()
	var old []*kept
	p.mu.Lock()
	p.cleanAt = sock.Never
	next := sock.Never
	for k := p.idle.oldest; k != nil; {
		newer := k.in[ofPool].newer
		if end := k.expiry(); end.isOver(now) {
			p.unshelve(k)
			k.shelf.stats.Expired++
			k.shelf.closing++
			old = append(old, k)
		} else {
			next = sock.Earlier(next, end.mono)
		}
		k = newer
	}
	p.cleanBy(next)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, k := range old {
			p.keepMinIdle(k.shelf)
		}
	}()
	p.closeUnseen(old...)
}
