package worker

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
)

// roundTrips sends Request bytes and receives Reply bytes on each connection.
func roundTrips(s *sample.Spec) (*sample.Sample, error) {
	trip := map[string]func(*sample.Spec) (op, error){
		"no I/O":                 noIO,
		"net":                    overNet,
		"client":                 overClient,
		"client, Read and Write": overClientAsConn,
		"client, locked":         overLockedClient,
		"crypto/tls on net":      overTLSOnNet,
		"client with TLS":        overTLSClient,
	}[s.Peer]
	if trip == nil {
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	ops := make([]op, conns(s))
	if s.Peer == "no I/O" {
		ops = ops[:1]
	}
	for i := range ops {
		var err error
		if ops[i], err = trip(s); err != nil {
			return nil, err
		}
	}
	return measure(s, ops)
}

// noIO performs no I/O: the computing goroutines have the process to themselves.
func noIO(*sample.Spec) (op, error) {
	return func() error { nanosleep(20 * time.Millisecond); return nil }, nil
}

// The connections stay open until the process exits.

func overNet(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	return exchange(s, c), nil
}

func exchange(s *sample.Spec, c net.Conn) op {
	out, in := make([]byte, s.Request), make([]byte, s.Reply)
	return func() error {
		if _, err := c.Write(out); err != nil {
			return err
		}
		if s.Network == "udp" {
			_, err := c.Read(in)
			return err
		}
		_, err := io.ReadFull(c, in)
		return err
	}
}

func overClient(s *sample.Spec) (op, error) { return dialled(s, nil, sendAndRecv) }

// dialled connects a client and returns its round trips.
func dialled(s *sample.Spec, opts *client.Options, trips func(*sample.Spec, *client.Client) op) (op, error) {
	c, err := client.Dial(s.Network, s.Address, opts)
	if err != nil {
		return nil, err
	}
	return trips(s, c), nil
}

func sendAndRecv(s *sample.Spec, c *client.Client) op {
	out, in := make([]byte, s.Request), make([]byte, s.Reply)
	return func() error {
		if _, err := c.Send(out, 0); err != nil {
			return err
		}
		_, err := c.Recv(in, client.WaitAll)
		return err
	}
}

// overClientAsConn uses the methods of net.Conn, as drivers do.
func overClientAsConn(s *sample.Spec) (op, error) {
	return dialled(s, nil, func(s *sample.Spec, c *client.Client) op { return exchange(s, c) })
}

// overLockedClient runs in a goroutine that is locked to its thread.
func overLockedClient(s *sample.Spec) (op, error) {
	do, err := overClient(s)
	if err != nil {
		return nil, err
	}
	locked := false
	return func() error {
		if !locked {
			runtime.LockOSThread()
			locked = true
		}
		return do()
	}, nil
}

func overTLSOnNet(s *sample.Spec) (op, error) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(s.Files[0])
	if err != nil {
		return nil, err
	}
	roots.AppendCertsFromPEM(pem)
	c, err := tls.Dial(s.Network, s.Address, &tls.Config{RootCAs: roots})
	if err != nil {
		return nil, err
	}
	return exchange(s, c), nil
}

func overTLSClient(s *sample.Spec) (op, error) {
	return dialled(s, &client.Options{TLS: &client.TLSOptions{CAFile: s.Files[0]}}, sendAndRecv)
}
