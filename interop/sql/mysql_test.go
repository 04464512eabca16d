package sql

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

func TestMySQL_Scenarios(t *testing.T) {
	m := startMariaDB(t)
	m.watch(t)
	m.onEachWay(t, []mariadbScenario{
		{"values come back whole", mysqlValues},
		{"rows stream", mysqlRows},
		{"a prepared statement serves many times", mysqlPrepared},
		{"LOAD DATA from a reader", mysqlLoadData},
		{"LOAD DATA from a reader that fails", mysqlLoadDataFails},
		{"a query is cancelled", mysqlCancelled},
		{"a deadline ends a query", mysqlDeadline},
		{"a read timeout ends a query", mysqlReadTimeout},
		{"a write timeout ends what the server does not take", mysqlWriteTimeout},
		{"a pool serves many", mysqlPoolServesMany},
		{"what the server has closed is replaced, what is healthy is not", mysqlLiveness},
	})
	t.Run("a registered network", func(t *testing.T) {
		onBoth(t, func(t *testing.T, dial wire.DialFunc) { mysqlRegistered(t, m, dial) })
	})
	t.Run("the certificate of another authority is refused", func(t *testing.T) {
		stranger, err := testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		onBoth(t, func(t *testing.T, dial wire.DialFunc) {
			at := m.ways()[1].at
			at.dial, at.tls.RootCAs = dial, stranger.Roots
			isUnknownAuthority(t, mysqlOpen(t, mysqlConfig(at)).Ping())
		})
	})
}

func mysqlConfig(at mariadbAt) *mysql.Config {
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = "client", "secret", "test"
	config.Net, config.Addr, config.TLS = at.network, at.address, at.tls
	config.DialFunc = at.dial
	config.Logger = new(mysql.NopLogger)
	return config
}

func mysqlDB(t *testing.T, at mariadbAt) *sql.DB { return mysqlOpen(t, mysqlConfig(at)) }

// mysqlConn opens one connection.
func mysqlConn(t *testing.T, at mariadbAt) *sql.Conn {
	t.Helper()
	conn, err := mysqlDB(t, at).Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// mysqlEcho checks that a query returns a value.
func mysqlEcho(ctx context.Context, db *sql.DB, size int) error {
	return echo(ctx, db, "SELECT ?", size)
}

func mysqlValues(t *testing.T, at mariadbAt) {
	prepared, interpolated, compressed := mysqlConfig(at), mysqlConfig(at), mysqlConfig(at)
	interpolated.InterpolateParams = true
	require.NoError(t, compressed.Apply(mysql.EnableCompression(true)))
	for _, way := range []struct {
		name   string
		config *mysql.Config
		sizes  []int
	}{
		{"prepared", prepared, sizes},
		{"interpolated", interpolated, sizes},
		{"compressed", compressed, sizes[:len(sizes)-1]}, // with -race, compressing 1 MiB takes seconds
	} {
		db := mysqlOpen(t, way.config)
		var name, version string
		require.NoError(t, db.QueryRow("SHOW STATUS LIKE 'Ssl_version'").Scan(&name, &version))
		require.Equal(t, at.tls != nil, version != "")
		for _, n := range way.sizes {
			require.NoError(t, mysqlEcho(t.Context(), db, n), "%s, %d bytes", way.name, n)
		}
	}
	// A packet has at most 16 MiB. Longer values take several packets.
	require.NoError(t, mysqlEcho(t.Context(), mysqlOpen(t, prepared), 17<<20))
}

func mysqlRows(t *testing.T, at mariadbAt) {
	const count = 10_000
	rows, err := mysqlDB(t, at).QueryContext(t.Context(), fmt.Sprintf("SELECT seq, REPEAT(MD5(seq), 8) FROM seq_1_to_%d", count))
	require.NoError(t, err)
	defer rows.Close()
	streams(t, rows, count)
}

func mysqlPrepared(t *testing.T, at mariadbAt) {
	doubled, err := mysqlDB(t, at).PrepareContext(t.Context(), "SELECT ? * 2, CONCAT(?, ?)")
	require.NoError(t, err)
	doubles(t, func(i int, text string) *sql.Row { return doubled.QueryRow(i, text, text) })
	require.NoError(t, doubled.Close())
}

// mysqlReader registers a reader for LOAD DATA and returns its name.
func mysqlReader(t *testing.T, r io.Reader) string {
	t.Helper()
	name := unique("reader")
	mysql.RegisterReaderHandler(name, func() io.Reader { return r })
	t.Cleanup(func() { mysql.DeregisterReaderHandler(name) })
	return "Reader::" + name
}

func mysqlLoadData(t *testing.T, at mariadbAt) {
	conn := mysqlConn(t, at)
	_, err := conn.ExecContext(t.Context(), "CREATE TEMPORARY TABLE loaded (i INT, v VARCHAR(1000))")
	require.NoError(t, err)
	const count = 10_000
	var lines bytes.Buffer
	text := func(i int) string { return strings.Repeat(fmt.Sprintf("%06d.", i), 1+i%60) }
	for i := range count {
		fmt.Fprintf(&lines, "%d\t%s\n", i, text(i))
	}
	result, err := conn.ExecContext(t.Context(), "LOAD DATA LOCAL INFILE '"+mysqlReader(t, &lines)+"' INTO TABLE loaded")
	require.NoError(t, err)
	loaded, err := result.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, count, loaded)

	rows, err := conn.QueryContext(t.Context(), "SELECT i, v FROM loaded ORDER BY i")
	require.NoError(t, err)
	defer rows.Close()
	read := 0
	for ; rows.Next(); read++ {
		var i int
		var got string
		require.NoError(t, rows.Scan(&i, &got))
		require.Equal(t, read, i)
		require.Equal(t, text(i), got)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, count, read)
}

func mysqlLoadDataFails(t *testing.T, at mariadbAt) {
	conn := mysqlConn(t, at)
	_, err := conn.ExecContext(t.Context(), "CREATE TEMPORARY TABLE loaded (v VARCHAR(1000))")
	require.NoError(t, err)
	errRead := errors.New("read failed")
	const lines = 2000
	r := io.MultiReader(strings.NewReader(strings.Repeat(strings.Repeat("x", 999)+"\n", lines)), readerFunc(func([]byte) (int, error) { return 0, errRead }))
	require.ErrorIs(t, limited(func() error {
		_, err := conn.ExecContext(t.Context(), "LOAD DATA LOCAL INFILE '"+mysqlReader(t, r)+"' INTO TABLE loaded")
		return err
	}), errRead)
	var rows int // the connection, which owns the table, still works
	require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM loaded").Scan(&rows))
	require.Equal(t, lines, rows)
}

// mysqlRegistered registers the dialer as a network of the address.
func mysqlRegistered(t *testing.T, m *mariadb, dial wire.DialFunc) {
	network := unique("network")
	mysql.RegisterDialContext(network, func(ctx context.Context, address string) (net.Conn, error) {
		return dial(ctx, "tcp", address)
	})
	t.Cleanup(func() { mysql.DeregisterDialContext(network) })
	config, err := mysql.ParseDSN("client:secret@" + network + "(" + m.Addr + ")/test")
	require.NoError(t, err)
	require.NoError(t, mysqlEcho(t.Context(), mysqlOpen(t, config), 1<<20))
}
