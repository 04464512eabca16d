package tlsverify

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Protect changes config, which must be a copy for one connection, so that its handshake
// verifies the server as v says and shows v's certificate. The name to verify is
// config.ServerName. A ClientSessionCache is used for sessions that were begun with the same
// certificate and settings, and those end with the validity of what was verified. The
// callbacks of config that verify run after the verification here.
//
// After the handshake accepted returns the chains that were accepted.
func (v *Verifier) Protect(config *tls.Config) (accepted func() [][]*x509.Certificate) {
	config.RootCAs = v.Roots
	if v.Certificate != nil {
		config.Certificates, config.GetClientCertificate = []tls.Certificate{*v.Certificate}, nil
	}
	now := time.Now
	if config.Time != nil {
		now = config.Time
	}
	cache := v.sessionCache(config, now)
	config.ClientSessionCache = nil
	if cache != nil { // not a nil *sessionCache in the interface
		config.ClientSessionCache = cache
	}
	var chains [][]*x509.Certificate
	accepted = func() [][]*x509.Certificate { return chains }
	if v.config.InsecureSkipVerify {
		config.InsecureSkipVerify = true
		return accepted
	}
	// To accept self-signed certificates, too, crypto/tls must not verify at all.
	config.InsecureSkipVerify = v.config.AllowSelfSigned
	verifyPeer, verifyConnection := config.VerifyPeerCertificate, config.VerifyConnection
	config.VerifyPeerCertificate = nil // crypto/tls calls it before VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) (err error) {
		defer func() {
			if err != nil && cache != nil {
				cache.forget() // so that the next handshake is a full one
			}
		}()
		shown := peer{certs: state.PeerCertificates, staple: state.OCSPResponse}
		if !state.DidResume { // a session's chains were verified at another time, by other settings
			shown.chains = state.VerifiedChains
		}
		var until time.Time
		if chains, until, err = v.verify(shown, config.ServerName, now()); err != nil {
			return err
		}
		if cache != nil {
			cache.until = until
		}
		state.VerifiedChains = chains
		if verifyPeer != nil && !state.DidResume { // as in crypto/tls
			if err := verifyPeer(rawCertificates(state.PeerCertificates), chains); err != nil {
				return err
			}
		}
		if verifyConnection != nil {
			return verifyConnection(state)
		}
		return nil
	}
	return accepted
}

func rawCertificates(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	return raw
}

// Verify verifies the certificates of a server, its own first, in DER. name is the host name
// or IP address that the certificate must be for. It returns the accepted chains; with
// InsecureSkipVerify there are none. The error for a certificate that is not accepted is a
// *tls.CertificateVerificationError. There is no OCSP response, so RequireStaple refuses
// every certificate, and each one is refused that promises a response (RFC 7633).
func (v *Verifier) Verify(raw [][]byte, name string, now time.Time) (chains [][]*x509.Certificate, err error) {
	if v.config.InsecureSkipVerify {
		return nil, nil
	}
	var shown peer
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("malformed certificate of the server: %w", err)
		}
		shown.certs = append(shown.certs, c)
	}
	chains, _, err = v.verify(shown, name, now)
	return chains, err
}

// A peer is what a server has shown.
type peer struct {
	certs  []*x509.Certificate   // its own first
	chains [][]*x509.Certificate // that crypto/tls has verified in this handshake
	staple []byte                // OCSP response
}

// verify returns the acceptable chains of a server's certificate, and the time until which
// one of them is valid.
func (v *Verifier) verify(p peer, name string, now time.Time) (accepted [][]*x509.Certificate, until time.Time, err error) {
	fail := func(err error) ([][]*x509.Certificate, time.Time, error) {
		return nil, time.Time{}, &tls.CertificateVerificationError{UnverifiedCertificates: p.certs, Err: err}
	}
	if len(p.certs) == 0 {
		return fail(errors.New("the server has sent no certificate"))
	}
	chains := p.chains
	if chains == nil {
		if chains, err = v.chains(p.certs, name, now); err != nil {
			return fail(err)
		}
	}
	refused := errors.New("the certificate has no chain to verify")
	for i, chain := range chains {
		end, err := v.checkChain(chain, p, now)
		switch {
		case err == nil:
			accepted = append(accepted, chain)
			until = later(until, end)
		case i == 0:
			refused = err
		}
	}
	if accepted == nil {
		return fail(refused)
	}
	return accepted, until, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (v *Verifier) chains(certs []*x509.Certificate, name string, now time.Time) ([][]*x509.Certificate, error) {
	if name == "" { // x509.Certificate.Verify would then accept every name
		return nil, errors.New("there is no name to verify the certificate for: set ServerName")
	}
	leaf := certs[0]
	opts := x509.VerifyOptions{DNSName: name, Roots: v.Roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err == nil || !v.config.AllowSelfSigned || !IsSelfSigned(leaf) {
		return chains, err
	}
	opts.Roots, opts.Intermediates = x509.NewCertPool(), nil
	opts.Roots.AddCert(leaf)
	return leaf.Verify(opts) // name, validity and usage are checked as always
}

// IsSelfSigned reports whether a certificate is signed with its own key. That its issuer and
// its subject are the same proves nothing.
func IsSelfSigned(c *x509.Certificate) bool {
	return sameName(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// checkChain returns why a chain, the server's certificate first, is not acceptable, or the
// time until which it is.
func (v *Verifier) checkChain(chain []*x509.Certificate, p peer, now time.Time) (until time.Time, err error) {
	if depth, between := v.config.VerifyDepth, len(chain)-2; depth != 0 && between > max(depth, 0) {
		return until, fmt.Errorf("%w: there are %d, and VerifyDepth allows %d",
			x509.CertificateInvalidError{Cert: chain[0], Reason: x509.TooManyIntermediates}, between, max(depth, 0))
	}
	issuer := v.issuer(chain, p.certs)
	if err := v.checkLists(chain, p.certs, now); err != nil {
		return until, err
	}
	until = chain[0].NotAfter
	for _, c := range chain[1:] {
		until = earlier(until, c.NotAfter)
	}
	end, err := v.checkStaple(chain[0], issuer, p.staple, now)
	if err == nil && !end.IsZero() {
		until = earlier(until, end)
	}
	return until, err
}

// issuer returns the issuer of the first certificate of a chain. If the chain ends with that
// certificate the issuer is searched among the certificates that the server has sent and
// those of CAFile and CAPath. It is nil if it is not among them.
func (v *Verifier) issuer(chain, sent []*x509.Certificate) *x509.Certificate {
	leaf := chain[0]
	if len(chain) > 1 {
		return chain[1]
	}
	if IsSelfSigned(leaf) {
		return leaf
	}
	for _, c := range slices.Concat(sent[1:], v.anchors) {
		if sameName(c.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}
