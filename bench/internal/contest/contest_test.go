package contest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCases_HaveUniqueNamesAndSeveralPeers(t *testing.T) {
	titles := make(map[string]bool)
	for _, g := range Groups {
		titles[g.Letter] = true
	}
	for _, quick := range []bool{true, false} {
		names, groups := make(map[string]bool), make(map[string]bool)
		for _, k := range Cases(quick) {
			name := k.Group + ": " + k.Name
			require.False(t, names[name], name)
			require.True(t, titles[k.Group], name)
			require.Greater(t, len(k.Peers), 1, name)
			names[name], groups[k.Group] = true, true
		}
		require.Len(t, groups, len(Groups), "each comparison has a case")
	}
}

func TestCalls_ParsesTheTableOfStrace(t *testing.T) {
	counts := parseCalls([]byte(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.12    0.001234           1      1000           sendto
 39.88    0.000818           0      1002         2 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.002052           1      2002         2 total
`))
	require.Equal(t, map[string]int{"sendto": 1000, "recvfrom": 1002}, counts)
}

// Every counted round trip takes place and takes time, with each peer.
func TestRun_EachPeerMakesTheRoundTripsThatItCounts(t *testing.T) {
	c, err := New(1, 0)
	require.NoError(t, err)
	defer c.Close()
	const trips = 20
	for _, k := range Cases(true) {
		if k.Group != "a" || k.Spec.Conns != 1 {
			continue
		}
		k.Spec.Count, k.Calls = trips, 0
		results, _, err := c.Run(t.Context(), k)
		require.NoError(t, err)
		require.Len(t, results, len(k.Peers))
		for _, r := range results {
			require.EqualValues(t, trips, r.Sample.Ops, "%s %s", r.Case, r.Peer)
			h, err := r.Sample.Histogram()
			require.NoError(t, err)
			require.EqualValues(t, trips, h.TotalCount())
			require.Greater(t, h.Min(), int64(1000), "no round trip takes less than a microsecond")
		}
	}
}

// Every counted datagram was received.
func TestRun_EachPeerReceivesTheDatagramsThatItCounts(t *testing.T) {
	c, err := New(1, 0)
	require.NoError(t, err)
	defer c.Close()
	const turns = 20
	for _, k := range datagrams(true) {
		k.Spec.Count = turns
		results, _, err := c.Run(t.Context(), k)
		require.NoError(t, err)
		require.Len(t, results, len(k.Peers))
		for _, r := range results {
			require.EqualValues(t, turns*k.Spec.Batch, r.Sample.Ops, "%s %s", r.Case, r.Peer)
		}
	}
}

// Every counted round trip of the active connections took place, among idle ones.
func TestRun_EventDrivenPeersMakeTheRoundTripsThatTheyCount(t *testing.T) {
	c, err := New(1, 0)
	require.NoError(t, err)
	defer c.Close()
	const trips = 20
	for _, k := range eventDriven(true) {
		k.Spec.Conns, k.Spec.Active, k.Spec.Count, k.Calls = 50, 10, trips, 0
		results, _, err := c.Run(t.Context(), k)
		require.NoError(t, err)
		require.Len(t, results, len(k.Peers))
		for _, r := range results {
			require.EqualValues(t, trips*k.Spec.Active, r.Sample.Ops, r.Peer)
			h, err := r.Sample.Histogram()
			require.NoError(t, err)
			require.Greater(t, h.Min(), int64(1000), "no round trip takes less than a microsecond")
			require.Positive(t, r.Sample.Threads)
			if r.Peer != "gnet" && r.Peer != "nbio" { // what they use for so few connections is lost in the heap's spans
				require.Positive(t, r.Sample.Memory, r.Peer)
			}
		}
	}
}

func TestRun_WaitingClientsAreAllAnswered(t *testing.T) {
	c, err := New(1, 0)
	require.NoError(t, err)
	defer c.Close()
	k := waiting(true)[0]
	results, _, err := c.Run(t.Context(), k)
	require.NoError(t, err)
	require.Len(t, results, len(k.Peers))
	for _, r := range results {
		require.EqualValues(t, k.Spec.Conns, r.Sample.Ops, r.Peer)
		require.Positive(t, r.Sample.Elapsed)
		require.Positive(t, r.Sample.Threads)
		require.Positive(t, r.Sample.Memory, r.Peer)
	}
}

// The full run has to fit into a pause of work.
func TestEstimate_FullRunTakesAtMost50Minutes(t *testing.T) {
	c := Contest{Rounds: 7, Length: 500 * time.Millisecond}
	var sum time.Duration
	for _, k := range Cases(false) {
		sum += c.Estimate(k)
	}
	t.Log(sum)
	require.LessOrEqual(t, sum, 50*time.Minute)
	require.Greater(t, sum, 30*time.Minute)
}
