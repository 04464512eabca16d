package sql

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/require"
)

func TestPq_Scenarios(t *testing.T) {
	s := startPostgres(t)
	s.watch(t)
	s.onEachWay(t, []postgresScenario{
		{"values come back whole", pqValues},
		{"rows stream", pqRows},
		{"a prepared statement serves many times", pqPrepared},
		{"COPY", pqCopy}, // pq has COPY in only
		{"COPY that the server refuses", pqCopyRefused},
		{"a query is cancelled", pqCancelled},
		{"rows are cancelled", pqRowsCancelled},
		{"a deadline ends a query", pqDeadline},
		{"a pool serves many", pqPoolServesMany},
		{"a listener is notified", pqListener},
	})
	t.Run("the certificate of another authority is refused", func(t *testing.T) {
		stranger, err := testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		onBoth(t, func(t *testing.T, dial wire.DialFunc) {
			err := pqDB(t, postgresAt{dsn: s.dsn("host=localhost sslmode=verify-full sslrootcert=" + stranger.CAFile), dial: dial}, "").Ping()
			isUnknownAuthority(t, err)
		})
	})
}

// A client.Dialer has the methods that pq requires.
var (
	_ pq.Dialer        = (*client.Dialer)(nil)
	_ pq.DialerContext = (*client.Dialer)(nil)
)

// A pqDialer is a dial function with the methods of pq.Dialer. pq calls DialContext, which that
// interface does not have.
type pqDialer wire.DialFunc

func (d pqDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

func (d pqDialer) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

func (d pqDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d(ctx, network, address)
}

func pqDB(t *testing.T, at postgresAt, settings string) *sql.DB {
	t.Helper()
	connector, err := pq.NewConnector(at.dsn + " " + settings)
	require.NoError(t, err)
	connector.Dialer(pqDialer(at.dial))
	return openDB(t, connector)
}

func pqValues(t *testing.T, at postgresAt) {
	for _, settings := range []string{"", "binary_parameters=yes"} {
		db := pqDB(t, at, settings)
		var over bool
		require.NoError(t, db.QueryRow("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&over))
		require.Equal(t, strings.Contains(at.dsn, "verify-full"), over)
		for _, n := range sizes {
			want := randomBytes(n)
			var got []byte
			require.NoError(t, db.QueryRow("SELECT $1::bytea", want).Scan(&got), "%d bytes", n)
			same(t, want, got)
		}
	}
}

func pqRows(t *testing.T, at postgresAt) {
	const count = 10_000
	rows, err := pqDB(t, at, "").QueryContext(t.Context(), "SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, $1) i", count)
	require.NoError(t, err)
	defer rows.Close()
	streams(t, rows, count)
}

func pqPrepared(t *testing.T, at postgresAt) {
	doubled, err := pqDB(t, at, "").PrepareContext(t.Context(), "SELECT $1::int * 2, $2::text || $2::text")
	require.NoError(t, err)
	doubles(t, func(i int, text string) *sql.Row { return doubled.QueryRow(i, text) })
	require.NoError(t, doubled.Close())
}

func pqCopy(t *testing.T, at postgresAt) {
	tx, err := pqDB(t, at, "").BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	_, err = tx.Exec("CREATE TEMP TABLE copied (i int, v text)")
	require.NoError(t, err)
	in, err := tx.Prepare("COPY copied (i, v) FROM STDIN")
	require.NoError(t, err)
	const count = 10_000
	var want bytes.Buffer
	for i := range count {
		text := strings.Repeat(fmt.Sprintf("%06d.", i), 1+i%60)
		want.WriteString(text)
		_, err := in.Exec(i, text)
		require.NoError(t, err)
	}
	_, err = in.Exec() // the end of the data
	require.NoError(t, err)
	require.NoError(t, in.Close())
	var rows int
	var got string
	require.NoError(t, tx.QueryRow("SELECT count(*), string_agg(v, '' ORDER BY i) FROM copied").Scan(&rows, &got))
	require.Equal(t, count, rows)
	same(t, want.Bytes(), []byte(got))
}

func pqCopyRefused(t *testing.T, at postgresAt) {
	db := pqDB(t, at, "")
	tx, err := db.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("CREATE TEMP TABLE numbers (i int)")
	require.NoError(t, err)
	in, err := tx.Prepare("COPY numbers (i) FROM STDIN")
	require.NoError(t, err)
	// One row only: pq has a data race if the error arrives while it sends.
	_, err = in.Exec("no number")
	require.NoError(t, err)
	err = limited(func() error {
		_, err := in.Exec()
		return err
	})
	var pqErr *pq.Error
	require.ErrorAs(t, err, &pqErr)
	require.Equal(t, pqerror.InvalidTextRepresentation, pqErr.Code)
	require.NoError(t, limited(tx.Rollback))
	require.NoError(t, pqEcho(t.Context(), db, 1<<20))
}

// pqEcho checks that a query returns a value.
func pqEcho(ctx context.Context, db *sql.DB, size int) error {
	return echo(ctx, db, "SELECT $1::bytea", size)
}

func pqPoolServesMany(t *testing.T, at postgresAt) {
	const application = "many"
	db := pqDB(t, at, "application_name="+application)
	servesMany(t, db, func(size int) error { return pqEcho(t.Context(), db, size) })
	require.True(t, at.serves(t, application))
	require.NoError(t, db.Close())
	eventually(t, func() bool { return !at.serves(t, application) }, "the server has connections of the pool still")
}
