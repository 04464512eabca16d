package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/blocksock/client/internal/testserver"
)

// serveMariaDB starts a MariaDB with an empty database that root may use without a
// password, with TLS, and as large as the tests of large values need it.
func serveMariaDB(string) (*serving, error) {
	s, err := mariaDB("create database gotest;",
		"--max-allowed-packet=48M", "--innodb-log-file-size=256M", "--innodb-buffer-pool-size=256M", "--local-infile=1")
	if err != nil {
		return nil, err
	}
	return &serving{
		env: []string{
			"MYSQL_TEST_ADDR=" + s.Addr, "MYSQL_TEST_PROT=tcp", "MYSQL_TEST_USER=root", "MYSQL_TEST_PASS=",
			"MYSQL_TEST_DBNAME=gotest", "MYSQL_TEST_CONCURRENT=1",
		},
		stop: s.Stop,
	}, nil
}

// mariaDB starts a MariaDB server and runs SQL first.
func mariaDB(first string, settings ...string) (*testserver.Server, error) {
	path, err := testserver.Find("mariadbd", "mariadb-server")
	if err != nil {
		return nil, err
	}
	install, err := testserver.Find("mariadb-install-db", "mariadb-server")
	if err != nil {
		return nil, err
	}
	return testserver.Start(testserver.Spec{
		Path: path,
		User: "mysql", // it refuses to run as root
		Prepare: func(s *testserver.Server) error {
			cmd, err := s.Command(install, "--no-defaults", "--datadir="+filepath.Join(s.Dir, "data"),
				"--auth-root-authentication-method=normal", "--skip-test-db")
			if err != nil {
				return err
			}
			if said, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("mariadb-install-db: %w: %s", err, said)
			}
			if err := os.WriteFile(filepath.Join(s.Dir, "first.sql"), []byte(first+"\n"), 0o644); err != nil {
				return err
			}
			identity, err := testserver.NewIdentity(s.Dir)
			if err != nil {
				return err
			}
			return errors.Join(giveTo(s, identity.CertFile), giveTo(s, identity.KeyFile))
		},
		Args: func(s *testserver.Server) []string {
			return append([]string{
				"--no-defaults", "--datadir=" + filepath.Join(s.Dir, "data"), "--bind-address=127.0.0.1", "--port=" + s.Port,
				"--socket=" + s.Socket(), "--init-file=" + filepath.Join(s.Dir, "first.sql"),
				"--ssl-cert=" + filepath.Join(s.Dir, "cert.pem"), "--ssl-key=" + filepath.Join(s.Dir, "key.pem"),
				"--innodb-flush-log-at-trx-commit=0", "--performance-schema=OFF",
			}, settings...)
		},
		Ready: func(s *testserver.Server) error {
			if !strings.Contains(s.Output(), "ready for connections") {
				return errors.New("the server does not accept connections")
			}
			return nil
		},
	})
}

// giveTo changes the owner of a file to the server's user.
func giveTo(s *testserver.Server, file string) error {
	info, err := os.Stat(s.Dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return os.Chown(file, int(owner.Uid), int(owner.Gid))
}
