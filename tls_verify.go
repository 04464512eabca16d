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
	anchors    []*x509.Certificate // of CAFile and CAPath
}

// forOne gives the config of one connection, and a function for the chains that
// its handshake has accepted.
func (s *security) forOne() (config *tls.Config, verified func() [][]*x509.Certificate) {
	config = s.config.Clone()
	cache := s.sessions()
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
	return bytes.Equal(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// accept says why a chain, leaf first, is not good enough, or how long it is.
func (v *verifier) accept(chain []*x509.Certificate, state tls.ConnectionState, now time.Time) (until time.Time, err error) {
	if between := len(chain) - 2; v.depth != 0 && between > max(v.depth, 0) {
		return until, fmt.Errorf("%w: there are %d, and VerifyDepth allows %d",
			x509.CertificateInvalidError{Cert: chain[0], Reason: x509.TooManyIntermediates}, between, max(v.depth, 0))
	}
	issuer := v.issuer(chain, state.PeerCertificates)
	if err := v.lookUp(chain, issuer, now); err != nil {
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

// issuer gives who has signed the leaf of a chain. Where the leaf is trusted
// itself the chain ends with it: then it is whoever is at hand and has signed it,
// or nil.
func (v *verifier) issuer(chain, sent []*x509.Certificate) *x509.Certificate {
	leaf := chain[0]
	if len(chain) > 1 {
		return chain[1]
	}
	if signsItself(leaf) {
		return leaf
	}
	for _, c := range slices.Concat(sent[1:], v.anchors) {
		if bytes.Equal(c.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// lookUp looks the certificates of a chain up in the revocation lists.
func (v *verifier) lookUp(chain []*x509.Certificate, issuer *x509.Certificate, now time.Time) error {
	if v.lists == nil {
		return nil
	}
	if len(chain) == 1 { // it is trusted for itself: a list is not needed, but believed
		_, err := v.listed(chain[0], issuer, now)
		return err
	}
	for i, c := range chain[:len(chain)-1] { // roots are not revoked but removed
		problem, err := v.listed(c, chain[i+1], now)
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(v.lists, func(l *x509.RevocationList) bool { return bytes.Equal(l.RawIssuer, c.RawIssuer) })
		if problem != "" && (i == 0 || known) {
			return &RevocationError{Certificate: c, Reason: problem}
		}
	}
	return nil
}

// listed gives an error for a certificate that a list has, and a problem if there
// is no list which could have it.
func (v *verifier) listed(c, issuer *x509.Certificate, now time.Time) (problem string, err error) {
	problem = "CRLFile has no list of " + c.Issuer.String()
	found := false
	for _, list := range v.lists {
		if issuer == nil || !bytes.Equal(list.RawIssuer, c.RawIssuer) {
			continue
		}
		if err := usableList(list, issuer, now); err != nil {
			problem = err.Error()
			continue
		}
		found = true
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return "", &RevocationError{Certificate: c, Revoked: true, Reason: "on " + entry.RevocationTime.Format(time.DateOnly) + ", as CRLFile says"}
			}
		}
	}
	if found {
		problem = ""
	}
	return problem, nil
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

// longestStaple is how old an OCSP answer may be that does not say when the next
// one is due.
const longestStaple = 7 * 24 * time.Hour

// checkStaple checks the OCSP answer that came with a certificate, and gives how
// long it is good; zero if there is none that matters.
func (v *verifier) checkStaple(leaf, issuer *x509.Certificate, staple []byte, now time.Time) (until time.Time, err error) {
	unknown := func(format string, args ...any) (time.Time, error) {
		return time.Time{}, &RevocationError{Certificate: leaf, Reason: fmt.Sprintf(format, args...)}
	}
	wanted := v.staple || mustStaple(leaf)
	switch {
	case len(staple) == 0 && v.staple:
		return unknown("the server has stapled no OCSP answer, and RequireStaple is set")
	case len(staple) == 0 && wanted:
		return unknown("the server has stapled no OCSP answer, which the certificate promises (RFC 7633)")
	case issuer == nil && wanted:
		return unknown("who could have signed the stapled OCSP answer is not known: the certificate is trusted for itself, and its issuer is not at hand")
	case len(staple) == 0 || issuer == nil:
		return until, nil
	}
	answer, err := ocsp.ParseResponseForCert(staple, leaf, nil)
	if err != nil {
		return unknown("the stapled OCSP answer cannot be used: %v", err)
	}
	if err := mayAnswer(answer, issuer, now); err != nil {
		return unknown("the stapled OCSP answer cannot be used: %v", err)
	}
	until = answer.NextUpdate
	if until.IsZero() {
		until = answer.ThisUpdate.Add(longestStaple)
	}
	switch {
	case answer.Status == ocsp.Revoked:
		return until, &RevocationError{Certificate: leaf, Revoked: true, Reason: "on " + answer.RevokedAt.Format(time.DateOnly) + ", as the stapled OCSP answer says"}
	case answer.Status != ocsp.Good:
		return unknown("the stapled OCSP answer knows nothing of it")
	case now.Before(answer.ThisUpdate):
		return unknown("the stapled OCSP answer is not valid before %s", answer.ThisUpdate)
	case now.After(until):
		return unknown("the stapled OCSP answer is of %s and was valid until %s", answer.ThisUpdate, until)
	}
	return until, nil
}

// mayAnswer says why an OCSP answer is not the issuer's word, nor that of one whom
// it has empowered (RFC 6960, 4.2.2.2). That a certificate which came along has
// signed it x/crypto has seen to; every customer of the issuer has one, and they
// must not vouch for each other.
func mayAnswer(answer *ocsp.Response, issuer *x509.Certificate, now time.Time) error {
	signer := answer.Certificate
	if signer == nil {
		return answer.CheckSignatureFrom(issuer)
	}
	if signer.Equal(issuer) {
		return nil
	}
	if err := issuer.CheckSignature(signer.SignatureAlgorithm, signer.RawTBSCertificate, signer.Signature); err != nil {
		return fmt.Errorf("its signer %q is not the issuer's: %w", signer.Subject, err)
	}
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return fmt.Errorf("its signer %q may not (RFC 6960, 4.2.2.2)", signer.Subject)
	}
	return nil
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
