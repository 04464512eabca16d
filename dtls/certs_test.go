package dtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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
)

// A cert is a certificate made by a test, with its key.
type cert struct {
	*x509.Certificate
	key crypto.Signer
}

func ecdsaKey(t testing.TB) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func rsaKey(t testing.TB) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

func newRoot(t testing.TB) *cert {
	c := &cert{key: ecdsaKey(t)}
	template := template("root", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid = true, true
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		c.ExtKeyUsage, c.DNSNames, c.IPAddresses = nil, nil, nil
	})
	c.Certificate = sign(t, template, template, c.key, c.key)
	return c
}

// issue signs a certificate for a server on this machine, in date, unless change says
// otherwise.
func (c *cert) issue(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) *cert {
	return &cert{sign(t, template("server", change), c.Certificate, key, c.key), key}
}

func selfSigned(t testing.TB, key crypto.Signer) *cert {
	c := template("server", nil)
	return &cert{sign(t, c, c, key, key), key}
}

func template(name string, change func(*x509.Certificate)) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)) // never fails
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(c)
	}
	return c
}

func sign(t testing.TB, template, parent *x509.Certificate, key, with crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), with)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

// file writes the certificate in PEM, keyFile the key.
func (c *cert) file(t testing.TB) string { return pemFile(t, "CERTIFICATE", c.Raw) }

func (c *cert) keyFile(t testing.TB) string {
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	require.NoError(t, err)
	return pemFile(t, "PRIVATE KEY", der)
}

func pemFile(t testing.TB, label string, der []byte) string {
	file := filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}), 0o600))
	return file
}
