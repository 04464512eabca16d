package client

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A pooledConn is a connection that belongs to a pool, idle or leased.
type pooledConn struct {
	pool   *Pool
	bucket *bucket

	stream
	typ        Type
	network    string
	addressing *addressing

	uses          int    // how often it was leased
	setupAnswered bool   // Setup has received something: later data is no greeting
	answered      bool   // its last client has received something
	leasedAt      moment // the last lease
	idleSince     moment // zero: it was never idle
	expiresAt     moment // by MaxLifetime; zero: never

	trace    *Trace       // of the Options that it was dialled with
	discard  DiscardCause // why it is about to be closed, once it is not leased
	endedBy  error        // what ended the stream, if its last client knows
	reported atomic.Bool  // Closed was called

	links [2]links // in the bucket's idle list and the pool's
}

// newConn makes a pooledConn of a client that was dialled.
func (p *Pool) newConn(b *bucket, c *Client, now moment) *pooledConn {
	k := &pooledConn{pool: p, bucket: b, typ: c.typ, network: c.network, addressing: c.addressing}
	k.share(&c.stream)
	if lifetime := p.opts.MaxLifetime; lifetime > 0 {
		if jitter := p.opts.LifetimeJitter; jitter > 0 {
			lifetime -= rand.N(jitter)
		}
		k.expiresAt = now.add(lifetime)
	}
	return k
}

// attach leases the connection to c.
func (k *pooledConn) attach(c *Client, opts *Options, now moment) {
	c.share(&k.stream)
	c.typ, c.network, c.addressing = k.typ, k.network, k.addressing
	c.initialLimits = opts.limits()
	c.state.Store(connected)
	c.lease.conn, c.lease.wasPooled, c.lease.reuseCount = k, k.wasPooled(), k.uses
	k.leasedAt = now
	k.uses++
}

// wasPooled reports whether the connection existed before its caller asked for one.
func (k *pooledConn) wasPooled() bool { return k.uses > 0 || k.idleSince != moment{} }

// validate checks a connection that its caller is about to get, and closes it if it
// cannot be used. It closes it before the connection stops counting: the server must
// never see more than MaxConnsPerKey.
func (k *pooledConn) validate(now moment, t *checkoutTrace) (cause DiscardCause) {
	done := false
	defer func() {
		if done {
			return
		}
		// A callback has panicked or ended the goroutine.
		_ = k.sock.Close()
		k.pool.mu.Lock()
		k.bucket.unleaseLocked(DiscardFailed)
		k.pool.replenishLocked(k.bucket)
		k.pool.mu.Unlock()
		k.traceClosed(DiscardFailed)
	}()
	if t != nil {
		t.endWait(nil)
	}
	cause = k.check(now)
	if t != nil {
		t.probed(k, cause, now)
	}
	if cause != DiscardNone {
		k.close(cause)
	}
	done = true
	return cause
}

// check says why an idle connection cannot be used, if it cannot.
func (k *pooledConn) check(now moment) DiscardCause {
	if !k.wasPooled() {
		return DiscardNone // it was dialled for this caller
	}
	if cause := k.expired(now); cause != DiscardNone {
		return cause
	}
	found := k.probe(false)
	if found == sock.Readable && k.uses == 0 && !k.setupAnswered {
		return DiscardNone // the server's greeting, for the first client
	}
	return causeOf(found)
}

// expired says which limit of an idle connection is over, if one is.
func (k *pooledConn) expired(now moment) DiscardCause {
	switch {
	case k.expiresAt.isOver(now):
		return DiscardMaxLifetime
	case k.expiry().isOver(now):
		return DiscardIdleTimeout
	}
	return DiscardNone
}

// expiry is when an idle connection expires; zero: never.
func (k *pooledConn) expiry() moment {
	limit := k.pool.opts.IdleTimeout
	if limit < 0 || k.idleSince == (moment{}) {
		return k.expiresAt
	}
	return earlier(k.expiresAt, k.idleSince.add(limit))
}

// close closes the connection and waits until the descriptor is closed: another one may
// be dialled only then. Calls under way hold the descriptor. They return at once, except
// for a callback that has the descriptor (SyscallConn): close does not wait longer than
// a second for it.
func (k *pooledConn) close(cause DiscardCause) {
	defer k.traceClosed(cause)
	k.closeAndWait(time.Second)
}

// discardLocked counts a connection that is about to be closed.
func (k *pooledConn) discardLocked(cause DiscardCause) {
	k.discard = cause
	k.bucket.stats.Discards[cause]++
}

// causeOf judges what a probe found.
func causeOf(found sock.ProbeResult) DiscardCause {
	switch found {
	case sock.Idle:
		return DiscardNone
	case sock.Readable:
		return DiscardUnclean
	}
	return DiscardDead
}
