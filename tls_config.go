package client

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/blocksock/client/internal/tlsverify"
)

// A tlsConfig is TLSOptions after they were checked and all files were read.
type tlsConfig struct {
	base     *tls.Config // each connection has a copy
	verifier *tlsverify.Verifier
	skip     bool // InsecureSkipVerify
}

func (o *TLSOptions) load() (*tlsConfig, error) {
	base := o.Config.Clone()
	if base == nil {
		base = &tls.Config{}
	}
	switch {
	case base.InsecureSkipVerify:
		return nil, badTLS("Config", errors.New("InsecureSkipVerify is set in Config: set TLSOptions.InsecureSkipVerify instead"))
	case base.Renegotiation != tls.RenegotiateNever:
		return nil, badTLS("Config", errors.New("unsupported Renegotiation, because no limit would bound a handshake within a receive: set it to tls.RenegotiateNever"))
	}
	if o.ServerName != "" {
		base.ServerName = o.ServerName
	}
	if o.NextProtos != nil {
		base.NextProtos = slices.Clone(o.NextProtos)
	}
	base.DynamicRecordSizingDisabled = true // Send counts in records of the full size
	if err := o.versions(base); err != nil {
		return nil, err
	}
	files := tlsverify.Config{
		CAFile: o.CAFile, CAPath: o.CAPath, RootCAs: base.RootCAs,
		CertFile: o.CertFile, KeyFile: o.KeyFile, Passphrase: o.Passphrase,
		CRLFile: o.CRLFile, RequireStaple: o.RequireStaple,
		AllowSelfSigned: o.AllowSelfSigned, VerifyDepth: o.VerifyDepth, InsecureSkipVerify: o.InsecureSkipVerify,
	}
	verifier, err := files.Load()
	if err != nil {
		var field *tlsverify.FieldError
		errors.As(err, &field)
		return nil, badTLS(field.Field, field.Err)
	}
	return &tlsConfig{base: base, verifier: verifier, skip: o.InsecureSkipVerify}, nil
}

func badTLS(field string, err error) error {
	return &OptionError{Option: "TLS." + field, Reason: err.Error(), Err: err}
}

func (o *TLSOptions) versions(config *tls.Config) error {
	for _, v := range []struct {
		field string
		value uint16
		in    *uint16
	}{{"MinVersion", o.MinVersion, &config.MinVersion}, {"MaxVersion", o.MaxVersion, &config.MaxVersion}} {
		if v.value == 0 {
			continue
		}
		if v.value < tls.VersionTLS10 || v.value > tls.VersionTLS13 {
			return badTLS(v.field, fmt.Errorf("%#04x is not a version of crypto/tls: set one from tls.VersionTLS10 to tls.VersionTLS13", v.value))
		}
		*v.in = v.value
	}
	// For crypto/tls zero is 1.2, or 1.3 if the server's name is encrypted (ECH).
	if least := max(config.MinVersion, tls.VersionTLS12); config.MaxVersion != 0 && config.MaxVersion < cmp.Or(config.MinVersion, least) {
		return badTLS("MaxVersion", fmt.Errorf("%s is below MinVersion, which is %s",
			tls.VersionName(config.MaxVersion), tls.VersionName(cmp.Or(config.MinVersion, least))))
	}
	return nil
}

// forHost returns the config for connections to a host, as it was dialled: the name to verify
// is that host, unless the options have another one.
func (t *tlsConfig) forHost(host string) (*tlsConfig, error) {
	if t == nil || t.base.ServerName != "" {
		return t, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.WithZone("").String() // only this machine knows the zone
	}
	if host == "" && !t.skip {
		return nil, badTLS("ServerName", errors.New("is missing: set it, because the address has no host to verify"))
	}
	named := *t
	named.base = t.base.Clone()
	named.base.ServerName = host
	return &named, nil
}

// forConn returns the config of one connection, and a function that returns the chains which
// the handshake has accepted.
func (t *tlsConfig) forConn() (config *tls.Config, accepted func() [][]*x509.Certificate) {
	config = t.base.Clone()
	if config.KeyLogWriter != nil {
		config.KeyLogWriter = &keyLog{to: config.KeyLogWriter}
	}
	return config, t.verifier.Protect(config)
}

// host returns the host of an address. It is empty for networks without hosts.
func (n network) host(address string) (string, error) {
	if n.local != 0 {
		return "", nil
	}
	host, _, err := n.splitHostPort(address)
	return host, err
}
