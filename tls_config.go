package client

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// A security is TLSOptions made ready: checked, with all files read.
type security struct {
	config   *tls.Config // the base of each connection's
	verifier verifier
	off      bool // InsecureSkipVerify
}

func (o *TLSOptions) security() (*security, error) {
	config := o.Config.Clone()
	if config == nil {
		config = &tls.Config{}
	}
	switch {
	case config.InsecureSkipVerify:
		return nil, badTLS("Config", errors.New("has InsecureSkipVerify, which is to be said in TLSOptions"))
	case config.Renegotiation != tls.RenegotiateNever:
		return nil, badTLS("Config", errors.New("has Renegotiation: a handshake in the midst of a receive could not be held to its limit"))
	}
	if o.ServerName != "" {
		config.ServerName = o.ServerName
	}
	if o.NextProtos != nil {
		config.NextProtos = slices.Clone(o.NextProtos)
	}
	config.DynamicRecordSizingDisabled = true // a send counts by whole records
	if err := o.versions(config); err != nil {
		return nil, err
	}
	anchors, err := o.roots(config)
	if err != nil {
		return nil, err
	}
	if err := o.certificate(config); err != nil {
		return nil, err
	}
	s := &security{config: config, off: o.InsecureSkipVerify, verifier: verifier{
		selfSigned: o.AllowSelfSigned,
		depth:      o.VerifyDepth,
		staple:     o.RequireStaple,
		anchors:    anchors,
	}}
	if o.CRLFile != "" {
		lists, err := revocationLists(o.CRLFile)
		if err != nil {
			return nil, badTLS("CRLFile", err)
		}
		s.verifier.lists = lists
	}
	return s, nil
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
			return badTLS(v.field, fmt.Errorf("%#04x is not a version that crypto/tls speaks, tls.VersionTLS10 to tls.VersionTLS13", v.value))
		}
		*v.in = v.value
	}
	// Zero is 1.2 to crypto/tls, or 1.3 if the name is to be encrypted (ECH).
	if least := max(config.MinVersion, tls.VersionTLS12); config.MaxVersion != 0 && config.MaxVersion < cmp.Or(config.MinVersion, least) {
		return badTLS("MaxVersion", fmt.Errorf("%s is below MinVersion, which is %s",
			tls.VersionName(config.MaxVersion), tls.VersionName(cmp.Or(config.MinVersion, least))))
	}
	return nil
}

// expecting gives a security the name that a server has to prove, unless the
// options have one. host is what was dialled.
func (s *security) expecting(host string) (*security, error) {
	if s == nil || s.config.ServerName != "" {
		return s, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.WithZone("").String() // a zone is this machine's word
	}
	if host == "" && !s.off {
		return nil, badTLS("ServerName", errors.New("is missing, and the address has no host that could take its place"))
	}
	named := *s
	named.config = s.config.Clone()
	named.config.ServerName = host
	return &named, nil
}

// host is the host of an address, empty where the network knows none.
func (n network) host(address string) (string, error) {
	if n.local != 0 {
		return "", nil
	}
	host, _, err := n.splitHostPort(address)
	return host, err
}

// roots reads CAFile and CAPath, and gives what they have.
func (o *TLSOptions) roots(config *tls.Config) (anchors []*x509.Certificate, err error) {
	if o.CAFile == "" && o.CAPath == "" {
		return nil, nil
	}
	if o.CAFile != "" {
		if anchors, err = certificates(o.CAFile); err != nil {
			return nil, badTLS("CAFile", err)
		}
	}
	if o.CAPath != "" {
		more, err := directory(o.CAPath)
		if err != nil {
			return nil, badTLS("CAPath", err)
		}
		anchors = append(anchors, more...)
	}
	config.RootCAs = x509.NewCertPool()
	for _, c := range anchors {
		config.RootCAs.AddCert(c)
	}
	return anchors, nil
}

var _ net.Error = (*TLSError)(nil)
