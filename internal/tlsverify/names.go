package tlsverify

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// sameName reports whether two encoded names are equal by RFC 5280, 7.1: the string type,
// the case, and white space around and between words do not matter. An issuer may write its
// name in a PrintableString in its certificate and in a UTF8String in its lists.
func sameName(a, b []byte) bool { return canonicalName(a) == canonicalName(b) }

// canonicalName returns a text that is the same for equal names. It is the name itself if
// that cannot be parsed.
func canonicalName(der []byte) string {
	var name, set, attribute, oid, value cryptobyte.String
	var tag asn1.Tag
	var parts []string
	rest := cryptobyte.String(der)
	if !rest.ReadASN1(&name, asn1.SEQUENCE) || !rest.Empty() {
		return string(der)
	}
	for !name.Empty() {
		if !name.ReadASN1(&set, asn1.SET) {
			return string(der)
		}
		var attributes []string
		for !set.Empty() {
			if !set.ReadASN1(&attribute, asn1.SEQUENCE) || !attribute.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
				!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
				return string(der)
			}
			attributes = append(attributes, fmt.Sprintf("%x=%s", []byte(oid), canonicalValue(tag, value)))
		}
		slices.Sort(attributes)
		parts = append(parts, strings.Join(attributes, "+"))
	}
	return strings.Join(parts, ",")
}

func canonicalValue(tag asn1.Tag, value []byte) string {
	const visibleString, bmpString = 26, 30
	var text string
	switch tag {
	case asn1.UTF8String, asn1.PrintableString, asn1.IA5String, visibleString:
		text = string(value)
	case asn1.T61String: // in practice Latin-1
		runes := make([]rune, len(value))
		for i, b := range value {
			runes[i] = rune(b)
		}
		text = string(runes)
	case bmpString:
		units := make([]uint16, len(value)/2)
		for i := range units {
			units[i] = uint16(value[2*i])<<8 | uint16(value[2*i+1])
		}
		text = string(utf16.Decode(units))
	default:
		return fmt.Sprintf("%d:%x", tag, value)
	}
	return fmt.Sprintf("%q", strings.ToLower(strings.Join(strings.Fields(text), " ")))
}
