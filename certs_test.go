package client_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A cert is a certificate that a test has made, with its key and what a server
// has to send with it.
type cert struct {
	*x509.Certificate
	key   crypto.Signer
	above []*cert // its issuers up to the root, which is not among them
	root  *cert   // itself for a root
}

// certTemplate is a certificate before it is signed: for a server on this
// machine and in date, unless change says otherwise.
func certTemplate(t testing.TB, name string, change func(*x509.Certificate)) *x509.Certificate {
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

// authority makes of a template one that can sign others.
func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c.ExtKeyUsage, c.DNSNames, c.IPAddresses = nil, nil, nil
}

// newRoot makes an authority that nobody has signed.
func newRoot(t testing.TB, name string) *cert {
	t.Helper()
	return selfSigned(t, name, authority)
}

func selfSigned(t testing.TB, name string, change func(*x509.Certificate)) *cert {
	t.Helper()
	template := certTemplate(t, name, change)
	c := &cert{key: newKey(t)}
	c.root = c
	c.Certificate = sign(t, template, template, c.key, c.key)
	return c
}

// issue signs a certificate: a server's, or with authority for a change an
// intermediate's.
func (c *cert) issue(t testing.TB, name string, change func(*x509.Certificate)) *cert {
	t.Helper()
	return c.issueFor(t, name, newKey(t), change)
}

func (c *cert) issueFor(t testing.TB, name string, key crypto.Signer, change func(*x509.Certificate)) *cert {
	t.Helper()
	issued := &cert{key: key, root: c.root}
	issued.Certificate = sign(t, certTemplate(t, name, change), c.Certificate, issued.key, c.key)
	if c != c.root {
		issued.above = append([]*cert{c}, c.above...)
	}
	return issued
}

func newKey(t testing.TB) crypto.Signer {
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

// pair is the certificate as a server of crypto/tls takes it.
func (c *cert) pair() tls.Certificate {
	p := tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.key, Leaf: c.Certificate}
	for _, a := range c.above {
		p.Certificate = append(p.Certificate, a.Raw)
	}
	return p
}

func (c *cert) certPEM() []byte {
	var b bytes.Buffer
	for _, der := range c.pair().Certificate {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return b.Bytes()
}

func (c *cert) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// files writes the chain, the key and the root's certificate.
func (c *cert) files(t testing.TB) (chain, key, ca string) {
	t.Helper()
	return tempFile(t, "chain.pem", c.certPEM()), tempFile(t, "key.pem", c.keyPEM(t)), tempFile(t, "ca.pem", c.root.certPEM())
}

func tempFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// revoke makes a list of the certificates that c, an issuer, has revoked.
func (c *cert) revoke(t testing.TB, change func(*x509.RevocationList), revoked ...*cert) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.Certificate, c.key)
	require.NoError(t, err)
	return der
}

// criticalExtension is one that means: do not use this unless you know me.
func criticalExtension(arc int) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, arc}, Critical: true, Value: []byte{0x30, 0}}}
}
