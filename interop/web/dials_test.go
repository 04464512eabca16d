package web

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
)

// A dialer is one of the two that each scenario runs on, and remembers what it has
// dialled. The zero dialer is package net's.
type dialer struct {
	wire.Log
	wire *wire.Wire // if not nil, who dials
}

// onBoth runs a scenario on package net and on this library. It asks the same of both:
// what fails on one alone is that one's fault.
func onBoth(t *testing.T, scenario func(t *testing.T, d *dialer)) {
	t.Helper()
	t.Run("net", func(t *testing.T) { scenario(t, new(dialer)) })
	t.Run("client", func(t *testing.T) { scenario(t, &dialer{wire: wire.New(t)}) })
}

// plain dials without TLS.
func (d *dialer) plain() wire.DialFunc {
	if d.wire != nil {
		return d.Noting(d.wire.DialContext)
	}
	return d.Noting(new(net.Dialer).DialContext)
}

// secure dials with TLS of the dialer's own, for localhost.
func (d *dialer) secure(id *testserver.Identity, protocols ...string) wire.DialFunc {
	if d.wire != nil {
		d.wire.Options = &client.Options{TLS: &client.TLSOptions{
			CAFile: id.CAFile, ServerName: "localhost", NextProtos: protocols,
		}}
		return d.Noting(d.wire.DialContext)
	}
	config := trusting(id)
	config.NextProtos = protocols
	return d.Noting((&tls.Dialer{Config: config}).DialContext)
}

// trusting is crypto/tls on top of a dialer.
func trusting(id *testserver.Identity) *tls.Config {
	return &tls.Config{RootCAs: id.Roots, ServerName: "localhost"}
}
