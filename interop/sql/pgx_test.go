package sql

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestPgx_Scenarios(t *testing.T) {
	s := startPostgres(t)
	s.watch(t)
	s.onEachWay(t, []postgresScenario{
		{"values come back whole", pgxValues},
		{"rows stream", pgxRows},
		{"a prepared statement serves many times", pgxPrepared},
		{"a batch of more than the buffers hold", pgxBatch},
		{"a pipeline of more than the buffers hold", pgxPipeline},
		{"COPY in both directions", pgxCopy},
		{"COPY that the server refuses", pgxCopyRefused},
		{"COPY that is cancelled", pgxCopyCancelled},
		{"notifications are not lost among deadlines", pgxNotifications},
		{"a wait for notifications is cancelled", pgxNotificationsCancelled},
		{"a query is cancelled", pgxCancelled},
		{"a query is cancelled by asking the server", pgxCancelledByServer},
		{"a deadline ends a query", pgxDeadline},
		{"a deadline ends what the server does not take", pgxWriteDeadline},
		{"a pool serves many", pgxPoolServesMany},
		{"a pool replaces what was cancelled", pgxPoolReplaces},
	})
	t.Run("names are left to the dialer", func(t *testing.T) {
		onBoth(t, func(t *testing.T, dial wire.DialFunc) { pgxLeavesNames(t, s, dial) })
	})
	t.Run("the certificate of another authority is refused", func(t *testing.T) {
		stranger, err := testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		onBoth(t, func(t *testing.T, dial wire.DialFunc) {
			dsn := s.dsn("host=localhost sslmode=verify-full sslrootcert=" + stranger.CAFile)
			_, err := pgx.ConnectConfig(t.Context(), pgxConfig(t, postgresAt{dsn: dsn, dial: dial}))
			isUnknownAuthority(t, err)
		})
	})
}

// pgxConfig returns a configuration with the server's address and the dial function. LookupFunc is
// pgx's.
func pgxConfig(t *testing.T, at postgresAt) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(at.dsn)
	require.NoError(t, err)
	config.DialFunc = pgconn.DialFunc(at.dial)
	return config
}

func pgxConnect(t *testing.T, config *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, limited(func() error { return conn.Close(context.Background()) }))
		require.NoError(t, limited(func() error {
			<-conn.PgConn().CleanupDone()
			return nil
		}))
	})
	return conn
}

func pgxConn(t *testing.T, at postgresAt) *pgx.Conn { return pgxConnect(t, pgxConfig(t, at)) }

// works checks that a connection works.
func works(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	want := randomBytes(32 << 10)
	var got []byte
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT $1::bytea", want).Scan(&got))
	same(t, want, got)
}

func pgxValues(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	var over bool
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&over))
	require.Equal(t, strings.Contains(at.dsn, "verify-full"), over)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		for _, n := range sizes {
			want := randomBytes(n)
			var got []byte
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT $1::bytea", mode, want).Scan(&got), "%v, %d bytes", mode, n)
			same(t, want, got)
		}
	}
}

func pgxRows(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	const count = 10_000
	rows, err := conn.Query(t.Context(), "SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, $1) i", count)
	require.NoError(t, err)
	streams(t, rows, count)
}

func pgxPrepared(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	_, err := conn.Prepare(t.Context(), "doubled", "SELECT $1::int * 2, $2::text || $2::text")
	require.NoError(t, err)
	doubles(t, func(i int, text string) pgx.Row { return conn.QueryRow(t.Context(), "doubled", i, text) })
	require.NoError(t, conn.Deallocate(t.Context(), "doubled"))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, conn.QueryRow(t.Context(), "doubled", 1, "").Scan(nil, nil), &pgErr)
	works(t, conn)
}

// pgx resolves names itself, unless LookupFunc returns them unchanged.
func pgxLeavesNames(t *testing.T, s *postgres, dial wire.DialFunc) {
	var dialled string
	config := pgxConfig(t, postgresAt{
		dsn: s.dsn("host=localhost sslmode=verify-full sslrootcert=" + s.CAFile),
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled = address
			return dial(ctx, network, address)
		},
	})
	named := net.JoinHostPort("localhost", s.Port)
	works(t, pgxConnect(t, config))
	require.NotEqual(t, named, dialled)
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	works(t, pgxConnect(t, config))
	require.Equal(t, named, dialled)
}
