package web

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
)

// A dialer is one of the two dialers of each scenario. It records its connections. The zero dialer
// uses package net.
type dialer struct {
	wire.Log
	wire *wire.Wire // if not nil, it dials
}

// onBoth runs a scenario on package net and on this library. Both must have the same result.
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

// secure dials with the dialer's TLS, for localhost.
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

// trusting returns a dial function with crypto/tls on top of the dialer.
func trusting(id *testserver.Identity) *tls.Config {
	return &tls.Config{RootCAs: id.Roots, ServerName: "localhost"}
}
