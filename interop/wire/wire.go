// Package wire is how a driver dials in the tests of this module.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// Enough is a limit that only what hangs reaches.
const Enough = 20 * time.Second

// A Wire is how a driver dials here: by client.Dialer, and noted.
type Wire struct {
	client.Dialer
	Log
}

// New gives a wire. The test fails at its end if the driver has not dialled with it,
// or has left a client open. Close the driver in the test, or in a Cleanup after this.
func New(t testing.TB) *Wire {
	t.Helper()
	w := new(Wire)
	t.Cleanup(func() {
		require.Positive(t, w.Dials(), "the driver dials by other means")
		require.Eventually(t, func() bool { return w.Open() == 0 }, Enough, time.Millisecond, "the driver, or what is under it, leaves clients open")
	})
	return w
}

// DialContext is what a driver gets.
func (w *Wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return w.Noting(w.Dialer.DialContext)(ctx, network, address)
}

// isOpen asks for the descriptor, if a connection lends one, to leave its deadlines alone.
func isOpen(conn net.Conn) bool {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok { // a client's over TLS, on which nobody here sets a deadline
		return !errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) {})
	}
	return !errors.Is(err, net.ErrClosed)
}
