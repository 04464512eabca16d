package debug

import (
	"time"

	"github.com/blocksock/client"
)

const (
	sampleInterval = 5 * time.Second
	maxPoints      = 120 // 10 minutes
)

// A point is what happened in one interval, and what there was at its end.
type point struct {
	New, Reused uint64                // checkouts
	Discards    *client.DiscardCounts // nil: none
	Active      int
	Waiting     int
}

// A series is the points of a key or of a whole pool, the oldest first.
type series []point

func (s *series) add(p point) {
	if len(*s) == maxPoints {
		*s = append((*s)[:0], (*s)[1:]...)
	}
	*s = append(*s, p)
}

// A history is the series of a pool. Keys that are not shown have none.
type history struct {
	lastTotal client.KeyStats
	last      map[keyName]client.KeyStats
	total     series
	keys      map[keyName]series
}

func newHistory(p poolStats) *history {
	return &history{lastTotal: p.total, last: byName(p.keys)}
}

func byName(keys []keyStats) map[keyName]client.KeyStats {
	m := make(map[keyName]client.KeyStats, len(keys))
	for _, k := range keys {
		m[k.keyName] = k.KeyStats
	}
	return m
}

func (h *history) add(p poolStats) {
	h.total.add(since(h.lastTotal, p.total))
	keys := make(map[keyName]series, len(h.keys))
	for _, k := range p.shown() {
		s := h.keys[k.keyName]
		s.add(since(h.last[k.keyName], k.KeyStats))
		keys[k.keyName] = s
	}
	h.keys, h.lastTotal, h.last = keys, p.total, byName(p.keys)
}

// since is the point between two samples of a key. The pool may have removed the key and
// made it again: then its counters began again, too.
func since(last, now client.KeyStats) point {
	if now.Checkouts < last.Checkouts || now.Dials < last.Dials {
		last = client.KeyStats{}
	}
	p := point{
		Reused: now.Reuses - min(last.Reuses, now.Reuses),
		Active: now.Active, Waiting: now.Waiting,
	}
	p.New = now.Checkouts - last.Checkouts - min(p.Reused, now.Checkouts-last.Checkouts)
	var discards client.DiscardCounts
	for cause, n := range now.Discards {
		discards[cause] = n - min(last.Discards[cause], n)
	}
	if discards.Total() > 0 {
		p.Discards = &discards
	}
	return p
}

// sum adds up what happened in all intervals.
func (s series) sum() (made, reused uint64, discards client.DiscardCounts) {
	for _, p := range s {
		made += p.New
		reused += p.Reused
		if p.Discards != nil {
			for cause, n := range p.Discards {
				discards[cause] += n
			}
		}
	}
	return made, reused, discards
}
