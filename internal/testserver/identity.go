package testserver

import (
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
	"time"
)

// An Identity is what a server shows over TLS, and what tells that it is the server:
// a certificate for localhost, 127.0.0.1 and ::1, by an authority that has no other.
type Identity struct {
	CAFile, CertFile, KeyFile string // PEM
	Certificate               tls.Certificate
	Roots                     *x509.CertPool
}

// NewIdentity makes one, with its files in a directory.
func NewIdentity(dir string) (*Identity, error) {
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, err := sign(ca, ca, nil)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	key, err := sign(leaf, ca, caKey)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	i := &Identity{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		Certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		Roots:       x509.NewCertPool(),
	}
	i.Roots.AddCert(ca)
	for name, block := range map[string]*pem.Block{
		i.CAFile:   {Type: "CERTIFICATE", Bytes: ca.Raw},
		i.CertFile: {Type: "CERTIFICATE", Bytes: leaf.Raw},
		i.KeyFile:  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// sign makes of a template a certificate, by its parent or, without a key, by itself.
func sign(template, parent *x509.Certificate, with *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if with == nil {
		with = key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)); err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), with)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	*template = *c
	return key, nil
}
