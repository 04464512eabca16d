package tlsverify

import (
	"crypto/x509"
	"crypto/x509/pkix"
	asn1oid "encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Extensions of certificates, of revocation lists and of their entries: RFC 5280, 4.2.1.13, 5.2 and 5.3.
var (
	oidDistributionPoints = asn1oid.ObjectIdentifier{2, 5, 29, 31}
	oidDeltaCRL           = asn1oid.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint       = asn1oid.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer  = asn1oid.ObjectIdentifier{2, 5, 29, 29}
)

// Reasons of an entry: RFC 5280, 5.3.1.
const (
	certificateHold = 6
	removeFromCRL   = 8
)

// A RevocationError is a certificate that its issuer has revoked, or whose status had to be
// checked and is not known.
type RevocationError struct {
	Certificate *x509.Certificate
	Revoked     bool // false: not known
	Reason      string
}

func (e *RevocationError) Error() string {
	if e.Revoked {
		return fmt.Sprintf("certificate of %q is revoked: %s", e.Certificate.Subject, e.Reason)
	}
	return fmt.Sprintf("certificate of %q may be revoked: %s", e.Certificate.Subject, e.Reason)
}

// A revocationList is a list of CRLFile.
type revocationList struct {
	*x509.RevocationList
	scoped bool     // it is for one distribution point
	points []string // the URIs of that point
}

// checkLists looks the certificates of a chain up in the revocation lists. sent are the
// certificates that the server has sent.
func (v *Verifier) checkLists(chain, sent []*x509.Certificate, now time.Time) error {
	if v.lists == nil {
		return nil
	}
	last := len(chain) - 1
	for i, c := range chain[:last] {
		problem, err := v.findInLists(c, chain[i+1], now)
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(v.lists, func(l *revocationList) bool { return sameName(l.RawIssuer, c.RawIssuer) })
		if problem != "" && (i == 0 || known) {
			return &RevocationError{Certificate: c, Reason: problem}
		}
	}
	// The last certificate is trusted for itself: it needs no list, but one that has it counts.
	// It may be an intermediate of CAFile that its issuer has revoked.
	_, err := v.findInLists(chain[last], v.issuer(chain[last:], sent), now)
	return err
}

// findInLists returns an error for a certificate that is in a list, and a problem if no list
// proves that the certificate is not revoked. A list that is out of date, or for another
// distribution point, still proves that a certificate in it is revoked, since revocation is
// final. Only certificateHold is not: the newest current list of a scope decides.
func (v *Verifier) findInLists(c, issuer *x509.Certificate, now time.Time) (problem string, err error) {
	problem = "CRLFile has no list of " + c.Issuer.String()
	var held error
	newest := make(map[string]*revocationList) // current lists by scope
	for _, list := range v.lists {
		if issuer == nil || !sameName(list.RawIssuer, c.RawIssuer) {
			continue
		}
		if err := list.CheckSignatureFrom(issuer); err != nil {
			problem = fmt.Sprintf("the list of %s in CRLFile is not signed with the key of that issuer: %v", issuer.Subject, err)
			continue
		}
		hold, err := list.entry(c)
		if err != nil && !hold {
			return "", err
		}
		if why := list.whyInconclusive(c, now); why != "" {
			problem = why
			if err != nil {
				held = err
			}
			continue
		}
		scope := strings.Join(list.points, " ")
		if last := newest[scope]; last == nil || list.isNewer(last) || hold && !last.isNewer(list) {
			newest[scope] = list
		}
	}
	for _, list := range newest {
		if _, err := list.entry(c); err != nil {
			return "", err
		}
	}
	if len(newest) > 0 {
		return "", nil
	}
	return problem, held
}

// entry returns the error for a certificate that is in the list, and whether it is only held.
func (l *revocationList) entry(c *x509.Certificate) (hold bool, err error) {
	for _, entry := range l.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(c.SerialNumber) == 0 && entry.ReasonCode != removeFromCRL && (err == nil || hold) {
			err = &RevocationError{Certificate: c, Revoked: true, Reason: "on " + entry.RevocationTime.Format(time.DateOnly) + ", as CRLFile says"}
			hold = entry.ReasonCode == certificateHold
		}
	}
	return hold, err
}

// isNewer reports whether a list replaces another one. As in openssl the later thisUpdate
// decides, and crlNumber if those are equal.
func (l *revocationList) isNewer(other *revocationList) bool {
	if !l.ThisUpdate.Equal(other.ThisUpdate) {
		return l.ThisUpdate.After(other.ThisUpdate)
	}
	return l.Number != nil && (other.Number == nil || l.Number.Cmp(other.Number) > 0)
}

