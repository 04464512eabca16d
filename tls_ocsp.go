package client

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // the hashes that name an issuer
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	asn1oid "encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// longestStaple is how old an OCSP answer may be that does not say when the next
// one is due.
const longestStaple = 7 * 24 * time.Hour

// clockSkew is how far the clock of a responder may be ahead. It is the default of
// openssl-ocsp(1), -validity_period. openssl allows none for the lists.
const clockSkew = 5 * time.Minute

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
	// An answer may have a certificate several times, by different hashes or of several days.
	// Revocation is final. Otherwise those that are valid now count: one that is good is
	// enough, unless another does not know the certificate.
	for _, single := range about {
		if single.status == ocspRevoked {
			return until, &RevocationError{Certificate: leaf, Revoked: true, Reason: "on " + single.revokedAt.Format(time.DateOnly) + ", as the stapled OCSP answer says"}
		}
	}
	var invalid error
	for _, single := range about {
		end := single.nextUpdate
		if end.IsZero() {
			end = single.thisUpdate.Add(longestStaple)
		}
		switch {
		case now.Add(clockSkew).Before(single.thisUpdate):
			_, invalid = unknown("the stapled OCSP answer is not valid before %s", single.thisUpdate)
		case now.After(end):
			_, invalid = unknown("the stapled OCSP answer is of %s and was valid until %s", single.thisUpdate, end)
		case single.status != ocspGood:
			return unknown("the stapled OCSP answer knows nothing of it")
		default:
			until = later(until, end)
		}
	}
	if until.IsZero() {
		return until, invalid
	}
	return until, nil
}

// An ocspAnswer is a BasicOCSPResponse: RFC 6960, 4.2.1. The parser of
// x/crypto compares the serial number alone, and takes the first certificate in the answer
// for the signer's.
type ocspAnswer struct {
	signed       []byte // ResponseData
	responderTag asn1.Tag
	responder    []byte
	singles      []ocspSingle
	algorithm    asn1oid.ObjectIdentifier
	signature    []byte
	certificates [][]byte
}

type ocspSingle struct {
	hash                   asn1oid.ObjectIdentifier
	issuerName, issuerKey  []byte // hashed
	serial                 *big.Int
	status                 asn1.Tag
	revokedAt              time.Time
	thisUpdate, nextUpdate time.Time
}

// CertStatus: RFC 6960, 4.2.1.
var (
	ocspGood    = contextTag(0)
	ocspRevoked = contextTag(1).Constructed()
	ocspUnknown = contextTag(2)
)

var oidBasicOCSP = asn1oid.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

var errMalformedOCSP = errors.New("malformed (RFC 6960, 4.2.1)")

// parseOCSP parses an answer, and refuses one that has something not supported here.
func parseOCSP(der []byte) (*ocspAnswer, error) {
	in := cryptobyte.String(der)
	var response, answer, typed, basic cryptobyte.String
	var status int
	var present bool
	var kind asn1oid.ObjectIdentifier
	if !in.ReadASN1(&response, asn1.SEQUENCE) || !in.Empty() ||
		!response.ReadASN1Enum(&status) ||
		!response.ReadOptionalASN1(&answer, &present, contextTag(0).Constructed()) || !response.Empty() {
		return nil, errMalformedOCSP
	}
	if status != 0 {
		return nil, fmt.Errorf("the responder answered with the error %q", ocspError(status))
	}
	if !answer.ReadASN1(&typed, asn1.SEQUENCE) || !answer.Empty() || !typed.ReadASN1ObjectIdentifier(&kind) {
		return nil, errMalformedOCSP
	}
	if !kind.Equal(oidBasicOCSP) {
		return nil, fmt.Errorf("its type is %v; only the basic type is supported", kind)
	}
	if !typed.ReadASN1(&basic, asn1.OCTET_STRING) || !typed.Empty() {
		return nil, errMalformedOCSP
	}
	return parseBasicOCSP(basic)
}

func parseBasicOCSP(in cryptobyte.String) (*ocspAnswer, error) {
	a := new(ocspAnswer)
	var basic, data, wrapped, certificates cryptobyte.String
	var present bool
	if !in.ReadASN1(&basic, asn1.SEQUENCE) || !in.Empty() ||
		!basic.ReadASN1Element(&data, asn1.SEQUENCE) ||
		!readAlgorithm(&basic, &a.algorithm) ||
		!basic.ReadASN1BitStringAsBytes(&a.signature) ||
		!basic.ReadOptionalASN1(&wrapped, &present, contextTag(0).Constructed()) || !basic.Empty() {
		return nil, errMalformedOCSP
	}
	if present && (!wrapped.ReadASN1(&certificates, asn1.SEQUENCE) || !wrapped.Empty()) {
		return nil, errMalformedOCSP
	}
	for !certificates.Empty() {
		var one cryptobyte.String
		var tag asn1.Tag
		if !certificates.ReadAnyASN1Element(&one, &tag) {
			return nil, errMalformedOCSP
		}
		a.certificates = append(a.certificates, one)
	}
	a.signed = data
	return a, a.parseData(data)
}

