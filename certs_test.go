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

// A cert is a certificate made by a test, with its key and its chain.
type cert struct {
	*x509.Certificate
	key   crypto.Signer
	above []*cert // its issuers, without the root
	root  *cert   // of a root: itself
}

// certTemplate returns an unsigned certificate: valid now and for a server on this machine,
// unless change says otherwise.
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

// authority makes a template a certificate authority.
func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid = true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c.ExtKeyUsage, c.DNSNames, c.IPAddresses = nil, nil, nil
}

// newRoot makes a self-signed certificate authority.
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

// issue signs a server's certificate, or with authority as change an intermediate's.
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

// pair returns the certificate and its chain for a crypto/tls server.
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

// files writes the chain, the key and the root's certificate to PEM files.
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

// revoke makes a revocation list of c, an issuer, with the given certificates.
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

// criticalExtension is an unknown critical extension: a verifier has to reject it.
func criticalExtension(arc int) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, arc}, Critical: true, Value: []byte{0x30, 0}}}
}
