package client

import (
	"net"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A release:
//
//	Close ──▶ release ──▶ checkReleased ──▶ putConnLocked ──▶ first waiter that accepts it
//	Discard      │              │                   └───────▶ idle lists
//	             └──────────────┴──▶ close
//
// The connection counts as in use until it is closed or put back.

// release ends the lease of c. Discard closes the connection.
func (k *pooledConn) release(c *Client, discard bool) error {
	first, inUse := c.lease.end()
	if c.endWatches() {
		c.lease.markFailed() // an ended context has ended the client's calls
	}
	switch {
	case !first:
		return net.ErrClosed
	case k.uses == 0: // Setup has called Close
		k.close(DiscardSetup)
		return nil
	}
	cause := DiscardFailed // if a callback of TLS panics during the check
	defer func() {
		t := c.trace.Load()
		if t != nil {
			k.endedBy = t.ended()
		}
		cause = k.pool.finishRelease(k, cause)
		if t != nil {
			notify(t.PutIdleConn, PutIdleConnInfo{c.connInfo(), cause})
		}
	}()
	switch {
	case !discard:
		cause = k.checkReleased(c, inUse)
	case !c.lease.usage.has(usageFailed):
		cause = DiscardByCaller
	}
	return nil
}

// checkReleased says why a released connection cannot be used again, as far as this side
// knows. Over TLS that includes what was received together with an earlier record.
func (k *pooledConn) checkReleased(c *Client, inUse bool) DiscardCause {
	switch {
	case inUse || c.lease.usage.has(usageFailed) || c.lease.usage.has(usageAltered):
		return DiscardFailed
	case c.buffered() > 0:
		return DiscardUnclean
	case !k.pool.opts.ReuseUnanswered && (c.lease.usage.has(usageRequestSent) || c.isUnanswered()):
		return DiscardUnclean
	}
	k.answered = c.lease.usage.has(usageResponseSeen)
	k.sock.ResetDeadlines()
	if !k.hasTLS() {
		return DiscardNone // check finds what is in the socket: that does not go away
	}
	return causeOf(k.probe(true))
}

// finishRelease puts a connection back, or closes it. It returns the cause if it closed it.
func (p *Pool) finishRelease(k *pooledConn, cause DiscardCause) DiscardCause {
	// One clock instead of the two that time.Now reads. If the machine was suspended
	// during the lease, that time counts as idle time.
	now := k.leasedAt.add(time.Duration(sock.Now() - k.leasedAt.mono))
	if cause == DiscardNone && k.expiresAt.isOver(now) {
		cause = DiscardMaxLifetime
	}
	if cause == DiscardNone {
		return p.endLease(k, cause, now)
	}
	defer p.endLease(k, cause, now) // also if a callback in close panics
	k.close(cause)                  // before the lease ends: the server must never see one more
	return cause
}

// endLease ends the lease of a connection that is closed, or that can be used again. In
// the second case it returns the cause if it closed the connection.
func (p *Pool) endLease(k *pooledConn, cause DiscardCause, now moment) DiscardCause {
	k.idleSince = now
	b := k.bucket
	var excess *pooledConn
	p.mu.Lock()
	b.active--
	b.lastUsed = now.mono
	switch {
	case cause != DiscardNone:
		b.stats.Discards[cause]++
	case p.closed:
		k.discardLocked(DiscardPoolClosed)
		b.closing++
		excess = k
	default:
		if b.diedUnused && k.answered {
			b.diedUnused, b.refillBackoff, b.refillAt = false, 0, sock.Never
		}
		excess = p.putConnLocked(k, now)
	}
	if cause == DiscardNone {
		cause = k.discard // also if k makes room for a waiter that accepts only a new connection
	}
	p.replenishLocked(b)
	p.mu.Unlock()
	if excess != nil {
		p.closeConns(excess)
	}
	return cause
}

// putConnLocked gives a connection to the first waiter that accepts it, or makes it
// idle. It returns the connection that exceeds the limits then, for closeConns, or nil.
func (p *Pool) putConnLocked(k *pooledConn, now moment) (excess *pooledConn) {
	if k = p.serveWaitersLocked(k.bucket, k); k == nil {
		return nil
	}
	k.idleSince = now
	return p.pushIdleLocked(k)
}
