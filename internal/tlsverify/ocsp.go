package tlsverify

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

// maxResponseAge is how old an OCSP response without nextUpdate may be.
const maxResponseAge = 7 * 24 * time.Hour

// clockSkew is how far the clock of a responder may be ahead. It is the default of
// openssl-ocsp(1), -validity_period. openssl allows none for the lists.
const clockSkew = 5 * time.Minute

// checkStaple checks the OCSP response that the server has sent with its certificate, and
// returns the time until which it is valid. That is zero if there is none and none is needed.
func (v *Verifier) checkStaple(leaf, issuer *x509.Certificate, staple []byte, now time.Time) (until time.Time, err error) {
	unknown := func(format string, args ...any) (time.Time, error) {
		return time.Time{}, &RevocationError{Certificate: leaf, Reason: fmt.Sprintf(format, args...)}
	}
	wanted := v.config.RequireStaple || mustStaple(leaf)
	switch {
	case len(staple) == 0 && v.config.RequireStaple:
		return unknown("the server has stapled no OCSP response, and RequireStaple is set")
	case len(staple) == 0 && wanted:
		return unknown("the server has stapled no OCSP response, which the certificate requires (RFC 7633)")
	case issuer == nil && wanted:
		return unknown("the stapled OCSP response cannot be checked, because the certificate is trusted for itself and the issuer's certificate is not known: add it to CAFile")
	case len(staple) == 0 || issuer == nil:
		return until, nil
	}
	response, err := parseOCSP(staple)
	if err == nil {
		err = v.checkSigner(response, issuer, now)
	}
	if err != nil {
		return unknown("the stapled OCSP response cannot be used: %v", err)
	}
	statuses, err := response.statusesOf(leaf, issuer)
	if err != nil {
		return unknown("the stapled OCSP response cannot be used: %v", err)
	}
	// A response may have several statuses of a certificate, with different hashes or of
	// several days. Revocation is final. Otherwise those that are valid now count: one that is
	// good is enough, unless another one is unknown.
	for _, single := range statuses {
		if single.status == ocspRevoked {
			return until, &RevocationError{Certificate: leaf, Revoked: true, Reason: "on " + single.revokedAt.Format(time.DateOnly) + ", as the stapled OCSP response says"}
		}
	}
	var invalid error
	for _, single := range statuses {
		end := single.nextUpdate
		if end.IsZero() {
			end = single.thisUpdate.Add(maxResponseAge)
		}
		switch {
		case now.Add(clockSkew).Before(single.thisUpdate):
			_, invalid = unknown("the stapled OCSP response is not valid before %s", single.thisUpdate)
		case now.After(end):
			_, invalid = unknown("the stapled OCSP response is of %s and was valid until %s", single.thisUpdate, end)
		case single.status != ocspGood:
			return unknown("its status in the stapled OCSP response is unknown")
		default:
			until = later(until, end)
		}
	}
	if until.IsZero() {
		return until, invalid
	}
	return until, nil
}

// An ocspResponse is a BasicOCSPResponse (RFC 6960, 4.2.1). The parser of x/crypto is not
// used: it compares serial numbers only, and takes the first certificate in the response for
// the signer's.
type ocspResponse struct {
	signed       []byte // ResponseData
	responderTag asn1.Tag
	responder    []byte
	singles      []singleResponse
	algorithm    asn1oid.ObjectIdentifier
	signature    []byte
	certificates [][]byte
}

type singleResponse struct {
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

// parseOCSP parses a response. It refuses one with something that is not supported here.
func parseOCSP(der []byte) (*ocspResponse, error) {
	in := cryptobyte.String(der)
	var response, responseBytes, typed, basic cryptobyte.String
	var status int
	var present bool
	var kind asn1oid.ObjectIdentifier
	if !in.ReadASN1(&response, asn1.SEQUENCE) || !in.Empty() ||
		!response.ReadASN1Enum(&status) ||
		!response.ReadOptionalASN1(&responseBytes, &present, contextTag(0).Constructed()) || !response.Empty() {
		return nil, errMalformedOCSP
	}
	if status != 0 {
		return nil, fmt.Errorf("the responder answered with the error %q", ocspError(status))
	}
	if !responseBytes.ReadASN1(&typed, asn1.SEQUENCE) || !responseBytes.Empty() || !typed.ReadASN1ObjectIdentifier(&kind) {
		return nil, errMalformedOCSP
	}
	if !kind.Equal(oidBasicOCSP) {
		return nil, fmt.Errorf("response type %v is not supported, only the basic one", kind)
	}
	if !typed.ReadASN1(&basic, asn1.OCTET_STRING) || !typed.Empty() {
		return nil, errMalformedOCSP
	}
	return parseBasicOCSP(basic)
}

func parseBasicOCSP(in cryptobyte.String) (*ocspResponse, error) {
	r := new(ocspResponse)
	var basic, data, wrapped, certificates cryptobyte.String
	var present bool
	if !in.ReadASN1(&basic, asn1.SEQUENCE) || !in.Empty() ||
		!basic.ReadASN1Element(&data, asn1.SEQUENCE) ||
		!readAlgorithm(&basic, &r.algorithm) ||
		!basic.ReadASN1BitStringAsBytes(&r.signature) ||
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
		r.certificates = append(r.certificates, one)
	}
	r.signed = data
	return r, r.parseData(data)
}

