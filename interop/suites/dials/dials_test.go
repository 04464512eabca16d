package dials_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/suites/dials"
	"github.com/stretchr/testify/require"
)

// dialer has the environment say which dialer it is, and gives the record.
func dialer(t *testing.T, which string) (record string) {
	t.Helper()
	record = filepath.Join(t.TempDir(), "record")
	require.NoError(t, os.WriteFile(record, nil, 0o600))
	t.Setenv(dials.Dialer, which)
	t.Setenv(dials.Record, record)
	return record
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestBy_EnvironmentSelectsTheDialer(t *testing.T) {
	ln := listener(t)
	for which, typ := range map[string]net.Conn{dials.Net: &net.TCPConn{}, dials.Client: &client.Client{}} {
		record := dialer(t, which)
		for range 2 {
			c, err := dials.By(&net.Dialer{KeepAlive: time.Minute})(context.Background(), "tcp", ln.Addr().String())
			require.NoError(t, err)
			require.IsType(t, typ, c)
			require.NoError(t, c.Close())
		}
		lines, err := os.ReadFile(record)
		require.NoError(t, err)
		name := map[string]string{dials.Net: "*net.TCPConn\n", dials.Client: "*client.Client\n"}[which]
		require.Equal(t, name+name, string(lines))
	}
}

func TestBy_FailsWithoutTheEnvironment(t *testing.T) {
	ln := listener(t)
	for _, which := range []string{"", "nets"} {
		dialer(t, which)
		_, err := dials.Plain{Dialer: &net.Dialer{}}.Dial("tcp", ln.Addr().String())
		require.ErrorContains(t, err, dials.Dialer)
	}
}

func TestBy_FailsIfTheConnectionCannotBeRecorded(t *testing.T) {
	ln := listener(t)
	for _, which := range []string{dials.Net, dials.Client} {
		dialer(t, which)
		t.Setenv(dials.Record, filepath.Join(t.TempDir(), "not there"))
		_, err := dials.By(&net.Dialer{})(context.Background(), "tcp", ln.Addr().String())
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestBy_ClientHasTheSettingsOfTheNetDialer(t *testing.T) {
	ln := listener(t)
	for _, which := range []string{dials.Net, dials.Client} {
		dialer(t, which)
		c, err := dials.By(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}})(context.Background(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		require.Equal(t, "127.0.0.9", c.LocalAddr().(*net.TCPAddr).IP.String())
		require.NoError(t, c.Close())
	}
}

func TestAddress_OfMovedServers(t *testing.T) {
	t.Setenv(dials.Moved, "6379=40001,postgres=127.0.0.1")
	for from, to := range map[string]string{
		"localhost:6379": "localhost:40001",
		":6379":          ":40001",
		"[::1]:6379":     "[::1]:40001",
		"postgres:5432":  "127.0.0.1:5432",
		"postgres:6379":  "127.0.0.1:40001",
		"localhost:6380": "localhost:6380",
		"/tmp/a.sock":    "/tmp/a.sock",
	} {
		require.Equal(t, to, dials.Address(from))
	}
	t.Setenv(dials.Moved, "")
	require.Equal(t, ":6379", dials.Address(":6379"))
}

func TestByTLS_UsesTheSelectedDialer(t *testing.T) {
	identity, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{identity.Certificate}})
	require.NoError(t, err)
	defer ln.Close()
	served := make(chan error, 1)
	for which, typ := range map[string]net.Conn{dials.Net: &net.TCPConn{}, dials.Client: &client.Client{}} {
		dialer(t, which)
		go func() {
			c, err := ln.Accept()
			if err == nil {
				err = errors.Join(c.(*tls.Conn).Handshake(), c.Close())
			}
			served <- err
		}()
		d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: &tls.Config{RootCAs: identity.Roots}}
		c, err := dials.ByTLS(d)(context.Background(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		require.IsType(t, typ, c.(*tls.Conn).NetConn())
		require.NoError(t, <-served)
		_ = c.Close() // the peer may be gone before its alert
	}
}
