package dtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"time"

	"github.com/blocksock/client"
)

type verifier interface {
	Verify(raw [][]byte, name string, now time.Time) ([][]*x509.Certificate, error)
}

// load reads the files of t.
func load(t *client.TLSOptions) (verifier, *tls.Certificate, error) {
	bad := func(field string, err error) (verifier, *tls.Certificate, error) {
		return nil, nil, &client.OptionError{Option: "TLS." + field, Reason: err.Error(), Err: err}
	}
	for field, set := range map[string]bool{
		"CAPath": t.CAPath != "", "Passphrase": t.Passphrase != "", "AllowSelfSigned": t.AllowSelfSigned,
		"VerifyDepth": t.VerifyDepth != 0, "CRLFile": t.CRLFile != "",
	} {
		if set {
			return bad(field, errors.New("is not supported for DTLS yet"))
		}
	}
	v := &roots{insecure: t.InsecureSkipVerify}
	if t.Config != nil {
		v.pool = t.Config.RootCAs
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return bad("CAFile", err)
		}
		v.pool = x509.NewCertPool()
		if !v.pool.AppendCertsFromPEM(pem) {
			return bad("CAFile", errors.New("has no certificate in PEM"))
		}
	}
	if t.CertFile == "" {
		return v, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return bad("CertFile", err)
	}
	return v, &pair, nil
}

type roots struct {
	pool     *x509.CertPool
	insecure bool
}

func (r *roots) Verify(raw [][]byte, name string, now time.Time) ([][]*x509.Certificate, error) {
	if r.insecure {
		return nil, nil
	}
	var certs []*x509.Certificate
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	opts := x509.VerifyOptions{DNSName: name, Roots: r.pool, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(opts)
	if err != nil {
		return nil, &tls.CertificateVerificationError{UnverifiedCertificates: certs, Err: err}
	}
	return chains, nil
}
