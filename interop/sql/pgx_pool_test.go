package sql

import (
	"bytes"
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

func pgxPool(t *testing.T, at postgresAt, application string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(at.dsn + " application_name=" + application)
	require.NoError(t, err)
	config.MaxConns = maxConns
	config.ConnConfig.DialFunc = pgconn.DialFunc(at.dial)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// pgxEcho checks that a query returns a value.
func pgxEcho(ctx context.Context, pool *pgxpool.Pool, size int) error {
	want := randomBytes(size)
	var got []byte
	if err := pool.QueryRow(ctx, "SELECT $1::bytea", want).Scan(&got); err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return errAnothers
	}
	return nil
}

func pgxPoolServesMany(t *testing.T, at postgresAt) {
	const application = "many"
	pool := pgxPool(t, at, application)
	manyAtOnce(t, func(size int) error { return pgxEcho(t.Context(), pool, size) })
	require.LessOrEqual(t, pool.Stat().NewConnsCount(), int64(maxConns), "connections are reused")
	require.True(t, at.serves(t, application))
	pool.Close()
	eventually(t, func() bool { return !at.serves(t, application) }, "the server has connections of the pool still")
}

func pgxPoolReplaces(t *testing.T, at postgresAt) {
	pool := pgxPool(t, at, "replaced")
	for range 3 {
		text := unique("pool")
		err := cancelled(t, func() bool { return at.waits(t, text) }, func(ctx context.Context) error {
			_, err := pool.Exec(ctx, asleep(text))
			return err
		})
		require.ErrorIs(t, err, context.Canceled)
		err = expired(t, func(ctx context.Context) error {
			_, err := pool.Exec(ctx, asleep(text))
			return err
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, pgxEcho(t.Context(), pool, 1<<20))
	}
}

func TestPgx_OutlivesServerRestart(t *testing.T) {
	s := startPostgres(t)
	s.onEachWay(t, []postgresScenario{
		{"a pool works again", func(t *testing.T, at postgresAt) {
			pool := pgxPool(t, at, "outlives")
			survives(t, s.Server, func() error { return pgxEcho(context.Background(), pool, 20_000) })
		}},
		{"who waits is told", func(t *testing.T, at postgresAt) {
			s.watch(t)
			pool := pgxPool(t, at, "waits")
			text := unique("killed")
			killed(t, s.Server, func() bool { return at.waits(t, text) }, func() error {
				_, err := pool.Exec(context.Background(), asleep(text))
				return err
			})
		}},
	})
}