func (a *ocspAnswer) parseData(in cryptobyte.String) error {
	var data, responder, singles cryptobyte.String
	var produced time.Time
	var version int
	if !in.ReadASN1(&data, asn1.SEQUENCE) || !in.Empty() ||
		!data.ReadOptionalASN1Integer(&version, contextTag(0).Constructed(), 0) {
		return errMalformedOCSP
	}
	if version != 0 {
		return fmt.Errorf("its version is %d; only version 1 is supported", version+1)
	}
	if !data.ReadAnyASN1(&responder, &a.responderTag) ||
		!readTime(&data, &produced) || !data.ReadASN1(&singles, asn1.SEQUENCE) {
		return errMalformedOCSP
	}
	a.responder = responder
	if err := readOCSPExtensions(&data); err != nil {
		return err
	}
	for !singles.Empty() {
		single, err := parseOCSPSingle(&singles)
		if err != nil {
			return err
		}
		a.singles = append(a.singles, single)
	}
	return nil
}

func parseOCSPSingle(in *cryptobyte.String) (s ocspSingle, err error) {
	var single, id, status, next, reason cryptobyte.String
	var code int
	var present bool
	s.serial = new(big.Int)
	if !in.ReadASN1(&single, asn1.SEQUENCE) ||
		!single.ReadASN1(&id, asn1.SEQUENCE) ||
		!readAlgorithm(&id, &s.hash) ||
		!id.ReadASN1Bytes(&s.issuerName, asn1.OCTET_STRING) ||
		!id.ReadASN1Bytes(&s.issuerKey, asn1.OCTET_STRING) ||
		!id.ReadASN1Integer(s.serial) || !id.Empty() ||
		!single.ReadAnyASN1(&status, &s.status) {
		return s, errMalformedOCSP
	}
	whole := status.Empty()
	switch s.status {
	case ocspGood, ocspUnknown:
	case ocspRevoked:
		whole = readTime(&status, &s.revokedAt) &&
			status.ReadOptionalASN1(&reason, &present, contextTag(0).Constructed()) && status.Empty() &&
			(!present || reason.ReadASN1Enum(&code) && reason.Empty())
	default:
		whole = false
	}
	if !whole {
		return s, errors.New("it has a malformed status")
	}
	if !readTime(&single, &s.thisUpdate) ||
		!single.ReadOptionalASN1(&next, &present, contextTag(0).Constructed()) ||
		present && (!readTime(&next, &s.nextUpdate) || !next.Empty()) {
		return s, errMalformedOCSP
	}
	if present && s.nextUpdate.Before(s.thisUpdate) {
		return s, errors.New("its nextUpdate is before its thisUpdate")
	}
	return s, readOCSPExtensions(&single)
}

// readOCSPExtensions reads the extensions at the end of in, if there are any.
func readOCSPExtensions(in *cryptobyte.String) error {
	var wrapped cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&wrapped, &present, contextTag(1).Constructed()) || !in.Empty() {
		return errMalformedOCSP
	}
	if !present {
		return nil
	}
	extensions, ok := readExtensions(&wrapped)
	if !ok || !wrapped.Empty() {
		return errMalformedOCSP
	}
	if slices.ContainsFunc(extensions, func(e pkix.Extension) bool { return e.Critical }) {
		return errors.New("it has a critical extension")
	}
	return nil
}

// ocspError names an OCSPResponseStatus: RFC 6960, 4.2.1.
func ocspError(status int) string {
	names := [...]string{1: "malformed request", 2: "internal error", 3: "try later", 5: "signature required", 6: "unauthorized"}
	if status > 0 && status < len(names) && names[status] != "" {
		return names[status]
	}
	return fmt.Sprint("status ", status)
}

