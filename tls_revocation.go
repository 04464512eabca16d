package client

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// clockSkew is how far the clock of an issuer or responder may be ahead. It is the default
// of openssl-ocsp(1), -validity_period.
const clockSkew = 5 * time.Minute

// Extensions of revocation lists and of their entries: RFC 5280, 4.2.1.13, 5.2 and 5.3.
var (
	oidDeltaCRL          = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint      = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
)

// Reasons of an entry: RFC 5280, 5.3.1.
const (
	certificateHold = 6
	removeFromCRL   = 8
)

// A revocationList is a list of CRLFile.
type revocationList struct {
	*x509.RevocationList
	scoped bool     // it is for one distribution point
	points []string // the URIs of that point
}

// lookUp looks the certificates of a chain up in the revocation lists. sent are the
// certificates that the server has sent.
func (v *verifier) lookUp(chain, sent []*x509.Certificate, now time.Time) error {
	if v.lists == nil {
		return nil
	}
	last := len(chain) - 1
	for i, c := range chain[:last] {
		problem, err := v.listed(c, chain[i+1], now)
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(v.lists, func(l *revocationList) bool { return sameName(l.RawIssuer, c.RawIssuer) })
		if problem != "" && (i == 0 || known) {
			return &RevocationError{Certificate: c, Reason: problem}
		}
	}
	// The last certificate is trusted for itself: a list is not needed, but believed. It may be
	// an intermediate of CAFile that its issuer has revoked.
	_, err := v.listed(chain[last], v.issuer(chain[last:], sent), now)
	return err
}

// listed returns an error for a certificate that is in a list, and a problem if no list
// proves that the certificate is not revoked. A list that is out of date, or for another
// distribution point, still proves that a certificate in it is revoked, since revocation is
// final. Only certificateHold is not: a current list without the certificate lifts it.
func (v *verifier) listed(c, issuer *x509.Certificate, now time.Time) (problem string, err error) {
	problem = "CRLFile has no list of " + c.Issuer.String()
	var held error
	found := false
	for _, list := range v.lists {
		if issuer == nil || !sameName(list.RawIssuer, c.RawIssuer) {
			continue
		}
		if err := list.CheckSignatureFrom(issuer); err != nil {
			problem = fmt.Sprintf("the list of %s in CRLFile is not signed by its key: %v", issuer.Subject, err)
			continue
		}
		why := list.inconclusive(c, now)
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(c.SerialNumber) != 0 || entry.ReasonCode == removeFromCRL {
				continue
			}
			err := &RevocationError{Certificate: c, Revoked: true, Reason: "on " + entry.RevocationTime.Format(time.DateOnly) + ", as CRLFile says"}
			if why == "" || entry.ReasonCode != certificateHold {
				return "", err
			}
			held = err
		}
		if why == "" {
			found = true
		} else {
			problem = why
		}
	}
	if found {
		return "", nil
	}
	return problem, held
}

// inconclusive returns why a certificate that is not in the list may still be revoked.
func (l *revocationList) inconclusive(c *x509.Certificate, now time.Time) string {
	switch {
	case l.scoped && !slices.ContainsFunc(l.points, func(uri string) bool { return slices.Contains(c.CRLDistributionPoints, uri) }):
		return fmt.Sprintf("the list of %s in CRLFile is for the distribution point %q, which the certificate does not name", l.Issuer, strings.Join(l.points, " "))
	case now.Add(clockSkew).Before(l.ThisUpdate):
		return fmt.Sprintf("the list of %s in CRLFile is not valid before %s", l.Issuer, l.ThisUpdate)
	case !l.NextUpdate.IsZero() && now.After(l.NextUpdate):
		return fmt.Sprintf("the list of %s in CRLFile was to be replaced by %s", l.Issuer, l.NextUpdate)
	}
	return ""
}

// revocationLists reads a CRLFile.
func revocationLists(file string) ([]*revocationList, error) {
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
			return nil, b.refused("is not a revocation list (X509 CRL): remove it")
		}
		list, err := parseList(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", b.line, err)
		}
		lists = append(lists, list)
	}
	if lists == nil {
		return nil, errors.New("has no revocation list, in PEM or in DER")
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
	return list, list.understand()
}

