package dtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	pion "github.com/pion/dtls/v3"
	"golang.org/x/net/nettest"
)

// pair makes both ends of a connection, so that the contract is tested of both.
func pair() (dialled, accepted *Conn, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	opts := &client.Options{Timeout: 20 * time.Second, TLS: &client.TLSOptions{InsecureSkipVerify: true}}
	socket, err := client.NewUDP(nil)
	if err != nil {
		return nil, nil, err
	}
	if err := socket.Bind("127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	type result struct {
		c   *Conn
		err error
	}
	ctx := context.Background()
	done := make(chan result, 1)
	go func() {
		c, err := Dial(ctx, "udp", socket.LocalAddr().String(), opts, &Options{Retransmit: 10 * time.Millisecond})
		done <- result{c, err}
	}()
	_, from, err := socket.RecvFrom(make([]byte, 1<<11), 0)
	if err != nil {
		return nil, nil, err
	}
	if err := socket.Connect(ctx, from.String()); err != nil {
		return nil, nil, err
	}
	w, e := &wire{Client: socket}, &ending{}
	w.waits.Store(true)
	p, err := pion.ServerWithOptions(w, from, pion.WithLoggerFactory(e), pion.WithFlightInterval(10*time.Millisecond),
		pion.WithCertificates(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}))
	if err != nil {
		return nil, nil, err
	}
	if err := p.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	w.secure()
	r := <-done
	return r.c, newConn(w, p, e, "udp", opts), r.err
}

// A paced waits for a short time until the other end has received what was sent: the contract is
// for streams, so nothing may be lost.
type paced struct {
	*Conn
	sent, received *atomic.Int32
}

func (p paced) Write(b []byte) (int, error) {
	const window = 20
	for begin := time.Now(); p.sent.Load() >= window && time.Since(begin) < 5*time.Millisecond; {
		time.Sleep(20 * time.Microsecond)
	}
	p.sent.Add(1)
	return p.Conn.Write(b)
}

func (p paced) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if err == nil {
		p.received.Add(-1)
	}
	return n, err
}

func TestConn_NetConnContract(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		dialled, accepted, err := pair()
		if err != nil {
			return nil, nil, nil, err
		}
		var there, back atomic.Int32
		return paced{dialled, &there, &back}, paced{accepted, &back, &there}, func() {
			_, _ = dialled.Close(), accepted.Close()
		}, nil
	})
}
