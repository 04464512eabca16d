// Package wire is what the tests of this module have in common: how a driver dials, and
// how the server that it is for is started.
package wire

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/daemon"
	"github.com/stretchr/testify/require"
)

// Enough is a limit that only what hangs reaches.
const Enough = 20 * time.Second

// Serving gives a server that has been started, until the test's end. If its program is
// not installed the test is skipped, or fails with CLIENT_REQUIRE_SERVERS=1.
func Serving(t testing.TB, s *daemon.Server, err error) *daemon.Server {
	t.Helper()
	if errors.Is(err, daemon.ErrNotInstalled) && os.Getenv("CLIENT_REQUIRE_SERVERS") != "1" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server said:\n%s", s.Output())
		}
		s.Stop()
	})
	return s
}

// A Wire is how a driver dials here: by client.Dialer, and counted.
type Wire struct {
	client.Dialer

	dials atomic.Int64

	mu   sync.Mutex
	open map[net.Conn]bool
}

// New gives a wire. The test fails at its end if the driver has not dialled with it,
// or has left a client open. Close the driver in the test, or in a Cleanup after this.
func New(t testing.TB) *Wire {
	t.Helper()
	w := &Wire{open: make(map[net.Conn]bool)}
	t.Cleanup(func() {
		require.Positive(t, w.dials.Load(), "the driver dials by other means")
		require.Eventually(t, func() bool { return w.left() == 0 }, Enough, time.Millisecond, "the driver, or what is under it, leaves clients open")
	})
	return w
}

// DialContext is what a driver gets.
func (w *Wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.dials.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[conn] = true
	return conn, nil
}

// left counts the clients that nobody has closed.
func (w *Wire) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		if !isOpen(c) {
			delete(w.open, c)
		}
	}
	return len(w.open)
}

// isOpen asks by what a client has in any shape: over TLS it lends no descriptor.
func isOpen(c net.Conn) bool {
	return !errors.Is(c.SetDeadline(time.Time{}), net.ErrClosed)
}
