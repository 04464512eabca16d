package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
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
	lists      []*x509.RevocationList
	staple     bool
}

// forOne gives the config of one connection, and a function for the chains that
// its handshake has accepted.
func (s *security) forOne() (config *tls.Config, verified func() [][]*x509.Certificate) {
	config = s.config.Clone()
	if s.off {
		config.InsecureSkipVerify = true
		return config, func() [][]*x509.Certificate { return nil }
	}
	// crypto/tls can only verify, or not: to accept one certificate more than it
	// does, everything is verified here.
	config.InsecureSkipVerify = s.verifier.selfSigned
	var chains [][]*x509.Certificate
	callers, roots, now := config.VerifyConnection, config.RootCAs, time.Now
	if config.Time != nil {
		now = config.Time
	}
	config.VerifyConnection = func(state tls.ConnectionState) (err error) {
		chains, err = s.verifier.verify(state, roots, config.ServerName, now())
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		state.VerifiedChains = chains
		if callers != nil {
			return callers(state)
		}
		return nil
	}
	return config, func() [][]*x509.Certificate { return chains }
}

// verify gives the chains of a server's certificate that are acceptable. What a
// session remembers to have been verified once, by whatever rules, it does not
// believe.
func (v *verifier) verify(state tls.ConnectionState, roots *x509.CertPool, name string, now time.Time) ([][]*x509.Certificate, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, errors.New("the peer has shown no certificate")
	}
	chains := state.VerifiedChains
	if v.selfSigned || state.DidResume {
		var err error
		if chains, err = v.chains(state.PeerCertificates, roots, name, now); err != nil {
			return nil, err
		}
	}
	var refused error
	chains = slices.DeleteFunc(slices.Clone(chains), func(chain []*x509.Certificate) bool {
		err := v.accept(chain, state.OCSPResponse, now)
		if refused == nil {
			refused = err
		}
		return err != nil
	})
	if len(chains) == 0 {
		return nil, refused
	}
	return chains, nil
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
	return bytes.Equal(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// accept says why a chain, leaf first, is not good enough, if it is not.
func (v *verifier) accept(chain []*x509.Certificate, staple []byte, now time.Time) error {
	switch between := len(chain) - 2; {
	case v.depth != 0 && between > max(v.depth, 0):
		return fmt.Errorf("%w: there are %d, and VerifyDepth allows %d",
			x509.CertificateInvalidError{Cert: chain[0], Reason: x509.TooManyIntermediates}, between, max(v.depth, 0))
	}
	if err := v.lookUp(chain, now); err != nil {
		return err
	}
	return v.checkStaple(chain, staple, now)
}

// lookUp looks the certificates of a chain up in the revocation lists.
func (v *verifier) lookUp(chain []*x509.Certificate, now time.Time) error {
	if v.lists == nil {
		return nil
	}
	for i, c := range chain[:len(chain)-1] { // roots are not revoked but removed
		listed, problem := false, "CRLFile has no list of "+c.Issuer.String()
		for _, list := range v.lists {
			if !bytes.Equal(list.RawIssuer, c.RawIssuer) {
				continue
			}
			if err := usableList(list, chain[i+1], now); err != nil {
				problem = err.Error()
				continue
			}
			listed = true
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return &RevocationError{Certificate: c, Revoked: true, Reason: "on " + entry.RevocationTime.Format(time.DateOnly) + ", as CRLFile says"}
				}
			}
		}
		known := slices.ContainsFunc(v.lists, func(l *x509.RevocationList) bool { return bytes.Equal(l.RawIssuer, c.RawIssuer) })
		if !listed && (i == 0 || known) {
			return &RevocationError{Certificate: c, Reason: problem}
		}
	}
	return nil
}

func usableList(list *x509.RevocationList, issuer *x509.Certificate, now time.Time) error {
	switch err := list.CheckSignatureFrom(issuer); {
	case err != nil:
		return fmt.Errorf("the list of %s in CRLFile is not its: %w", issuer.Subject, err)
	case now.Before(list.ThisUpdate):
		return fmt.Errorf("the list of %s in CRLFile is not valid before %s", issuer.Subject, list.ThisUpdate)
	case !list.NextUpdate.IsZero() && now.After(list.NextUpdate):
		return fmt.Errorf("the list of %s in CRLFile was to be replaced by %s", issuer.Subject, list.NextUpdate)
	}
	return nil
}

