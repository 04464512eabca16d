package main

import (
	"testing"

	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/report"
	"github.com/stretchr/testify/require"
)

func TestChosen_ResumeRunsTheCasesWithoutResults(t *testing.T) {
	every, err := chosen(&report.All{}, true, "", "")
	require.NoError(t, err)
	require.Equal(t, len(contest.Cases(true)), len(every))

	first := every[0]
	before := &report.All{Results: []contest.Result{
		{Group: first.Group, Case: first.Name},
		{Group: "another", Case: every[1].Name},
	}}
	rest, err := chosen(before, true, "", "")
	require.NoError(t, err)
	require.Len(t, rest, len(every)-1)
	require.Equal(t, every[1].Name, rest[0].Name)
}

func TestChosen_SelectsGroupsAndNames(t *testing.T) {
	some, err := chosen(&report.All{}, false, "b,m", "10000|slices × 2$")
	require.NoError(t, err)
	require.NotEmpty(t, some)
	for _, k := range some {
		require.Contains(t, []string{"b", "m"}, k.Group)
		require.Regexp(t, "10000|slices × 2$", k.Name)
	}
	_, err = chosen(&report.All{}, false, "", "(")
	require.Error(t, err)
}