func (r *ocspResponse) parseData(in cryptobyte.String) error {
	var data, responder, singles cryptobyte.String
	var produced time.Time
	var version int
	if !in.ReadASN1(&data, asn1.SEQUENCE) || !in.Empty() ||
		!data.ReadOptionalASN1Integer(&version, contextTag(0).Constructed(), 0) {
		return errMalformedOCSP
	}
	if version != 0 {
		return fmt.Errorf("version %d is not supported, only version 1", version+1)
	}
	if !data.ReadAnyASN1(&responder, &r.responderTag) ||
		!readTime(&data, &produced) || !data.ReadASN1(&singles, asn1.SEQUENCE) {
		return errMalformedOCSP
	}
	r.responder = responder
	if err := readOCSPExtensions(&data); err != nil {
		return err
	}
	for !singles.Empty() {
		single, err := parseOCSPSingle(&singles)
		if err != nil {
			return err
		}
		r.singles = append(r.singles, single)
	}
	return nil
}

func parseOCSPSingle(in *cryptobyte.String) (s singleResponse, err error) {
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
		return s, errors.New("malformed status (RFC 6960, 4.2.1)")
	}
	if !readTime(&single, &s.thisUpdate) ||
		!single.ReadOptionalASN1(&next, &present, contextTag(0).Constructed()) ||
		present && (!readTime(&next, &s.nextUpdate) || !next.Empty()) {
		return s, errMalformedOCSP
	}
	if present && s.nextUpdate.Before(s.thisUpdate) {
		return s, errors.New("nextUpdate is before thisUpdate")
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
		return errors.New("critical extensions are not supported")
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

// statusesOf returns the statuses of a certificate. The serial number is not enough to find
// them: another issuer may have used the same one (RFC 6960, 3.2).
func (r *ocspResponse) statusesOf(leaf, issuer *x509.Certificate) (singles []singleResponse, err error) {
	key, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	err = errors.New("there is no status of this certificate in it")
	for _, single := range r.singles {
		if leaf.SerialNumber.Cmp(single.serial) != 0 {
			continue
		}
		hash := ocspHash(single.hash)
		switch {
		case hash == 0:
			err = fmt.Errorf("hash algorithm %v is not supported", single.hash)
		case !bytes.Equal(single.issuerName, hashOf(hash, issuer.RawSubject)) || !bytes.Equal(single.issuerKey, hashOf(hash, key)):
			err = errors.New("the status is of another issuer's certificate with the same serial number")
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

func hashOf(hash crypto.Hash, p []byte) []byte {
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

// checkSigner returns an error unless the response is signed by the issuer or by a responder
// that the issuer has authorized (RFC 6960, 4.2.2.2). The issuer's signature on the
// responder's certificate is not enough: every server has one. The certificates in the
// response may have any order.
func (v *Verifier) checkSigner(response *ocspResponse, issuer *x509.Certificate, now time.Time) error {
	algorithm, err := ocspAlgorithm(response.algorithm)
	if err != nil {
		return err
	}
	signers := []*x509.Certificate{issuer}
	for _, raw := range response.certificates {
		// A certificate that cannot be parsed cannot be the signer's.
		if c, err := x509.ParseCertificate(raw); err == nil {
			signers = append(signers, c)
		}
	}
	problem := errors.New("the responder is neither the issuer nor the subject of a certificate in the response")
	for _, signer := range signers {
		if !response.isBy(signer) {
			continue
		}
		err := signer.CheckSignature(algorithm, response.signed, response.signature)
		if err == nil {
			err = v.checkAuthorized(signer, issuer, now)
		}
		if err == nil {
			return nil
		}
		problem = err
	}
	return problem
}

// isBy reports whether the ResponderID names the subject of a certificate (RFC 6960, 4.2.2.3).
func (r *ocspResponse) isBy(signer *x509.Certificate) bool {
	switch r.responderTag {
	case contextTag(1).Constructed(): // byName
		return sameName(r.responder, signer.RawSubject)
	case contextTag(2).Constructed(): // byKey
		in := cryptobyte.String(r.responder)
		var hash []byte
		key, err := keyBits(signer)
		return err == nil && in.ReadASN1Bytes(&hash, asn1.OCTET_STRING) && in.Empty() && bytes.Equal(hash, hashOf(crypto.SHA1, key))
	}
	return false
}

func (v *Verifier) checkAuthorized(signer, issuer *x509.Certificate, now time.Time) error {
	if signer.Equal(issuer) {
		return nil
	}
	if !sameName(signer.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("the certificate of the responder %q is not signed by the issuer %q", signer.Subject, issuer.Subject)
	}
	if err := issuer.CheckSignature(signer.SignatureAlgorithm, signer.RawTBSCertificate, signer.Signature); err != nil {
		return fmt.Errorf("the certificate of the responder %q is not signed by the issuer: %w", signer.Subject, err)
	}
	if !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || now.Before(signer.NotBefore) || now.After(signer.NotAfter) || len(signer.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("the certificate of the responder %q is not valid for OCSP signing (RFC 6960, 4.2.2.2)", signer.Subject)
	}
	_, err := v.findInLists(signer, issuer, now) // the responder's certificate may be revoked, too
	return err
}

// ocspAlgorithm returns the signature algorithm of an OID, out of those that crypto/x509
// verifies in an OCSP response. SHA-1 is among them: a requester can choose no part of a
// response but the nonce, which no staple has. Of a certificate it can choose more.
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
	return 0, fmt.Errorf("signature algorithm %v is not supported, only RSA (PKCS #1) and ECDSA with SHA-1, SHA-256, SHA-384 or SHA-512, and Ed25519", oid)
}

var tlsFeature = asn1oid.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// mustStaple reports whether a certificate requires a stapled OCSP response (RFC 7633).
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
