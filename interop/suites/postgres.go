package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/suites/dials"
)

// A cluster is a Postgres that is set up as a driver's tests want it.
type cluster struct {
	*testserver.Server
	sockets string // the directory of its unix socket
}

func newCluster() (*cluster, error) {
	sockets, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(sockets, 0o777); err != nil { // root made it, and postgres puts the socket there
		return nil, err
	}
	s, err := testserver.Postgres("unix_socket_directories="+sockets, "max_prepared_transactions=10")
	if err != nil {
		_ = os.RemoveAll(sockets) // an empty directory of temporary files, in the worst case
		return nil, err
	}
	return &cluster{s, sockets}, nil
}

func (c *cluster) stop() {
	c.Stop()
	_ = os.RemoveAll(c.sockets) // a directory of temporary files, in the worst case
}

// sql runs what psql takes: "-c", "…" or "-f", "…".
func (c *cluster) sql(database string, args ...string) error {
	psql, err := testserver.Find("psql", "postgresql-client")
	if err != nil {
		return err
	}
	args = append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", c.Port, "-U", "postgres", "-d", database}, args...)
	if said, err := exec.Command(psql, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w: %s", err, said)
	}
	return nil
}

// put copies a file to the server's directory, readable by the server's user only.
func (c *cluster) put(from, name string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	to := filepath.Join(c.Dir, "data", name)
	if err := os.WriteFile(to, content, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(to, 0o600); err != nil { // it may have been there
		return err
	}
	return giveTo(c.Server, to)
}

// become puts files in their places, by name, turns TLS on and restarts.
func (c *cluster) become(files map[string]string) error {
	for name, from := range files {
		if err := c.put(from, name); err != nil {
			return err
		}
	}
	const fast = syscall.SIGINT // "fast shutdown": it writes what it has
	for _, setting := range []string{"ssl_ca_file = 'root.crt'", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl = on"} {
		if err := c.sql("postgres", "-c", "alter system set "+setting); err != nil {
			return err
		}
	}
	if err := c.Signal(fast); err != nil {
		return err
	}
	<-c.Exited()
	return c.Restart()
}

// set makes of a cluster what setUp says, or none.
func set(setUp func(c *cluster) error) (*cluster, error) {
	c, err := newCluster()
	if err != nil {
		return nil, err
	}
	if err := setUp(c); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// servePGX sets up a Postgres as the CI of pgx does, with its own files: roles for each
// way to prove who one is, and certificates.
func servePGX(dir string) (*serving, error) {
	in := func(name string) string { return filepath.Join(dir, "testsetup", name) }
	if _, err := os.Stat(in("ca.pem")); err != nil {
		generate := exec.Command("go", "run", "generate_certs.go")
		generate.Dir = in("")
		if said, err := generate.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("generating certificates: %w: %s", err, said)
		}
	}
	c, err := set(func(c *cluster) error {
		if err := c.sql("postgres", "-c", "create database pgx_test"); err != nil {
			return err
		}
		if err := c.sql("pgx_test", "-f", in("postgresql_setup.sql")); err != nil {
			return err
		}
		return c.become(map[string]string{
			"root.crt": in("ca.pem"), "server.crt": in("localhost.crt"), "server.key": in("localhost.key"), "pg_hba.conf": in("pg_hba.conf"),
		})
	})
	if err != nil {
		return nil, err
	}
	as := func(host, user, more string) string {
		return fmt.Sprintf("host=%s port=%s user=%s dbname=pgx_test %s", host, c.Port, user, more)
	}
	verified := "sslmode=verify-full sslrootcert=" + in("ca.pem")
	return &serving{
		env: []string{
			"PGX_TEST_DATABASE=" + as("127.0.0.1", "pgx_md5", "password=secret"),
			"PGX_TEST_UNIX_SOCKET_CONN_STRING=" + as(c.sockets, "postgres", ""),
			"PGX_TEST_TCP_CONN_STRING=" + as("127.0.0.1", "pgx_md5", "password=secret"),
			"PGX_TEST_SCRAM_PASSWORD_CONN_STRING=" + as("127.0.0.1", "pgx_scram", "password=secret channel_binding=disable"),
			"PGX_TEST_SCRAM_PLUS_CONN_STRING=" + as("localhost", "pgx_ssl", "password=secret channel_binding=require "+verified),
			"PGX_TEST_MD5_PASSWORD_CONN_STRING=" + as("127.0.0.1", "pgx_md5", "password=secret"),
			"PGX_TEST_PLAIN_PASSWORD_CONN_STRING=" + as("127.0.0.1", "pgx_pw", "password=secret"),
			"PGX_TEST_TLS_CONN_STRING=" + as("localhost", "pgx_ssl", "password=secret channel_binding=disable "+verified),
			"PGX_TEST_TLS_CLIENT_CONN_STRING=" + as("localhost", "pgx_sslcert", "sslcert="+in("pgx_sslcert.crt")+" sslkey="+in("pgx_sslcert.key")+" "+verified),
			"PGX_SSL_PASSWORD=certpw",
		},
		stop: c.stop,
	}, nil
}

// servePQ sets up a Postgres as the tests of lib/pq want it, with their own files.
func servePQ(dir string) (*serving, error) {
	in := func(names ...string) string { return filepath.Join(append([]string{dir, "testdata"}, names...)...) }
	c, err := set(func(c *cluster) error {
		for _, first := range []string{"create role pqgo superuser login", "create database pqgo owner pqgo"} {
			if err := c.sql("postgres", "-c", first); err != nil {
				return err
			}
		}
		if err := c.sql("pqgo", "-f", in("postgres", "docker-entrypoint-initdb.d", "20-config.sql")); err != nil {
			return err
		}
		return c.become(map[string]string{
			"root.crt": in("ssl", "root.crt"), "server.crt": in("ssl", "server.crt"), "server.key": in("ssl", "server.key"),
			"pg_hba.conf": in("postgres", "pg_hba.conf"),
		})
	})
	if err != nil {
		return nil, err
	}
	return &serving{
		env: []string{
			"PGHOST=localhost", "PGPORT=" + c.Port, "PGDATABASE=pqgo", "PGUSER=pqgo", "PGSSLMODE=disable",
			// Names that they have in /etc/hosts, and the port that the examples know.
			dials.Moved + "=postgres=127.0.0.1,postgres-invalid=127.0.0.1,5432=" + c.Port,
		},
		stop: c.stop,
	}, nil
}
