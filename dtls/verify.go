package dtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/blocksock/client"
	pion "github.com/pion/dtls/v3"
)

// A security is how one handshake knows the server: client.TLSOptions and Options made
// ready, with the files read.
type security struct {
	name     string      // to verify and to send (SNI)
	config   *tls.Config // the caller's
	verifier verifier
	insecure bool
	shown    *tls.Certificate // the client's own; nil: those of config
	protos   []string
	psk      []byte
	identity string

	// What the handshake has found out.
	certs    []*x509.Certificate
	chains   [][]*x509.Certificate
	panicked any // by a callback of config
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
	s := &security{
		config: t.Config, insecure: t.InsecureSkipVerify,
		psk: slices.Clone(d.PSK), identity: d.PSKIdentity,
	}
	if s.config == nil {
		s.config = &tls.Config{}
	}
	s.protos = s.config.NextProtos
	if t.NextProtos != nil {
		s.protos = t.NextProtos
	}
	var err error
	if s.name, err = s.serverName(t.ServerName, address); err != nil {
		return nil, err
	}
	if s.psk == nil {
		s.verifier, s.shown, err = load(t)
	}
	return s, err
}

// serverName is the name that the server has to prove.
func (s *security) serverName(name, address string) (string, error) {
	if name == "" {
		name = s.config.ServerName
	}
	if name != "" {
		return name, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.WithZone("").String() // a zone has a meaning on this machine only
	}
	if host == "" && !s.insecure && s.psk == nil {
		return "", &client.OptionError{Option: "TLS.ServerName", Reason: "is missing, and the address has no host that could take its place: set it to the name in the server's certificate"}
	}
	return host, nil
}

// Suites with authenticated encryption: the older ones leak by their timing (RFC 7457, 2.4).
// CCM is what small devices have (RFC 7925, 4).
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

// options are the same for pion.
func (s *security) options() []pion.ClientOption {
	options := []pion.ClientOption{pion.WithServerName(s.name)}
	if len(s.protos) > 0 {
		options = append(options, pion.WithSupportedProtocols(s.protos...))
	}
	if s.config.KeyLogWriter != nil {
		options = append(options, pion.WithKeyLogWriter(s.config.KeyLogWriter))
	}
	if s.psk != nil {
		return append(options, pion.WithCipherSuites(pskSuites...),
			pion.WithPSK(func([]byte) ([]byte, error) { return s.psk, nil }), pion.WithPSKIdentityHint([]byte(s.identity)))
	}
	certificates := s.config.Certificates
	if s.shown != nil {
		certificates = []tls.Certificate{*s.shown}
	}
	if len(certificates) > 0 {
		options = append(options, pion.WithCertificates(certificates...))
	}
	// pion can verify less than is asked for here, so that it must not verify by itself.
	return append(options, pion.WithCipherSuites(certificateSuites...),
		pion.WithInsecureSkipVerify(true), pion.WithVerifyPeerCertificate(s.verify))
}

// verify decides on the server's certificate, which the server has proved to have the key of. pion
// calls it before it sends anything that the server could take for the client's Finished.
func (s *security) verify(raw [][]byte, _ [][]*x509.Certificate) (err error) {
	defer func() {
		if s.panicked = recover(); s.panicked != nil { // on pion's goroutine nobody could catch it
			err = errors.New("a callback of TLS.Config has panicked")
		}
	}()
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
		return err
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

// rethrow panics as a callback of the caller's has.
func (s *security) rethrow() {
	if s.panicked != nil {
		panic(s.panicked)
	}
}

// state is what the handshake has settled.
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
