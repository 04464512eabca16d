package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A RevocationError is about a certificate that its issuer has revoked, or whose
// revocation has to be looked up and could not be.
type RevocationError struct {
	Certificate *x509.Certificate
	Revoked     bool // it is; false: nobody knows
	Reason      string
}

func (e *RevocationError) Error() string {
	if e.Revoked {
		return fmt.Sprintf("certificate of %q is revoked: %s", e.Certificate.Subject, e.Reason)
	}
	return fmt.Sprintf("certificate of %q may be revoked: %s", e.Certificate.Subject, e.Reason)
}

// A verifier decides on a server's certificate.
type verifier struct {
	selfSigned bool
	depth      int
	lists      []*revocationList
	staple     bool
	anchors    []*x509.Certificate // of CAFile and CAPath
}

// forOne gives the config of one connection, and a function for the chains that
// its handshake has accepted.
func (s *security) forOne() (config *tls.Config, verified func() [][]*x509.Certificate) {
	config = s.config.Clone()
	cache := s.sessions()
	if config.KeyLogWriter != nil {
		config.KeyLogWriter = &keyLog{to: config.KeyLogWriter}
	}
	config.ClientSessionCache = nil
	if cache != nil {
		config.ClientSessionCache = cache
	}
	var chains [][]*x509.Certificate
	verified = func() [][]*x509.Certificate { return chains }
	if s.off {
		config.InsecureSkipVerify = true
		return config, verified
	}
	// crypto/tls can only verify, or not: to accept one certificate more than it
	// does, everything is verified here.
	config.InsecureSkipVerify = s.verifier.selfSigned
	verifyPeer, verifyConnection := config.VerifyPeerCertificate, config.VerifyConnection
	config.VerifyPeerCertificate = nil // before anything is verified it has nothing to go by
	roots, now := config.RootCAs, time.Now
	if config.Time != nil {
		now = config.Time
	}
	config.VerifyConnection = func(state tls.ConnectionState) (err error) {
		defer func() {
			if err != nil && cache != nil {
				cache.forget() // the next handshake is to be a whole one
			}
		}()
		var until time.Time
		chains, until, err = s.verifier.verify(state, roots, config.ServerName, now())
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if cache != nil {
			cache.until = until
		}
		state.VerifiedChains = chains
		if verifyPeer != nil && !state.DidResume { // as crypto/tls has it
			if err := verifyPeer(encoded(state.PeerCertificates), chains); err != nil {
				return err
			}
		}
		if verifyConnection != nil {
			return verifyConnection(state)
		}
		return nil
	}
	return config, verified
}

func encoded(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	return raw
}

// verify gives the chains of a server's certificate that are acceptable, and how
// long one of them is. What a session remembers to have been verified once, by
// whatever rules, it does not believe.
func (v *verifier) verify(state tls.ConnectionState, roots *x509.CertPool, name string, now time.Time) (accepted [][]*x509.Certificate, until time.Time, err error) {
	if len(state.PeerCertificates) == 0 {
		return nil, until, errors.New("the peer has shown no certificate")
	}
	chains := state.VerifiedChains
	if v.selfSigned || state.DidResume {
		if chains, err = v.chains(state.PeerCertificates, roots, name, now); err != nil {
			return nil, until, err
		}
	}
	refused := errors.New("there is no chain to verify")
	for i, chain := range chains {
		end, err := v.accept(chain, state, now)
		switch {
		case err == nil:
			accepted = append(accepted, chain)
			until = later(until, end)
		case i == 0:
			refused = err
		}
	}
	if accepted == nil {
		return nil, until, refused
	}
	return accepted, until, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (v *verifier) chains(certs []*x509.Certificate, roots *x509.CertPool, name string, now time.Time) ([][]*x509.Certificate, error) {
	leaf := certs[0]
	opts := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err == nil || !v.selfSigned || !signsItself(leaf) {
		return chains, err
	}
	opts.Roots, opts.Intermediates = x509.NewCertPool(), nil
	opts.Roots.AddCert(leaf)
	return leaf.Verify(opts) // name, dates and use, as of any other
}

// signsItself reports whether a certificate is signed by its own key. That it
// says so proves nothing.
func signsItself(c *x509.Certificate) bool {
	return sameName(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// accept says why a chain, leaf first, is not good enough, or how long it is.
func (v *verifier) accept(chain []*x509.Certificate, state tls.ConnectionState, now time.Time) (until time.Time, err error) {
	if between := len(chain) - 2; v.depth != 0 && between > max(v.depth, 0) {
		return until, fmt.Errorf("%w: there are %d, and VerifyDepth allows %d",
			x509.CertificateInvalidError{Cert: chain[0], Reason: x509.TooManyIntermediates}, between, max(v.depth, 0))
	}
	issuer := v.issuer(chain, state.PeerCertificates)
	if err := v.lookUp(chain, state.PeerCertificates, now); err != nil {
		return until, err
	}
	until = chain[0].NotAfter
	for _, c := range chain[1:] {
		until = sooner(until, c.NotAfter)
	}
	end, err := v.checkStaple(chain[0], issuer, state.OCSPResponse, now)
	if err == nil && !end.IsZero() {
		until = sooner(until, end)
	}
	return until, err
}

// issuer returns the issuer of the first certificate of a chain. If the chain ends with that
// certificate the issuer is searched among the certificates that the server has sent and
// those of CAFile and CAPath. It is nil if it is not among them.
func (v *verifier) issuer(chain, sent []*x509.Certificate) *x509.Certificate {
	leaf := chain[0]
	if len(chain) > 1 {
		return chain[1]
	}
	if signsItself(leaf) {
		return leaf
	}
	for _, c := range slices.Concat(sent[1:], v.anchors) {
		if sameName(c.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}
