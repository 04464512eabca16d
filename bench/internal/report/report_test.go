package report

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/sample"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/plotter"
)

// round returns a result of ops operations in one second, each of which took the same time.
func round(t *testing.T, group, name, peer string, n int, ops int64, took time.Duration) contest.Result {
	t.Helper()
	h := sample.NewHistogram()
	for range ops {
		sample.Record(h, took)
	}
	s := &sample.Sample{Ops: ops, Elapsed: time.Second, User: time.Duration(ops) * time.Microsecond}
	require.NoError(t, s.SetLatency(h))
	return contest.Result{Group: group, Case: name, Peer: peer, Round: n, Sample: s}
}

// computing returns a round in a process whose goroutines computed so much.
func computing(t *testing.T, name, peer string, n, procs int, computed int64) contest.Result {
	t.Helper()
	r := round(t, "k", name, peer, n, 10, time.Millisecond)
	r.Spec.Procs, r.Sample.Computed = procs, computed
	return r
}

// idle returns a round of a connection that used 6,500 bytes of heap and stack, and 9,000 resident
// ones.
func idle(t *testing.T, peer string) contest.Result {
	t.Helper()
	r := round(t, "m", "64 active of 10000", peer, 0, 10, time.Millisecond)
	r.Spec.Conns, r.Sample.Threads = 10_000, 7
	r.Sample.Memory, r.Sample.RSS = 65e6, 90e6
	return r
}

func viewOf(t *testing.T, results ...contest.Result) *view {
	t.Helper()
	v, err := (&All{Environment: Environment{CPUs: 4}, Results: results}).view()
	require.NoError(t, err)
	return v
}

// row returns the cells of the first row of a table that contains a peer's name.
func row(t *testing.T, markdown, peer string) []string {
	t.Helper()
	for line := range strings.Lines(markdown) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) > 2 && cells[1] == peer {
			return cells
		}
	}
	require.Fail(t, "no row of "+peer, markdown)
	return nil
}

func TestRatio_IsTheMedianOverRounds(t *testing.T) {
	v := viewOf(t,
		round(t, "a", "k", "client", 1, 100, time.Millisecond), // not in the order of rounds
		round(t, "a", "k", "client", 0, 900, time.Millisecond),
		round(t, "a", "k", "client", 2, 400, time.Millisecond),
		round(t, "a", "k", "net", 0, 300, time.Millisecond),
		round(t, "a", "k", "net", 1, 100, time.Millisecond),
		round(t, "a", "k", "net", 2, 200, time.Millisecond),
	)
	c := v.at[[2]string{"a", "k"}]
	require.InDelta(t, 2, ratio(c.peer("client"), c.peer("net"), rate), 1e-9, "of 3, 1 and 2")
	require.InDelta(t, 400, c.peer("client").median(rate), 1e-9)
	require.EqualValues(t, 1400, c.peer("client").times.TotalCount(), "all rounds together")
}

func TestTargets_MissedOnesAreMarked(t *testing.T) {
	name := "100µs away, spin × 8"
	v := viewOf(t,
		round(t, "b", name, "client", 0, 10, time.Millisecond), round(t, "b", name, "net", 0, 10, 29*time.Millisecond),
		round(t, "a", "unix, 64 B, 64 at once", "client", 0, 95, time.Millisecond), round(t, "a", "unix, 64 B, 64 at once", "net", 0, 100, time.Millisecond),
	)
	var reached []bool
	for _, target := range v.targets() {
		reached = append(reached, target.reached)
	}
	require.Equal(t, []bool{false, true, true}, reached, "29 times and not 30; no worse p99; 0.95 of the throughput")
	require.Contains(t, string(v.markdown()), "**missed**")
}

