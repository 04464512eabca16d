package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

const message = "hello, world"

func demo(out io.Writer) error {
	dir, err := os.MkdirTemp("", "quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	const ipv4, ipv6 = "127.0.0.1:0", "[::1]:0" // the system picks a port
	fmt.Fprintf(out, "%-9s %-19s %-15s %-15s %s\n", "NETWORK", "RESULT", "SENT", "RECEIVED", "ROUND TRIP")
	demoServer(out, "tcp", ipv4, echo)
	demoServer(out, "tcp6", ipv6, echo)
	demoServer(out, "udp", ipv4, echo)
	demoServer(out, "udp6", ipv6, echo)
	demoServer(out, "unix", filepath.Join(dir, "stream"), echo)
	demoServer(out, "unixgram", filepath.Join(dir, "datagrams"), echo)
	demoServer(out, "tcp", ipv4, halve)  // replies with half of the message and closes
	demoServer(out, "udp", ipv4, double) // replies with more than the buffer holds

	l, err := net.Listen("tcp", ipv4)
	if err != nil {
		return err
	}
	// The kernel accepts connections for the listener, but nothing replies.
	demoRequest(out, "tcp", l.Addr(), &client.Options{RecvTimeout: 100 * time.Millisecond})
	_ = l.Close()
	demoRequest(out, "tcp", l.Addr(), nil) // the port is closed now
	return demoPool(out)
}

// demoServer starts a server and sends it one request.
func demoServer(out io.Writer, network, address string, reply func([]byte) []byte) {
	addr, stop, err := serve(network, address, reply)
	if err != nil { // for example, IPv6 may be disabled
		fmt.Fprintf(out, "%-9s not available here: %v\n", network, err)
		return
	}
	defer stop()
	demoRequest(out, network, addr, nil) // nil options: the timeout of each call is 5 s
}

// demoRequest sends one request and prints the result.
func demoRequest(out io.Writer, network string, addr net.Addr, opts *client.Options) {
	sent, received, took, err := roundTrip(network, addr.String(), opts)
	result, errName := describe(err)
	fmt.Fprintf(out, "%-9s %-19s %-15q %-15q %s\n", network, result, message[:sent], received, ms(took))
	if err != nil {
		fmt.Fprintf(out, "%-9s %s: %v\n", "", errName, err)
	}
}

// roundTrip sends the message and receives a reply of the same length.
func roundTrip(network, address string, opts *client.Options) (sent int, received []byte, took time.Duration, err error) {
	start := time.Now()
	c, err := client.Dial(network, address, opts)
	if err != nil {
		return 0, nil, time.Since(start), err
	}
	defer c.Close()

	start = time.Now()
	if sent, err = c.Send([]byte(message), 0); err != nil {
		return sent, nil, time.Since(start), err
	}
	// On a byte stream, one Send may arrive in several pieces. WaitAll waits until the
	// buffer is full. A datagram always arrives whole. If there is an error, n is the
	// number of bytes received before it.
	buffer := make([]byte, len(message))
	n, err := c.Recv(buffer, client.WaitAll)
	return sent, buffer[:n], time.Since(start), err
}

// describe tells errors apart with errors.Is and errors.As, not by their text.
func describe(err error) (result, errName string) {
	var truncated *client.TruncatedError
	switch {
	case err == nil:
		return "reply", ""
	case errors.Is(err, unix.ECONNREFUSED):
		return "connection refused", "unix.ECONNREFUSED"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout", "os.ErrDeadlineExceeded"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "incomplete reply", "io.ErrUnexpectedEOF"
	case errors.As(err, &truncated):
		return "truncated datagram", fmt.Sprintf("*client.TruncatedError, %d bytes lost", truncated.Size-truncated.Got)
	}
	return "other error", "error"
}
