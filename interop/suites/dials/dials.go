// Package dials is put into the copy of a driver, which dials with it: by the net.Dialer
// that the driver has made, or by client.Dialer with the same settings. Which of them it
// is, the environment says. The copy is the same.
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
	// Dialer is Net or Client. A program without it does not dial: it might be
	// taken for one that does so by the client.
	Dialer = "SUITES_DIALER"
	Net    = "net"
	Client = "client"

	// Record names a file to which each connection adds a line: its type.
	Record = "SUITES_RECORD"

	// Moved says where servers are that the driver's tests know elsewhere: hosts
	// and ports, "6379=40001,postgres=127.0.0.1".
	Moved = "SUITES_MOVED"
)

// By gives the dial function to have in place of d.DialContext.
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

// ByTLS is By for a dialer of TLS.
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

// within gives a context that ends when the dialer's patience does.
func within(ctx context.Context, d *net.Dialer) (context.Context, context.CancelFunc) {
	if d.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.Timeout)
}

// A Plain is a net.Dialer for those who call Dial alone.
type Plain struct{ *net.Dialer }

// Dial is By without a context.
func (p Plain) Dial(network, address string) (net.Conn, error) {
	return By(p.Dialer)(context.Background(), network, address)
}

// Address is where the server is that the driver's tests know at an address.
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
		return nil, fmt.Errorf("%s is %q: neither %q nor %q", Dialer, which, Net, Client)
	}
}

// options gives the settings of a net.Dialer to a client. What the net.Dialer leaves
// open, the client's own defaults decide, as they do for those who put it in its place.
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

// record adds a line to the record. A connection of which it cannot is a failure.
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
