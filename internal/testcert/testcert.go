// Package testcert makes certificates, revocation lists and OCSP responses for tests.
package testcert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"
)

// A Cert is a certificate with its key and the certificates above it.
type Cert struct {
	*x509.Certificate
	Key   crypto.Signer
	Above []*Cert // the issuers up to the root, without it
	Root  *Cert   // of a root: itself
}

// newTemplate returns a certificate to be signed: for servers and clients on this machine,
// valid now. change, if not nil, changes it.
func newTemplate(t testing.TB, name string, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if change != nil {
		change(template)
	}
	return template
}

// Authority changes a template to that of an authority.
func Authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c.ExtKeyUsage, c.DNSNames, c.IPAddresses = nil, nil, nil
}

// NewRoot makes a root.
func NewRoot(t testing.TB, name string) *Cert {
	t.Helper()
	return SelfSigned(t, name, Authority)
}

// SelfSigned makes a certificate that is signed with its own key.
func SelfSigned(t testing.TB, name string, change func(*x509.Certificate)) *Cert {
	t.Helper()
	template := newTemplate(t, name, change)
	c := &Cert{Key: NewKey(t)}
	c.Root = c
	c.Certificate = sign(t, template, template, c.Key, c.Key)
	return c
}

// Issue makes a certificate that c has signed: a server's, or with Authority as change an
// intermediate's.
func (c *Cert) Issue(t testing.TB, name string, change func(*x509.Certificate)) *Cert {
	t.Helper()
	return c.IssueFor(t, name, NewKey(t), change)
}

// IssueFor is Issue for a key.
func (c *Cert) IssueFor(t testing.TB, name string, key crypto.Signer, change func(*x509.Certificate)) *Cert {
	t.Helper()
	issued := &Cert{Key: key, Root: c.Root}
	issued.Certificate = sign(t, newTemplate(t, name, change), c.Certificate, issued.Key, c.Key)
	if c != c.Root {
		issued.Above = append([]*Cert{c}, c.Above...)
	}
	return issued
}

// NewKey makes a key (P-256).
func NewKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, key, with crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), with)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

// Pair returns the chain without the root, and the key, for crypto/tls.
func (c *Cert) Pair() tls.Certificate {
	p := tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key, Leaf: c.Certificate}
	for _, a := range c.Above {
		p.Certificate = append(p.Certificate, a.Raw)
	}
	return p
}

// CertPEM returns the chain without the root.
func (c *Cert) CertPEM() []byte {
	var b bytes.Buffer
	for _, der := range c.Pair().Certificate {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return b.Bytes()
}

// KeyPEM returns the key in PKCS #8.
func (c *Cert) KeyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Files writes the chain, the key and the root's certificate to files, and returns their names.
func (c *Cert) Files(t testing.TB) (chain, key, ca string) {
	t.Helper()
	return TempFile(t, "chain.pem", c.CertPEM()), TempFile(t, "key.pem", c.KeyPEM(t)), TempFile(t, "ca.pem", c.Root.CertPEM())
}

// TempFile writes a file that is removed with the test, and returns its path.
func TempFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// Revoke returns a revocation list, in DER, that c has signed.
func (c *Cert) Revoke(t testing.TB, change func(*x509.RevocationList), revoked ...*Cert) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.Certificate, c.Key)
	require.NoError(t, err)
	return der
}

// ListPEM returns a revocation list in PEM.
func ListPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// Staple returns an OCSP response about a certificate, signed by its issuer or by a responder.
// It is good and valid now. change, if not nil, changes it.
func Staple(t testing.TB, issuer, c *Cert, change func(*ocsp.Response), responder ...*Cert) []byte {
	t.Helper()
	r := ocsp.Response{
		Status: ocsp.Good, SerialNumber: c.SerialNumber,
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(&r)
	}
	signer := issuer
	if len(responder) > 0 {
		signer = responder[0]
		r.Certificate = signer.Certificate
	}
	der, err := ocsp.CreateResponse(issuer.Certificate, signer.Certificate, r, signer.Key)
	require.NoError(t, err)
	return der
}

// Pool returns a pool of certificates.
func Pool(certs ...*Cert) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c.Certificate)
	}
	return p
}
