package main

import (
	"strings"
	"testing"

	"github.com/blocksock/client/interop/suites/dials"
	"github.com/stretchr/testify/require"
)

// reported is the report of one driver with these outcomes.
func reported(net, client outcomes, differ ...difference) (string, bool) {
	var out strings.Builder
	same := report(&out, []*result{{
		driver: driver{name: "d", suites: []suite{{dir: "."}}},
		module: module{Path: "m", Version: "v1"},
		by: map[string]*tally{
			dials.Net:    {tests: net, conns: 7},
			dials.Client: {tests: client, conns: 6},
		},
		differ: differ,
	}}, true)
	return out.String(), same
}

func TestReport_NamesTestsThatFailWithBoth(t *testing.T) {
	net := outcomes{"root A": passed, "root B": failed, "root C": skipped}
	text, same := reported(net, net)
	require.True(t, same)
	require.Contains(t, text, "| m v1 | . | 1 | 1 | 1 | 1 | 7, 6 | 0, 0 | 0 |\n")
	require.Contains(t, text, "d: fail with both (1):\n\n- root B\n")
	require.Contains(t, text, "d: skipped with net (1):\n\n- root C\n")
}

func TestReport_CountsDifferencesThatHold(t *testing.T) {
	net, client := outcomes{"root A": passed}, outcomes{"root A": failed}
	d := difference{
		test:  "root A",
		first: map[string]outcome{dials.Net: passed, dials.Client: failed},
		alone: map[string]int{dials.Net: 5, dials.Client: 5},
		said:  "it hung\n",
	}
	text, same := reported(net, client, d)
	require.True(t, same)
	require.Contains(t, text, "no difference")
	d.alone[dials.Client] = 4
	text, same = reported(net, client, d)
	require.False(t, same)
	require.Contains(t, text, "alone 5 and 4 times of 5: a difference\n    it hung\n")
}

func TestReport_KnownDifferenceDoesNotFail(t *testing.T) {
	d := difference{
		test:  "root A",
		first: map[string]outcome{dials.Net: passed, dials.Client: failed},
		alone: map[string]int{dials.Net: 5},
		known: "it wants a TCPConn",
	}
	text, same := reported(outcomes{"root A": passed}, outcomes{"root A": failed}, d)
	require.True(t, same)
	require.Contains(t, text, "| 0, and 1 known |\n")
	require.Contains(t, text, "alone 5 and 0 times of 5: known: it wants a TCPConn\n")
}
