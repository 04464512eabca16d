package client

import (
	"math/rand/v2"
	"time"

	"github.com/blocksock/client/internal/sock"
)

const (
	// The time between two dials for MinIdle after one has failed. It doubles with each
	// further failure.
	minRefillBackoff = 100 * time.Millisecond
	maxRefillBackoff = 10 * time.Second

	// For this long after the last caller of a key failed dials for MinIdle are repeated.
	refillFor = 10 * time.Minute
)

// replenishLocked starts what there is room for: connections for the waiters, and dials
// for MinIdle.
func (p *Pool) replenishLocked(b *bucket) {
	p.serveWaitersLocked(b, nil)
	p.keepMinIdleLocked(b)
}

// replenishAtLocked makes replenishLocked run at the given time or earlier.
func (p *Pool) replenishAtLocked(b *bucket, at sock.Instant) {
	if b.replenishAt != sock.Never && b.replenishAt <= at {
		return
	}
	b.replenishAt = at
	if b.replenisher != nil {
		b.replenisher.Reset(at.Timeout())
		return
	}
	b.replenisher = time.AfterFunc(at.Timeout(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.replenishAt = sock.Never
		p.replenishLocked(b)
	})
}

// keepMinIdleLocked starts the dials that MinIdle needs. After a failure it starts one,
// when the backoff is over.
func (p *Pool) keepMinIdleLocked(b *bucket) {
	if p.opts.MinIdle <= 0 || p.closed {
		return
	}
	// Where there is room, each waiter has a dial of its own: those do not count.
	missing := p.opts.MinIdle - b.idle.n - max(b.dialing-b.canceled-b.waiters.n, 0)
	if missing <= 0 {
		return
	}
	if b.refillAt != sock.Never { // the last dial has failed
		switch now := sock.Now(); {
		case b.refillAt > now:
			p.scheduleRefillLocked(b, now)
			return
		case len(b.detached) > 0:
			return // its end tells whether the server is back
		}
		missing = 1
	}
	for ; missing > 0 && p.hasRoomLocked(b, 0) && b.canceled < maxCanceled; missing-- {
		if p.numDetached >= maxDetached {
			now := sock.Now()
			p.postponeRefillLocked(b, now)
			p.scheduleRefillLocked(b, now) // the dials of other keys end without a call for this one
			return
		}
		p.startDialLocked(b, nil, nil)
	}
}

// scheduleRefillLocked makes keepMinIdleLocked run at refillAt, if the key was used lately.
func (p *Pool) scheduleRefillLocked(b *bucket, now sock.Instant) {
	if b.lastUsed.Add(refillFor) > now {
		p.replenishAtLocked(b, b.refillAt)
	}
}

// diedUnusedLocked counts a connection that the peer closed before its first use as a
// failed dial. A server that accepts and closes would otherwise get all of MinIdle
// dialled again for each caller.
func (p *Pool) diedUnusedLocked(b *bucket, now sock.Instant) {
	b.diedUnused = true
	if b.refillAt < now { // once for connections that died together
		p.postponeRefillLocked(b, now)
	}
}

// postponeRefillLocked sets refillAt after a dial for MinIdle that failed or could not
// begin.
func (p *Pool) postponeRefillLocked(b *bucket, now sock.Instant) {
	b.refillBackoff = min(max(2*b.refillBackoff, minRefillBackoff), maxRefillBackoff)
	b.refillAt = now.Add(b.refillBackoff + rand.N(b.refillBackoff/4)) // jitter: other processes dial too
}
