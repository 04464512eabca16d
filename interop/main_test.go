package interop

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/daemon"
	"github.com/blocksock/client/internal/leak"
	"github.com/stretchr/testify/require"
)

// enough is a limit that only what hangs reaches.
const enough = 20 * time.Second

func TestMain(m *testing.M) { leak.Main(m) }

// serving gives a server that has been started, until the test's end. If its program is
// not installed the test is skipped, or fails with CLIENT_REQUIRE_SERVERS=1.
func serving(t testing.TB, s *daemon.Server, err error) *daemon.Server {
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

// A wire is how a driver dials here: by client.Dialer, and counted.
type wire struct {
	client.Dialer
	dials atomic.Int64

	mu   sync.Mutex
	open map[syscall.Conn]bool
}

// newWire gives a wire. The test fails at its end if the driver has not dialled with it,
// or has left a client open. Close the driver in the test, or in a Cleanup after this.
func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{open: make(map[syscall.Conn]bool)}
	t.Cleanup(func() {
		require.Positive(t, w.dials.Load(), "the driver dials by other means")
		require.Eventually(t, func() bool { return w.left() == 0 }, enough, time.Millisecond, "the driver, or what is under it, leaves clients open")
	})
	return w
}

// DialContext is what a driver gets.
func (w *wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.dials.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[conn.(syscall.Conn)] = true
	return conn, nil
}

// left counts the clients that nobody has closed.
func (w *wire) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		if _, err := c.SyscallConn(); errors.Is(err, net.ErrClosed) {
			delete(w.open, c)
		}
	}
	return len(w.open)
}
