package main

import (
	"testing"

	"github.com/blocksock/client/interop/suites/dials"
	"github.com/stretchr/testify/require"
)

func TestSuspects_PassWithOneDialerOnly(t *testing.T) {
	net := outcomes{"both": passed, "fails": passed, "skips": passed, "is gone": passed, "neither": failed, "other": failed, "skipped": skipped}
	client := outcomes{"both": passed, "fails": failed, "skips": skipped, "neither": failed, "other": passed, "skipped": failed, "new": failed}
	require.Equal(t, []string{"fails", "is gone", "new", "skipped", "skips"}, suspects(net, client))
	require.Equal(t, []string{"other"}, suspects(client, net))
}

func TestDifference_HoldsUnlessTheTestAlonePasses(t *testing.T) {
	for _, c := range []struct {
		net, client int
		holds       bool
	}{
		{5, 5, false},
		{5, 4, true},
		{5, 0, true},
		{4, 5, false},
		{3, 1, false}, // it fails now and then with both
		{3, 0, true},
		{0, 0, true}, // alone it tells nothing
		{0, 5, false},
	} {
		d := difference{alone: map[string]int{dials.Net: c.net, dials.Client: c.client}}
		require.Equal(t, c.holds, d.holds(), "%+v", c)
	}
}

func TestDifference_FlakyProgramIsNone(t *testing.T) {
	d := difference{test: "root " + program, alone: map[string]int{dials.Net: 5, dials.Client: 1}}
	require.False(t, d.holds())
	d.alone[dials.Client] = 0
	require.True(t, d.holds())
	require.Empty(t, alone(program))
}

func TestConnections_OfTheOtherDialerAreAnError(t *testing.T) {
	for dialer, record := range map[string]string{
		dials.Net:    "*net.TCPConn\n*net.UnixConn\n*net.UDPConn\n",
		dials.Client: "*client.Client\nclient.packetConn\n*client.Client\n",
	} {
		n, err := connections(record, dialer)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		for _, other := range both {
			if other != dialer {
				_, err := connections(record, other)
				require.Error(t, err)
			}
		}
	}
	_, err := connections("*client.Client\n*net.TCPConn\n*client.Client\n", dials.Client)
	require.ErrorContains(t, err, "1 of 3 connections are of type *net.TCPConn")
}

func TestChoose_DriversByName(t *testing.T) {
	all, err := choose("")
	require.NoError(t, err)
	require.Len(t, all, len(drivers))
	some, err := choose("mysql,pgx")
	require.NoError(t, err)
	require.Equal(t, []string{"mysql", "pgx"}, []string{some[0].name, some[1].name})
	_, err = choose("mysql,")
	require.Error(t, err)
}
