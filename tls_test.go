package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// A tlsServer is what the TLS tests dial: a listener and its certificate.
type tlsServer struct {
	net.Listener
	cert   *testcert.Cert
	config *tls.Config
}

// listenTLS makes a server with a certificate for this machine that a new root has signed.
func listenTLS(t testing.TB, network string, change func(*tls.Config)) *tlsServer {
	t.Helper()
	return listenWith(t, network, testcert.NewRoot(t, "root").Issue(t, "server", nil), change)
}

func listenWith(t testing.TB, network string, c *testcert.Cert, change func(*tls.Config)) *tlsServer {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{c.Pair()}}
	if change != nil {
		change(config)
	}
	return &tlsServer{Listener: listen(t, network), cert: c, config: config}
}

// trust are options that accept the server, under the name localhost.
func (s *tlsServer) trust(t testing.TB) *client.TLSOptions {
	t.Helper()
	return &client.TLSOptions{ServerName: "localhost", CAFile: tempFile(t, "ca.pem", s.cert.Root.CertPEM())}
}

func (s *tlsServer) dial(opts *client.Options) (*client.Client, error) {
	return client.Dial(s.Addr().Network(), s.Addr().String(), opts)
}

// handshakes dials the server and gives both ends, TLS on each.
func (s *tlsServer) handshakes(t testing.TB, opts client.Options) (*client.Client, *tls.Conn) {
	t.Helper()
	if opts.TLS == nil {
		opts.TLS = s.trust(t)
	}
	peers := make(chan *tls.Conn, 1)
	go func() {
		defer close(peers)
		conn, err := s.Accept()
		if err != nil {
			return
		}
		peer := tls.Server(conn, s.config)
		if peer.HandshakeContext(context.Background()) == nil {
			peers <- peer
		}
	}()
	c, err := s.dial(&opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	peer := <-peers
	require.NotNil(t, peer)
	t.Cleanup(func() { _ = peer.NetConn().Close() })
	return c, peer
}

// secured gives both ends of a TLS connection.
func secured(t testing.TB, opts client.Options) (*client.Client, *tls.Conn) {
	t.Helper()
	return listenTLS(t, "tcp", nil).handshakes(t, opts)
}

func TestTLS_RoundTrip(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			c, peer := listenTLS(t, network, nil).handshakes(t, client.Options{})
			n, err := c.Send([]byte("ping"), 0)
			require.NoError(t, err)
			require.Equal(t, 4, n)
			p := make([]byte, 4)
			_, err = io.ReadFull(peer, p)
			require.NoError(t, err)
			_, err = peer.Write([]byte("pong"))
			require.NoError(t, err)
			n, err = c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "pong", string(p[:n]))
			require.True(t, c.ConnectionState().HandshakeComplete)
		})
	}
}

func TestConn_NetConnContractOverTLS(t *testing.T) {
	inParallelIfShort(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
			trust := s.trust(t)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c, peer := s.handshakes(t, client.Options{TLS: trust})
				return c, peer, func() { _, _ = c.Close(), peer.Close() }, nil
			})
		})
	}
}

// TLS is with the target, whatever carries it there.
func TestTLS_RunsThroughProxy(t *testing.T) {
	s := listenWith(t, "tcp", testcert.NewRoot(t, "root").Issue(t, "server", func(c *x509.Certificate) { c.DNSNames = []string{"name.test"} }), nil)
	trust := &client.TLSOptions{CAFile: s.trust(t).CAFile}
	for scheme, reply := range map[string][]byte{"socks5": socksGranted, "http": []byte("HTTP/1.1 200 OK\r\n\r\n")} {
		t.Run(scheme, func(t *testing.T) {
			dial := func(target string, opts client.Options, beyond func(net.Conn)) (*client.Client, error) {
				p := &fakeProxy{reply: reply, beyond: beyond}
				conversation := p.socks5
				if scheme == "http" {
					conversation = p.http
				}
				address, _ := p.serve(t, conversation)
				opts.Proxy, opts.TLS = scheme+"://"+address, trust
				return client.Dial("tcp", target, &opts)
			}
			inside := func(conn net.Conn) {
				peer := tls.Server(conn, s.config)
				_, _ = io.Copy(peer, peer)
			}
			c, err := dial("name.test:443", client.Options{}, inside)
			require.NoError(t, err)
			require.Equal(t, "name.test", c.ConnectionState().ServerName)
			_, err = c.Send([]byte("ping"), 0)
			require.NoError(t, err)
			p := make([]byte, 4)
			_, err = c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "ping", string(p))
			require.NoError(t, c.Close())

			_, err = dial("another.test:443", client.Options{}, inside)
			require.Truef(t, isHostname(err), "%v", err)

			begin := time.Now()
			_, err = dial("name.test:443", client.Options{Timeout: 50 * time.Millisecond}, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
			require.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
}

// tempFile writes a file that is removed with the test.
var tempFile = testcert.TempFile
