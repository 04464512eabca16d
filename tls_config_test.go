package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// refusedOption dials a listener that nobody may connect to, and gives the option
// that was refused.
func refusedOption(t *testing.T, opts *client.TLSOptions) *client.OptionError {
	t.Helper()
	ln := listen(t, "tcp")
	c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{TLS: opts})
	require.Nil(t, c)
	var bad *client.OptionError
	require.ErrorAs(t, err, &bad)
	require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now()))
	_, err = ln.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded) // nobody has
	_, err = client.NewTCP(&client.Options{TLS: opts})
	require.ErrorAs(t, err, &bad)
	return bad
}

func TestTLSConfig_VersionsAndOtherFields(t *testing.T) {
	t.Run("1.2 is the least by default", func(t *testing.T) {
		for _, config := range []*tls.Config{nil, {}} {
			c, _ := secured(t, client.Options{})
			require.Equal(t, uint16(tls.VersionTLS13), c.ConnectionState().Version)
			s := listenTLS(t, "tcp", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
			opts := s.trust(t)
			opts.Config = config
			_, err := s.outcome(t, opts)
			require.Error(t, err)
		}
	})
	t.Run("less if asked for", func(t *testing.T) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
		opts := s.trust(t)
		opts.MinVersion = tls.VersionTLS10
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		require.Equal(t, uint16(tls.VersionTLS11), c.ConnectionState().Version)
	})
	t.Run("MaxVersion", func(t *testing.T) {
		s := listenTLS(t, "tcp", nil)
		opts := s.trust(t)
		opts.MaxVersion = tls.VersionTLS12
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		require.Equal(t, uint16(tls.VersionTLS12), c.ConnectionState().Version)
	})
	t.Run("ciphers, ALPN and the key log", func(t *testing.T) {
		s := listenTLS(t, "tcp", func(c *tls.Config) {
			c.MaxVersion, c.NextProtos = tls.VersionTLS12, []string{"b", "a"}
		})
		opts := s.trust(t)
		opts.NextProtos = []string{"a", "c"}
		var keys bytes.Buffer
		opts.Config = &tls.Config{
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
			KeyLogWriter: &keys, NextProtos: []string{"b"}, ServerName: "example.com", MinVersion: tls.VersionTLS13,
		}
		opts.MinVersion = tls.VersionTLS12
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		state := c.ConnectionState()
		require.Equal(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, state.CipherSuite)
		require.Equal(t, "a", state.NegotiatedProtocol)
		require.Equal(t, "localhost", state.ServerName)
		require.Contains(t, keys.String(), "CLIENT_RANDOM ")
		require.Equal(t, "example.com", opts.Config.ServerName)
		require.Equal(t, []string{"b"}, opts.Config.NextProtos)
		require.Nil(t, opts.Config.VerifyConnection)
		require.False(t, opts.Config.DynamicRecordSizingDisabled)
	})
	t.Run("Config's RootCAs and Certificates", func(t *testing.T) {
		root := testcert.NewRoot(t, "root")
		mine, other := root.Issue(t, "me", nil), testcert.NewRoot(t, "other")
		s := listenWith(t, "tcp", root.Issue(t, "server", nil), func(c *tls.Config) {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, testcert.Pool(root)
		})
		opts := &client.TLSOptions{Config: &tls.Config{RootCAs: testcert.Pool(root), Certificates: []tls.Certificate{mine.Pair()}}}
		_, peer := s.handshakes(t, client.Options{TLS: opts})
		require.Equal(t, mine.Raw, peer.ConnectionState().PeerCertificates[0].Raw)
		opts.CAFile = tempFile(t, "other.pem", other.CertPEM())
		_, err := s.outcome(t, opts)
		require.Truef(t, isUnknownAuthority(err), "%v", err)
	})
	t.Run("Config's ServerName", func(t *testing.T) {
		s := listenTLS(t, "unix", nil)
		opts := s.trust(t)
		opts.ServerName, opts.Config = "", &tls.Config{ServerName: "localhost"}
		s.handshakes(t, client.Options{TLS: opts})
	})
	t.Run("no TLS", func(t *testing.T) {
		c, _ := stream(t, "tcp", nil)
		require.Equal(t, tls.ConnectionState{}, c.ConnectionState())
	})
}