// whyInconclusive returns why a certificate that is not in the list may still be revoked.
func (l *revocationList) whyInconclusive(c *x509.Certificate, now time.Time) string {
	switch {
	case l.scoped && !slices.ContainsFunc(l.points, func(uri string) bool { return slices.Contains(pointsOf(c), uri) }):
		return fmt.Sprintf("the list of %s in CRLFile is for the distribution point %q, which the certificate does not name, or only for some reasons or another issuer", l.Issuer, strings.Join(l.points, " "))
	case now.Before(l.ThisUpdate):
		return fmt.Sprintf("the list of %s in CRLFile is not valid before %s", l.Issuer, l.ThisUpdate)
	case !l.NextUpdate.IsZero() && now.After(l.NextUpdate):
		return fmt.Sprintf("the list of %s in CRLFile is out of date since %s: replace it", l.Issuer, l.NextUpdate)
	}
	return ""
}

// readLists reads a CRLFile.
func readLists(file string) ([]*revocationList, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	lists, err := parseLists(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return lists, nil
}

func parseLists(data []byte) (lists []*revocationList, err error) {
	if isDER(data) {
		list, err := parseList(data)
		if err != nil {
			return nil, err
		}
		return []*revocationList{list}, nil
	}
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if b.Type != "X509 CRL" {
			return nil, b.reject("is not a revocation list (X509 CRL): remove it")
		}
		list, err := parseList(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", b.line, err)
		}
		lists = append(lists, list)
	}
	if lists == nil {
		return nil, errors.New("has no revocation list in PEM or DER")
	}
	return lists, nil
}

func parseList(der []byte) (*revocationList, error) {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		if parsed = parseListV1(der); parsed == nil {
			return nil, err
		}
	}
	if len(parsed.Raw) != len(der) { // crypto/x509 ignores it
		return nil, errors.New("trailing data after the revocation list: use PEM for several lists")
	}
	if !isWholeList(der) {
		return nil, errors.New("malformed revocation list (RFC 5280, 5.1)")
	}
	list := &revocationList{RevocationList: parsed}
	return list, list.checkExtensions()
}

// parseListV1 parses a list of version 1 (RFC 5280, 5.1.2.1), or returns nil. openssl-ca(1)
// writes that version if its configuration has no crl_extensions. crypto/x509 parses
// version 2 only, which adds a version number and extensions: parseListV1 inserts the number.
func parseListV1(der []byte) *x509.RevocationList {
	var signed struct {
		List      asn1oid.RawValue
		Algorithm asn1oid.RawValue
		Signature asn1oid.BitString
	}
	rest, err := asn1oid.Unmarshal(der, &signed)
	if err != nil || len(rest) > 0 || signed.List.Tag != asn1oid.TagSequence || signed.List.Class != asn1oid.ClassUniversal || !signed.List.IsCompound {
		return nil
	}
	original := signed.List.FullBytes
	version2 := []byte{asn1oid.TagInteger, 1, 1}
	signed.List = asn1oid.RawValue{Tag: asn1oid.TagSequence, IsCompound: true, Bytes: append(version2, signed.List.Bytes...)}
	numbered, err := asn1oid.Marshal(signed)
	if err != nil {
		return nil
	}
	list, err := x509.ParseRevocationList(numbered)
	if err != nil || len(list.Extensions) > 0 || slices.ContainsFunc(list.RevokedCertificateEntries,
		func(e x509.RevocationListEntry) bool { return len(e.Extensions) > 0 }) {
		return nil
	}
	list.Raw, list.RawTBSRevocationList = der, original // what is signed
	return list
}

// checkExtensions refuses a list that does not have all revocations of its issuer, whether or
// not the extension that says so is marked critical. It also refuses a list with a critical
// extension that is not supported, as RFC 5280, 5.2 demands.
func (l *revocationList) checkExtensions() error {
	reject := func(why string) error {
		return fmt.Errorf("the list of %s %s: only complete lists can be used", l.Issuer, why)
	}
	for _, e := range l.Extensions {
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return reject("is a delta list (RFC 5280, 5.2.4)")
		case e.Id.Equal(oidIssuingPoint):
			if l.scoped {
				return reject("has two issuing distribution points")
			}
			if why := l.parseScope(e.Value); why != "" {
				return reject(why)
			}
		case e.Critical:
			return reject(fmt.Sprintf("has a critical extension, %v", e.Id))
		}
	}
	foreign := func(e pkix.Extension) bool { return e.Critical || e.Id.Equal(oidCertificateIssuer) }
	for _, entry := range l.RevokedCertificateEntries {
		if slices.ContainsFunc(entry.Extensions, foreign) {
			return fmt.Errorf("the list of %s has an entry with a critical extension or another issuer: only an issuer's own certificates can be looked up", l.Issuer)
		}
	}
	return nil
}

