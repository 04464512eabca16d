package prometheus

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/blocksock/client"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of a Collector. A nil *Options means the defaults.
type Options struct {
	// MaxKeys is for how many keys of each pool there are metrics of their own: those
	// with the most checkouts. A key that is not among them in one scrape and is in the
	// next one has a gap, and its counters go on. Default: none.
	MaxKeys int
}

// A Collector is a prometheus.Collector. Several goroutines may use it at once.
type Collector struct {
	pools   map[string]*client.Pool
	maxKeys int
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector returns a Collector of these pools and of the waiting calls of all clients.
// The key of the map is the label pool. It copies the map. It panics if a pool is nil.
//
// Register one Collector for all pools: the waiting calls are those of the process. Two
// Collectors in one registry need a label that tells them apart: register both with
// prometheus.WrapRegistererWith.
func NewCollector(pools map[string]*client.Pool, opts *Options) *Collector {
	c := &Collector{pools: withValidNames(pools)}
	if opts != nil {
		c.maxKeys = max(opts.MaxKeys, 0)
	}
	return c
}

// withValidNames makes the names valid UTF-8, because labels are. They stay distinct.
func withValidNames(pools map[string]*client.Pool) map[string]*client.Pool {
	valid := make(map[string]*client.Pool, len(pools))
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if pools[name] == nil {
			panic(fmt.Sprintf("prometheus: pool %q is nil: make it with client.NewPool, or leave it out", name))
		}
		label := strings.ToValidUTF8(name, "\uFFFD")
		for valid[label] != nil || label != name && pools[label] != nil {
			label += "\uFFFD"
		}
		valid[label] = pools[name]
	}
	return valid
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("client_"+name, help, labels, nil)
}

var (
	waitingCalls   = desc("waiting_calls", "Calls of all clients that wait, on a thread of their own or in the runtime's poller.", "on")
	maxThreads     = desc("max_threads", "How many waiting calls may hold a thread (SetMaxThreads).")
	threadsRefused = desc("threads_refused_total", "How often the limit of threads kept a call from holding one.")
	longestWait    = desc("longest_wait_seconds", "How long the longest of the calls that wait in the runtime's poller has waited.")
	computing      = desc("computing", "1 if the process computes, so that calls hold a thread (SetMaxThreads).")
	maxConns       = desc("pool_max_connections_per_key", "PoolOptions.MaxConnsPerKey.", "pool")

	ofPool = newKeyDescs("pool_", "of the pool", "pool")
	ofKey  = newKeyDescs("pool_key_", "of the key", "pool", "network", "address", "pool_key")
)

// keyDescs are the metrics that a pool and each of its keys have.
type keyDescs struct {
	connections, waitingCallers, longestWait, waits, waitSeconds, checkouts, dials, dialErrors, discards *prometheus.Desc
}

func newKeyDescs(prefix, whose string, labels ...string) keyDescs {
	with := func(more string) []string { return append(slices.Clone(labels), more) }
	return keyDescs{
		connections:    desc(prefix+"connections", "Open connections "+whose+": idle, in use, being dialled.", with("state")...),
		waitingCallers: desc(prefix+"waiting_callers", "Callers that wait because of MaxConnsPerKey, "+whose+".", labels...),
		longestWait:    desc(prefix+"longest_wait_seconds", "How long the first of the waiting callers has waited, "+whose+".", labels...),
		waits:          desc(prefix+"waits_total", "Checkouts that waited because of MaxConnsPerKey, "+whose+".", labels...),
		waitSeconds:    desc(prefix+"wait_seconds_total", "Time of the waits that have ended, "+whose+".", labels...),
		checkouts:      desc(prefix+"checkouts_total", "Clients that callers got "+whose+", on a new connection or on one that was used before.", with("connection")...),
		dials:          desc(prefix+"dials_total", "Dials started "+whose+".", labels...),
		dialErrors:     desc(prefix+"dial_errors_total", "Dials that failed "+whose+".", labels...),
		discards:       desc(prefix+"discards_total", "Connections closed "+whose+", by cause.", with("cause")...),
	}
}

