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

	const ipv4, ipv6 = "127.0.0.1:0", "[::1]:0" // port 0: the system picks one
	fmt.Fprintf(out, "%-9s %-18s %-15s %-15s %s\n", "NETWORK", "WHAT HAPPENS", "SENT", "CAME BACK", "ROUND TRIP")
	visitServer(out, "tcp", ipv4, echo)
	visitServer(out, "tcp6", ipv6, echo)
	visitServer(out, "udp", ipv4, echo)
	visitServer(out, "udp6", ipv6, echo)
	visitServer(out, "unix", filepath.Join(dir, "stream"), echo)
	visitServer(out, "unixgram", filepath.Join(dir, "datagrams"), echo)
	visitServer(out, "tcp", ipv4, halve)  // it is gone halfway
	visitServer(out, "udp", ipv4, double) // twice as much as there is room for

	l, err := net.Listen("tcp", ipv4)
	if err != nil {
		return err
	}
	// The kernel takes connections for a listener; nobody answers them here.
	visit(out, "tcp", l.Addr(), &client.Options{RecvTimeout: 100 * time.Millisecond})
	_ = l.Close()
	visit(out, "tcp", l.Addr(), nil) // and now the port is closed
	return showPool(out)
}

func visitServer(out io.Writer, network, address string, answer func([]byte) []byte) {
	at, stop, err := serve(network, address, answer)
	if err != nil { // IPv6, say, may be switched off
		fmt.Fprintf(out, "%-9s not on this machine: %v\n", network, err)
		return
	}
	defer stop()
	visit(out, network, at, nil) // no options: 5 seconds for each call
}

// visit prints what ask has found.
func visit(out io.Writer, network string, at net.Addr, opts *client.Options) {
	sent, got, took, err := ask(network, at.String(), opts)
	what, is := outcome(err)
	fmt.Fprintf(out, "%-9s %-18s %-15q %-15q %s\n", network, what, message[:sent], got, ms(took))
	if err != nil {
		fmt.Fprintf(out, "%-9s %s: %v\n", "", is, err)
	}
}

// ask sends the message and receives as many bytes as that has.
func ask(network, address string, opts *client.Options) (sent int, got []byte, took time.Duration, err error) {
	begin := time.Now()
	c, err := client.Dial(network, address, opts)
	if err != nil {
		return 0, nil, time.Since(begin), err
	}
	defer c.Close()

	begin = time.Now()
	if sent, err = c.Send([]byte(message), 0); err != nil {
		return sent, nil, time.Since(begin), err
	}
	// What is sent at once over a stream may arrive in pieces: WaitAll waits for
	// the last. A datagram is whole without it. With an error comes what arrived.
	got = make([]byte, len(message))
	n, err := c.Recv(got, client.WaitAll)
	return sent, got[:n], time.Since(begin), err
}

// outcome tells errors apart as programs do: by what they are, not by their text.
func outcome(err error) (what, is string) {
	var cut *client.TruncatedError
	switch {
	case err == nil:
		return "an answer", ""
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused port", "unix.ECONNREFUSED"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "time-out", "os.ErrDeadlineExceeded"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "vanished peer", "io.ErrUnexpectedEOF"
	case errors.As(err, &cut):
		return "too-long datagram", fmt.Sprintf("*client.TruncatedError, %d bytes lost", cut.Size-cut.Got)
	}
	return "something else", "error"
}
