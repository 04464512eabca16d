package tlsverify

import (
	"crypto/x509/pkix"
	asn1oid "encoding/asn1"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Package encoding/asn1 and crypto/x509 ignore what is left at the end of a SEQUENCE. An
// optional field that is behind something unexpected is then lost: an end of validity, a
// critical extension, all entries of a list. The functions here read every byte.

func contextTag(n int) asn1.Tag { return asn1.Tag(n).ContextSpecific() }

// readExtensions reads Extensions (RFC 5280, 4.1), of which each may be there once.
func readExtensions(in *cryptobyte.String) (extensions []pkix.Extension, ok bool) {
	var list, one cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) {
		return nil, false
	}
	for !list.Empty() {
		var e pkix.Extension
		if !list.ReadASN1(&one, asn1.SEQUENCE) ||
			!one.ReadASN1ObjectIdentifier(&e.Id) ||
			one.PeekASN1Tag(asn1.BOOLEAN) && !one.ReadASN1Boolean(&e.Critical) ||
			!one.ReadASN1Bytes(&e.Value, asn1.OCTET_STRING) || !one.Empty() ||
			slices.ContainsFunc(extensions, func(other pkix.Extension) bool { return other.Id.Equal(e.Id) }) {
			return nil, false
		}
		extensions = append(extensions, e)
	}
	return extensions, true
}

// readAlgorithm reads the OID of an AlgorithmIdentifier. Its parameters are NULL or absent for
// all algorithms used here.
func readAlgorithm(in *cryptobyte.String, oid *asn1oid.ObjectIdentifier) bool {
	var algorithm, parameters cryptobyte.String
	var tag asn1.Tag
	return in.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(oid) &&
		(algorithm.Empty() || algorithm.ReadAnyASN1(&parameters, &tag) && algorithm.Empty())
}

// readTime reads a GeneralizedTime. RFC 5280, 4.1.2.5.2 forbids fractions of a second, but
// responders send them and openssl accepts them.
func readTime(in *cryptobyte.String, at *time.Time) bool {
	var der cryptobyte.String
	if !in.ReadASN1Element(&der, asn1.GeneralizedTime) {
		return false
	}
	_, err := asn1oid.UnmarshalWithParams(der, at, "generalized")
	return err == nil
}

// skipTime skips a Time (RFC 5280, 4.1).
func skipTime(in *cryptobyte.String) bool {
	return in.PeekASN1Tag(asn1.UTCTime) && in.SkipASN1(asn1.UTCTime) || in.SkipASN1(asn1.GeneralizedTime)
}

// isWholeList reports whether a revocation list has the fields of RFC 5280, 5.1, and nothing
// else.
func isWholeList(der []byte) bool {
	in := cryptobyte.String(der)
	var signed, list, entries, entry, extensions cryptobyte.String
	var present bool
	if !in.ReadASN1(&signed, asn1.SEQUENCE) || !in.Empty() ||
		!signed.ReadASN1(&list, asn1.SEQUENCE) || !signed.SkipASN1(asn1.SEQUENCE) || !signed.SkipASN1(asn1.BIT_STRING) || !signed.Empty() ||
		!list.SkipOptionalASN1(asn1.INTEGER) || // version
		!list.SkipASN1(asn1.SEQUENCE) || !list.SkipASN1(asn1.SEQUENCE) || // algorithm and issuer
		!skipTime(&list) {
		return false
	}
	if !list.Empty() && !list.PeekASN1Tag(asn1.SEQUENCE) && !list.PeekASN1Tag(contextTag(0).Constructed()) && !skipTime(&list) { // nextUpdate
		return false
	}
	if !list.ReadOptionalASN1(&entries, &present, asn1.SEQUENCE) {
		return false
	}
	for present && !entries.Empty() {
		if !entries.ReadASN1(&entry, asn1.SEQUENCE) || !entry.SkipASN1(asn1.INTEGER) || !skipTime(&entry) {
			return false
		}
		if entry.Empty() {
			continue
		}
		if _, ok := readExtensions(&entry); !ok || !entry.Empty() {
			return false
		}
	}
	if !list.ReadOptionalASN1(&extensions, &present, contextTag(0).Constructed()) || !list.Empty() {
		return false
	}
	if present {
		if _, ok := readExtensions(&extensions); !ok || !extensions.Empty() {
			return false
		}
	}
	return true
}
