package sql

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/stretchr/testify/require"
)

func pgxCancelled(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	text := fmt.Sprintf("cancelled%d", conn.PgConn().PID())
	err := cancelled(t, func() bool { return at.waits(t, text) }, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, asleep(text))
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, conn.IsClosed())
	// pgx tells the server, over another connection of the same dialer.
	eventually(t, func() bool { return !at.waits(t, text) }, "the server goes on")
}

func pgxCancelledByServer(t *testing.T, at postgresAt) {
	config := pgxConfig(t, at)
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	conn := pgxConnect(t, config)
	text := fmt.Sprintf("asked%d", conn.PgConn().PID())
	err := cancelled(t, func() bool { return at.waits(t, text) }, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, asleep(text))
		return err
	})
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "57014", pgErr.Code) // query_canceled
	works(t, conn)
}

func pgxDeadline(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	err := expired(t, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "SELECT pg_sleep(60)")
		return err
	})
	require.True(t, pgconn.Timeout(err), "%v", err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, conn.IsClosed())
}

// pgxWriteDeadline sends more than the buffers hold to a server that takes nothing.
func pgxWriteDeadline(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	value, binary := randomBytes(16<<20), []int16{pgx.BinaryFormatCode}
	pid := int(conn.PgConn().PID())
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	err := expired(t, func(ctx context.Context) error {
		return conn.PgConn().ExecParams(ctx, "SELECT $1::bytea", [][]byte{value}, nil, binary, binary).Read().Err
	})
	// It would wait for the rest of the value, and pgx for its end.
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.True(t, pgconn.Timeout(err), "%v", err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, conn.IsClosed())
}

func TestPgx_ConnectToSilentServerTimesOut(t *testing.T) {
	host, port, err := net.SplitHostPort(silent(t))
	require.NoError(t, err)
	for _, mode := range []string{"disable", "require"} {
		t.Run(mode, func(t *testing.T) {
			dsn := fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=%s", host, port, mode)
			onBoth(t, func(t *testing.T, dial wire.DialFunc) {
				err := expired(t, func(ctx context.Context) error {
					_, err := pgx.ConnectConfig(ctx, pgxConfig(t, postgresAt{dsn: dsn, dial: dial}))
					return err
				})
				require.True(t, pgconn.Timeout(err), "%v", err)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		})
	}
}
