// Package wire provides the dial functions for drivers in the tests of this module.
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

// TestTimeout is a limit that only a call that hangs reaches.
const TestTimeout = 20 * time.Second

// A Wire dials with client.Dialer and records the connections.
type Wire struct {
	client.Dialer
	Log
}

// New returns a Wire. The test fails at its end if the driver did not dial with it, or if a client
// is still open. Close the driver in the test, or in a Cleanup that is registered later.
func New(t testing.TB) *Wire {
	t.Helper()
	w := new(Wire)
	t.Cleanup(func() {
		require.Positive(t, w.Dials(), "the driver dials by other means")
		require.Eventually(t, func() bool { return w.Open() == 0 }, TestTimeout, time.Millisecond, "the driver, or what is under it, leaves clients open")
	})
	return w
}

// DialContext is the dial function for a driver.
func (w *Wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return w.Noting(w.Dialer.DialContext)(ctx, network, address)
}

// isOpen uses the file descriptor if the connection has a SyscallConn, and keeps its deadlines.
func isOpen(conn net.Conn) bool {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok { // a client with TLS, on which these tests set no deadline
		return !errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) {})
	}
	return !errors.Is(err, net.ErrClosed)
}
