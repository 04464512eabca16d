package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

const (
	maxLine    = 4096
	serverName = "chat.example"
)

// A room has the connections of those who are in it, with the lines that each has to be sent.
type room struct {
	mu  sync.Mutex
	all map[net.Conn]chan string
}

// serve opens a room to all who connect.
func serve(ln net.Listener) {
	r := &room{all: make(map[net.Conn]chan string)}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go r.enter(conn)
	}
}

// enter is what one connection does, until it ends.
func (r *room) enter(conn net.Conn) {
	defer conn.Close()
	lines := make(chan string, 64)
	r.mu.Lock()
	r.all[conn] = lines
	r.mu.Unlock()
	go func() {
		for line := range lines {
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(conn, line); err != nil {
				_ = conn.Close() // the reader below ends
			}
		}
	}()
	for in := bufio.NewReaderSize(conn, maxLine); ; {
		line, err := in.ReadSlice('\n')
		if err != nil {
			break
		}
		r.tell(string(line), conn)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, conn)
	close(lines)
}

// tell gives a line to all but one. Who is too slow loses it.
func (r *room) tell(line string, but net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn, lines := range r.all {
		if conn == but {
			continue
		}
		select {
		case lines <- line:
		default:
		}
	}
}

// withTLS makes a certificate and writes it to a file.
func withTLS(ln net.Listener, file string) (net.Listener, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		DNSNames:     []string{serverName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	if err != nil {
		return nil, err
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}}), nil
}
