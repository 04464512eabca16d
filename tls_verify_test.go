package client_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

func eachTLSVersion(t *testing.T, test func(t *testing.T, version uint16)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { test(t, version) })
	}
}

// outcome dials a server and gives what became of the client, and what the
// server has decrypted before the client closed.
func (s *tlsServer) outcome(t testing.TB, opts *client.TLSOptions) (got string, dialErr error) {
	t.Helper()
	received := make(chan string, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			received <- ""
			return
		}
		defer conn.Close()
		peer := tls.Server(conn, s.config)
		data, _ := io.ReadAll(peer) // an error is the client's refusal
		received <- string(data)
	}()
	c, err := s.dial(&client.Options{TLS: opts})
	if err == nil {
		_, err := c.Send([]byte("secret"), 0)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	} else {
		require.Nil(t, c)
	}
	return <-received, err
}

func isUnknownAuthority(err error) bool {
	var e x509.UnknownAuthorityError
	return errors.As(err, &e)
}

func isHostname(err error) bool { var e x509.HostnameError; return errors.As(err, &e) }

func isInvalid(reason x509.InvalidReason) func(error) bool {
	return func(err error) bool {
		var e x509.CertificateInvalidError
		return errors.As(err, &e) && e.Reason == reason
	}
}

func isRevocation(revoked bool) func(error) bool {
	return func(err error) bool {
		var e *client.RevocationError
		return errors.As(err, &e) && e.Revoked == revoked
	}
}

