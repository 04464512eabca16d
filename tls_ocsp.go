package client

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // the hashes that name an issuer
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

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
	answer, err := parseOCSP(staple)
	if err == nil {
		err = v.mayAnswer(answer, issuer, now)
	}
	if err != nil {
		return unknown("the stapled OCSP answer cannot be used: %v", err)
	}
	about, err := answer.about(leaf, issuer)
	if err != nil {
		return unknown("the stapled OCSP answer cannot be used: %v", err)
	}
	// An answer may have a certificate several times, by different hashes. All must be good.
	for _, single := range about {
		if single.Status.Tag == ocspRevoked {
			on, err := single.revokedAt()
			if err != nil {
				return unknown("the stapled OCSP answer cannot be used: %v", err)
			}
			return until, &RevocationError{Certificate: leaf, Revoked: true, Reason: "on " + on.Format(time.DateOnly) + ", as the stapled OCSP answer says"}
		}
	}
	for _, single := range about {
		end := single.NextUpdate
		if end.IsZero() {
			end = single.ThisUpdate.Add(longestStaple)
		}
		switch {
		case single.Status.Tag != ocspGood:
			return unknown("the stapled OCSP answer knows nothing of it")
		case now.Add(clockSkew).Before(single.ThisUpdate):
			return unknown("the stapled OCSP answer is not valid before %s", single.ThisUpdate)
		case now.After(end):
			return unknown("the stapled OCSP answer is of %s and was valid until %s", single.ThisUpdate, end)
		}
		if until.IsZero() || end.Before(until) {
			until = end
		}
	}
	return until, nil
}

// An ocspAnswer is a BasicOCSPResponse: RFC 6960, 4.2.1. The parser of
// x/crypto compares the serial number alone, and takes the first certificate in the answer
// for the signer's.
type ocspAnswer struct {
	Data         ocspData
	Algorithm    pkix.AlgorithmIdentifier
	Signature    asn1.BitString
	Certificates []asn1.RawValue `asn1:"explicit,tag:0,optional"`
}

type ocspData struct {
	Raw        asn1.RawContent
	Version    int `asn1:"optional,default:0,explicit,tag:0"`
	Responder  asn1.RawValue
	Produced   time.Time `asn1:"generalized"`
	Responses  []ocspSingle
	Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
}

type ocspSingle struct {
	ID         ocspCertID
	Status     asn1.RawValue
	ThisUpdate time.Time        `asn1:"generalized"`
	NextUpdate time.Time        `asn1:"generalized,explicit,tag:0,optional"`
	Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
}

type ocspCertID struct {
	Hash       pkix.AlgorithmIdentifier
	IssuerName []byte
	IssuerKey  []byte
	Serial     *big.Int
}

// The tags of CertStatus.
const (
	ocspGood    = 0
	ocspRevoked = 1
	ocspUnknown = 2
)

// revokedAt reads the time of a RevokedInfo.
func (s *ocspSingle) revokedAt() (time.Time, error) {
	var at time.Time
	_, err := asn1.UnmarshalWithParams(s.Status.Bytes, &at, "generalized")
	return at, err
}

var oidBasicOCSP = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

// parseOCSP parses an answer, and refuses one that has something not supported here.
func parseOCSP(der []byte) (*ocspAnswer, error) {
	var outer struct {
		Status asn1.Enumerated
		Answer struct {
			Type  asn1.ObjectIdentifier
			Basic []byte
		} `asn1:"explicit,tag:0,optional"`
	}
	if err := unmarshalAll(der, &outer); err != nil {
		return nil, err
	}
	switch {
	case outer.Status != 0:
		return nil, fmt.Errorf("the responder answered with the error %q", ocspError(outer.Status))
	case !outer.Answer.Type.Equal(oidBasicOCSP):
		return nil, fmt.Errorf("its type is %v; only the basic type is supported", outer.Answer.Type)
	}
	answer := new(ocspAnswer)
	if err := unmarshalAll(outer.Answer.Basic, answer); err != nil {
		return nil, err
	}
	critical := func(e pkix.Extension) bool { return e.Critical }
	switch {
	case answer.Data.Version != 0:
		return nil, fmt.Errorf("its version is %d; only version 1 is supported", answer.Data.Version+1)
	case slices.ContainsFunc(answer.Data.Extensions, critical):
		return nil, errors.New("it has a critical extension")
	}
	for _, single := range answer.Data.Responses {
		status := single.Status
		switch {
		case slices.ContainsFunc(single.Extensions, critical):
			return nil, errors.New("it has a critical extension")
		case status.Class != asn1.ClassContextSpecific || status.Tag > ocspUnknown, status.Tag != ocspRevoked && len(status.Bytes) > 0:
			return nil, errors.New("it has a malformed status")
		case !single.NextUpdate.IsZero() && single.NextUpdate.Before(single.ThisUpdate):
			return nil, errors.New("its nextUpdate is before its thisUpdate")
		}
	}
	return answer, nil
}

func unmarshalAll(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing data")
	}
	return err
}

// ocspError names an OCSPResponseStatus: RFC 6960, 4.2.1.
func ocspError(status asn1.Enumerated) string {
	names := [...]string{1: "malformed request", 2: "internal error", 3: "try later", 5: "signature required", 6: "unauthorized"}
	if status > 0 && int(status) < len(names) && names[status] != "" {
		return names[status]
	}
	return fmt.Sprint("status ", int(status))
}