// parseScope parses an issuing distribution point (RFC 5280, 5.2.5), and returns why the list is
// partial. A list for one distribution point is complete for the certificates that name
// the point (RFC 5280, 6.3.3).
func (l *revocationList) parseScope(der []byte) (why string) {
	in := cryptobyte.String(der)
	var point, name, reasons cryptobyte.String
	var named, someReasons, users, authorities, indirect, attributes bool
	if !in.ReadASN1(&point, asn1.SEQUENCE) || !in.Empty() || point.Empty() || // RFC 5280, 5.2.5 forbids an empty one
		!point.ReadOptionalASN1(&name, &named, contextTag(0).Constructed()) ||
		!readFlag(&point, 1, &users) || !readFlag(&point, 2, &authorities) ||
		!point.ReadOptionalASN1(&reasons, &someReasons, contextTag(3)) ||
		!readFlag(&point, 4, &indirect) || !readFlag(&point, 5, &attributes) || !point.Empty() {
		return "has a malformed issuing distribution point (RFC 5280, 5.2.5)"
	}
	switch {
	case users, authorities, attributes:
		return "is for one kind of certificates (RFC 5280, 5.2.5)"
	case someReasons:
		return "is for some reasons (RFC 5280, 5.2.5)"
	case indirect:
		return "has certificates of other issuers (RFC 5280, 5.2.5)"
	}
	l.scoped, l.points = named, urisOf(name)
	return ""
}

// readFlag reads a BOOLEAN with a tag of its own, false if absent. Some issuers write the
// default, FALSE, which DER forbids and openssl accepts.
func readFlag(in *cryptobyte.String, tag int, flag *bool) bool {
	var value cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&value, &present, contextTag(tag)) || present && len(value) != 1 {
		return false
	}
	*flag = present && value[0] != 0
	return true
}

// urisOf returns the URIs of a DistributionPointName (RFC 5280, 4.2.1.13). Other names are
// not compared: a list for them matches no certificate.
func urisOf(name cryptobyte.String) (uris []string) {
	const uri = 6
	var full, general cryptobyte.String
	if !name.ReadASN1(&full, contextTag(0).Constructed()) || !name.Empty() {
		return nil
	}
	for !full.Empty() {
		var tag asn1.Tag
		if !full.ReadAnyASN1(&general, &tag) {
			return nil
		}
		if tag == contextTag(uri) {
			uris = append(uris, string(general))
		}
	}
	return uris
}

// pointsOf returns the URIs of those distribution points of a certificate whose lists have
// all its revocations: that are for all reasons, and whose lists its own issuer signs.
// Certificate.CRLDistributionPoints has the others, too.
func pointsOf(c *x509.Certificate) (uris []string) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidDistributionPoints) {
			continue
		}
		in := cryptobyte.String(e.Value)
		var points, point, name, reasons, issuer cryptobyte.String
		var named, someReasons, another bool
		if !in.ReadASN1(&points, asn1.SEQUENCE) || !in.Empty() {
			return nil
		}
		for !points.Empty() {
			if !points.ReadASN1(&point, asn1.SEQUENCE) ||
				!point.ReadOptionalASN1(&name, &named, contextTag(0).Constructed()) ||
				!point.ReadOptionalASN1(&reasons, &someReasons, contextTag(1)) ||
				!point.ReadOptionalASN1(&issuer, &another, contextTag(2).Constructed()) || !point.Empty() {
				return nil
			}
			if another && hasName(issuer, c.RawIssuer) {
				another = false
			}
			if named && !someReasons && !another {
				uris = append(uris, urisOf(name)...)
			}
		}
	}
	return uris
}

// hasName reports whether a directoryName of GeneralNames is the given name.
func hasName(names cryptobyte.String, wanted []byte) bool {
	const directoryName = 4
	for !names.Empty() {
		var name cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return false
		}
		if tag == contextTag(directoryName).Constructed() && sameName(name, wanted) {
			return true
		}
	}
	return false
}