func TestTargets_BesideBusyProcesses(t *testing.T) {
	const trips, ping, page = "tcp, 8 at once, beside 2", "a PING to Redis, 8 goroutines, beside 2", "a GET to nginx, 8 goroutines, beside 2"
	v := viewOf(t,
		round(t, "i", trips, "client", 0, 94, 1150*time.Microsecond), // before net
		round(t, "i", trips, "net", 0, 100, time.Millisecond),
		round(t, "i", trips, "client, Read and Write", 0, 95, 1300*time.Microsecond),
		round(t, "j", ping, "go-redis on net", 0, 100, time.Millisecond),
		round(t, "j", ping, "go-redis on client", 0, 97, time.Millisecond),
		round(t, "j", page, "net/http", 0, 100, time.Millisecond),
		round(t, "j", page, "net/http on client", 0, 90, time.Millisecond),
	)
	got := make(map[string]bool)
	for _, target := range v.targets() {
		got[target.name] = target.reached
	}
	require.Equal(t, map[string]bool{
		trips + ": throughput of client / net":                        false,
		trips + ": p99 of client / net":                               true,
		trips + ": throughput of client, Read and Write / net":        true,
		trips + ": p99 of client, Read and Write / net":               false,
		ping + ": throughput of go-redis on client / go-redis on net": true,
		ping + ": p99 of go-redis on client / go-redis on net":        true,
		page + ": throughput of net/http on client / net/http":        false,
		page + ": p99 of net/http on client / net/http":               true,
	}, got)
}

// Only with more GOMAXPROCS than processors, of the machine that the results are from.
func TestTargets_ComputingKeptAboveTheProcessors(t *testing.T) {
	v := viewOf(t,
		computing(t, "at", "client", 0, 4, 10), computing(t, "at", "no I/O", 0, 4, 100),
		computing(t, "above", "client", 0, 6, 89), computing(t, "above", "no I/O", 0, 6, 100),
		computing(t, "far above", "client", 0, 16, 90), computing(t, "far above", "no I/O", 0, 16, 100),
	)
	require.Equal(t, []target{
		{"above: computing kept beside client / no I/O", "≥ 0.9", "0.89", false, 0.9 / 0.89},
		{"far above: computing kept beside client / no I/O", "≥ 0.9", "0.90", true, 1},
	}, v.targets())
}

func TestMarkdown_ComputingKeptIsRelativeToNoIO(t *testing.T) {
	v := viewOf(t,
		computing(t, "x", "net", 0, 4, 50), computing(t, "x", "net", 1, 4, 300), computing(t, "x", "net", 2, 4, 80),
		computing(t, "x", "client", 0, 4, 95), computing(t, "x", "client", 1, 4, 360), computing(t, "x", "client", 2, 4, 97),
		computing(t, "x", "no I/O", 0, 4, 100), computing(t, "x", "no I/O", 1, 4, 400), computing(t, "x", "no I/O", 2, 4, 100),
		round(t, "f", "y", "client with TLS", 0, 10, time.Millisecond),
	)
	markdown := string(v.markdown())
	require.Equal(t, 1, strings.Count(markdown, "computing kept |"), "one group has the column")
	require.NotContains(t, markdown, "| no I/O |")
	require.Equal(t, "75 % |", row(t, markdown, "net")[11], "of 50, 75 and 80 %%")
	require.Equal(t, "95 % |", row(t, markdown, "client")[11], "of 95, 90 and 97 %%")
	require.Len(t, row(t, markdown, "client with TLS"), 11)
}

// A group without the peer "no I/O", and a case in which nothing computes.
func TestMarkdown_NoComputingKeptWithoutComputing(t *testing.T) {
	v := viewOf(t,
		round(t, "b", "nothing", "client", 0, 10, time.Millisecond), round(t, "b", "nothing", "no I/O", 0, 1, time.Millisecond),
		round(t, "i", "z", "net", 0, 10, time.Millisecond),
	)
	markdown := string(v.markdown())
	require.NotContains(t, markdown, "computing kept")
	require.NotContains(t, markdown, "NaN")
	require.NotContains(t, markdown, "| no I/O |")
}

func TestMarkdown_EventDrivenClientsHaveTheirThreadsAndMemory(t *testing.T) {
	markdown := string(viewOf(t, idle(t, "client.AsyncClient"), round(t, "f", "y", "client with TLS", 0, 10, time.Millisecond)).markdown())
	require.Equal(t, []string{"7", "6.5 KB", "9.0 KB |"}, row(t, markdown, "client.AsyncClient")[11:])
	require.Len(t, row(t, markdown, "client with TLS"), 11)
}

