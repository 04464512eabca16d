package client

import "time"

// KeyStats are the counters of one key of a pool, or the sums of all keys.
type KeyStats struct {
	Dials      uint64        // dials started
	DialErrors uint64        // dials that failed
	Reuses     uint64        // checkouts of a connection that another client had used before
	Waits      uint64        // checkouts that waited because of MaxConnsPerKey
	WaitTime   time.Duration // total time of these waits

	// Connections closed, by reason. Those whose socket is at its end or has unread data
	// are closed when Dial checks them.
	Dead      uint64 // the peer had closed or reset it
	Dirty     uint64 // it had unread data or an outstanding answer
	Expired   uint64 // IdleTimeout or MaxLifetime was over
	Broken    uint64 // a call on it had failed or was under way
	OverLimit uint64 // MaxIdle, MaxIdlePerKey or MaxConnsPerKey was exceeded
	Discarded uint64 // by Discard after calls that did not fail, by CloseIdle, or by Close of the pool

	// Current connections.
	Idle    int // including those that the peer has closed since their last check
	Active  int // in use by a client
	Dialing int
}

func (s *KeyStats) add(o *KeyStats) {
	s.Dials += o.Dials
	s.DialErrors += o.DialErrors
	s.Reuses += o.Reuses
	s.Waits += o.Waits
	s.WaitTime += o.WaitTime
	s.Dead += o.Dead
	s.Dirty += o.Dirty
	s.Expired += o.Expired
	s.Broken += o.Broken
	s.OverLimit += o.OverLimit
	s.Discarded += o.Discarded
	s.Idle += o.Idle
	s.Active += o.Active
	s.Dialing += o.Dialing
}

func (s *KeyStats) countClosed(reason closeReason) {
	switch reason {
	case reasonDead:
		s.Dead++
	case reasonDirty:
		s.Dirty++
	case reasonExpired:
		s.Expired++
	case reasonBroken:
		s.Broken++
	case reasonDiscarded:
		s.Discarded++
	}
}

// PoolStats are a pool's counters since it was made.
type PoolStats struct {
	KeyStats                // sums of all keys, removed ones included
	Keys     []PoolKeyStats // in no particular order
}

// PoolKeyStats are the counters of one key. Keys with equal PoolKey, Network and
// Address differ in options that are not shown. The pool removes a key that has been
// unused for a minute when it needs room.
type PoolKeyStats struct {
	PoolKey, Network, Address string
	KeyStats
}

// Stats returns the pool's counters.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := PoolStats{KeyStats: p.removedStats}
	for b := range p.bucketsLocked {
		k := PoolKeyStats{PoolKey: b.key.poolKey, Network: b.key.network, Address: b.key.address, KeyStats: b.stats}
		k.Idle, k.Active, k.Dialing = b.idle.n, b.active, b.dialing
		all.add(&k.KeyStats)
		all.Keys = append(all.Keys, k)
	}
	return all
}
