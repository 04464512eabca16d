package report

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/sample"
	"github.com/stretchr/testify/require"
)

// round makes a result of ops operations in a second, each of which took as long.
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

func TestRatiosAreOfRoundsThatFollowEachOther(t *testing.T) {
	a := All{Results: []contest.Result{
		round(t, "a", "k", "client", 1, 100, time.Millisecond), // in no order
		round(t, "a", "k", "client", 0, 900, time.Millisecond),
		round(t, "a", "k", "client", 2, 400, time.Millisecond),
		round(t, "a", "k", "net", 0, 300, time.Millisecond),
		round(t, "a", "k", "net", 1, 100, time.Millisecond),
		round(t, "a", "k", "net", 2, 200, time.Millisecond),
	}}
	v, err := a.view()
	require.NoError(t, err)
	c := v.at[[2]string{"a", "k"}]
	require.InDelta(t, 2, ratio(c.peer("client"), c.peer("net"), rate), 1e-9, "of 3, 1 and 2")
	require.InDelta(t, 400, c.peer("client").median(rate), 1e-9)
	require.EqualValues(t, 1400, c.peer("client").times.TotalCount(), "all rounds together")
}

func TestAFigureThatFallsShortIsSaidToDoSo(t *testing.T) {
	name := fmt.Sprintf("100µs away, spin × %d", 2*runtime.GOMAXPROCS(0))
	a := All{Results: []contest.Result{
		round(t, "b", name, "client", 0, 10, time.Millisecond), round(t, "b", name, "net", 0, 10, 29*time.Millisecond),
		round(t, "a", "unix, 64 B, 64 at once", "client", 0, 95, time.Millisecond), round(t, "a", "unix, 64 B, 64 at once", "net", 0, 100, time.Millisecond),
	}}
	v, err := a.view()
	require.NoError(t, err)
	var held []bool
	for _, target := range v.targets() {
		held = append(held, target.holds)
	}
	require.Equal(t, []bool{false, true, true}, held, "29 times and not 30; no worse p99; 0.95 of the throughput")
	require.Contains(t, string(v.markdown()), "**falls short**")
}

func TestWhatIsWrittenCanBeReadAgain(t *testing.T) {
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
	require.ErrorIs(t, err, os.ErrNotExist, "there is nothing to draw")
}
