package tlsverify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"
)

// fuzzCA makes an authority.
func fuzzCA(f *testing.F) (*x509.Certificate, *ecdsa.PrivateKey) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fuzz"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: []byte{1},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(f, err)
	ca, err := x509.ParseCertificate(der)
	require.NoError(f, err)
	return ca, key
}

// Whatever is in a file of certificates or keys, it is read whole or refused.
func FuzzPEM(f *testing.F) {
	ca, key := fuzzCA(f)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(f, err)
	f.Add(certificate)
	f.Add(append([]byte("# two\r\n"), append(certificate, certificate...)...))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Add(append([]byte("\ufeff "), bytes.ReplaceAll(certificate, []byte("-----\n"), []byte("-----"))...))
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAA=\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.WriteFile(file, data, 0o600))
		if blocks, err := pemBlocks(data); err == nil {
			require.Equal(t, bytes.Count(data, []byte("-----BEGIN")), len(blocks), "none is ignored")
			require.Equal(t, bytes.Count(data, []byte("-----END")), len(blocks))
		}
		certs, err := readCertificates(file)
		require.Equal(t, err == nil, len(certs) > 0)
		plain, err := decryptKey(data, "") // a passphrase would have a stranger's file say how long to work
		if err == nil {
			b, rest := pem.Decode(plain)
			require.NotNil(t, b)
			require.Empty(t, rest)
		}
	})
}

func FuzzRevocationLists(f *testing.F) {
	ca, key := fuzzCA(f)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1<<32, 0),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Unix(1, 0)}},
	}, ca, key)
	require.NoError(f, err)
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	f.Add(bytes.Replace(der, []byte{2, 1, 1}, nil, 1)) // like version 1, but for the lengths
	f.Fuzz(func(t *testing.T, data []byte) {
		lists, err := parseLists(data)
		if err != nil {
			return
		}
		require.NotEmpty(t, lists)
		v := &Verifier{lists: lists}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(7), RawIssuer: ca.RawSubject, Subject: ca.Subject, Issuer: ca.Subject}
		require.Error(t, v.checkLists([]*x509.Certificate{leaf, ca}, []*x509.Certificate{leaf}, time.Unix(2, 0)), "on the one list that is good, and on no other")
	})
}

// No bytes are a good answer but those that the issuer has signed.
func FuzzStaple(f *testing.F) {
	ca, key := fuzzCA(f)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7)}
	for _, status := range []int{ocsp.Revoked, ocsp.Unknown} {
		der, err := ocsp.CreateResponse(ca, ca, ocsp.Response{
			Status: status, SerialNumber: leaf.SerialNumber, ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1<<32, 0),
		}, key)
		require.NoError(f, err)
		f.Add(der)
	}
	good := ocsp.Response{Status: ocsp.Good, SerialNumber: leaf.SerialNumber, ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1<<32, 0)}
	namesake, otherKey := fuzzCA(f)
	der, err := ocsp.CreateResponse(namesake, ca, good, key) // about another issuer's certificate
	require.NoError(f, err)
	f.Add(der)
	good.Certificate = namesake
	der, err = ocsp.CreateResponse(ca, namesake, good, otherKey) // by a responder that the issuer has not authorized
	require.NoError(f, err)
	f.Add(der)
	f.Add([]byte(ocsp.TryLaterErrorResponse))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 0 {
			_, err := new(Verifier).checkStaple(leaf, ca, data, time.Unix(1, 0))
			require.Error(t, err)
		}
	})
}
