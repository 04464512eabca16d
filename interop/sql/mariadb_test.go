package sql

import (
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

// A mariadb is a MariaDB that serves over tcp, over tcp with TLS and on a unix socket.
// Its user is client, with the password secret; the database is test.
type mariadb struct {
	*testserver.Server
	*testserver.Identity
	watcher *sql.DB // over package net, to see what the server does
}

func startMariaDB(t *testing.T) *mariadb {
	t.Helper()
	m := new(mariadb)
	var err error
	m.Server, err = m.start()
	testserver.Serve(t, m.Server, err)
	return m
}

func (m *mariadb) start() (*testserver.Server, error) {
	path, err := testserver.Find("mariadbd", "mariadb-server")
	if err != nil {
		return nil, err
	}
	install, err := testserver.Find("mariadb-install-db", "mariadb-server")
	if err != nil {
		return nil, err
	}
	// Root may run the server if --user says so; the rest ignores --user. The log is small so
	// that it is made at once.
	common := []string{"--no-defaults", "--user=root", "--innodb-log-file-size=8M"}
	return testserver.Start(testserver.Spec{
		Path: path,
		Prepare: func(s *testserver.Server) error {
			if m.Identity, err = testserver.NewIdentity(s.Dir); err != nil {
				return err
			}
			setup := filepath.Join(s.Dir, "setup.sql")
			// GRANT fails until the privileges are flushed.
			// Without a user for localhost, MariaDB takes local connections for its anonymous user.
			user := "FLUSH PRIVILEGES;\n"
			for _, from := range []string{"127.0.0.1", "localhost"} { // localhost is the unix socket
				user += "CREATE USER client@'" + from + "' IDENTIFIED BY 'secret';\nGRANT ALL ON *.* TO client@'" + from + "';\n"
			}
			if err := os.WriteFile(setup, []byte(user), 0o600); err != nil {
				return err
			}
			cmd, err := s.Command(install, append(common,
				"--datadir="+filepath.Join(s.Dir, "data"), "--extra-file="+setup, "--auth-root-authentication-method=normal")...)
			if err != nil {
				return err
			}
			if said, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("mariadb-install-db: %w: %s", err, said)
			}
			return nil
		},
		Args: func(s *testserver.Server) []string {
			return append(common,
				"--datadir="+filepath.Join(s.Dir, "data"), "--bind-address=127.0.0.1", "--port="+s.Port, "--socket="+s.Socket(),
				"--skip-name-resolve", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0",
				"--ssl-cert="+m.CertFile, "--ssl-key="+m.KeyFile)
		},
		Ready: func(s *testserver.Server) error {
			if !strings.Contains(s.Output(), "ready for connections") {
				return errors.New("the server is not ready for connections")
			}
			return nil
		},
	})
}

// watch has the server watched until the test's end.
func (m *mariadb) watch(t *testing.T) {
	t.Helper()
	m.watcher = mysqlOpen(t, mysqlConfig(mariadbAt{mariadb: m, network: "tcp", address: m.Addr, dial: new(net.Dialer).DialContext}))
}

// A mariadbAt is how a driver gets to a MariaDB.
type mariadbAt struct {
	*mariadb
	network, address string
	tls              *tls.Config
	dial             wire.DialFunc
}

// A mariadbScenario is what the driver is put through. Scenarios share the server and
// nothing in it.
type mariadbScenario struct {
	name string
	run  func(t *testing.T, at mariadbAt)
}

// A mariadbWay is one of the ways to get to a MariaDB, but for the dialer.
type mariadbWay struct {
	name string
	at   mariadbAt
}

func (m *mariadb) ways() []mariadbWay {
	return []mariadbWay{
		{"tcp", mariadbAt{mariadb: m, network: "tcp", address: m.Addr}},
		{"tls", mariadbAt{mariadb: m, network: "tcp", address: net.JoinHostPort("localhost", m.Port), tls: &tls.Config{RootCAs: m.Roots}}},
		{"unix", mariadbAt{mariadb: m, network: "unix", address: m.Socket()}},
	}
}

// onEachWay runs scenarios over tcp, over TLS, which the driver makes of a connection
// itself, and over unix, each on both dialers.
func (m *mariadb) onEachWay(t *testing.T, scenarios []mariadbScenario) {
	for _, way := range m.ways() {
		t.Run(way.name, func(t *testing.T) {
			for _, scenario := range scenarios {
				t.Run(scenario.name, func(t *testing.T) {
					onBoth(t, func(t *testing.T, dial wire.DialFunc) {
						at := way.at
						at.dial = dial
						scenario.run(t, at)
					})
				})
			}
		})
	}
}

// waits tells whether the server has a query with a text in it that sleeps.
func (m *mariadb) waits(t *testing.T, text string) bool {
	return m.count(t, "state = 'User sleep' AND info LIKE CONCAT('%', ?, '%')", text) > 0
}

// serves tells whether the server has a connection by its number.
func (m *mariadb) serves(t *testing.T, id int64) bool { return m.count(t, "id = ?", id) > 0 }

func (m *mariadb) count(t *testing.T, where string, arg any) (n int) {
	// Not require: the condition may run in another goroutine.
	err := m.watcher.QueryRow("SELECT COUNT(*) FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND "+where, arg).Scan(&n)
	if err != nil {
		t.Error(err)
	}
	return n
}

// mysqlOpen opens a pool of the driver's connections.
func mysqlOpen(t *testing.T, config *mysql.Config) *sql.DB {
	t.Helper()
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	return openDB(t, connector)
}
