package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
)

// KeyStats are the counts of one key of a pool, or of all together.
type KeyStats struct {
	Dials      uint64        // dials begun
	DialErrors uint64        // of them, those that failed
	Reuses     uint64        // clients given on a connection that another one had before
	Waits      uint64        // Dials that had to wait for others, by MaxConnsPerKey
	WaitTime   time.Duration // how long, in all

	// Connections closed, by cause.
	Dead      uint64 // the peer had closed or reset it while it was idle
	Dirty     uint64 // there was something to receive, or an answer to come
	Expired   uint64 // IdleTimeout or MaxLifetime was over
	Broken    uint64 // a call on it had failed, or was under way
	OverLimit uint64 // MaxIdle, MaxIdlePerKey or MaxConnsPerKey left no room
	Discarded uint64 // by Discard, with no call that had failed, by CloseIdle, or because the pool was closed

	// Connections at this moment.
	Idle    int
	Active  int // lent
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

// PoolStats are a pool's counts since it was made.
type PoolStats struct {
	KeyStats                // of all keys, also of those that are not there any more
	Keys     []PoolKeyStats // in no order
}

// A PoolKeyStats is a key with its counts. Keys that differ in options which are not
// shown here are different all the same. One of which there has been nothing for
// some time may be dropped.
type PoolKeyStats struct {
	PoolKey, Network, Address string
	KeyStats
}

// Stats counts.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := PoolStats{KeyStats: p.gone}
	for s := range p.all {
		k := PoolKeyStats{PoolKey: s.place.key, Network: s.place.network, Address: s.place.address, KeyStats: s.stats}
		k.Idle, k.Active, k.Dialing = s.idle.n, s.active, s.dialing
		all.add(&k.KeyStats)
		all.Keys = append(all.Keys, k)
	}
	return all
}

// A cause is why a connection is not kept.
type cause int

const (
	fit cause = iota // it is kept
	dead
	dirty
	expired
	broken
	discarded
)

func causeOf(s sock.ProbeResult) cause {
	switch s {
	case sock.Idle:
		return fit
	case sock.Readable:
		return dirty
	}
	return dead
}

func (s *KeyStats) count(c cause) {
	switch c {
	case dead:
		s.Dead++
	case dirty:
		s.Dirty++
	case expired:
		s.Expired++
	case broken:
		s.Broken++
	case discarded:
		s.Discarded++
	}
}