func TestMarkdown_WaitingClientsHaveTheTimeUntilAllAreAnswered(t *testing.T) {
	r := round(t, "h", "100 at once", "client", 0, 100, time.Millisecond)
	r.Spec.Conns, r.Sample.Threads, r.Sample.Memory, r.Sample.RSS, r.Sample.Elapsed = 100, 7, 340e3, 520e3, 12*time.Millisecond
	markdown := string(viewOf(t, r).markdown())
	require.Equal(t, []string{"7", "3.4 KB", "5.2 KB", "12 ms |"}, row(t, markdown, "client")[2:])
}

func TestTargets_EventDrivenClients(t *testing.T) {
	of, net, gnet := idle(t, "client.AsyncClient"), idle(t, "net, a goroutine each"), idle(t, "gnet")
	of.Sample.Threads, net.Sample.User, gnet.Sample.User = 16, 10*time.Microsecond, 9*time.Microsecond // 1 and 0.9 of an operation
	var missed []string
	for _, target := range viewOf(t, of, net, gnet).targets() {
		if !target.reached {
			missed = append(missed, target.name)
		}
	}
	require.Equal(t, []string{
		"64 active of 10000: CPU time of AsyncClient / gnet",
		"64 active of 10000: threads of AsyncClient - those of net",
		"64 active of 10000: KB of heap and stack for each idle AsyncClient",
	}, missed)
}

// What falls short is on top, and the worst of it first.
func TestMarkdown_WhatFallsShortComesFirst(t *testing.T) {
	v := viewOf(t,
		round(t, "c", "unix, 1 MiB", "client", 0, 90, time.Millisecond), round(t, "c", "unix, 1 MiB", "net", 0, 100, time.Millisecond),
		round(t, "g", "hello, 8 at once", "fastcgi", 0, 100, time.Millisecond), round(t, "g", "hello, 8 at once", "caddy", 0, 100, time.Millisecond),
		round(t, "c", "tcp, 1 MiB", "client", 0, 110, time.Millisecond), round(t, "c", "tcp, 1 MiB", "net", 0, 100, time.Millisecond),
	)
	v.page = []shown{{figures[0], "a sentence"}}
	markdown := string(v.markdown())
	after := 0
	for _, part := range []string{
		"## What falls short", "2 of 3 [targets](#targets) are missed:", "hello, 8 at once: rate of fastcgi", "unix, 1 MiB: throughput",
		"## Figures", figures[0].title, figures[0].file, "a sentence", "## Targets", "tcp, 1 MiB: throughput",
	} {
		at := strings.Index(markdown[after:], part)
		require.GreaterOrEqual(t, at, 0, "%q, in this order:\n%s", part, markdown)
		after += at
	}
}

func TestMarkdown_NothingFallsShort(t *testing.T) {
	v := viewOf(t, round(t, "c", "tcp, 1 MiB", "client", 0, 110, time.Millisecond), round(t, "c", "tcp, 1 MiB", "net", 0, 100, time.Millisecond))
	require.Contains(t, string(v.markdown()), "Nothing: all 1 [targets](#targets) are reached.")
}

// Every row has as many cells as the header of its table.
func TestMarkdown_RowsFitTheirHeaders(t *testing.T) {
	busy := computing(t, "x", "client", 0, 4, 95)
	batch := round(t, "l", "send, 1200 B", "client, segments", 0, 320, time.Millisecond)
	batch.Spec.Batch = 32
	load := round(t, "g", "hello", "nginx", 0, 10, time.Millisecond)
	load.Spec.Work = "load"
	a := All{
		Results: []contest.Result{
			busy, computing(t, "x", "no I/O", 0, 4, 100), computing(t, "idle", "client", 0, 4, 0), computing(t, "idle", "no I/O", 0, 4, 0),
			idle(t, "client.AsyncClient"), batch, load, round(t, "h", "100 at once", "net", 0, 100, time.Millisecond),
			round(t, "i", "tcp, 8 at once, beside 2", "net", 0, 10, time.Millisecond),
			round(t, "a", "unix, 64 B, 1 at once", "client", 0, 10, time.Millisecond),
		},
		Calls: []contest.Calls{{Group: "a", Case: "unix, 64 B, 1 at once", Peer: "client", Each: map[string]float64{"sendto": 1, "recvfrom": 1}}},
	}
	v, err := a.view()
	require.NoError(t, err)
	bars := 0
	for line := range strings.Lines(string(v.markdown())) {
		switch n := strings.Count(line, "|"); {
		case n == 0:
			bars = 0
		case bars == 0:
			bars = n
		default:
			require.Equal(t, bars, n, line)
		}
	}
}