func TestTLSOptions_InvalidOnesAreRefused(t *testing.T) {
	self := testcert.SelfSigned(t, "self", nil)
	certFile, _, _ := self.Files(t)
	block, err := x509.EncryptPEMBlock(rand.Reader, "PRIVATE KEY", []byte("key"), []byte("right"), x509.PEMCipherAES256) //nolint:staticcheck // still supported
	require.NoError(t, err)
	encrypted := tempFile(t, "key.pem", pem.EncodeToMemory(block))
	for _, test := range []struct {
		name, option, text string
		opts               client.TLSOptions
	}{
		{"unknown MinVersion", "TLS.MinVersion", "0x0305 is not a version", client.TLSOptions{MinVersion: 0x0305}},
		{"SSL 3", "TLS.MinVersion", "0x0300", client.TLSOptions{MinVersion: 0x0300}},
		{"unknown MaxVersion", "TLS.MaxVersion", "0x0001", client.TLSOptions{MaxVersion: 1}},
		{"nothing between", "TLS.MaxVersion", "TLS 1.2 is below MinVersion, which is TLS 1.3", client.TLSOptions{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12}},
		{"MaxVersion below the default", "TLS.MaxVersion", "TLS 1.1 is below MinVersion, which is TLS 1.2", client.TLSOptions{MaxVersion: tls.VersionTLS11}},
		{"verification turned off elsewhere", "TLS.Config", "InsecureSkipVerify", client.TLSOptions{Config: &tls.Config{InsecureSkipVerify: true}}},
		{"renegotiation", "TLS.Config", "Renegotiation", client.TLSOptions{Config: &tls.Config{Renegotiation: tls.RenegotiateOnceAsClient}}},
		{"file of authorities missing", "TLS.CAFile", "/missing", client.TLSOptions{CAFile: "/missing"}},
		{"directory of authorities missing", "TLS.CAPath", "/missing", client.TLSOptions{CAPath: "/missing"}},
		{"certificate missing", "TLS.CertFile", "/missing", client.TLSOptions{CertFile: "/missing", KeyFile: "/missing"}},
		{"no key", "TLS.KeyFile", "is missing", client.TLSOptions{CertFile: "/missing"}},
		{"wrong passphrase", "TLS.KeyFile", "Passphrase", client.TLSOptions{CertFile: certFile, KeyFile: encrypted, Passphrase: "wrong"}},
		{"list missing", "TLS.CRLFile", "/missing", client.TLSOptions{CRLFile: "/missing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := refusedOption(t, &test.opts)
			require.Equal(t, test.option, bad.Option)
			require.Contains(t, bad.Reason, test.text)
			if test.text == "/missing" {
				require.ErrorIs(t, bad, fs.ErrNotExist)
			}
		})
	}
	t.Run("datagrams", func(t *testing.T) {
		for _, network := range datagramNetworks {
			_, err := client.Dial(network, "127.0.0.1:1", &client.Options{TLS: &client.TLSOptions{}})
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad, network)
			require.Equal(t, "TLS", bad.Option)
		}
		_, err := client.NewUDP(&client.Options{TLS: &client.TLSOptions{}})
		require.ErrorContains(t, err, "only for streams")
		require.ErrorContains(t, err, "github.com/blocksock/client/dtls")
	})
	t.Run("no name to verify", func(t *testing.T) {
		for network, address := range map[string]string{"unix": "/missing", "tcp": ":1"} {
			_, err := client.Dial(network, address, &client.Options{TLS: &client.TLSOptions{}})
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad, network)
			require.Equal(t, "TLS.ServerName", bad.Option)
		}
		c, err := client.NewUnix(&client.Options{TLS: &client.TLSOptions{}})
		require.NoError(t, err)
		defer c.Close()
		require.ErrorContains(t, c.Connect(context.Background(), "/missing"), "ServerName")
	})
	t.Run("no name and no verification", func(t *testing.T) {
		s := listenTLS(t, "unix", nil)
		opts := &client.TLSOptions{InsecureSkipVerify: true, Config: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
		s.handshakes(t, client.Options{TLS: opts})
	})
}
