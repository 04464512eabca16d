package client_test

import (
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestDiscardCause_EveryCauseHasItsOwnName(t *testing.T) {
	names := make(map[string]client.DiscardCause)
	for i := range new(client.DiscardCounts) {
		cause := client.DiscardCause(i)
		require.NotEmpty(t, cause.String())
		require.NotContains(t, names, cause.String())
		names[cause.String()] = cause
	}
	require.Equal(t, client.DiscardPoolClosed, names["pool_closed"])
	require.Equal(t, "DiscardCause(-1)", client.DiscardCause(-1).String())
	require.Equal(t, "DiscardCause(1000)", client.DiscardCause(1000).String())
}

// The methods that close connections that are in order are told apart.
func TestPool_DiscardsAreCountedByTheMethodThatClosed(t *testing.T) {
	s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxIdlePerKey: 2})
	all := [...]*client.Client{s.from(t, p, nil), s.from(t, p, nil), s.from(t, p, nil), s.from(t, p, nil), s.from(t, p, nil)}
	want := client.DiscardCounts{client.DiscardByCaller: 1}
	require.NoError(t, all[0].Discard())
	require.Equal(t, want, p.Stats().Discards)
	for _, c := range all[1:4] {
		require.NoError(t, c.Close())
	}
	want[client.DiscardOverLimit] = 1
	require.Equal(t, want, p.Stats().Discards)
	p.CloseIdle()
	want[client.DiscardCloseIdle] = 2
	require.Equal(t, want, p.Stats().Discards)
	require.NoError(t, s.from(t, p, nil).Close())
	require.NoError(t, p.Close())
	require.NoError(t, all[4].Close())
	want[client.DiscardPoolClosed] = 2
	require.Equal(t, want, p.Stats().Discards)
	require.EqualValues(t, 6, p.Stats().Discards.Total())
}