func TestWrite_CanBeReadAgain(t *testing.T) {
	dir := t.TempDir()
	a := All{Command: "x", Results: []contest.Result{
		round(t, "a", "unix, 64 B, 1 at once", "net", 0, 10, time.Millisecond),
		round(t, "a", "unix, 64 B, 8 at once", "net", 0, 10, time.Millisecond),
	}}
	require.NoError(t, a.Write(dir))
	again, err := Read(dir)
	require.NoError(t, err)
	require.Equal(t, &a, again)
	_, err = os.Stat(filepath.Join(dir, "throughput.svg"))
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(dir, "busy.svg"))
	require.ErrorIs(t, err, os.ErrNotExist, "there are no results to draw")
}

// The results of every case can be drawn, whatever its peers: "no I/O" has no curve.
func TestPlots_DrawEveryCase(t *testing.T) {
	var a All
	for _, k := range contest.Cases(false) {
		for _, peer := range k.Peers {
			r := round(t, k.Group, k.Name, peer, 0, 10, time.Millisecond)
			r.Spec, r.Sample.Memory = k.Spec, 1000
			a.Results = append(a.Results, r)
		}
	}
	a.Results = append(a.Results, round(t, "a", "tcp, 64 B, 1 at once", "a new peer", 0, 10, time.Millisecond),
		round(t, "a", "tcp, 64 B, 64 at once", "a new peer", 0, 10, time.Millisecond))
	dir := t.TempDir()
	require.NoError(t, a.Write(dir))
	var names []string
	for _, p := range wide {
		names = append(names, p.file)
	}
	for _, f := range figures {
		names = append(names, f.file)
	}
	for _, name := range names {
		picture, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Contains(t, string(picture), "</svg>")
		require.NotContains(t, string(picture), "NaN")
		require.NotContains(t, string(picture), noIO)
	}
	markdown, err := os.ReadFile(filepath.Join(dir, "results.md"))
	require.NoError(t, err)
	require.Contains(t, string(markdown), "## Ten figures")
	require.NotContains(t, string(markdown), "NaN")
	for _, name := range names {
		require.Contains(t, string(markdown), name, "every plot is shown")
	}
}

// A label moves up where it would cover another.
func TestLabels_DoNotCoverEachOther(t *testing.T) {
	var curves []curve
	for _, peer := range []string{"net", "client", "C"} {
		curves = append(curves, curve{peer: peer, points: plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 10}}})
	}
	p, err := panel("", "x", "y", curves)
	require.NoError(t, err)
	picture, err := side(p)
	require.NoError(t, err)
	heights := make(map[string]bool)
	for _, name := range []string{"net", "client", "C"} {
		found := regexp.MustCompile(`y="([^"]*)"[^>]*>` + name + `<`).FindSubmatch(picture)
		require.NotNil(t, found, name)
		heights[string(found[1])] = true
	}
	require.Len(t, heights, 3)
}

func TestTicks_AreRoundNumbers(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		want      string
	}{
		{0, 27.7, "0 5 10 15 20 25"},
		{0, 1.2, "0 0.2 0.4 0.6 0.8 1 1.2"},
		{0, 136, "0 50 100"},
		{0, 4.75, "0 1 2 3 4"},
		{0, 8, "0 2 4 6 8"},
	} {
		var got []string
		for _, tick := range (roundTicks{}).Ticks(c.low, c.high) {
			got = append(got, tick.Label)
		}
		require.Equal(t, c.want, strings.Join(got, " "))
	}
}
