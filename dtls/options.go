package dtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/blocksock/client"
)

// Options are the settings that DTLS has beside those of package client. The zero value
// and a nil *Options are the defaults.
type Options struct {
	// PSK is a key that the server has too, and PSKIdentity the name that the server
	// knows it by (RFC 4279). They take the place of certificates: the server proves
	// that it has the key. Only plain bytes of random origin are a good key: a password can be
	// guessed from one recorded handshake. Default: none, the server has to show a
	// certificate. Both or neither have to be set.
	PSK         []byte
	PSKIdentity string

	// MTU is the largest datagram to send, in bytes of UDP payload, from 256 to 65,507.
	// Messages of the handshake are fragmented to fit (RFC 6347, 4.2.3); Send fails with
	// unix.EMSGSIZE if its record would not fit. Default: 1,200 for the handshake, and
	// what the kernel takes for Send.
	MTU int

	// Retransmit is how long to wait for the server's next messages in a handshake before
	// the client's own are sent again. The wait doubles each time, to 60 s at most (RFC
	// 6347, 4.2.4.1). Default: 1 s.
	Retransmit time.Duration

	// ConnectionID offers to send the server's connection identifier with each record
	// (RFC 9146). A server that takes the offer knows the connection by it, also when a NAT
	// has given the client another address. Identifiers in records from the server are
	// not asked for: the client's socket is connected to one address. Default: no offer.
	ConnectionID bool
}

const (
	// maxRecord is the longest plaintext of a record (RFC 6347, 4.1; RFC 5246, 6.2.1).
	maxRecord = 1 << 14

	// maxReceived is the size of pion's buffer for datagrams.
	maxReceived = 8192

	minMTU, maxMTU = 256, 65507
	defaultMTU     = 1200
)

func (o *Options) check() error {
	bad := func(field, reason string, args ...any) error {
		return &client.OptionError{Option: field, Reason: fmt.Sprintf(reason, args...)}
	}
	switch {
	case o.PSK != nil && len(o.PSK) == 0:
		return bad("PSK", "is empty: set the key that the server has")
	case len(o.PSK) > 65535:
		return bad("PSK", "has %d bytes: 65,535 is the most that RFC 4279 can use", len(o.PSK))
	case o.PSK != nil && o.PSKIdentity == "":
		return bad("PSKIdentity", "is missing: set the name that the server knows PSK by")
	case o.PSK == nil && o.PSKIdentity != "":
		return bad("PSK", "is missing: PSKIdentity needs a key")
	case len(o.PSKIdentity) > 65535:
		return bad("PSKIdentity", "has %d bytes: 65,535 is the most that RFC 4279 can send", len(o.PSKIdentity))
	case o.MTU != 0 && (o.MTU < minMTU || o.MTU > maxMTU):
		return bad("MTU", "is %d: set %d to %d bytes, or 0 for the default", o.MTU, minMTU, maxMTU)
	case o.Retransmit < 0:
		return bad("Retransmit", "is negative: set the time after which to send again, or 0 for 1 s")
	}
	return nil
}

// checkTLS refuses what DTLS, or this package, does not have of TLSOptions. A setting that
// is ignored could be the one that somebody's safety depends on.
func (o *Options) checkTLS(t *client.TLSOptions) error {
	bad := func(field, reason string) error {
		return &client.OptionError{Option: "TLS." + field, Reason: reason, Err: errors.ErrUnsupported}
	}
	switch {
	case t.RequireStaple:
		return bad("RequireStaple", "is not supported for DTLS: use CRLFile for revocation")
	case t.MinVersion > tls.VersionTLS12:
		return bad("MinVersion", "is above 1.2, the only version of DTLS that is supported")
	case t.MaxVersion != 0 && t.MaxVersion < tls.VersionTLS12:
		return bad("MaxVersion", "is below 1.2, the only version of DTLS that is supported")
	}
	config := t.Config
	if config == nil {
		config = &tls.Config{}
	}
	if field := firstSet(config, func(field string) bool {
		return !slices.Contains(anyConfig, field) && !slices.Contains(certConfig, field)
	}); field != "" {
		return bad("Config."+field, "is not supported for DTLS: leave it unset")
	}
	if o.PSK == nil {
		return nil
	}
	const certificates = "is about certificates, and with Options.PSK there are none: leave one of them unset"
	if field := firstSet(t, func(field string) bool { return slices.Contains(certOptions, field) }); field != "" {
		return bad(field, certificates)
	}
	if field := firstSet(config, func(field string) bool { return slices.Contains(certConfig, field) }); field != "" {
		return bad("Config."+field, certificates)
	}
	return nil
}

// The fields of a TLSOptions that are about certificates, the fields of a tls.Config that are, and those
// that mean something in any case.
var (
	certOptions = []string{"CAFile", "CAPath", "CertFile", "KeyFile", "Passphrase", "AllowSelfSigned", "VerifyDepth", "CRLFile", "InsecureSkipVerify"}
	certConfig  = []string{"RootCAs", "Certificates", "Time", "VerifyPeerCertificate", "VerifyConnection"}
	anyConfig   = []string{"ServerName", "NextProtos", "KeyLogWriter"}
)

// firstSet returns the name of the first field among some of a struct that is not zero.
func firstSet[T any](of *T, among func(field string) bool) string {
	v := reflect.ValueOf(of).Elem()
	for _, field := range reflect.VisibleFields(v.Type()) {
		if field.IsExported() && among(field.Name) && !v.FieldByIndex(field.Index).IsZero() {
			return field.Name
		}
	}
	return ""
}
