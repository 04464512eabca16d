package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// In TLS 1.3 either side may change its keys at any time, and ask the other to:
// what a receive then has to send must neither be lost nor come too late.
func TestOpenSSL_KeyUpdates(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	chain, key, _ := c.Files(t)
	path := requireProgram(t, "openssl", "openssl")
	keyboard := filepath.Join(t.TempDir(), "keyboard")
	require.NoError(t, unix.Mkfifo(keyboard, 0o600))
	typist, err := os.OpenFile(keyboard, os.O_RDWR, 0) // both ends, so that nobody waits for the other
	require.NoError(t, err)
	defer typist.Close()
	types := func(s string) { // and sees it read: a command has to be all of what s_server reads
		_, err := typist.WriteString(s)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			left, err := unix.IoctlGetInt(int(typist.Fd()), unix.TIOCINQ)
			return err == nil && left == 0
		}, testTimeout, time.Millisecond)
	}
	s := startServer(t, requireProgram(t, "sh", "dash"), func(port string) []string {
		return []string{"-c", `exec "$0" "$@" < ` + keyboard, path, "s_server", "-accept", "127.0.0.1:" + port,
			"-cert", chain, "-key", key, "-tls1_3"}
	}, func(s *testserver.Server) error {
		if !strings.Contains(s.Output(), "\nACCEPT\n") {
			return errors.New("it does not accept yet")
		}
		return nil
	})
	client := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
	for i := range 10 {
		types([]string{"k\n", "K\n"}[i%2]) // K asks for the client's to be changed too
		line := fmt.Sprintf("to the client %d\n", i)
		types(line)
		receives(t, client, []byte(line))
		sends(t, client, []byte(fmt.Sprintf("to the server %d\n", i)))
		require.Eventually(t, func() bool { return strings.Contains(s.Output(), fmt.Sprintf("to the server %d\n", i)) }, testTimeout, time.Millisecond)
	}
}
