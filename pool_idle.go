package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
)

// An idleList is a doubly linked list of idle connections, in the order of their last
// use. Each idle connection is in two: its bucket's and the pool's.
type idleList struct {
	list           int // inBucket or inPool
	n              int
	newest, oldest *pooledConn
}

const (
	inBucket = iota
	inPool
)

type links struct{ newer, older *pooledConn }

func (l *idleList) push(k *pooledConn) {
	k.links[l.list] = links{older: l.newest}
	if l.newest != nil {
		l.newest.links[l.list].newer = k
	} else {
		l.oldest = k
	}
	l.newest = k
	l.n++
}

func (l *idleList) remove(k *pooledConn) {
	at := k.links[l.list]
	if at.newer != nil {
		at.newer.links[l.list].older = at.older
	} else {
		l.newest = at.older
	}
	if at.older != nil {
		at.older.links[l.list].newer = at.newer
	} else {
		l.oldest = at.newer
	}
	k.links[l.list] = links{}
	l.n--
}

// pushIdleLocked makes a connection idle. If that exceeds MaxIdlePerKey or MaxIdle, it
// returns the connection to close.
func (p *Pool) pushIdleLocked(k *pooledConn) (excess *pooledConn) {
	b := k.bucket
	b.idle.push(k)
	p.idle.push(k)
	switch {
	case b.idle.n > p.opts.MaxIdlePerKey:
		excess = b.idle.oldest
	case p.idle.n > p.opts.MaxIdle:
		excess = p.idle.oldest
	}
	if excess != nil {
		p.removeIdleLocked(excess)
		excess.discardLocked(DiscardOverLimit)
		excess.bucket.closing++
	}
	if excess != k {
		p.scheduleCleanLocked(k.expiry().mono)
	}
	return excess
}

// popIdleLocked takes the idle connection that was used last: it is the most likely to
// be alive, and the others can expire. It returns nil if there is none.
func (p *Pool) popIdleLocked(b *bucket) *pooledConn {
	k := b.idle.newest
	if k != nil {
		p.removeIdleLocked(k)
	}
	return k
}

func (p *Pool) removeIdleLocked(k *pooledConn) {
	k.bucket.idle.remove(k)
	p.idle.remove(k)
}

// takeAllIdleLocked takes all idle connections, to be closed by closeConns.
func (p *Pool) takeAllIdleLocked(cause DiscardCause) (all []*pooledConn) {
	for k := p.idle.newest; k != nil; k = p.idle.newest {
		p.removeIdleLocked(k)
		k.discardLocked(cause)
		k.bucket.closing++
		all = append(all, k)
	}
	if p.cleaner != nil {
		p.cleaner.Stop()
		p.cleanAt = sock.Never
	}
	return all
}

// scheduleCleanLocked makes cleanExpired run at the given time or earlier.
func (p *Pool) scheduleCleanLocked(at sock.Instant) {
	if at == sock.Never || p.cleanAt != sock.Never && at >= p.cleanAt {
		return
	}
	p.cleanAt = at
	if wait := at.Timeout(); p.cleaner == nil {
		p.cleaner = time.AfterFunc(wait, p.cleanExpired)
	} else {
		p.cleaner.Reset(wait)
	}
}

// cleanExpired closes the idle connections whose IdleTimeout or MaxLifetime is over.
func (p *Pool) cleanExpired() {
	now := bothClocks()
	var expired []*pooledConn
	p.mu.Lock()
	p.cleanAt = sock.Never
	next := sock.Never
	for k := p.idle.oldest; k != nil; {
		newer := k.links[inPool].newer
		if cause := k.expired(now); cause != DiscardNone {
			p.removeIdleLocked(k)
			k.discardLocked(cause)
			k.bucket.closing++
			expired = append(expired, k)
		} else {
			next = sock.Earlier(next, k.expiry().mono)
		}
		k = newer
	}
	p.scheduleCleanLocked(next)
	p.mu.Unlock()
	p.closeConnsRecover(expired...)
}

// closeConns closes connections that bucket.closing counts. A callback that panics
// during one close does not keep the others from being closed.
func (p *Pool) closeConns(all ...*pooledConn) {
	if len(all) == 0 {
		return
	}
	defer p.closeConns(all[1:]...)
	k := all[0]
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		k.bucket.closing--
		p.serveWaitersLocked(k.bucket, nil)
		if k.discard == DiscardIdleTimeout || k.discard == DiscardMaxLifetime {
			p.keepMinIdleLocked(k.bucket) // now: later the bucket may have been removed
		}
	}()
	k.close(k.discard)
}

// closeConnsRecover is closeConns in a goroutine of the pool. It has no caller to panic
// in: the next Dial of the key panics instead.
func (p *Pool) closeConnsRecover(all ...*pooledConn) {
	if len(all) == 0 {
		return
	}
	defer p.closeConnsRecover(all[1:]...)
	k := all[0]
	defer func() {
		if panicked := recover(); panicked != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			k.bucket.dialPanic = panicked
		}
	}()
	p.closeConns(k)
}
