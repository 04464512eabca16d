package client_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"
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

func TestWhichCertificatesAreAccepted(t *testing.T) {
	root := newRoot(t, "root")
	valid := root.issue(t, "server", nil)
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	called := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = names, nil }
	}
	one := root.issue(t, "intermediate 1", authority)
	two := one.issue(t, "intermediate 2", authority)
	rootFile := tempFile(t, "root.pem", root.certPEM())
	other := newRoot(t, "other root")
	self := selfSigned(t, "self", nil)

	sentAlong := other.issue(t, "server", nil)
	sentAlong.above = []*cert{other}

	// What looks self-signed and is not: its issuer has its name, and another key.
	namesake := newRoot(t, "self")
	pretender := namesake.issue(t, "self", nil)

	type options = client.TLSOptions
	for _, test := range []struct {
		name    string
		cert    *cert
		opts    options
		refused func(error) bool
		text    string
	}{
		{name: "valid", cert: valid, opts: options{ServerName: "localhost"}},
		{name: "IP SAN, of the address dialled", cert: valid},
		{name: "IP SAN", cert: valid, opts: options{ServerName: "::1"}},
		{name: "wildcard", cert: root.issue(t, "w", called("*.example.com")), opts: options{ServerName: "a.example.com"}},
		{name: "wildcard is for one label", cert: root.issue(t, "w", called("*.example.com")), opts: options{ServerName: "a.b.example.com"},
			refused: isHostname, text: "set ServerName to the name to expect"},
		{name: "wrong name", cert: valid, opts: options{ServerName: "example.com"},
			refused: isHostname, text: `TLS with "example.com": tls: failed to verify certificate: x509: certificate is valid for localhost, not example.com`},
		{name: "wrong IP", cert: valid, opts: options{ServerName: "127.0.0.2"}, refused: isHostname, text: "127.0.0.2"},
		{name: "a name for an address is none", cert: root.issue(t, "n", called("127.0.0.1")), refused: isHostname, text: "127.0.0.1"},
		{name: "expired", cert: root.issue(t, "e", expired), refused: isInvalid(x509.Expired), text: "is after"},
		{name: "not yet valid", cert: root.issue(t, "e", early), refused: isInvalid(x509.Expired), text: "is before"},
		{name: "unknown CA", cert: other.issue(t, "server", nil), refused: isUnknownAuthority, text: "set CAFile or CAPath to the authorities to trust"},
		{name: "no certificate for servers", cert: root.issue(t, "c", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), refused: isInvalid(x509.IncompatibleUsage), text: "incompatible key usage"},

		{name: "self-signed", cert: self, refused: isUnknownAuthority, text: "set AllowSelfSigned to accept every self-signed one"},
		{name: "self-signed, allowed", cert: self, opts: options{AllowSelfSigned: true}},
		{name: "self-signed, allowed, wrong name", cert: self, opts: options{AllowSelfSigned: true, ServerName: "example.com"}, refused: isHostname, text: "example.com"},
		{name: "self-signed, allowed, expired", cert: selfSigned(t, "s", expired), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "expired"},
		{name: "self-signed, allowed, not yet valid", cert: selfSigned(t, "s", early), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "not yet valid"},
		{name: "self-signed, allowed, not for servers", cert: selfSigned(t, "s", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.IncompatibleUsage), text: "key usage"},
		{name: "self-signed by name only, allowed", cert: pretender, opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "unknown CA, self-signed allowed", cert: other.issue(t, "server", nil), opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "unknown CA that is sent along, self-signed allowed", cert: sentAlong,
			opts: options{AllowSelfSigned: true}, refused: isUnknownAuthority, text: "unknown authority"},
		{name: "chain to a root, self-signed allowed", cert: two.issue(t, "server", nil), opts: options{AllowSelfSigned: true}},
		{name: "chain, expired, self-signed allowed", cert: root.issue(t, "e", expired), opts: options{AllowSelfSigned: true}, refused: isInvalid(x509.Expired), text: "expired"},
		{name: "the certificate itself is the root", cert: self, opts: options{CAFile: tempFile(t, "self.pem", self.certPEM())}},

		{name: "chain of two intermediates", cert: two.issue(t, "server", nil)},
		{name: "chain as deep as allowed", cert: two.issue(t, "server", nil), opts: options{VerifyDepth: 2}},
		{name: "chain too deep", cert: two.issue(t, "server", nil), opts: options{VerifyDepth: 1},
			refused: isInvalid(x509.TooManyIntermediates), text: "there are 2, and VerifyDepth allows 1"},
		{name: "no intermediate allowed", cert: one.issue(t, "server", nil), opts: options{VerifyDepth: -1},
			refused: isInvalid(x509.TooManyIntermediates), text: "there are 1, and VerifyDepth allows 0"},
		{name: "no intermediate allowed, and none there", cert: valid, opts: options{VerifyDepth: -1}},
		{name: "chain too deep, self-signed allowed", cert: two.issue(t, "server", nil), opts: options{VerifyDepth: 1, AllowSelfSigned: true},
			refused: isInvalid(x509.TooManyIntermediates), text: "VerifyDepth"},
		{name: "anything, if verification is off", cert: selfSigned(t, "s", expired), opts: options{InsecureSkipVerify: true, ServerName: "example.com"}},
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

func TestTheSystemsRootsAreTheDefault(t *testing.T) {
	got, err := listenTLS(t, "tcp", nil).outcome(t, &client.TLSOptions{ServerName: "localhost"})
	require.Truef(t, isUnknownAuthority(err), "%v", err)
	require.Empty(t, got)
}

func TestServerNameIsTheHostDialledAndSentUnlessAnAddress(t *testing.T) {
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

func TestRevocationLists(t *testing.T) {
	root := newRoot(t, "root")
	middle := root.issue(t, "intermediate", authority)
	server := middle.issue(t, "server", nil)
	direct := root.issue(t, "direct", nil)
	namesake := newRoot(t, "intermediate")
	pinned := tempFile(t, "pinned.pem", append(direct.certPEM(), root.certPEM()...))
	inPEM := func(lists ...[]byte) []byte {
		var b bytes.Buffer
		for _, l := range lists {
			_ = pem.Encode(&b, &pem.Block{Type: "X509 CRL", Bytes: l})
		}
		return b.Bytes()
	}
	old := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	for _, test := range []struct {
		name    string
		cert    *cert
		list    []byte
		opts    client.TLSOptions
		refused func(error) bool
		text    string
	}{
		{name: "nothing is revoked", cert: server, list: inPEM(middle.revoke(t, nil))},
		{name: "others are revoked", cert: server, list: inPEM(middle.revoke(t, nil, middle.issue(t, "x", nil)))},
		{name: "in DER", cert: server, list: middle.revoke(t, nil)},
		{name: "revoked", cert: server, list: inPEM(middle.revoke(t, nil, server)), refused: isRevocation(true), text: "as CRLFile says"},
		{name: "revoked, in DER", cert: server, list: middle.revoke(t, nil, server), refused: isRevocation(true), text: `certificate of "CN=server" is revoked`},
		{name: "revoked, self-signed allowed", cert: server, list: middle.revoke(t, nil, server), opts: client.TLSOptions{AllowSelfSigned: true}, refused: isRevocation(true), text: "revoked"},
		{name: "the second list says so", cert: server, list: inPEM(middle.revoke(t, nil), middle.revoke(t, nil, server)), refused: isRevocation(true), text: "revoked"},
		{name: "intermediate revoked", cert: server, list: inPEM(middle.revoke(t, nil), root.revoke(t, nil, middle)), refused: isRevocation(true), text: `"CN=intermediate" is revoked`},
		{name: "intermediate not revoked", cert: server, list: inPEM(middle.revoke(t, nil), root.revoke(t, nil))},
		{name: "no list of the issuer", cert: server, list: inPEM(root.revoke(t, nil)), refused: isRevocation(false), text: "no list of CN=intermediate"},
		{name: "list out of date", cert: server, list: inPEM(middle.revoke(t, old)), refused: isRevocation(false), text: "is out of date since"},
		{name: "list out of date, and a new one", cert: server, list: inPEM(middle.revoke(t, old), middle.revoke(t, nil))},
		{name: "intermediate's list out of date", cert: server, list: inPEM(middle.revoke(t, nil), root.revoke(t, old)), refused: isRevocation(false), text: "is out of date since"},
		{name: "list of tomorrow", cert: server, list: inPEM(middle.revoke(t, early)), refused: isRevocation(false), text: "not valid before"},
		{name: "list by a namesake of the issuer", cert: server, list: inPEM(namesake.revoke(t, nil)), refused: isRevocation(false), text: "is not signed with the key of that issuer"},
		{name: "signed by a root", cert: direct, list: inPEM(root.revoke(t, nil))},
		{name: "signed by a root, revoked", cert: direct, list: inPEM(root.revoke(t, nil, direct)), refused: isRevocation(true), text: "revoked"},
		{name: "trusted for itself, and not revoked", cert: direct, list: inPEM(root.revoke(t, nil)), opts: client.TLSOptions{CAFile: pinned}},
		{name: "trusted for itself, and revoked", cert: direct, list: inPEM(root.revoke(t, nil, direct)), opts: client.TLSOptions{CAFile: pinned}, refused: isRevocation(true), text: "as CRLFile says"},
		{name: "trusted for itself, and revoked by whose certificate came along", cert: server, list: inPEM(middle.revoke(t, nil, server)),
			opts: client.TLSOptions{CAFile: tempFile(t, "leaf.pem", server.certPEM()[:len(server.certPEM())-len(middle.certPEM())])}, refused: isRevocation(true), text: "as CRLFile says"},
		{name: "trusted for itself, and revoked by nobody knows whom", cert: direct, list: inPEM(root.revoke(t, nil, direct)),
			opts: client.TLSOptions{CAFile: tempFile(t, "leaf.pem", direct.certPEM())}},
		{name: "trusted for itself, and revoked by a namesake of its issuer", cert: server, list: inPEM(namesake.revoke(t, nil, server)),
			opts: client.TLSOptions{CAFile: tempFile(t, "leaf.pem", append(server.certPEM(), namesake.certPEM()...))}},
		{name: "self-signed has no issuer to revoke it", cert: selfSigned(t, "s", nil), list: inPEM(root.revoke(t, nil)), opts: client.TLSOptions{AllowSelfSigned: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := test.opts
			if opts.CAFile == "" {
				opts.CAFile = tempFile(t, "root.pem", root.certPEM())
			}
			opts.CRLFile = tempFile(t, "list", test.list)
			got, err := listenWith(t, "tcp", test.cert, nil).outcome(t, &opts)
			if test.refused == nil {
				require.NoError(t, err)
				require.Equal(t, "secret", got)
				return
			}
			require.Truef(t, test.refused(err), "%v", err)
			require.ErrorContains(t, err, test.text)
			require.Empty(t, got)
		})
	}
}

// answers signs an OCSP answer about c as its issuer, or as who is given.
func answers(t testing.TB, issuer, c *cert, change func(*ocsp.Response), as ...*cert) []byte {
	t.Helper()
	r := ocsp.Response{
		Status: ocsp.Good, SerialNumber: c.SerialNumber,
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(&r)
	}
	responder := issuer
	if len(as) > 0 {
		responder = as[0]
		r.Certificate = responder.Certificate
	}
	der, err := ocsp.CreateResponse(issuer.Certificate, responder.Certificate, r, responder.key)
	require.NoError(t, err)
	return der
}

func TestStapledAnswers(t *testing.T) {
	root := newRoot(t, "root")
	server := root.issue(t, "server", nil)
	signer := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }
	promise, err := asn1.Marshal([]int{5})
	require.NoError(t, err)
	promising := root.issue(t, "promising", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: promise}}
	})
	revoked := func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, time.Now().Add(-time.Minute) }
	unknown := func(r *ocsp.Response) { r.Status = ocsp.Unknown }
	old := func(r *ocsp.Response) {
		r.ThisUpdate, r.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(r *ocsp.Response) { r.ThisUpdate = time.Now().Add(time.Hour) }
	oldSigner := func(c *x509.Certificate) { signer(c); c.NotAfter = time.Now().Add(-time.Minute) }
	other := newRoot(t, "root")
	self := selfSigned(t, "self", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	endless := func(age time.Duration) func(*ocsp.Response) {
		return func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = time.Now().Add(-age), time.Time{} }
	}
	middle := root.issue(t, "intermediate", authority)
	below := middle.issue(t, "below", nil)
	pinned := tempFile(t, "pinned.pem", append(server.certPEM(), root.certPEM()...))
	alone := tempFile(t, "alone.pem", server.certPEM())
	for _, test := range []struct {
		name    string
		cert    *cert
		staple  []byte
		opts    client.TLSOptions
		refused func(error) bool
		text    string
	}{
		{name: "good", cert: server, staple: answers(t, root, server, nil)},
		{name: "good and required", cert: server, staple: answers(t, root, server, nil), opts: client.TLSOptions{RequireStaple: true}},
		{name: "none", cert: server},
		{name: "none, required", cert: server, opts: client.TLSOptions{RequireStaple: true}, refused: isRevocation(false), text: "RequireStaple is set"},
		{name: "none, promised", cert: promising, refused: isRevocation(false), text: "RFC 7633"},
		{name: "promised and there", cert: promising, staple: answers(t, root, promising, nil)},
		{name: "revoked", cert: server, staple: answers(t, root, server, revoked), refused: isRevocation(true), text: "as the stapled OCSP response says"},
		{name: "revoked, self-signed allowed", cert: server, staple: answers(t, root, server, revoked), opts: client.TLSOptions{AllowSelfSigned: true}, refused: isRevocation(true), text: "revoked"},
		{name: "unknown", cert: server, staple: answers(t, root, server, unknown), refused: isRevocation(false), text: "is unknown"},
		{name: "out of date", cert: server, staple: answers(t, root, server, old), refused: isRevocation(false), text: "was valid until"},
		{name: "of tomorrow", cert: server, staple: answers(t, root, server, early), refused: isRevocation(false), text: "not valid before"},
		{name: "about another", cert: server, staple: answers(t, root, promising, nil), refused: isRevocation(false), text: "cannot be used"},
		{name: "by a stranger", cert: server, staple: answers(t, other, server, nil), refused: isRevocation(false), text: "cannot be used"},
		{name: "by who may answer for the issuer", cert: server, staple: answers(t, root, server, nil, root.issue(t, "responder", signer))},
		{name: "by who might once", cert: server, staple: answers(t, root, server, nil, root.issue(t, "responder", oldSigner)), refused: isRevocation(false), text: "not valid for OCSP signing"},
		{name: "by another of the issuer's customers", cert: server, staple: answers(t, root, server, nil, root.issue(t, "customer", nil)), refused: isRevocation(false), text: "not valid for OCSP signing (RFC 6960"},
		{name: "by itself", cert: server, staple: answers(t, root, server, nil, server), refused: isRevocation(false), text: "not valid for OCSP signing"},
		{name: "with the issuer's own certificate", cert: server, staple: answers(t, root, server, nil, root)},
		{name: "with the intermediate's own certificate", cert: below, staple: answers(t, middle, below, nil, middle)},
		{name: "by who may answer for the root alone", cert: below, staple: answers(t, middle, below, nil, root.issue(t, "responder", signer)), refused: isRevocation(false), text: "is not signed by the issuer"},
		{name: "without an end, new", cert: server, staple: answers(t, root, server, endless(6*24*time.Hour))},
		{name: "without an end, old", cert: server, staple: answers(t, root, server, endless(8*24*time.Hour)), refused: isRevocation(false), text: "was valid until"},
		{name: "trusted for itself, good", cert: server, staple: answers(t, root, server, nil), opts: client.TLSOptions{CAFile: pinned, RequireStaple: true}},
		{name: "trusted for itself, revoked", cert: server, staple: answers(t, root, server, revoked), opts: client.TLSOptions{CAFile: pinned}, refused: isRevocation(true), text: "revoked"},
		{name: "trusted for itself, by nobody knows whom", cert: server, staple: answers(t, root, server, nil), opts: client.TLSOptions{CAFile: alone}},
		{name: "trusted for itself, by nobody knows whom, required", cert: server, staple: answers(t, root, server, nil),
			opts: client.TLSOptions{CAFile: alone, RequireStaple: true}, refused: isRevocation(false), text: "certificate is not known"},
		{name: "garbage", cert: server, staple: []byte("good"), refused: isRevocation(false), text: "cannot be used"},
		{name: "an error in place of an answer", cert: server, staple: ocsp.TryLaterErrorResponse, refused: isRevocation(false), text: "try later"},
		{name: "self-signed, of itself", cert: self, staple: answers(t, self, self, nil), opts: client.TLSOptions{AllowSelfSigned: true, RequireStaple: true}},
		{name: "garbage, if verification is off", cert: server, staple: []byte("good"), opts: client.TLSOptions{InsecureSkipVerify: true}},
	} {
		eachTLSVersion(t, func(t *testing.T, version uint16) {
			t.Run(test.name, func(t *testing.T) {
				s := listenWith(t, "tcp", test.cert, func(c *tls.Config) {
					c.MaxVersion = version
					c.Certificates[0].OCSPStaple = test.staple
				})
				opts := test.opts
				if opts.CAFile == "" {
					opts.CAFile = tempFile(t, "root.pem", root.certPEM())
				}
				got, err := s.outcome(t, &opts)
				if test.refused == nil {
					require.NoError(t, err)
					require.Equal(t, "secret", got)
					return
				}
				require.Truef(t, test.refused(err), "%v", err)
				require.ErrorContains(t, err, test.text)
				require.Empty(t, got)
			})
		})
	}
}

