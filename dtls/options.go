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
	// PSK is a key that the client shares with the server, and PSKIdentity the name of the
	// key (RFC 4279). They take the place of certificates: the server proves that it has the
	// key. The key must be random bytes, because a password can be guessed from one recorded
	// handshake. A server with another key is not an error at once: DTLS drops what cannot be
	// decrypted, and Dial fails at its limit. Set both or neither. Default: the server needs
	// a certificate.
	PSK         []byte
	PSKIdentity string

	// MTU is the largest datagram to send, in bytes of UDP payload, from 256 to 65,507.
	// Handshake messages are fragmented to fit (RFC 6347, 4.2.3). Send fails with
	// unix.EMSGSIZE if its record does not fit. Default: 1,200 in the handshake; for Send
	// what the kernel accepts.
	MTU int

	// Retransmit is how long a handshake waits for the server's next messages before it sends
	// the client's last ones again. The time doubles with each retransmission, up to 60 s (RFC
	// 6347, 4.2.4.1). Default: 1 s.
	Retransmit time.Duration

	// ConnectionID offers to send the server's connection identifier with each record (RFC
	// 9146). A server that accepts the offer still knows the connection after the client's
	// address has changed, for example by a NAT. The client asks for no identifier itself,
	// because its socket receives from one address only. Default: no offer.
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

// checkTLS refuses settings that have no effect on DTLS, or not in this package. Security may
// depend on a setting that is ignored.
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
	const certificates = "is about certificates, and Options.PSK replaces them: set one or the other"
	if field := firstSet(t, func(field string) bool { return slices.Contains(certOptions, field) }); field != "" {
		return bad(field, certificates)
	}
	if field := firstSet(config, func(field string) bool { return slices.Contains(certConfig, field) }); field != "" {
		return bad("Config."+field, certificates)
	}
	return nil
}

// certOptions and certConfig are the fields of TLSOptions and of tls.Config that are about
// certificates. anyConfig are the fields of tls.Config that have a meaning for PSK, too.
var (
	certOptions = []string{"CAFile", "CAPath", "CertFile", "KeyFile", "Passphrase", "AllowSelfSigned", "VerifyDepth", "CRLFile", "InsecureSkipVerify"}
	certConfig  = []string{"RootCAs", "Certificates", "Time", "VerifyPeerCertificate", "VerifyConnection"}
	anyConfig   = []string{"ServerName", "NextProtos", "KeyLogWriter"}
)

// firstSet returns the name of the first field, among some, that is not zero.
func firstSet[T any](of *T, among func(field string) bool) string {
	v := reflect.ValueOf(of).Elem()
	for _, field := range reflect.VisibleFields(v.Type()) {
		if field.IsExported() && among(field.Name) && !v.FieldByIndex(field.Index).IsZero() {
			return field.Name
		}
	}
	return ""
}
