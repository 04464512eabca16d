package sql

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A postgres is a PostgreSQL that serves over tcp, over tcp with TLS and on a unix socket.
type postgres struct {
	*testserver.Server
	*testserver.Identity
	watcher *pgx.Conn // over package net, to see what the server does
}

func startPostgres(t *testing.T) *postgres {
	t.Helper()
	id := postgresIdentity(t)
	s, err := testserver.Postgres("unix_socket_directories=.", // its data directory
		"ssl=on", "ssl_cert_file="+id.CertFile, "ssl_key_file="+id.KeyFile)
	return &postgres{Server: testserver.Serve(t, s, err), Identity: id}
}

// postgresIdentity makes a certificate whose key PostgreSQL takes: it belongs to whoever
// the server is, and nobody else can read it.
func postgresIdentity(t *testing.T) *testserver.Identity {
	t.Helper()
	dir, err := os.MkdirTemp("", "identity") // t.TempDir is within one that others cannot enter
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	id, err := testserver.NewIdentity(dir)
	require.NoError(t, err)
	who, err := user.Lookup("postgres")
	if os.Getuid() != 0 || err != nil {
		return id // the server is who we are, or not installed
	}
	uid, err := strconv.Atoi(who.Uid)
	require.NoError(t, err)
	for _, name := range []string{dir, id.CertFile, id.KeyFile} {
		require.NoError(t, os.Chown(name, uid, -1))
	}
	return id
}

// watch has the server watched until the test's end.
func (s *postgres) watch(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.dsn("host=127.0.0.1 sslmode=disable"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(ctx)) })
	s.watcher = conn
}

// dsn says how to get to the server, as pgx and pq understand it.
func (s *postgres) dsn(how string) string {
	return how + " user=postgres dbname=postgres port=" + s.Port
}

// A postgresAt is how a driver gets to a PostgreSQL.
type postgresAt struct {
	*postgres
	dsn  string
	dial wire.DialFunc
}

// A postgresScenario is what a driver is put through. Scenarios share the server and
// nothing in it.
type postgresScenario struct {
	name string
	run  func(t *testing.T, at postgresAt)
}

// onEachWay runs scenarios over tcp, over TLS, which a driver makes of a connection
// itself, and over unix, each on both dialers.
func (s *postgres) onEachWay(t *testing.T, scenarios []postgresScenario) {
	for _, way := range []struct{ name, dsn string }{
		{"tcp", "host=127.0.0.1 sslmode=disable"},
		{"tls", "host=localhost sslmode=verify-full sslrootcert=" + s.CAFile},
		{"unix", "sslmode=disable host=" + filepath.Join(s.Dir, "data")},
	} {
		dsn := s.dsn(way.dsn)
		t.Run(way.name, func(t *testing.T) {
			for _, scenario := range scenarios {
				t.Run(scenario.name, func(t *testing.T) {
					onBoth(t, func(t *testing.T, dial wire.DialFunc) { scenario.run(t, postgresAt{s, dsn, dial}) })
				})
			}
		})
	}
}

// asleep is a query that takes a minute, with a text in it to know it by.
func asleep(text string) string { return "SELECT pg_sleep(60) /* " + text + " */" }

// waits tells whether the server has a query with a text in it that sleeps.
func (s *postgres) waits(t *testing.T, text string) bool {
	return s.count(t, "wait_event = 'PgSleep' AND state = 'active' AND query LIKE '%' || $1 || '%'", text) > 0
}

// serves tells whether the server has a connection of an application.
func (s *postgres) serves(t *testing.T, application string) bool {
	return s.count(t, "application_name = $1", application) > 0
}

func (s *postgres) count(t *testing.T, where, arg string) (n int) {
	// Not require: who polls may do so on another goroutine.
	err := s.watcher.QueryRow(context.Background(),
		"SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "+where, arg).Scan(&n)
	if err != nil {
		t.Error(err)
	}
	return n
}
