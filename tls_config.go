package client

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/youmark/pkcs8"
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

// rehashed is a name that openssl-rehash(1) gives to a link to a certificate.
var rehashed = regexp.MustCompile(`^[0-9a-f]{8}\.[0-9]+$`)

func directory(dir string) (all []*x509.Certificate, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".pem", ".crt", ".cer":
		default:
			if !rehashed.MatchString(e.Name()) {
				continue
			}
		}
		certs, err := certificates(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, certs...)
	}
	if all == nil {
		return nil, fmt.Errorf("%s: no file there that ends in .pem, .crt or .cer or has a name by openssl-rehash", dir)
	}
	return all, nil
}

// certificates reads what a file has. x509's own AppendCertsFromPEM passes
// over what it cannot read, and a trust that lacks a root is hard to find.
func certificates(file string) (certs []*x509.Certificate, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		certs = append(certs, cert)
	}
	if certs == nil {
		return nil, fmt.Errorf("%s: has no certificate in PEM", file)
	}
	return certs, nil
}

// pemBlocks decodes all blocks, and unlike encoding/pem passes over none.
func pemBlocks(data []byte) (blocks []*pem.Block, err error) {
	begun := bytes.Count(append([]byte("\n"), data...), []byte("\n-----BEGIN "))
	for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
		blocks = append(blocks, b)
	}
	if len(blocks) != begun {
		return nil, fmt.Errorf("%d of its %d PEM blocks are malformed", begun-len(blocks), begun)
	}
	return blocks, nil
}

// certificate reads CertFile and KeyFile.
func (o *TLSOptions) certificate(config *tls.Config) error {
	switch {
	case o.CertFile == "" && o.KeyFile == "":
		return nil
	case o.KeyFile == "":
		return badTLS("KeyFile", errors.New("is missing; CertFile needs one"))
	case o.CertFile == "":
		return badTLS("CertFile", errors.New("is missing; KeyFile is of no use without"))
	}
	chain, err := os.ReadFile(o.CertFile)
	if err != nil {
		return badTLS("CertFile", err)
	}
	if _, err := pemBlocks(chain); err != nil {
		return badTLS("CertFile", fmt.Errorf("%s: %w", o.CertFile, err))
	}
	key, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return badTLS("KeyFile", err)
	}
	if key, err = decrypted(key, o.Passphrase); err != nil {
		return badTLS("KeyFile", fmt.Errorf("%s: %w", o.KeyFile, err))
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return badTLS("CertFile", fmt.Errorf("%s with %s: %w", o.CertFile, o.KeyFile, err))
	}
	config.Certificates, config.GetClientCertificate = []tls.Certificate{pair}, nil
	return nil
}

// decrypted gives the first private key of a file in PEM, without encryption.
func decrypted(data []byte, passphrase string) ([]byte, error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(blocks, func(b *pem.Block) bool {
		return b.Type == "PRIVATE KEY" || strings.HasSuffix(b.Type, " PRIVATE KEY")
	})
	if i < 0 {
		return nil, errors.New("has no private key in PEM")
	}
	b := blocks[i]
	legacy := x509.IsEncryptedPEMBlock(b) //nolint:staticcheck // keys of this kind are still around
	switch {
	case !legacy && b.Type != "ENCRYPTED PRIVATE KEY":
		return pem.EncodeToMemory(b), nil
	case passphrase == "":
		return nil, errors.New("the key is encrypted, and there is no Passphrase")
	case legacy:
		b.Bytes, err = x509.DecryptPEMBlock(b, []byte(passphrase)) //nolint:staticcheck // as above
		b.Headers = nil
		if err == nil && !isKey(b.Bytes) {
			err = x509.IncorrectPasswordError // one wrong passphrase in 256 looks right by the padding
		}
	default:
		b.Type = "PRIVATE KEY"
		b.Bytes, err = pkcs8Bytes(b.Bytes, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("the key cannot be opened with Passphrase: %w", err)
	}
	return pem.EncodeToMemory(b), nil
}

func isKey(der []byte) bool {
	_, pkcs1 := x509.ParsePKCS1PrivateKey(der)
	_, sec1 := x509.ParseECPrivateKey(der)
	_, pkcs8 := x509.ParsePKCS8PrivateKey(der)
	return pkcs1 == nil || sec1 == nil || pkcs8 == nil
}

func pkcs8Bytes(encrypted []byte, passphrase string) (der []byte, err error) {
	defer func() {
		if problem := recover(); problem != nil { // pkcs8 gives what it reads to crypto/cipher unchecked
			der, err = nil, fmt.Errorf("malformed: %v", problem)
		}
	}()
	key, err := pkcs8.ParsePKCS8PrivateKey(encrypted, []byte(passphrase))
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

var _ net.Error = (*TLSError)(nil)
