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

	uses  int    // how often it was lent
	lent  moment // when it was lent last
	since moment // when it became idle; zero if it never was
	until moment // the end of its life; zero is none

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
	c.kept, c.reused, c.reuses = k, k.isOld(), k.uses
	k.lent = now
	k.uses++
}

// isOld reports whether the connection was there before whoever gets it asked.
func (k *kept) isOld() bool { return k.uses > 0 || k.since != moment{} }

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
	now := k.lent.add(time.Duration(sock.Now() - k.lent.mono))
	if cause == fit && k.until.isOver(now) {
		cause = expired
	}
	if cause != fit {
		k.close() // before its place is another's: a server is never to see one more
	}
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
		excess = k
	default:
		excess = p.deliver(k, now)
	}
	p.fill(s)
	p.mu.Unlock()
	if excess != nil {
		excess.close()
	}
}

// deliver gives a connection to the first who waits, or puts it on the shelf and
// gives the one that has to go for that, if one has to.
func (p *Pool) deliver(k *kept, now moment) (excess *kept) {
	s := k.shelf
	if k = p.settle(s, s.waiters.Front(), k); k == nil {
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

// fitness judges a connection before it is lent.
func (k *kept) fitness(now moment) cause {
	if !k.isOld() {
		return fit // it has just been dialled
	}
	if k.expiry().isOver(now) {
		return expired
	}
	sight := k.pending(false)
	if sight == sock.Bytes && k.uses == 0 {
		return fit // a server's greeting, for the first who comes
	}
	return causeOf(sight)
}

// pending looks what there is to receive; see tlsStream.pending for afresh.
func (k *kept) pending(afresh bool) sock.Sight {
	if k.tls != nil {
		return k.tls.pending(afresh)
	}
	return k.sock.Pending()
}

// expiry is when an idle connection is to be closed; zero is never.
func (k *kept) expiry() moment {
	limit := k.pool.opts.IdleTimeout
	if limit < 0 || k.since == (moment{}) {
		return k.until
	}
	return earlier(k.until, k.since.add(limit))
}

func (k *kept) close() {
	if k.tls != nil {
		k.tls.bye()
	}
	_ = k.sock.Close() // of no interest to anybody
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
			old = append(old, k)
		} else {
			next = sock.Earlier(next, end.mono)
		}
		k = newer
	}
	p.cleanBy(next)
	for _, k := range old {
		p.keepMinIdle(k.shelf)
	}
	p.mu.Unlock()
	for _, k := range old {
		k.close()
	}
}
