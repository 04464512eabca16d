package dtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/blocksock/client"
	pion "github.com/pion/dtls/v3"
)

// Dial connects to a DTLS server and returns when the handshake is over and the server is
// verified. Until then it sends handshake messages only. The networks are "udp", "udp4" and
// "udp6", and the address is as for client.Dial. If a name has several addresses, Dial uses
// the first to which the machine has a route.
//
// opts are the options of the socket; nil: the defaults. opts.TLS says how the server is
// verified. These fields are as in package client: ServerName, CAFile, CAPath, CertFile,
// KeyFile, Passphrase, AllowSelfSigned, VerifyDepth, CRLFile, InsecureSkipVerify, NextProtos,
// and of Config RootCAs, Certificates, ServerName, NextProtos, Time, KeyLogWriter,
// VerifyPeerCertificate and VerifyConnection. MinVersion and MaxVersion must allow 1.2. Any
// other field that is set is an error. A certificate that promises an OCSP response (RFC 7633)
// is refused, because pion/dtls cannot receive one. d are the options of DTLS; nil: the
// defaults.
//
// Options.ConnectTimeout and ctx bound the whole call: the name's resolution, connecting and
// the handshake. A closed port is unix.ECONNREFUSED at once. The error is a *net.OpError around
// a *client.TLSError if the handshake fails, around a *client.OptionError, or what client.Dial
// returns. After Dial has returned, ctx has no effect on the connection.
func Dial(ctx context.Context, network, address string, opts *client.Options, d *Options) (*Conn, error) {
	if opts == nil {
		opts = &client.Options{}
	}
	if d == nil {
		d = &Options{}
	}
	limited := ctx
	if limit := timeout(opts, opts.ConnectTimeout); limit > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithDeadlineCause(ctx, time.Now().Add(limit), os.ErrDeadlineExceeded)
		defer cancel()
	}
	where := target{network, address}
	failed := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: where, Err: err}
	}
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return nil, failed(fmt.Errorf("%w: DTLS needs udp, udp4 or udp6", net.UnknownNetworkError(network)))
	}
	if opts.Unconnected {
		return nil, failed(&client.OptionError{Option: "Unconnected", Reason: "DTLS has one peer: leave the option off"})
	}
	s, err := newSecurity(address, opts.TLS, d)
	if err != nil {
		return nil, failed(err)
	}
	plain := *opts
	plain.TLS = nil
	socket, err := client.DialContext(ctx, network, address, &plain)
	if err != nil {
		return nil, err
	}
	c, err := handshake(limited, socket, network, &plain, s, d)
	if err != nil {
		_ = socket.Close() // pion closes it after some errors only
		return nil, &net.OpError{Op: "dial", Net: network, Source: socket.LocalAddr(), Addr: socket.RemoteAddr(), Err: err}
	}
	return c, nil
}

// handshake makes the handshake on a connected socket.
func handshake(ctx context.Context, socket *client.Client, network string, opts *client.Options, s *security, d *Options) (*Conn, error) {
	w := &wire{Client: socket, mtu: d.MTU}
	w.waits.Store(true)
	e := &ending{}
	options := append(s.options(), pion.WithLoggerFactory(e))
	options = append(options, d.options()...)
	p, err := pion.ClientWithOptions(w, socket.RemoteAddr(), options...)
	if err != nil {
		return nil, cause(err)
	}
	// pion goes on if a key cannot be logged, because the caller's writer has panicked.
	if err := p.HandshakeContext(ctx); err != nil || s.panicked != nil {
		_ = p.Close()
		s.rethrow()
		return nil, &client.TLSError{ServerName: s.name, Err: handshakeError(ctx, err)}
	}
	w.secure()
	c := newConn(w, p, e, network, opts)
	c.state = s.state(p)
	return c, nil
}

// handshakeError returns why a handshake has failed.
func handshakeError(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		switch why := context.Cause(ctx); {
		case errors.Is(why, os.ErrDeadlineExceeded): // Options.ConnectTimeout
			return why
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%w: %w", ctx.Err(), os.ErrDeadlineExceeded)
		}
		return ctx.Err() // as client.Dial, whatever the cause
	}
	if alert := receivedAlert(err); alert != nil {
		return alert
	}
	return cause(err)
}

// options returns o as options of pion.
func (o *Options) options() []pion.ClientOption {
	mtu := o.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	// pion's MTU is the length of a fragment, without the headers of the record and of the
	// message (RFC 6347, 4.2.2).
	const messageHeader = 12
	options := []pion.ClientOption{pion.WithMTU(mtu - headerSize - messageHeader)}
	if o.Retransmit > 0 {
		options = append(options, pion.WithFlightInterval(o.Retransmit))
	}
	if o.ConnectionID {
		options = append(options, pion.WithConnectionIDGenerator(pion.OnlySendCIDGenerator()))
	}
	return options
}

// A target is an address as the caller wrote it.
type target struct{ network, address string }

func (t target) Network() string { return t.network }
func (t target) String() string  { return t.address }
