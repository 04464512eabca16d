package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/blocksock/client"
)

// exampleTLS is a server that says hello, and the options to trust it: its
// certificate is for example.com and 127.0.0.1, and signed by itself.
func exampleTLS() (server *httptest.Server, trust *client.TLSOptions, stop func()) {
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		log.Fatal(err)
	}
	return server, &client.TLSOptions{CAFile: ca}, func() { server.Close(); _ = os.RemoveAll(dir) }
}

// exampleProxy connects whoever asks with CONNECT.
func exampleProxy() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here); _ = there.Close() }()
		_, _ = io.Copy(here, there)
	}))
}

// A server's authority is in a file, or a directory of them; without, it is the
// system's roots that count.
func ExampleTLSOptions() {
	server, trust, stop := exampleTLS()
	defer stop()

	c, err := client.Dial("tcp", server.Listener.Addr().String(), &client.Options{
		TLS: &client.TLSOptions{
			CAFile:     trust.CAFile,
			ServerName: "example.com", // the host dialled is the default
			MinVersion: tls.VersionTLS13,
			NextProtos: []string{"http/1.1"},
			Config:     &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("GET / HTTP/1.0\r\n\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	status := make([]byte, 15)
	if _, err := c.Recv(status, client.WaitAll); err != nil {
		log.Fatal(err)
	}
	state := c.ConnectionState()
	fmt.Printf("%s, %s: %s\n", tls.VersionName(state.Version), state.NegotiatedProtocol, status)
	// Output: TLS 1.3, http/1.1: HTTP/1.0 200 OK
}

// A transport fetches pages through a proxy, with TLS as the options have it.
func ExampleDialer_https() {
	server, trust, stop := exampleTLS()
	defer stop()
	proxy := exampleProxy()
	defer proxy.Close()

	dialer := &client.Dialer{Options: &client.Options{
		Proxy: proxy.URL,
		TLS:   trust,
	}}
	transport := &http.Transport{DialTLSContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: hello
}

// Protocols that begin in clear turn to TLS when both sides have agreed.
func ExampleClient_StartTLS() {
	server, trust, stop := exampleTLS()
	defer stop()
	address, end := exampleServer(func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, len("STARTTLS\r\n")))
		_, _ = io.WriteString(conn, "220 go ahead\r\n")
		peer := tls.Server(conn, server.TLS)
		_, _ = io.WriteString(peer, "in private\r\n")
		_ = peer.Close()
	})
	defer end()

	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("STARTTLS\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	if _, err := c.Recv(make([]byte, len("220 go ahead\r\n")), client.WaitAll); err != nil {
		log.Fatal(err)
	}
	if err := c.StartTLS(context.Background(), trust); err != nil {
		log.Fatal(err)
	}
	said, err := io.ReadAll(c)
	fmt.Printf("%q %v\n", said, err)
	// Output: "in private\r\n" <nil>
}

func ExampleTLSError() {
	server, _, stop := exampleTLS()
	defer stop()
	_, err := client.Dial("tcp", server.Listener.Addr().String(), &client.Options{TLS: &client.TLSOptions{}})
	var failed *client.TLSError
	if errors.As(err, &failed) {
		var unknown x509.UnknownAuthorityError
		fmt.Println(failed.ServerName, errors.As(err, &unknown))
	}
	// Output: 127.0.0.1 true
}

func ExampleRevocationError() {
	server, trust, stop := exampleTLS()
	defer stop()
	trust.RequireStaple = true
	_, err := client.Dial("tcp", server.Listener.Addr().String(), &client.Options{TLS: trust})
	var revoked *client.RevocationError
	if errors.As(err, &revoked) {
		fmt.Println(revoked.Revoked, revoked.Reason)
	}
	// Output: false the server has stapled no OCSP response, and RequireStaple is set
}
