package client

import (
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A bucket holds the state of one key. The pool's mutex guards it.
type bucket struct {
	key  connKey
	opts *Options // of the first dial; together with key they are the pool's key
	next *bucket  // another bucket with the same connKey and other options

	idle     idleList
	active   int // leased connections
	dialing  int // dials that have not ended, canceled ones included
	canceled int // canceled dials that have not ended
	closing  int // connections being closed that no other count includes
	waiters  waiterQueue
	stats    KeyStats
	lastUsed sock.Instant // by a caller

	// Checkouts, counted when the connection was found to be good, which is without the
	// mutex. A counter that a failed check took back would not be monotonic.
	news, reuses atomic.Uint64

	dialPanic any            // what a callback panicked with when no caller waited; nil: none
	detached  []*pendingDial // dials that no caller waits for
	roomAfter time.Duration  // age at which a detached dial makes room; see minRoomAfter

	// MinIdle.
	refillBackoff time.Duration // between dials that fail
	refillAt      sock.Instant  // when to dial again after a failure
	diedUnused    bool          // a connection died before its first use, and no client has had an answer since
	replenisher   *time.Timer   // runs replenishLocked without a caller
	replenishAt   sock.Instant  // when replenisher fires; zero: not set
}

// bucketLocked finds or makes the bucket of a key.
func (p *Pool) bucketLocked(key connKey, opts *Options) *bucket {
	if p.lastBucket == nil || p.lastBucket.key != key {
		p.lastBucket = p.buckets[key]
	}
	for b := p.lastBucket; b != nil; b = b.next {
		if b.opts.sameKey(opts) {
			return b
		}
	}
	if p.numBuckets >= p.sweepAt {
		p.sweepLocked(sock.Now())
	}
	b := &bucket{key: key, opts: opts.clone(), idle: idleList{list: inBucket}, next: p.buckets[key]}
	p.buckets[key], p.lastBucket = b, b
	p.numBuckets++
	return b
}

// sweepLocked removes buckets that have been unused for a minute. Without it a pool that
// is given ever new addresses would grow without bound.
func (p *Pool) sweepLocked(now sock.Instant) {
	const fewest = 64 // buckets worth sweeping
	p.numBuckets, p.lastBucket = 0, nil
	for key, b := range p.buckets {
		var left *bucket
		var removed KeyStats
		for next := b; next != nil; {
			b, next = next, next.next
			if b.isUnusedLocked() && b.replenishAt == sock.Never && b.lastUsed.Add(time.Minute) < now {
				s := b.statsLocked()
				removed.Add(&s)
				continue
			}
			b.next, left = left, b
			p.numBuckets++
		}
		if left == nil {
			p.removedStats.Add(&removed)
			delete(p.buckets, key)
		} else {
			left.takeOverLocked(&removed)
			p.buckets[key] = left
		}
	}
	p.sweepAt = max(2*p.numBuckets, fewest)
}

// takeOverLocked adds the counters of removed buckets with the same connKey. The sums by
// connKey, which is all that Stats shows of a key, would otherwise become less.
func (b *bucket) takeOverLocked(removed *KeyStats) {
	b.stats.Add(removed)
	b.news.Add(removed.Checkouts - removed.Reuses)
	b.reuses.Add(removed.Reuses)
}

// bucketsLocked ranges over all buckets.
func (p *Pool) bucketsLocked(yield func(*bucket) bool) {
	for _, first := range p.buckets {
		for b := first; b != nil; b = b.next {
			if !yield(b) {
				return
			}
		}
	}
}

func (b *bucket) isUnusedLocked() bool {
	return b.openLocked() == 0 && b.waiters.n == 0
}

// openLocked counts the connections that the server may see.
func (b *bucket) openLocked() int { return b.active + b.dialing + b.idle.n + b.closing }

// hasRoomLocked reports whether MaxConnsPerKey permits one more connection, beside the
// open ones and extra others.
func (p *Pool) hasRoomLocked(b *bucket, extra int) bool {
	return p.opts.MaxConnsPerKey <= 0 || b.openLocked()+extra < p.opts.MaxConnsPerKey
}

// leaseLocked counts a connection as leased.
func (b *bucket) leaseLocked() { b.active++ }

// unleaseLocked undoes leaseLocked for a connection that was closed instead.
func (b *bucket) unleaseLocked(cause DiscardCause) {
	b.active--
	b.stats.Discards[cause]++
}

// countCheckout counts a connection that its caller gets.
func (b *bucket) countCheckout(k *pooledConn) {
	if k.uses > 0 {
		b.reuses.Add(1)
	} else {
		b.news.Add(1)
	}
}
