package client_test

import (
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestLongestWaits_TellClientsApart(t *testing.T) {
	defer client.SetMaxThreads(client.SetMaxThreads(0))
	for _, network := range []string{"tcp", "unix", "udp"} {
		t.Run(network, func(t *testing.T) {
			var c *client.Client
			if network == "udp" {
				c, _ = datagrams(t, network, nil)
			} else {
				c, _ = stream(t, network, nil)
			}
			received := make(chan error, 1)
			go func() { _, err := c.Recv(make([]byte, 1), 0); received <- err }()
			remote := c.RemoteAddr().String()
			var wait client.Wait
			require.Eventually(t, func() bool {
				all := client.LongestWaits(-1)
				i := slices.IndexFunc(all, func(w client.Wait) bool { return w.RemoteAddr == remote })
				if i >= 0 {
					wait = all[i]
				}
				return i >= 0
			}, testTimeout, time.Millisecond)
			require.Equal(t, network, wait.Network)
			require.Equal(t, "recv", wait.Op)
			if network != "unix" {
				require.Equal(t, c.LocalAddr().String(), wait.LocalAddr)
			}
			stats := client.ReadWaitStats()
			require.Equal(t, 0, stats.MaxThreads)
			require.Eventually(t, func() bool { return client.ReadWaitStats().Parked >= 1 }, testTimeout, time.Millisecond)
			require.Positive(t, stats.Refused)
			require.GreaterOrEqual(t, stats.LongestWait, wait.Duration)
			require.Empty(t, client.LongestWaits(0))
			require.NoError(t, c.Close())
			require.Error(t, <-received)
		})
	}
}

func TestLongestWaits_DialIsListedWithItsTarget(t *testing.T) {
	defer client.SetMaxThreads(client.SetMaxThreads(0))
	hole := blackHole(t, "tcp", "127.0.0.1")
	dialed := make(chan error, 1)
	go func() {
		_, err := client.Dial("tcp", hole, &client.Options{Timeout: 300 * time.Millisecond})
		dialed <- err
	}()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(client.LongestWaits(-1), func(w client.Wait) bool {
			return w.Op == "dial" && w.RemoteAddr == hole && w.Network == "tcp"
		})
	}, testTimeout, time.Millisecond)
	require.Error(t, <-dialed)
}
