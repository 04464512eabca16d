package sql

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

func pqListener(t *testing.T, at postgresAt) {
	db := pqDB(t, at, "")
	listener := pq.NewDialListener(pqDialer(at.dial), at.dsn, 10*time.Millisecond, time.Second, nil)
	channel := unique("channel")
	require.NoError(t, limited(func() error { return listener.Listen(channel) }))
	const count = 100
	payload := func(i int) string { return strings.Repeat(fmt.Sprintf("%03d.", i), 1900) } // the limit is 8000 bytes
	for i := range count {
		_, err := db.Exec("SELECT pg_notify($1, $2)", channel, payload(i))
		require.NoError(t, err)
		n := notification(t, listener)
		require.Equal(t, channel, n.Channel)
		require.Equal(t, payload(i), n.Extra)
	}
	// A ping is answered while the listener waits for notifications.
	require.NoError(t, limited(listener.Ping))
	require.NoError(t, limited(func() error { return listener.Unlisten(channel) }))
	// Close ends the wait from another goroutine.
	require.NoError(t, limited(listener.Close))
	require.Nil(t, notification(t, listener))
}

// notification returns the next notification, or nil after the listener was closed.
func notification(t *testing.T, listener *pq.Listener) (n *pq.Notification) {
	t.Helper()
	require.NoError(t, limited(func() error {
		n = <-listener.Notify
		return nil
	}))
	return n
}

func pqListenerOutlives(t *testing.T, at postgresAt) {
	events := make(chan pq.ListenerEventType, 100)
	listener := pq.NewDialListener(pqDialer(at.dial), at.dsn, time.Millisecond, 10*time.Millisecond,
		func(event pq.ListenerEventType, _ error) { events <- event })
	becomes := func(want pq.ListenerEventType) {
		t.Helper()
		require.NoError(t, limited(func() error {
			for <-events != want { // attempts to reconnect may fail
			}
			return nil
		}))
	}
	require.NoError(t, limited(func() error { return listener.Listen("news") }))
	becomes(pq.ListenerEventConnected)
	at.Kill()
	becomes(pq.ListenerEventDisconnected)
	restart(t, at.Server)
	becomes(pq.ListenerEventReconnected)
	require.Nil(t, notification(t, listener), "which says that some may have been missed")
	_, err := pqDB(t, at, "").Exec("NOTIFY news, 'it'")
	require.NoError(t, err)
	require.Equal(t, "it", notification(t, listener).Extra)
	require.NoError(t, limited(listener.Close))
	require.Nil(t, notification(t, listener))
}