// about returns the statuses of a certificate. The serial number is not enough to find
// them: another issuer may have used the same one (RFC 6960, 3.2).
func (a *ocspAnswer) about(leaf, issuer *x509.Certificate) (singles []ocspSingle, err error) {
	key, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	err = errors.New("it has no status of this certificate")
	for _, single := range a.singles {
		if leaf.SerialNumber.Cmp(single.serial) != 0 {
			continue
		}
		hash := ocspHash(single.hash)
		switch {
		case hash == 0:
			err = fmt.Errorf("its hash algorithm %v is not supported", single.hash)
		case !bytes.Equal(single.issuerName, sum(hash, issuer.RawSubject)) || !bytes.Equal(single.issuerKey, sum(hash, key)):
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

func ocspHash(oid asn1oid.ObjectIdentifier) crypto.Hash {
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
func keyBits(c *x509.Certificate) (bits []byte, err error) {
	in := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var key cryptobyte.String
	if !in.ReadASN1(&key, asn1.SEQUENCE) || !in.Empty() || !key.SkipASN1(asn1.SEQUENCE) || !key.ReadASN1BitStringAsBytes(&bits) || !key.Empty() {
		return nil, errors.New("the issuer's key is malformed")
	}
	return bits, nil
}

// mayAnswer returns an error unless the answer is signed by the issuer or by a responder
// that the issuer has authorized (RFC 6960, 4.2.2.2). The issuer's signature on the
// responder's certificate is not enough: every server has one. The certificates in the
// answer may have any order.
func (v *verifier) mayAnswer(answer *ocspAnswer, issuer *x509.Certificate, now time.Time) error {
	algorithm, err := ocspAlgorithm(answer.algorithm)
	if err != nil {
		return err
	}
	signers := []*x509.Certificate{issuer}
	for _, raw := range answer.certificates {
		// A certificate that cannot be parsed cannot be the signer's.
		if c, err := x509.ParseCertificate(raw); err == nil {
			signers = append(signers, c)
		}
	}
	problem := errors.New("the responder that it names is neither the issuer nor the subject of a certificate in it")
	for _, signer := range signers {
		if !answer.isBy(signer) {
			continue
		}
		err := signer.CheckSignature(algorithm, answer.signed, answer.signature)
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
	switch a.responderTag {
	case contextTag(1).Constructed(): // byName
		return sameName(a.responder, signer.RawSubject)
	case contextTag(2).Constructed(): // byKey
		in := cryptobyte.String(a.responder)
		var hash []byte
		key, err := keyBits(signer)
		return err == nil && in.ReadASN1Bytes(&hash, asn1.OCTET_STRING) && in.Empty() && bytes.Equal(hash, sum(crypto.SHA1, key))
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
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || now.Before(signer.NotBefore) || now.After(signer.NotAfter) || len(signer.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("its signer %q may not (RFC 6960, 4.2.2.2)", signer.Subject)
	}
	_, err := v.listed(signer, issuer, now) // it may be revoked as well
	return err
}

// ocspAlgorithm returns the signature algorithm of an OID, out of those that crypto/x509
// verifies in an OCSP answer. SHA-1 is among them: unlike a certificate, an answer has
// nothing in it that its requester could choose, but for a nonce, which no staple has.
func ocspAlgorithm(oid asn1oid.ObjectIdentifier) (x509.SignatureAlgorithm, error) {
	switch oid.String() {
	case "1.2.840.113549.1.1.5":
		return x509.SHA1WithRSA, nil
	case "1.2.840.113549.1.1.11":
		return x509.SHA256WithRSA, nil
	case "1.2.840.113549.1.1.12":
		return x509.SHA384WithRSA, nil
	case "1.2.840.113549.1.1.13":
		return x509.SHA512WithRSA, nil
	case "1.2.840.10045.4.1":
		return x509.ECDSAWithSHA1, nil
	case "1.2.840.10045.4.3.2":
		return x509.ECDSAWithSHA256, nil
	case "1.2.840.10045.4.3.3":
		return x509.ECDSAWithSHA384, nil
	case "1.2.840.10045.4.3.4":
		return x509.ECDSAWithSHA512, nil
	case "1.3.101.112":
		return x509.PureEd25519, nil
	}
	return 0, fmt.Errorf("its signature algorithm %v is not one of RSA (PKCS #1) or ECDSA with SHA-1, SHA-256, SHA-384 or SHA-512, or Ed25519", oid)
}

var tlsFeature = asn1oid.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// mustStaple reports whether a certificate promises an OCSP answer (RFC 7633).
func mustStaple(c *x509.Certificate) bool {
	const statusRequest = 5
	for _, e := range c.Extensions {
		var features []int
		if !e.Id.Equal(tlsFeature) {
			continue
		}
		if _, err := asn1oid.Unmarshal(e.Value, &features); err != nil || slices.Contains(features, statusRequest) {
			return true
		}
	}
	return false
}
