package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testserver"
	"github.com/pion/dtls/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const testTimeout = time.Minute

// dtlsServer starts openssl s_server. It shows what it receives in its output, and what a test
// writes to keyboard goes to the client.
func dtlsServer(t *testing.T) (s *testserver.Server, keyboard *os.File, ca string) {
	t.Helper()
	openssl, err := testserver.Find("openssl", "openssl")
	testserver.Require(t, err)
	shell, err := testserver.Find("sh", "dash")
	testserver.Require(t, err)
	root := testcert.NewRoot(t, "root")
	chain, key, _ := root.Issue(t, "server", nil).Files(t)
	fifo := filepath.Join(t.TempDir(), "keyboard")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	keyboard, err = os.OpenFile(fifo, os.O_RDWR, 0) // both ends, so that openssl's open does not wait
	require.NoError(t, err)
	t.Cleanup(func() { _ = keyboard.Close() })
	s, err = testserver.Start(testserver.Spec{
		Path: shell,
		Args: func(s *testserver.Server) []string {
			return []string{"-c", `exec "$0" "$@" < ` + fifo, openssl, "s_server", "-dtls1_2", "-accept", s.Addr, "-cert", chain, "-key", key}
		},
		Ready: func(s *testserver.Server) error {
			if !strings.Contains(s.Output(), "\nACCEPT\n") {
				return errors.New("it does not accept yet")
			}
			return nil
		},
	})
	return testserver.Serve(t, s, err), keyboard, testcert.TempFile(t, "ca.pem", root.CertPEM())
}

// A screen is what a program has printed so far.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// shows waits until a text is in what something has printed.
func shows(t *testing.T, output func() string, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(output(), text) }, testTimeout, time.Millisecond, "%q", text)
}

func TestUDP_TalksToADTLSServer(t *testing.T) {
	server, keyboard, ca := dtlsServer(t)
	in, typed := io.Pipe()
	var out screen
	ended := make(chan error, 1)
	go func() {
		ended <- run(t.Context(), []string{"-dtls", "-server", server.Addr, "-ca", ca, "-wait", "100ms"}, in, &out)
	}()

	_, err := io.WriteString(typed, "hello\n\nlast")
	require.NoError(t, err)
	shows(t, server.Output, "hello\n\n")
	_, err = keyboard.WriteString("welcome\n")
	require.NoError(t, err)
	shows(t, out.String, `"welcome\n"`+"\n")

	began := time.Now()
	require.NoError(t, typed.Close())
	require.NoError(t, <-ended)
	require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	shows(t, server.Output, "last")
}

// s_server has no command to send close_notify over DTLS.
func TestUDP_TheDTLSServersCloseIsShown(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	listener, err := dtls.ListenWithOptions("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
		dtls.WithCertificates(root.Issue(t, "server", nil).Pair()))
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			_, _ = c.Read(make([]byte, 100)) // which begins with the handshake
			_ = c.Close()
		}
	}()
	in, typed := io.Pipe()
	defer typed.Close()
	go func() { _, _ = io.WriteString(typed, "hello\n") }()
	var out screen
	ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
	require.NoError(t, run(t.Context(), []string{"-dtls", "-server", listener.Addr().String(), "-ca", ca}, in, &out))
	require.Equal(t, "the server closed the connection\n", out.String())
}

func TestUDP_ADTLSServerIsVerified(t *testing.T) {
	server, _, ca := dtlsServer(t)
	other := testcert.TempFile(t, "other.pem", testcert.NewRoot(t, "another root").CertPEM())
	var unknown x509.UnknownAuthorityError
	err := run(t.Context(), []string{"-dtls", "-server", server.Addr, "-ca", other}, strings.NewReader("secret\n"), io.Discard)
	require.ErrorAs(t, err, &unknown)
	var wrong x509.HostnameError
	err = run(t.Context(), []string{"-dtls", "-server", server.Addr, "-ca", ca, "-name", "elsewhere.test"}, strings.NewReader("secret\n"), io.Discard)
	require.ErrorAs(t, err, &wrong)
	require.NotContains(t, server.Output(), "secret")
}

func TestUDP_DTLSEndsWithItsContext(t *testing.T) {
	server, _, ca := dtlsServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	in, typed := io.Pipe()
	defer typed.Close()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-dtls", "-server", server.Addr, "-ca", ca}, in, io.Discard) }()
	_, err := io.WriteString(typed, "hello\n")
	require.NoError(t, err)
	shows(t, server.Output, "hello\n")
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestUDP_DTLSOptionsThatMeanNothingAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-dtls"}, {"-dtls", "-server", "127.0.0.1", "a message"}, {"-server", "127.0.0.1", "-ca", "ca.pem", "known.test"},
		{"-server", "127.0.0.1", "-name", "localhost", "known.test"}, {"-dtls", "-server", "127.0.0.1", "-ca", "no such file"},
	} {
		require.Error(t, run(t.Context(), args, strings.NewReader(""), io.Discard), args)
	}
}
