// Package dials is copied into a driver's module, which dials with it: with the driver's net.Dialer or
// with a client.Dialer that has the same settings. The environment selects the dialer, so that both
// runs use the same program.
package dials

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/blocksock/client"
)

// The environment of a program that dials with this package.
const (
	// Dialer is Net or Client. Without it no dial succeeds, so that no run uses the wrong
	// dialer unnoticed.
	Dialer = "SUITES_DIALER"
	Net    = "net"
	Client = "client"

	// Record names a file. Each connection appends its type as a line.
	Record = "SUITES_RECORD"

	// Moved maps hosts and ports in the driver's tests to those of the servers:
	// "6379=40001,postgres=127.0.0.1".
	Moved = "SUITES_MOVED"
)

// By returns the dial function that replaces d.DialContext.
func By(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		dial, err := chosen(d, network)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, network, Address(address))
		if err != nil {
			return nil, err
		}
		return conn, record(conn)
	}
}

// ByTLS is By for a tls.Dialer.
func ByTLS(d *tls.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := By(d.NetDialer)(ctx, network, address)
		if err != nil {
			return nil, err
		}
		config := d.Config.Clone()
		if config == nil {
			config = &tls.Config{}
		}
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(address) // "" is what an address without a port gives
		}
		ctx, cancel := within(ctx, d.NetDialer)
		defer cancel()
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return secure, nil
	}
}

// within returns a context that ends at the dialer's Timeout or Deadline.
func within(ctx context.Context, d *net.Dialer) (context.Context, context.CancelFunc) {
	if d.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.Timeout)
}

// A Plain is a net.Dialer for callers of Dial.
type Plain struct{ *net.Dialer }

// Dial is By without a context.
func (p Plain) Dial(network, address string) (net.Conn, error) {
	return By(p.Dialer)(context.Background(), network, address)
}

// Address maps an address in the driver's tests to the server's.
func Address(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address // a path, or an error that is the dialer's to tell
	}
	for move := range strings.SplitSeq(os.Getenv(Moved), ",") {
		switch from, to, _ := strings.Cut(move, "="); from {
		case "":
		case host:
			host = to
		case port:
			port = to
		}
	}
	return net.JoinHostPort(host, port)
}

func chosen(d *net.Dialer, network string) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	switch which := os.Getenv(Dialer); which {
	case Net:
		return d.DialContext, nil
	case Client:
		return (&client.Dialer{Options: options(d, network)}).DialContext, nil
	default:
		return nil, fmt.Errorf("%s is %q; set it to %q or %q", Dialer, which, Net, Client)
	}
}

// options converts the settings of a net.Dialer. Unset ones have the client's defaults, as for a user
// who replaces the dialer.
func options(d *net.Dialer, network string) *client.Options {
	o := &client.Options{ConnectTimeout: d.Timeout, Resolver: d.Resolver, Control: d.Control}
	if d.LocalAddr != nil {
		o.LocalAddr = d.LocalAddr.String()
	}
	if !strings.HasPrefix(network, "tcp") {
		return o // a net.Dialer passes over the rest there, a client refuses it
	}
	o.MPTCP = d.MultipathTCP()
	switch {
	case d.KeepAliveConfig.Enable:
		o.KeepAlive = &d.KeepAliveConfig
	case d.KeepAlive < 0:
		o.KeepAlive = &net.KeepAliveConfig{}
	case d.KeepAlive > 0:
		o.KeepAlive = &net.KeepAliveConfig{Enable: true, Idle: d.KeepAlive, Interval: d.KeepAlive}
	}
	return o
}

// record appends a line to the record. If that fails, so does the dial.
func record(conn net.Conn) error {
	f, err := os.OpenFile(os.Getenv(Record), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%T\n", conn) // one write: lines of several programs do not mix
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("recording a connection: %w", err), conn.Close())
	}
	return nil
}
