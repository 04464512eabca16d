package debug

import (
	"encoding/json"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestHistory_PointsAreDifferences(t *testing.T) {
	k := keyName{Network: "tcp", Address: "a"}
	stats := func(s client.KeyStats) poolStats {
		return poolStats{total: s, keys: []keyStats{{k, s}}}
	}
	h := newHistory(stats(client.KeyStats{Checkouts: 100, Reuses: 90}))
	h.add(stats(client.KeyStats{Checkouts: 110, Reuses: 97, Active: 2, Discards: client.DiscardCounts{client.DiscardDead: 4}}))
	h.add(stats(client.KeyStats{Checkouts: 110, Reuses: 97, Waiting: 1, Discards: client.DiscardCounts{client.DiscardDead: 4}}))
	want := series{{New: 3, Reused: 7, Active: 2, Discards: &client.DiscardCounts{client.DiscardDead: 4}}, {Waiting: 1}}
	require.Equal(t, want, h.total)
	require.Equal(t, want, h.keys[k])
	made, reused, discards := h.total.sum()
	require.Equal(t, []uint64{3, 7, 4}, []uint64{made, reused, discards.Total()})
}

// A pool removes keys that are not used. A key that is made again counts from zero.
func TestHistory_KeyThatWasMadeAgainCountsFromZero(t *testing.T) {
	p := since(client.KeyStats{Checkouts: 1000, Reuses: 900, Discards: client.DiscardCounts{client.DiscardDead: 50}},
		client.KeyStats{Checkouts: 5, Reuses: 3, Discards: client.DiscardCounts{client.DiscardDead: 1}})
	require.Equal(t, point{New: 2, Reused: 3, Discards: &client.DiscardCounts{client.DiscardDead: 1}}, p)
}

func TestHistory_IsBounded(t *testing.T) {
	h := newHistory(poolStats{})
	for i := range 3 * maxPoints {
		var keys []keyStats
		for j := range 2 * maxKeys {
			keys = append(keys, keyStats{keyName{PoolKey: strings.Repeat("x", j)}, client.KeyStats{Checkouts: uint64(i)}})
		}
		h.add(poolStats{total: client.KeyStats{Checkouts: uint64(i)}, keys: keys})
	}
	require.Len(t, h.total, maxPoints)
	require.LessOrEqual(t, cap(h.total), 2*maxPoints)
	require.Len(t, h.keys, maxKeys)
}

func TestHandler_SamplesUntilClose(t *testing.T) {
	h := NewHandler(map[string]*client.Pool{"p": client.NewPool(client.PoolOptions{})})
	h.sample()
	h.sample()
	points := func() int { h.mu.Lock(); defer h.mu.Unlock(); return len(h.histories["p"].total) }
	require.Equal(t, 2, points())
	require.NoError(t, h.Close())
	require.NoError(t, h.Close())
	h.sample() // a timer that fired during Close
	require.Equal(t, 2, points())
}

func TestHandler_ClosedHandlerKeepsNothingReachable(t *testing.T) {
	collected := make(chan struct{})
	func() {
		pool := client.NewPool(client.PoolOptions{})
		h := NewHandler(map[string]*client.Pool{"p": pool})
		runtime.AddCleanup(pool, func(ch chan struct{}) { close(ch) }, collected)
		require.NoError(t, h.Close())
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-collected:
			return true
		default:
			return false
		}
	}, 10*time.Second, time.Millisecond)
}

func TestHandler_JSONHasThePast(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	h := NewHandler(map[string]*client.Pool{"p": pool})
	defer h.Close()
	c, err := pool.Dial(t.Context(), "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	require.NoError(t, c.Discard())
	h.sample()
	var doc jsonDoc
	require.NoError(t, json.Unmarshal(h.json(true), &doc))
	require.Equal(t, sampleInterval, doc.HistoryInterval)
	want := []jsonPoint{{New: 1, Discards: map[string]uint64{"by_caller": 1}}}
	require.Equal(t, want, doc.Pools["p"].History)
	require.Equal(t, want, doc.Pools["p"].Keys[0].History)
}

func TestPlot_StacksBarsUpToTheHighest(t *testing.T) {
	past := series{{New: 1}, {New: 1, Reused: 3}}
	plot := newPlot("Checkouts", past,
		curve{"reused", "3", "reused", func(p point) uint64 { return p.Reused }},
		curve{"new", "2", "new", func(p point) uint64 { return p.New }})
	require.Equal(t, "M119 6.00h1V24.00h-1z", plot.Bars[0].Path)
	require.Equal(t, "M118 18.00h1V24.00h-1zM119 0.00h1V6.00h-1z", plot.Bars[1].Path)
}

func TestNumber_SeparatesThousands(t *testing.T) {
	require.Equal(t, []string{"0", "999", "1,000", "12,345,067"}, []string{number(0), number(999), number(1000), number(12_345_067)})
}

func TestDuration_IsShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "none", 20 * time.Microsecond: "< 1 ms", 12 * time.Millisecond: "12 ms", 1500 * time.Millisecond: "1.5 s",
		200 * time.Second: "3 min 20 s", 3*time.Hour + 5*time.Minute: "3 h 5 min",
	} {
		require.Equal(t, want, duration(d))
	}
}
