package dtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/tlsverify"
	pion "github.com/pion/dtls/v3"
)

// A security is how one handshake verifies the server: client.TLSOptions and Options, after
// the files were read.
type security struct {
	name     string      // to verify and to send (SNI)
	config   *tls.Config // the caller's
	verifier *tlsverify.Verifier
	protos   []string
	psk      []byte // nil: certificates
	identity string

	// What the handshake has found out.
	certs    []*x509.Certificate
	chains   [][]*x509.Certificate
	panicked any // by a function of config
}

func newSecurity(address string, t *client.TLSOptions, d *Options) (*security, error) {
	if t == nil {
		t = &client.TLSOptions{}
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	if err := d.checkTLS(t); err != nil {
		return nil, err
	}
	s := &security{config: t.Config, psk: slices.Clone(d.PSK), identity: d.PSKIdentity}
	if s.config == nil {
		s.config = &tls.Config{}
	}
	s.protos = s.config.NextProtos
	if t.NextProtos != nil {
		s.protos = t.NextProtos
	}
	var err error
	if s.name, err = s.serverName(t, address); err != nil {
		return nil, err
	}
	files := tlsverify.Config{
		CAFile: t.CAFile, CAPath: t.CAPath, RootCAs: s.config.RootCAs,
		CertFile: t.CertFile, KeyFile: t.KeyFile, Passphrase: t.Passphrase, CRLFile: t.CRLFile,
		AllowSelfSigned: t.AllowSelfSigned, VerifyDepth: t.VerifyDepth, InsecureSkipVerify: t.InsecureSkipVerify,
	}
	if s.verifier, err = files.Load(); err != nil {
		var field *tlsverify.FieldError
		errors.As(err, &field)
		return nil, &client.OptionError{Option: "TLS." + field.Field, Reason: field.Err.Error(), Err: field.Err}
	}
	return s, nil
}

// serverName returns the name to verify, which is sent to the server, too (SNI).
func (s *security) serverName(t *client.TLSOptions, address string) (string, error) {
	if t.ServerName != "" {
		return t.ServerName, nil
	}
	if s.config.ServerName != "" {
		return s.config.ServerName, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.WithZone("").String() // a zone has a meaning on this machine only
	}
	if host == "" && !t.InsecureSkipVerify && s.psk == nil {
		return "", &client.OptionError{Option: "TLS.ServerName", Reason: "is missing: set it, because the address has no host to verify"}
	}
	return host, nil
}

// All cipher suites have authenticated encryption: the timing of the older ones leaks
// plaintext (RFC 7457, 2.4). Small devices have CCM only (RFC 7925, 4).
var (
	certificateSuites = []pion.CipherSuiteID{
		pion.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, pion.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		pion.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, pion.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		pion.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, pion.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		pion.TLS_ECDHE_ECDSA_WITH_AES_128_CCM, pion.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8,
	}
	pskSuites = []pion.CipherSuiteID{
		pion.TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256, // the only one with forward secrecy
		pion.TLS_PSK_WITH_AES_128_GCM_SHA256, pion.TLS_PSK_WITH_CHACHA20_POLY1305_SHA256,
		pion.TLS_PSK_WITH_AES_128_CCM, pion.TLS_PSK_WITH_AES_128_CCM_8, pion.TLS_PSK_WITH_AES_256_CCM_8,
	}
)

// options returns the security as options of pion.
func (s *security) options() []pion.ClientOption {
	// RFC 6066, 3: the name is sent without a trailing dot.
	options := []pion.ClientOption{pion.WithServerName(strings.TrimRight(s.name, "."))}
	if len(s.protos) > 0 {
		options = append(options, pion.WithSupportedProtocols(s.protos...))
	}
	if s.config.KeyLogWriter != nil {
		options = append(options, pion.WithKeyLogWriter(keyLog{s.config.KeyLogWriter, s}))
	}
	if s.psk != nil {
		return append(options, pion.WithCipherSuites(pskSuites...),
			pion.WithPSK(func([]byte) ([]byte, error) { return s.psk, nil }), pion.WithPSKIdentityHint([]byte(s.identity)))
	}
	certificates := slices.Clone(s.config.Certificates)
	for i, c := range certificates {
		if key, ok := c.PrivateKey.(crypto.Signer); ok {
			certificates[i].PrivateKey = signer{key, s}
		}
	}
	if s.verifier.Certificate != nil {
		certificates = []tls.Certificate{*s.verifier.Certificate}
	}
	if len(certificates) > 0 {
		options = append(options, pion.WithCertificates(certificates...))
	}
	// pion does not verify: s.verify does it, and more than pion could.
	return append(options, pion.WithCipherSuites(certificateSuites...),
		pion.WithInsecureSkipVerify(true), pion.WithVerifyPeerCertificate(s.verify))
}

// A keyLog writes for one connection at a time, as crypto/tls does.
type keyLog struct {
	io.Writer
	security *security
}

var keyLogLock sync.Mutex

func (l keyLog) Write(p []byte) (n int, err error) {
	keyLogLock.Lock()
	defer keyLogLock.Unlock()
	defer l.security.catch(&err)
	return l.Writer.Write(p)
}

// A signer is a private key of the caller's.
type signer struct {
	crypto.Signer
	security *security
}

func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	defer s.security.catch(&err)
	return s.Signer.Sign(rand, digest, opts)
}

// verify verifies the server's certificates, of whose key the server has proved possession.
// pion calls it before it sends the client's Finished.
func (s *security) verify(raw [][]byte, _ [][]*x509.Certificate) (err error) {
	defer s.catch(&err)
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		s.certs = append(s.certs, c)
	}
	now := time.Now
	if s.config.Time != nil {
		now = s.config.Time
	}
	if s.chains, err = s.verifier.Verify(raw, s.name, now()); err != nil {
		return publicError(err)
	}
	if s.config.VerifyPeerCertificate != nil {
		if err := s.config.VerifyPeerCertificate(raw, s.chains); err != nil {
			return err
		}
	}
	if s.config.VerifyConnection != nil {
		return s.config.VerifyConnection(tls.ConnectionState{
			Version: pion.VersionDTLS12, ServerName: s.name, PeerCertificates: s.certs, VerifiedChains: s.chains,
		})
	}
	return nil
}

// publicError replaces internal/tlsverify's error about revocation with the one that users know.
func publicError(err error) error {
	var failed *tls.CertificateVerificationError
	var revocation *tlsverify.RevocationError
	if errors.As(err, &failed) && errors.As(failed.Err, &revocation) {
		failed.Err = (*client.RevocationError)(revocation)
	}
	return err
}

// catch is deferred where pion's goroutine calls a function of the caller's. See rethrow.
func (s *security) catch(err *error) {
	if p := recover(); p != nil {
		s.panicked = p
		*err = errors.New("a callback of TLS.Config has panicked")
	}
}

// rethrow panics in the goroutine of Dial if a function of the caller's has panicked.
func (s *security) rethrow() {
	if s.panicked != nil {
		panic(s.panicked)
	}
}

// state returns what the handshake has settled.
func (s *security) state(p *pion.Conn) tls.ConnectionState {
	state := tls.ConnectionState{
		Version: pion.VersionDTLS12, HandshakeComplete: true, ServerName: s.name,
		PeerCertificates: s.certs, VerifiedChains: s.chains,
	}
	if settled, ok := p.ConnectionState(); ok {
		state.CipherSuite, state.NegotiatedProtocol = uint16(settled.CipherSuiteID), settled.NegotiatedProtocol
	}
	return state
}
