package debug

import (
	"encoding/json"
	"time"

	"github.com/blocksock/client"
)

// The JSON has the names of package client's fields. Durations are in nanoseconds.
type jsonDoc struct {
	Time            time.Time
	Waits           client.WaitStats
	LongestWaits    []client.Wait
	HistoryInterval time.Duration `json:",omitempty"`
	Pools           map[string]jsonPool
}

type jsonPool struct {
	jsonStats
	MaxConnsPerKey int
	Keys           []jsonKey
	OmittedKeys    int // how many are counted in the pool's numbers only
}

type jsonKey struct {
	keyName
	jsonStats
}

type jsonStats struct {
	client.KeyStats
	Discards map[string]uint64 // in place of the array of KeyStats
	HitRate  float64
	History  []jsonPoint `json:",omitempty"` // the oldest first
}

type jsonPoint struct {
	New, Reused, Active, Waiting int               `json:",omitempty"`
	Discards                     map[string]uint64 `json:",omitempty"`
}

// String returns the JSON without the past, for package expvar.
func (h *Handler) String() string { return string(h.json(false)) }

func (h *Handler) json(past bool) []byte {
	doc := jsonDoc{
		Time: time.Now(), Waits: client.ReadWaitStats(), LongestWaits: client.LongestWaits(maxWaits),
		Pools: make(map[string]jsonPool, len(h.names)),
	}
	if past {
		doc.HistoryInterval = sampleInterval
	}
	pools := h.read()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range pools {
		var of history
		if past {
			of = *h.histories[p.name]
		}
		j := jsonPool{
			jsonStats: newJSONStats(p.total, of.total), MaxConnsPerKey: p.maxConns,
			Keys: []jsonKey{}, OmittedKeys: len(p.keys) - len(p.shown()),
		}
		for _, k := range p.shown() {
			j.Keys = append(j.Keys, jsonKey{k.keyName, newJSONStats(k.KeyStats, of.keys[k.keyName])})
		}
		doc.Pools[p.name] = j
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err) // no type in it can fail
	}
	return b
}

func newJSONStats(s client.KeyStats, past series) jsonStats {
	j := jsonStats{KeyStats: s, Discards: byCause(s.Discards), HitRate: s.HitRate()}
	for _, p := range past {
		jp := jsonPoint{New: int(p.New), Reused: int(p.Reused), Active: p.Active, Waiting: p.Waiting}
		if p.Discards != nil {
			jp.Discards = byCause(*p.Discards)
		}
		j.History = append(j.History, jp)
	}
	return j
}

func byCause(counts client.DiscardCounts) map[string]uint64 {
	m := make(map[string]uint64)
	for cause, n := range counts {
		if n > 0 {
			m[client.DiscardCause(cause).String()] = n
		}
	}
	return m
}
