package debug

import (
	"cmp"
	"slices"

	"github.com/blocksock/client"
)

// A keyName is what identifies a key on the page. Keys that differ only in options which
// are not shown are one.
type keyName struct{ PoolKey, Network, Address string }

func (k keyName) compare(l keyName) int {
	return cmp.Or(cmp.Compare(k.Address, l.Address), cmp.Compare(k.Network, l.Network), cmp.Compare(k.PoolKey, l.PoolKey))
}

type keyStats struct {
	keyName
	client.KeyStats
}

type poolStats struct {
	name     string
	maxConns int
	total    client.KeyStats
	keys     []keyStats // the one with the most checkouts first
}

// maxKeys is how many keys of a pool are shown. A pool may have any number: a program may
// take addresses from its users.
const maxKeys = 50

// shown is the keys that are shown.
func (p *poolStats) shown() []keyStats { return p.keys[:min(len(p.keys), maxKeys)] }

func readPool(name string, pool *client.Pool) poolStats {
	stats := pool.Stats()
	p := poolStats{name: name, maxConns: stats.MaxConnsPerKey, total: stats.KeyStats}
	index := make(map[keyName]int, len(stats.Keys))
	for _, k := range stats.Keys {
		n := keyName{k.PoolKey, k.Network, k.Address}
		i, known := index[n]
		if !known {
			i = len(p.keys)
			index[n] = i
			p.keys = append(p.keys, keyStats{keyName: n})
		}
		p.keys[i].Add(&k.KeyStats)
	}
	slices.SortFunc(p.keys, func(k, l keyStats) int {
		return cmp.Or(cmp.Compare(l.Checkouts, k.Checkouts), k.compare(l.keyName))
	})
	return p
}
