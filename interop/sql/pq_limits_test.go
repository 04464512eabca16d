package sql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/require"
)

func pqCancelled(t *testing.T, at postgresAt) {
	db := pqDB(t, at, "")
	text := unique("cancelled")
	for range 2 {
		err := cancelled(t, func() bool { return at.waits(t, text) }, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, asleep(text))
			return err
		})
		isCancelledByServer(t, err)
		require.False(t, at.waits(t, text))
		require.NoError(t, pqEcho(t.Context(), db, 1<<20))
	}
}

// isCancelledByServer checks that pq returns the server's error: pq asks the server to cancel the
// query, over another connection of the same dialer, and waits for the answer.
func isCancelledByServer(t *testing.T, err error) {
	t.Helper()
	var pqErr *pq.Error
	require.ErrorAs(t, err, &pqErr)
	require.Equal(t, pqerror.QueryCanceled, pqErr.Code)
}

func pqRowsCancelled(t *testing.T, at postgresAt) {
	db := pqDB(t, at, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rows, err := db.QueryContext(ctx, "SELECT repeat('x', 1000), generate_series(1, 100000000)")
	require.NoError(t, err)
	require.True(t, rows.Next())
	cancel()
	require.ErrorIs(t, limited(func() error {
		for rows.Next() {
		}
		return errors.Join(rows.Err(), rows.Close())
	}), context.Canceled)
	require.NoError(t, pqEcho(t.Context(), db, 1<<20))
}

// pq cancels the query at the deadline.
func pqDeadline(t *testing.T, at postgresAt) {
	db := pqDB(t, at, "")
	require.NoError(t, db.Ping()) // so that the deadline ends the query, not the dial
	isCancelledByServer(t, expired(t, func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "SELECT pg_sleep(60)")
		return err
	}))
	require.NoError(t, pqEcho(t.Context(), db, 1<<20))
}

func TestPq_ConnectToSilentServerTimesOut(t *testing.T) {
	host, port, err := net.SplitHostPort(silent(t))
	require.NoError(t, err)
	onBoth(t, func(t *testing.T, dial wire.DialFunc) {
		// connect_timeout is in seconds. After the dial, pq ignores the context.
		dsn := fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=require connect_timeout=1", host, port)
		db := pqDB(t, postgresAt{dsn: dsn, dial: dial}, "")
		start := time.Now()
		err := limited(db.Ping)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(start), time.Second)
	})
}

func TestPq_OutlivesServerRestart(t *testing.T) {
	s := startPostgres(t)
	s.onEachWay(t, []postgresScenario{
		{"a pool works again", func(t *testing.T, at postgresAt) {
			db := pqDB(t, at, "")
			survives(t, s.Server, func() error { return pqEcho(context.Background(), db, 20_000) })
		}},
		{"who waits is told", func(t *testing.T, at postgresAt) {
			s.watch(t)
			db := pqDB(t, at, "")
			text := unique("killed")
			killed(t, s.Server, func() bool { return at.waits(t, text) }, func() error {
				_, err := db.Exec(asleep(text))
				return err
			})
		}},
		{"a listener listens again", pqListenerOutlives},
	})
}