func TestTLSVerify_WhichCertificatesAreAccepted(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	valid := root.Issue(t, "server", nil)
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	called := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = names, nil }
	}
	one := root.Issue(t, "intermediate 1", testcert.Authority)
	two := one.Issue(t, "intermediate 2", testcert.Authority)
	rootFile := tempFile(t, "root.pem", root.CertPEM())
	other := testcert.NewRoot(t, "other root")
	self := testcert.SelfSigned(t, "self", nil)

	sentAlong := other.Issue(t, "server", nil)
	sentAlong.Above = []*testcert.Cert{other}

	// What looks self-signed and is not: its issuer has its name, and another key.
	namesake := testcert.NewRoot(t, "self")
	pretender := namesake.Issue(t, "self", nil)

	type options = client.TLSOptions
	for _, test := range []struct {
		name    string
		cert    *testcert.Cert
		opts    options
		refused func(error) bool
		text    string
	}{
		{name: "valid", cert: valid, opts: options{ServerName: "localhost"}},
		{name: "IP SAN, of the address dialled", cert: valid},
		{name: "IP SAN", cert: valid, opts: options{ServerName: "::1"}},
		{name: "wildcard", cert: root.Issue(t, "w", called("*.example.com")), opts: options{ServerName: "a.example.com"}},
		{name: "wildcard is for one label", cert: root.Issue(t, "w", called("*.example.com")), opts: options{ServerName: "a.b.example.com"},
			refused: isHostname, text: "set ServerName to the name to expect"},
		{name: "wrong name", cert: valid, opts: options{ServerName: "example.com"},
			refused: isHostname, text: `TLS with "example.com": tls: failed to verify certificate: x509: certificate is valid for localhost, not example.com`},
		{name: "wrong IP", cert: valid, opts: options{ServerName: "127.0.0.2"}, refused: isHostname, text: "127.0.0.2"},
		{name: "a name for an address is none", cert: root.Issue(t, "n", called("127.0.0.1")), refused: isHostname, text: "127.0.0.1"},
		{name: "expired", cert: root.Issue(t, "e", expired), refused: isInvalid(x509.Expired), text: "is after"},
		{name: "not yet valid", cert: root.Issue(t, "e", early), refused: isInvalid(x509.Expired), text: "is before"},
		{name: "unknown CA", cert: other.Issue(t, "server", nil), refused: isUnknownAuthority, text: "set CAFile or CAPath to the authorities to trust"},
		{name: "no certificate for servers", cert: root.Issue(t, "c", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), refused: isInvalid(x509.IncompatibleUsage), text: "incompatible key usage"},

		{name: "self-signed", cert: self, refused: isUnknownAuthority, text: "set AllowSelfSigned to accept every self-signed one"},
		{name: "self-signed, allowed", cert: self, opts: options{AllowSelfSigned: true}},
		{name: "self-signed, allowed, wrong name", cert: self, opts: options{AllowSelfSigned: true, ServerName: "example.com"}, refused: isHostname, text: "example.com"},
		{name: "self-signed, allowed, expired", cert: testcert.SelfSigned(t, "s", expired), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "expired"},
		{name: "self-signed, allowed, not yet valid", cert: testcert.SelfSigned(t, "s", early), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "not yet valid"},
		{name: "self-signed, allowed, not for servers", cert: testcert.SelfSigned(t, "s", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.IncompatibleUsage), text: "key usage"},
		{name: "self-signed by name only, allowed", cert: pretender, opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "unknown CA, self-signed allowed", cert: other.Issue(t, "server", nil), opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "unknown CA that is sent along, self-signed allowed", cert: sentAlong,
			opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "chain to a root, self-signed allowed", cert: two.Issue(t, "server", nil), opts: options{AllowSelfSigned: true}},
		{name: "chain, expired, self-signed allowed", cert: root.Issue(t, "e", expired), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "expired"},
		{name: "the certificate itself is the root", cert: self, opts: options{CAFile: tempFile(t, "self.pem", self.CertPEM())}},

		{name: "chain of two intermediates", cert: two.Issue(t, "server", nil)},
		{name: "chain as deep as allowed", cert: two.Issue(t, "server", nil), opts: options{VerifyDepth: 2}},
		{name: "chain too deep", cert: two.Issue(t, "server", nil), opts: options{VerifyDepth: 1},
			refused: isInvalid(x509.TooManyIntermediates), text: "there are 2, and VerifyDepth allows 1"},
		{name: "no intermediate allowed", cert: one.Issue(t, "server", nil), opts: options{VerifyDepth: -1},
			refused: isInvalid(x509.TooManyIntermediates), text: "there are 1, and VerifyDepth allows 0"},
		{name: "no intermediate allowed, and none there", cert: valid, opts: options{VerifyDepth: -1}},
		{name: "chain too deep, self-signed allowed", cert: two.Issue(t, "server", nil), opts: options{VerifyDepth: 1, AllowSelfSigned: true},
			refused: isInvalid(x509.TooManyIntermediates), text: "VerifyDepth"},
		{name: "anything, if verification is off", cert: testcert.SelfSigned(t, "s", expired), opts: options{InsecureSkipVerify: true, ServerName: "example.com"}},
	} {
		eachTLSVersion(t, func(t *testing.T, version uint16) {
			t.Run(test.name, func(t *testing.T) {
				s := listenWith(t, "tcp", test.cert, func(c *tls.Config) { c.MaxVersion = version })
				opts := test.opts
				if opts.CAFile == "" {
					opts.CAFile = rootFile
				}
				got, err := s.outcome(t, &opts)
				if test.refused == nil {
					require.NoError(t, err)
					require.Equal(t, "secret", got)
					return
				}
				var failed *client.TLSError
				require.ErrorAs(t, err, &failed)
				var verification *tls.CertificateVerificationError
				require.ErrorAs(t, err, &verification)
				require.True(t, bytes.Equal(test.cert.Raw, verification.UnverifiedCertificates[0].Raw))
				require.Truef(t, test.refused(err), "%v", err)
				require.ErrorContains(t, err, test.text)
				require.True(t, client.SafeToRetry(err))
				require.Empty(t, got)
			})
		})
	}
}

func TestTLSVerify_SystemRootsAreTheDefault(t *testing.T) {
	got, err := listenTLS(t, "tcp", nil).outcome(t, &client.TLSOptions{ServerName: "localhost"})
	require.Truef(t, isUnknownAuthority(err), "%v", err)
	require.Empty(t, got)
}

