package web

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/daemon"
	"github.com/blocksock/client/interop/wire"
)

// A dialFunc is what a driver takes.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A dialer is one of the two that each scenario runs on, and remembers what it has
// dialled. The zero dialer is package net's.
type dialer struct {
	wire *wire.Wire // if not nil, who dials

	mu    sync.Mutex
	conns []net.Conn
}

// onBoth runs a scenario on package net and on this library. It asks the same of both:
// what fails on one alone is that one's fault.
func onBoth(t *testing.T, scenario func(t *testing.T, d *dialer)) {
	t.Helper()
	t.Run("net", func(t *testing.T) { scenario(t, new(dialer)) })
	t.Run("client", func(t *testing.T) { scenario(t, &dialer{wire: wire.New(t)}) })
}

// plain dials without TLS.
func (d *dialer) plain() dialFunc {
	if d.wire != nil {
		return d.noting(d.wire.DialContext)
	}
	return d.noting(new(net.Dialer).DialContext)
}

// secure dials with TLS of the dialer's own, for localhost.
func (d *dialer) secure(id *daemon.Identity, protocols ...string) dialFunc {
	if d.wire != nil {
		d.wire.Options = &client.Options{TLS: &client.TLSOptions{
			CAFile: id.CAFile, ServerName: "localhost", NextProtos: protocols,
		}}
		return d.noting(d.wire.DialContext)
	}
	config := trusting(id)
	config.NextProtos = protocols
	return d.noting((&tls.Dialer{Config: config}).DialContext)
}

// trusting is crypto/tls on top of a dialer.
func trusting(id *daemon.Identity) *tls.Config {
	return &tls.Config{RootCAs: id.Roots, ServerName: "localhost"}
}

func (d *dialer) noting(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.conns = append(d.conns, conn)
		return conn, nil
	}
}

// dials is how many connections were made.
func (d *dialer) dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// open is how many of them nobody has closed yet.
func (d *dialer) open() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.conns {
		if isOpen(conn) {
			n++
		}
	}
	return n
}

func isOpen(conn net.Conn) bool {
	if over, ok := conn.(*tls.Conn); ok {
		conn = over.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok { // the dialer's TLS, on which nobody here sets a deadline
		return !errors.Is(conn.SetDeadline(time.Time{}), net.ErrClosed)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) {})
	}
	return !errors.Is(err, net.ErrClosed)
}
