// Package tlsverify reads the files that a TLS client is configured with (authorities,
// revocation lists, its own certificate and key) and verifies the certificates of servers.
//
//	Config ── Load ──▶ Verifier ── Protect ──▶ a tls.Config for one connection
//	                            └─ Verify ───▶ the chains of a list of raw certificates
//
// Protect is for crypto/tls. Verify is for handshakes of other packages, such as DTLS.
package tlsverify

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// A Config says which certificates of servers are accepted, and which certificate the
// client shows. The zero value accepts those with a chain to one of the system's roots and
// shows none.
type Config struct {
	// CAFile and CAPath are a file and a directory of certificates that a chain may end
	// in. RootCAs is used if neither is set. Default: the system's roots.
	CAFile  string
	CAPath  string
	RootCAs *x509.CertPool

	// CertFile and KeyFile have the client's certificate and key. Passphrase decrypts
	// the key. The file of KeyFile must have one key.
	CertFile   string
	KeyFile    string
	Passphrase string

	// CRLFile has the revocation lists that the server's certificate is looked up in.
	CRLFile string

	// RequireStaple refuses a server that sends no OCSP response.
	RequireStaple bool

	// AllowSelfSigned accepts a certificate that is signed with its own key, too.
	AllowSelfSigned bool

	// VerifyDepth is the largest number of certificates between the server's and the
	// root. Zero: no limit but that of crypto/x509. Negative: none are allowed.
	VerifyDepth int

	// InsecureSkipVerify accepts every certificate.
	InsecureSkipVerify bool
}

// A FieldError names a field of Config whose value cannot be used, and says why.
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

func (e *FieldError) Unwrap() error { return e.Err }

// A Verifier is a Config whose files have been read.
type Verifier struct {
	Roots       *x509.CertPool   // nil: the system's
	Certificate *tls.Certificate // of CertFile and KeyFile; nil if they are not set

	config  Config
	anchors []*x509.Certificate // of CAFile and CAPath
	lists   []*revocationList
}

// Load reads the files. Its error is a *FieldError.
func (c *Config) Load() (*Verifier, error) {
	v := &Verifier{config: *c, Roots: c.RootCAs}
	for _, load := range []func() error{v.loadRoots, v.loadCertificate, v.loadLists} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *Verifier) loadRoots() (err error) {
	c := &v.config
	if c.CAFile == "" && c.CAPath == "" {
		return nil
	}
	if c.CAFile != "" {
		if v.anchors, err = readCertificates(c.CAFile); err != nil {
			return &FieldError{"CAFile", err}
		}
	}
	if c.CAPath != "" {
		more, err := readDirectory(c.CAPath)
		if err != nil {
			return &FieldError{"CAPath", err}
		}
		v.anchors = append(v.anchors, more...)
	}
	v.Roots = x509.NewCertPool()
	for _, anchor := range v.anchors {
		v.Roots.AddCert(anchor)
	}
	return nil
}

func (v *Verifier) loadCertificate() error {
	c := &v.config
	switch {
	case c.CertFile == "" && c.KeyFile == "":
		return nil
	case c.KeyFile == "":
		return &FieldError{"KeyFile", errors.New("is missing: set it to the file with the private key of CertFile")}
	case c.CertFile == "":
		return &FieldError{"CertFile", errors.New("is missing: set it to the file with the certificate of KeyFile")}
	}
	chain, err := readChain(c.CertFile)
	if err != nil {
		return &FieldError{"CertFile", err}
	}
	key, err := readKey(c.KeyFile, c.Passphrase)
	if err != nil {
		return &FieldError{"KeyFile", err}
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return &FieldError{"CertFile", fmt.Errorf("%s with %s: %w", c.CertFile, c.KeyFile, err)}
	}
	v.Certificate = &pair
	return nil
}

func (v *Verifier) loadLists() (err error) {
	if v.config.CRLFile == "" {
		return nil
	}
	if v.lists, err = readLists(v.config.CRLFile); err != nil {
		return &FieldError{"CRLFile", err}
	}
	return nil
}