func TestTLSServerName_IsTheHostDialledAndSentUnlessAnAddress(t *testing.T) {
	for _, test := range []struct{ host, name, sent string }{
		{"localhost", "", "localhost"},
		{"127.0.0.1", "", ""},
		{"127.0.0.1", "localhost", "localhost"},
		{"localhost", "127.0.0.1", ""},
	} {
		t.Run(test.host+" "+test.name, func(t *testing.T) {
			sent := make(chan string, 1)
			s := listenTLS(t, "tcp", func(c *tls.Config) {
				c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					sent <- h.ServerName
					return nil, nil
				}
			})
			go func() { // until the listener closes
				conn, err := s.Accept()
				if err == nil {
					_ = tls.Server(conn, s.config).Handshake()
					conn.Close()
				}
			}()
			opts := s.trust(t)
			opts.ServerName = test.name
			_, port, _ := net.SplitHostPort(s.Addr().String())
			c, err := client.Dial("tcp4", net.JoinHostPort(test.host, port), &client.Options{TLS: opts})
			require.NoError(t, err)
			require.NoError(t, c.Close())
			require.Equal(t, test.sent, <-sent)
		})
	}
}

// A session that was begun by rules that accept anything is no reason to accept
// its server by rules that do not.
func TestTLSSession_IsVerifiedAgainWhenResumed(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
		config := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		lax := &client.TLSOptions{ServerName: "localhost", AllowSelfSigned: true, CAFile: s.trust(t).CAFile, Config: config}
		for _, resumed := range []bool{false, true} {
			c, peer := s.handshakes(t, client.Options{TLS: lax})
			_, err := peer.Write([]byte("!"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 1), 0) // and the tickets that come before
			require.NoError(t, err)
			state := c.ConnectionState()
			require.Equal(t, resumed, state.DidResume)
			require.Len(t, state.VerifiedChains, 1)
			require.Len(t, state.VerifiedChains[0], 2)
			require.NoError(t, c.Close())
		}
		require.Nil(t, config.Certificates)
		require.False(t, config.InsecureSkipVerify) // never changed

		strict := &client.TLSOptions{ServerName: "localhost", AllowSelfSigned: true, CAFile: tempFile(t, "other.pem", testcert.NewRoot(t, "other").CertPEM()), Config: config}
		got, err := s.outcome(t, strict)
		require.Truef(t, isUnknownAuthority(err), "%v", err)
		require.Empty(t, got)

		c, _ := s.handshakes(t, client.Options{TLS: lax}) // a session once more
		require.False(t, c.ConnectionState().DidResume)
		listed := &client.TLSOptions{ServerName: "localhost", AllowSelfSigned: true, CAFile: s.trust(t).CAFile, Config: config,
			CRLFile: tempFile(t, "list", s.cert.Root.Revoke(t, nil, s.cert))}
		got, err = s.outcome(t, listed)
		require.Truef(t, isRevocation(true)(err), "%v", err)
		require.Empty(t, got)
	})
}

func TestTLSConfig_CallbacksVerifyInAddition(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	for _, selfSigned := range []bool{false, true} {
		opts := s.trust(t)
		opts.AllowSelfSigned = selfSigned
		reason := errors.New("not today")
		opts.Config = &tls.Config{VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.VerifiedChains) == 0 {
				return errors.New("no chains")
			}
			return reason
		}}
		got, err := s.outcome(t, opts)
		require.ErrorIs(t, err, reason)
		require.Empty(t, got)
		opts.Config = &tls.Config{VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			if len(chains) != 1 || !bytes.Equal(raw[0], chains[0][0].Raw) {
				return errors.New("no chains")
			}
			return reason
		}}
		got, err = s.outcome(t, opts)
		require.ErrorIs(t, err, reason)
		require.Empty(t, got)
		opts.ServerName = "example.com" // and does not take its place
		_, err = s.outcome(t, opts)
		require.Truef(t, isHostname(err), "%v", err)
	}
}

func TestTLSConfig_TimeIsUsed(t *testing.T) {
	for _, selfSigned := range []bool{false, true} {
		s := listenTLS(t, "tcp", nil)
		opts := s.trust(t)
		opts.AllowSelfSigned = selfSigned
		opts.Config = &tls.Config{Time: func() time.Time { return time.Now().Add(24 * time.Hour) }}
		_, err := s.outcome(t, opts)
		require.Truef(t, isInvalid(x509.Expired)(err), "%v", err)
	}
}