// about returns the statuses of a certificate. The serial number is not enough to find
// them: another issuer may have used the same one (RFC 6960, 3.2).
func (a *ocspAnswer) about(leaf, issuer *x509.Certificate) (singles []ocspSingle, err error) {
	key, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	err = errors.New("it has no status of this certificate")
	for _, single := range a.Data.Responses {
		id := single.ID
		if leaf.SerialNumber.Cmp(id.Serial) != 0 {
			continue
		}
		hash := ocspHash(id.Hash.Algorithm)
		switch {
		case hash == 0:
			err = fmt.Errorf("its hash algorithm %v is not supported", id.Hash.Algorithm)
		case !bytes.Equal(id.IssuerName, sum(hash, issuer.RawSubject)) || !bytes.Equal(id.IssuerKey, sum(hash, key)):
			err = errors.New("its status is of another issuer's certificate with the same serial number")
		default:
			singles = append(singles, single)
		}
	}
	if singles != nil {
		return singles, nil
	}
	return nil, err
}

func ocspHash(oid asn1.ObjectIdentifier) crypto.Hash {
	switch oid.String() {
	case "1.3.14.3.2.26":
		return crypto.SHA1
	case "2.16.840.1.101.3.4.2.1":
		return crypto.SHA256
	case "2.16.840.1.101.3.4.2.2":
		return crypto.SHA384
	case "2.16.840.1.101.3.4.2.3":
		return crypto.SHA512
	}
	return 0
}

func sum(hash crypto.Hash, p []byte) []byte {
	h := hash.New()
	_, _ = h.Write(p)
	return h.Sum(nil)
}

// keyBits returns the public key of a certificate as OCSP hashes it: the BIT STRING without
// tag, length and number of unused bits (RFC 6960, 4.1.1).
func keyBits(c *x509.Certificate) ([]byte, error) {
	var key struct {
		Algorithm asn1.RawValue
		Bits      asn1.BitString
	}
	if err := unmarshalAll(c.RawSubjectPublicKeyInfo, &key); err != nil {
		return nil, fmt.Errorf("the issuer's key: %w", err)
	}
	return key.Bits.RightAlign(), nil
}

// mayAnswer returns an error unless the answer is signed by the issuer or by a responder
// that the issuer has authorized (RFC 6960, 4.2.2.2). The issuer's signature on the
// responder's certificate is not enough: every server has one. The certificates in the
// answer may have any order.
func (v *verifier) mayAnswer(answer *ocspAnswer, issuer *x509.Certificate, now time.Time) error {
	algorithm, err := ocspAlgorithm(answer.Algorithm.Algorithm)
	if err != nil {
		return err
	}
	signers := []*x509.Certificate{issuer}
	for _, raw := range answer.Certificates {
		// A certificate that cannot be parsed cannot be the signer's.
		if c, err := x509.ParseCertificate(raw.FullBytes); err == nil {
			signers = append(signers, c)
		}
	}
	problem := errors.New("the responder that it names is neither the issuer nor the subject of a certificate in it")
	for _, signer := range signers {
		if !answer.isBy(signer) {
			continue
		}
		err := signer.CheckSignature(algorithm, answer.Data.Raw, answer.Signature.RightAlign())
		if err == nil {
			err = v.isAuthorized(signer, issuer, now)
		}
		if err == nil {
			return nil
		}
		problem = err
	}
	return problem
}

// isBy reports whether the ResponderID names the subject of a certificate (RFC 6960, 4.2.2.3).
func (a *ocspAnswer) isBy(signer *x509.Certificate) bool {
	const byName, byKey = 1, 2
	id := a.Data.Responder
	switch {
	case id.Class != asn1.ClassContextSpecific:
	case id.Tag == byName:
		return sameName(id.Bytes, signer.RawSubject)
	case id.Tag == byKey:
		var hash []byte
		key, err := keyBits(signer)
		return err == nil && unmarshalAll(id.Bytes, &hash) == nil && bytes.Equal(hash, sum(crypto.SHA1, key))
	}
	return false
}

func (v *verifier) isAuthorized(signer, issuer *x509.Certificate, now time.Time) error {
	if signer.Equal(issuer) {
		return nil
	}
	if !sameName(signer.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("its signer %q is not the issuer's, which is %q", signer.Subject, issuer.Subject)
	}
	if err := issuer.CheckSignature(signer.SignatureAlgorithm, signer.RawTBSCertificate, signer.Signature); err != nil {
		return fmt.Errorf("its signer %q is not the issuer's: %w", signer.Subject, err)
	}
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return fmt.Errorf("its signer %q may not (RFC 6960, 4.2.2.2)", signer.Subject)
	}
	_, err := v.listed(signer, issuer, now) // it may be revoked as well
	return err
}

// ocspAlgorithm returns the signature algorithm of an OID, out of those that crypto/x509
// does not reject as insecure.
func ocspAlgorithm(oid asn1.ObjectIdentifier) (x509.SignatureAlgorithm, error) {
	switch oid.String() {
	case "1.2.840.113549.1.1.11":
		return x509.SHA256WithRSA, nil
	case "1.2.840.113549.1.1.12":
		return x509.SHA384WithRSA, nil
	case "1.2.840.113549.1.1.13":
		return x509.SHA512WithRSA, nil
	case "1.2.840.10045.4.3.2":
		return x509.ECDSAWithSHA256, nil
	case "1.2.840.10045.4.3.3":
		return x509.ECDSAWithSHA384, nil
	case "1.2.840.10045.4.3.4":
		return x509.ECDSAWithSHA512, nil
	case "1.3.101.112":
		return x509.PureEd25519, nil
	}
	return 0, fmt.Errorf("its signature algorithm %v is not one of RSA (PKCS #1) or ECDSA with SHA-256, SHA-384 or SHA-512, or Ed25519", oid)
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
