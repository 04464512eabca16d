package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// pgxNotifications has notifications come at any time while one deadline after another
// ends the wait for them: a deadline that comes in the middle of a message must not
// cost what came before it.
func pgxNotifications(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	channel := fmt.Sprintf("channel%d", conn.PgConn().PID())
	_, err := conn.Exec(t.Context(), "LISTEN "+channel)
	require.NoError(t, err)
	notifier := pgxConn(t, at)

	const count = 100
	payload := func(i int) string { return strings.Repeat(fmt.Sprintf("%03d.", i), 1900) } // 8000 bytes is too long
	next, notified := make(chan int, count), make(chan error, 1)
	go func() {
		var errs []error
		for i := range next {
			_, err := notifier.Exec(context.Background(), "SELECT pg_notify($1, $2)", channel, payload(i))
			errs = append(errs, err)
		}
		notified <- errors.Join(errs...)
	}()
	got, sent, timeouts := 0, 0, 0
	for got < count {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		n, err := conn.WaitForNotification(ctx)
		cancel()
		if err != nil {
			require.True(t, pgconn.Timeout(err), "%v", err)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, conn.IsClosed())
			if timeouts++; sent == got { // all have come: the next one, in the midst of the waits
				next <- sent
				sent++
			}
			continue
		}
		require.Equal(t, channel, n.Channel)
		require.Equal(t, notifier.PgConn().PID(), n.PID)
		require.Equal(t, payload(got), n.Payload)
		got++
	}
	close(next)
	require.NoError(t, limited(func() error { return <-notified }))
	require.GreaterOrEqual(t, timeouts, count)
	works(t, conn)
}

func pgxNotificationsCancelled(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	channel := fmt.Sprintf("channel%d", conn.PgConn().PID())
	_, err := conn.Exec(t.Context(), "LISTEN "+channel)
	require.NoError(t, err)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel) // most likely it waits by then; it need not
		require.ErrorIs(t, limited(func() error {
			_, err := conn.WaitForNotification(ctx)
			return err
		}), context.Canceled)
		require.False(t, conn.IsClosed())
		_, err = pgxConn(t, at).Exec(t.Context(), "SELECT pg_notify($1, 'it')", channel)
		require.NoError(t, err)
		n, err := conn.WaitForNotification(t.Context())
		require.NoError(t, err)
		require.Equal(t, "it", n.Payload)
	}
	works(t, conn)
}