// revocationLists reads a CRLFile.
func revocationLists(file string) ([]*x509.RevocationList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lists, err := parseLists(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return lists, nil
}

func parseLists(data []byte) (lists []*x509.RevocationList, err error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	var encoded [][]byte
	for _, b := range blocks {
		if b.Type == "X509 CRL" {
			encoded = append(encoded, b.Bytes)
		}
	}
	if len(blocks) == 0 && len(data) > 0 {
		encoded = append(encoded, data) // in DER, then
	}
	for _, der := range encoded {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		if err := understood(list); err != nil {
			return nil, err
		}
		lists = append(lists, list)
	}
	if lists == nil {
		return nil, errors.New("has no revocation list")
	}
	return lists, nil
}

// understood refuses a list with a critical extension, which makes it a list of
// some certificates, or of changes, or of other issuers' certificates: who does
// not know what it means must not look anything up in it (RFC 5280, 5.2).
func understood(list *x509.RevocationList) error {
	critical := func(e pkix.Extension) bool { return e.Critical }
	if slices.ContainsFunc(list.Extensions, critical) {
		return fmt.Errorf("the list of %s has a critical extension: only complete lists can be used", list.Issuer)
	}
	for _, entry := range list.RevokedCertificateEntries {
		if slices.ContainsFunc(entry.Extensions, critical) {
			return fmt.Errorf("the list of %s has an entry with a critical extension: only an issuer's own certificates can be looked up", list.Issuer)
		}
	}
	return nil
}

// checkStaple checks the OCSP answer that came with the certificate.
func (v *verifier) checkStaple(chain []*x509.Certificate, staple []byte, now time.Time) error {
	leaf, issuer := chain[0], chain[min(1, len(chain)-1)]
	unknown := func(format string, args ...any) error {
		return &RevocationError{Certificate: leaf, Reason: fmt.Sprintf(format, args...)}
	}
	if len(staple) == 0 {
		switch {
		case v.staple:
			return unknown("the server has stapled no OCSP answer, and RequireStaple is set")
		case mustStaple(leaf):
			return unknown("the server has stapled no OCSP answer, which the certificate promises (RFC 7633)")
		}
		return nil
	}
	answer, err := ocsp.ParseResponseForCert(staple, leaf, issuer)
	switch {
	case err != nil:
		return unknown("the stapled OCSP answer cannot be used: %v", err)
	case !mayAnswer(answer.Certificate, issuer, now):
		return unknown("the stapled OCSP answer is signed by %q, which may not (RFC 6960, 4.2.2.2)", answer.Certificate.Subject)
	case answer.Status == ocsp.Revoked:
		return &RevocationError{Certificate: leaf, Revoked: true, Reason: "on " + answer.RevokedAt.Format(time.DateOnly) + ", as the stapled OCSP answer says"}
	case answer.Status != ocsp.Good:
		return unknown("the stapled OCSP answer knows nothing of it")
	case now.Before(answer.ThisUpdate):
		return unknown("the stapled OCSP answer is not valid before %s", answer.ThisUpdate)
	case !answer.NextUpdate.IsZero() && now.After(answer.NextUpdate):
		return unknown("the stapled OCSP answer is of %s and was valid until %s", answer.ThisUpdate, answer.NextUpdate)
	}
	return nil
}

// mayAnswer reports whether the certificate that came with an OCSP answer may
// sign one. That the issuer has signed it x/crypto has seen to; so it has for
// every other of its customers, who must not vouch for each other.
func mayAnswer(responder, issuer *x509.Certificate, now time.Time) bool {
	if responder == nil || responder.Equal(issuer) {
		return true
	}
	return slices.Contains(responder.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) &&
		!now.Before(responder.NotBefore) && !now.After(responder.NotAfter)
}

var tlsFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// mustStaple reports whether a certificate promises an OCSP answer (RFC 7633).
func mustStaple(c *x509.Certificate) bool {
	const statusRequest = 5
	for _, e := range c.Extensions {
		var features []int
		if !e.Id.Equal(tlsFeature) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &features); err != nil || slices.Contains(features, statusRequest) {
			return true
		}
	}
	return false
}
