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

// A postgres is a PostgreSQL server on TCP, on TCP with TLS and on a Unix socket.
type postgres struct {
	*testserver.Server
	*testserver.Identity
	watcher *pgx.Conn // over package net, to query pg_stat_activity
}

func startPostgres(t *testing.T) *postgres {
	t.Helper()
	id := postgresIdentity(t)
	s, err := testserver.Postgres("unix_socket_directories=.", // its data directory
		"ssl=on", "ssl_cert_file="+id.CertFile, "ssl_key_file="+id.KeyFile)
	return &postgres{Server: testserver.Serve(t, s, err), Identity: id}
}

// postgresIdentity makes a certificate with a key that PostgreSQL accepts: the server's user owns
// it, and no other user can read it.
func postgresIdentity(t *testing.T) *testserver.Identity {
	t.Helper()
	dir, err := os.MkdirTemp("", "identity") // other users cannot enter the parent of t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	id, err := testserver.NewIdentity(dir)
	require.NoError(t, err)
	who, err := user.Lookup("postgres")
	if os.Getuid() != 0 || err != nil {
		return id // the server runs as this user, or is not installed
	}
	uid, err := strconv.Atoi(who.Uid)
	require.NoError(t, err)
	for _, name := range []string{dir, id.CertFile, id.KeyFile} {
		require.NoError(t, os.Chown(name, uid, -1))
	}
	return id
}

// watch opens the watcher until the test ends.
func (s *postgres) watch(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.dsn("host=127.0.0.1 sslmode=disable"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(ctx)) })
	s.watcher = conn
}

// dsn returns a connection string for pgx and pq.
func (s *postgres) dsn(how string) string {
	return how + " user=postgres dbname=postgres port=" + s.Port
}

// A postgresAt is the way in which a driver connects to a PostgreSQL server.
type postgresAt struct {
	*postgres
	dsn  string
	dial wire.DialFunc
}

// A postgresScenario is a test of a driver. Scenarios share the server, but no tables.
type postgresScenario struct {
	name string
	run  func(t *testing.T, at postgresAt)
}

// onEachWay runs scenarios over TCP, over TLS by the driver, and over a Unix socket, each with both
// dialers.
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

// asleep is a query that takes a minute and contains a text that identifies it.
func asleep(text string) string { return "SELECT pg_sleep(60) /* " + text + " */" }

// waits reports whether the server runs a query that contains a text and sleeps.
func (s *postgres) waits(t *testing.T, text string) bool {
	return s.count(t, "wait_event = 'PgSleep' AND state = 'active' AND query LIKE '%' || $1 || '%'", text) > 0
}

// serves reports whether the server has a connection of an application.
func (s *postgres) serves(t *testing.T, application string) bool {
	return s.count(t, "application_name = $1", application) > 0
}

func (s *postgres) count(t *testing.T, where, arg string) (n int) {
	// Not require: the condition may run in another goroutine.
	err := s.watcher.QueryRow(context.Background(),
		"SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "+where, arg).Scan(&n)
	if err != nil {
		t.Error(err)
	}
	return n
}