// A session that was begun by rules that accept anything is no reason to accept
// its server by rules that do not.
func TestAResumedSessionIsVerifiedAnew(t *testing.T) {
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

		strict := &client.TLSOptions{ServerName: "localhost", AllowSelfSigned: true, CAFile: tempFile(t, "other.pem", newRoot(t, "other").certPEM()), Config: config}
		got, err := s.outcome(t, strict)
		require.Truef(t, isUnknownAuthority(err), "%v", err)
		require.Empty(t, got)

		c, _ := s.handshakes(t, client.Options{TLS: lax}) // a session once more
		require.False(t, c.ConnectionState().DidResume)
		listed := &client.TLSOptions{ServerName: "localhost", AllowSelfSigned: true, CAFile: s.trust(t).CAFile, Config: config,
			CRLFile: tempFile(t, "list", s.cert.root.revoke(t, nil, s.cert))}
		got, err = s.outcome(t, listed)
		require.Truef(t, isRevocation(true)(err), "%v", err)
		require.Empty(t, got)
	})
}

func TestCallersVerificationComesOnTop(t *testing.T) {
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

func TestConfigsClockCounts(t *testing.T) {
	for _, selfSigned := range []bool{false, true} {
		s := listenTLS(t, "tcp", nil)
		opts := s.trust(t)
		opts.AllowSelfSigned = selfSigned
		opts.Config = &tls.Config{Time: func() time.Time { return time.Now().Add(24 * time.Hour) }}
		_, err := s.outcome(t, opts)
		require.Truef(t, isInvalid(x509.Expired)(err), "%v", err)
	}
}
