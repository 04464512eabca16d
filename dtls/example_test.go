package dtls_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/dtls"
	pion "github.com/pion/dtls/v3"
)

// A device and its server share a key.
func ExampleDial() {
	key := []byte{0x1f, 0x8b, 0x24, 0x90, 0x5c, 0xe3, 0x77, 0x0a, 0xd1, 0x42, 0x6e, 0xb8, 0x39, 0xf5, 0x06, 0xcb}
	address, stop := echoServer(key)
	defer stop()

	c, err := dtls.Dial(context.Background(), "udp", address,
		&client.Options{Timeout: 5 * time.Second},
		&dtls.Options{PSK: key, PSKIdentity: "sensor 7"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("21.5 degrees"), 0); err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 5) // too short
	n, err := c.Recv(p, 0)
	var cut *client.TruncatedError
	if errors.As(err, &cut) {
		fmt.Printf("%q of %d bytes\n", p[:n], cut.Size)
	}
	// Output: "21.5 " of 12 bytes
}

// A server has a certificate, and the client its authority.
func ExampleDial_certificate() {
	c, err := dtls.Dial(context.Background(), "udp", "coap.example:5684",
		&client.Options{TLS: &client.TLSOptions{CAFile: "authority.pem"}}, nil)
	var bad *client.OptionError
	if errors.As(err, &bad) {
		fmt.Println("set", bad.Option, "to a file that exists")
		return
	}
	defer c.Close()
	// Output: set TLS.CAFile to a file that exists
}

// echoServer sends back each record, over one connection.
func echoServer(key []byte) (address string, stop func()) {
	ln, err := pion.ListenWithOptions("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)},
		pion.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
		pion.WithCipherSuites(pion.TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256))
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}()
	return ln.Addr().String(), func() { _ = ln.Close(); <-done }
}