func (d *keyDescs) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.connections, d.waitingCallers, d.longestWait, d.waits, d.waitSeconds, d.checkouts, d.dials, d.dialErrors, d.discards}
}

// Describe sends the descriptions of all metrics.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	all := []*prometheus.Desc{waitingCalls, maxThreads, threadsRefused, longestWait, computing, maxConns}
	all = append(all, ofPool.all()...)
	if c.maxKeys > 0 {
		all = append(all, ofKey.all()...)
	}
	for _, d := range all {
		ch <- d
	}
}

// Collect reads the counters and sends the metrics.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := sender(ch)
	waits := client.ReadWaitStats()
	s.gauge(waitingCalls, float64(waits.Threads), "thread")
	s.gauge(waitingCalls, float64(waits.Parked), "poller")
	s.gauge(maxThreads, float64(waits.MaxThreads))
	s.counter(threadsRefused, float64(waits.Refused))
	s.gauge(longestWait, waits.LongestWait.Seconds())
	s.gauge(computing, map[bool]float64{true: 1}[waits.Computing])
	for name, pool := range c.pools {
		stats := pool.Stats()
		if stats.MaxConnsPerKey > 0 {
			s.gauge(maxConns, float64(stats.MaxConnsPerKey), name)
		}
		s.key(&ofPool, &stats.KeyStats, name)
		if c.maxKeys > 0 {
			for _, k := range busiest(stats.Keys, c.maxKeys) {
				s.key(&ofKey, &k.KeyStats, name, k.Network, k.Address, k.PoolKey)
			}
		}
	}
}

// busiest returns the n keys with the most checkouts. Keys that differ only in options that
// are not shown have the same labels, and are added up. A label must be valid UTF-8.
func busiest(keys []client.PoolKeyStats, n int) []client.PoolKeyStats {
	index := make(map[[3]string]int, len(keys))
	var all []client.PoolKeyStats
	for _, k := range keys {
		k.Network = strings.ToValidUTF8(k.Network, "\uFFFD") // also a network that does not exist has a key
		k.Address = strings.ToValidUTF8(k.Address, "\uFFFD")
		k.PoolKey = strings.ToValidUTF8(k.PoolKey, "\uFFFD")
		labels := [3]string{k.Network, k.Address, k.PoolKey}
		if i, known := index[labels]; known {
			all[i].Add(&k.KeyStats)
			continue
		}
		index[labels] = len(all)
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b client.PoolKeyStats) int {
		return cmp.Or(cmp.Compare(b.Checkouts, a.Checkouts), cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Network, b.Network), cmp.Compare(a.PoolKey, b.PoolKey))
	})
	return all[:min(n, len(all))]
}

type sender chan<- prometheus.Metric

func (s sender) gauge(d *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (s sender) counter(d *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
}

func (s sender) key(d *keyDescs, k *client.KeyStats, labels ...string) {
	with := func(more string) []string { return append(slices.Clone(labels), more) }
	s.gauge(d.connections, float64(k.Idle), with("idle")...)
	s.gauge(d.connections, float64(k.Active), with("active")...)
	s.gauge(d.connections, float64(k.Dialing), with("dialing")...)
	s.gauge(d.waitingCallers, float64(k.Waiting), labels...)
	s.gauge(d.longestWait, k.LongestWait.Seconds(), labels...)
	s.counter(d.waits, float64(k.Waits), labels...)
	s.counter(d.waitSeconds, k.WaitTime.Seconds(), labels...)
	s.counter(d.checkouts, float64(k.Checkouts-k.Reuses), with("new")...)
	s.counter(d.checkouts, float64(k.Reuses), with("reused")...)
	s.counter(d.dials, float64(k.Dials), labels...)
	s.counter(d.dialErrors, float64(k.DialErrors), labels...)
	for cause, n := range k.Discards {
		if cause != int(client.DiscardNone) {
			s.counter(d.discards, float64(n), with(client.DiscardCause(cause).String())...)
		}
	}
}