// parseListV1 parses a list of version 1 (RFC 5280, 5.1.2.1), or returns nil. openssl-ca(1)
// writes that version if its configuration has no crl_extensions. crypto/x509 parses
// version 2 only, which adds a version number and extensions: parseListV1 inserts the number.
func parseListV1(der []byte) *x509.RevocationList {
	var signed struct {
		List      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	rest, err := asn1.Unmarshal(der, &signed)
	if err != nil || len(rest) > 0 || signed.List.Tag != asn1.TagSequence || signed.List.Class != asn1.ClassUniversal || !signed.List.IsCompound {
		return nil
	}
	original := signed.List.FullBytes
	version2 := []byte{asn1.TagInteger, 1, 1}
	signed.List = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(version2, signed.List.Bytes...)}
	numbered, err := asn1.Marshal(signed)
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

// understand refuses a list that does not have all revocations of its issuer, whether or
// not the extension that says so is marked critical. It also refuses a list with a critical
// extension that is not supported, as RFC 5280, 5.2 demands.
func (l *revocationList) understand() error {
	refuse := func(why string) error {
		return fmt.Errorf("the list of %s %s: only complete lists can be used", l.Issuer, why)
	}
	for _, e := range l.Extensions {
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return refuse("is a delta list (RFC 5280, 5.2.4)")
		case e.Id.Equal(oidIssuingPoint):
			if l.scoped {
				return refuse("has two issuing distribution points")
			}
			if why := l.scope(e.Value); why != "" {
				return refuse(why)
			}
		case e.Critical:
			return refuse(fmt.Sprintf("has a critical extension, %v", e.Id))
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

// scope parses an issuing distribution point (RFC 5280, 5.2.5), and returns why the list is
// partial. A list for one distribution point is complete for the certificates that name
// the point (RFC 5280, 6.3.3).
func (l *revocationList) scope(der []byte) (why string) {
	var point struct {
		Name           asn1.RawValue  `asn1:"optional,tag:0"`
		UserCerts      bool           `asn1:"optional,tag:1"`
		CACerts        bool           `asn1:"optional,tag:2"`
		SomeReasons    asn1.BitString `asn1:"optional,tag:3"`
		Indirect       bool           `asn1:"optional,tag:4"`
		AttributeCerts bool           `asn1:"optional,tag:5"`
	}
	rest, err := asn1.Unmarshal(der, &point)
	switch encoded, again := asn1.Marshal(point); {
	case err != nil, len(rest) > 0, again != nil, !bytes.Equal(encoded, der), len(der) == 2: // the last is an empty SEQUENCE, which the RFC forbids
		return "has a malformed issuing distribution point (RFC 5280, 5.2.5)"
	case point.UserCerts, point.CACerts, point.AttributeCerts:
		return "is for one kind of certificates (RFC 5280, 5.2.5)"
	case point.SomeReasons.BitLength > 0, point.SomeReasons.Bytes != nil:
		return "is for some reasons (RFC 5280, 5.2.5)"
	case point.Indirect:
		return "has certificates of other issuers (RFC 5280, 5.2.5)"
	}
	l.scoped = true
	l.points = urisOf(point.Name)
	return ""
}

// urisOf returns the URIs of a DistributionPointName. Other names match no distribution
// point of a certificate, of which crypto/x509 parses URIs only.
func urisOf(name asn1.RawValue) (uris []string) {
	const fullName, uri = 0, 6
	var full asn1.RawValue
	if rest, err := asn1.Unmarshal(name.Bytes, &full); err != nil || len(rest) > 0 || full.Class != asn1.ClassContextSpecific || full.Tag != fullName {
		return nil
	}
	for rest := full.Bytes; len(rest) > 0; {
		var general asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &general); err != nil {
			return nil
		}
		if general.Class == asn1.ClassContextSpecific && general.Tag == uri {
			uris = append(uris, string(general.Bytes))
		}
	}
	return uris
}
