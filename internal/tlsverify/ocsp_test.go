package tlsverify

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"
)

// A basicAnswer is a BasicOCSPResponse (RFC 6960, 4.2.1).
type basicAnswer struct {
	Data      answerData
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
	Certs     []asn1.RawValue `asn1:"explicit,tag:0,optional"`
}

type answerData struct {
	Version    int `asn1:"optional,default:0,explicit,tag:0"`
	Responder  asn1.RawValue
	Produced   time.Time `asn1:"generalized"`
	Responses  []answerSingle
	Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
}

type answerSingle struct {
	ID         answerID
	Status     asn1.RawValue
	This       time.Time        `asn1:"generalized"`
	Next       time.Time        `asn1:"generalized,explicit,tag:0,optional"`
	Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
}

type answerID struct {
	Hash      pkix.AlgorithmIdentifier
	Name, Key []byte
	Serial    *big.Int
}

type anyAnswer struct {
	Status asn1.Enumerated
	Bytes  struct {
		Type asn1.ObjectIdentifier
		B    []byte
	} `asn1:"explicit,tag:0"`
}

// resigned changes an answer and, if key is not nil, signs it again. The key is P-256 or Ed25519.
func resigned(t testing.TB, der []byte, key crypto.Signer, change func(*basicAnswer)) []byte {
	t.Helper()
	var outer anyAnswer
	_, err := asn1.Unmarshal(der, &outer)
	require.NoError(t, err)
	var a basicAnswer
	_, err = asn1.Unmarshal(outer.Bytes.B, &a)
	require.NoError(t, err)
	change(&a)
	if key != nil {
		data, err := asn1.Marshal(a.Data)
		require.NoError(t, err)
		hash, message := crypto.SHA256, data
		if _, ok := key.(ed25519.PrivateKey); ok {
			hash = 0
			a.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}
		} else {
			h := hash.New()
			h.Write(data)
			message = h.Sum(nil)
		}
		a.Signature.Bytes, err = key.Sign(rand.Reader, message, hash)
		require.NoError(t, err)
		a.Signature.BitLength = 8 * len(a.Signature.Bytes)
	}
	outer.Bytes.B, err = asn1.Marshal(a)
	require.NoError(t, err)
	der, err = asn1.Marshal(outer)
	require.NoError(t, err)
	return der
}

// signedBySHA1 signs an answer again.
func signedBySHA1(t testing.TB, der []byte, key crypto.Signer) []byte {
	t.Helper()
	return resigned(t, der, nil, func(a *basicAnswer) {
		a.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
		if _, ok := key.(*rsa.PrivateKey); ok {
			a.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, Parameters: asn1.NullRawValue}
		}
		data, err := asn1.Marshal(a.Data)
		require.NoError(t, err)
		digest := sha1.Sum(data)
		a.Signature.Bytes, err = key.Sign(rand.Reader, digest[:], crypto.SHA1)
		require.NoError(t, err)
		a.Signature.BitLength = 8 * len(a.Signature.Bytes)
	})
}

func responder(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	c.DNSNames, c.IPAddresses = nil, nil
}

// A staple is matched to the certificate by all that RFC 6960, 3.2 and 4.1.1 offer: serial
// number and the hashes of the issuer's name and key. golang/go#81396 reports an answer
// about another issuer's certificate with the same serial number, golang/go#59641 one whose
// first certificate is not the signer's. The test also runs openssl-ocsp(1), which must
// not refuse what is accepted here.
func TestStaple_MatchesCertificateAndSigner(t *testing.T) {
	openssl := findOpenSSL(t)
	number := func(n int64) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.SerialNumber = big.NewInt(n) }
	}
	one, two := testcert.NewRoot(t, "one"), testcert.NewRoot(t, "two")
	namesake := testcert.NewRoot(t, "one")
	server, twin := one.Issue(t, "server", number(5)), two.Issue(t, "server", number(5))
	signerKey := testcert.NewKey(t)
	signer, signerOfTwo := one.IssueFor(t, "responder", signerKey, responder), two.IssueFor(t, "responder", signerKey, responder)
	customer := one.Issue(t, "customer", nil)
	good := testcert.Staple(t, one, server, nil)
	goodBySigner := testcert.Staple(t, one, server, nil, signer)
	byHash := func(hash crypto.Hash) []byte {
		return testcert.Staple(t, one, server, func(r *ocsp.Response) { r.IssuerHash = hash })
	}
	raw := func(certs ...*testcert.Cert) (all []asn1.RawValue) {
		for _, c := range certs {
			all = append(all, asn1.RawValue{FullBytes: c.Raw})
		}
		return all
	}
	withCerts := func(certs ...asn1.RawValue) []byte {
		return resigned(t, goodBySigner, nil, func(a *basicAnswer) { a.Certs = certs })
	}
	singleOf := func(der []byte) (s answerSingle) {
		resigned(t, der, nil, func(a *basicAnswer) { s = a.Data.Responses[0] })
		return s
	}
	revoked := func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, time.Now().Add(-time.Minute) }
	unknown := func(r *ocsp.Response) { r.Status = ocsp.Unknown }
	yesterday := func(r *ocsp.Response) {
		r.ThisUpdate, r.NextUpdate = time.Now().Add(-25*time.Hour), time.Now().Add(-24*time.Hour)
	}
	several := func(ders ...[]byte) []byte {
		return resigned(t, good, one.Key, func(a *basicAnswer) {
			a.Data.Responses = nil
			for _, der := range ders {
				a.Data.Responses = append(a.Data.Responses, singleOf(der))
			}
		})
	}
	changed := func(change func(*basicAnswer)) []byte { return resigned(t, good, one.Key, change) }
	single := func(change func(*answerSingle)) []byte {
		return changed(func(a *basicAnswer) { change(&a.Data.Responses[0]) })
	}
	critical := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	nonce := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: []byte{4, 1, 7}}}
	about := func(issuer *testcert.Cert) []byte { // signed by one
		r := ocsp.Response{Status: ocsp.Good, SerialNumber: big.NewInt(5), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
		der, err := ocsp.CreateResponse(issuer.Certificate, one.Certificate, r, one.Key)
		require.NoError(t, err)
		return der
	}
	bits := func(c *testcert.Cert) []byte {
		var info struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		_, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info)
		require.NoError(t, err)
		return info.Key.Bytes
	}
	sha := func(p []byte) []byte { h := sha1.Sum(p); return h[:] }
	byKey := func(c *testcert.Cert) asn1.RawValue {
		key, err := asn1.Marshal(sha(bits(c)))
		require.NoError(t, err)
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, IsCompound: true, Bytes: key}
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	edSigner := one.IssueFor(t, "ed", edKey, responder)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rsaSigner := one.IssueFor(t, "rsa", rsaKey, responder)
	strictSigner := one.Issue(t, "strict responder", func(c *x509.Certificate) {
		responder(c)
		c.ExtraExtensions = critical
	})
	revokedSigner := one.Issue(t, "revoked responder", responder)
	middle := one.Issue(t, "middle", testcert.Authority)
	ofMiddle := middle.Issue(t, "responder of middle", responder)

	for _, test := range []struct {
		name    string
		staple  []byte
		list    []byte
		refused string // empty: accepted
		revoked bool
		args    []string // for openssl
		differs bool     // from openssl, for the reason in the comment
	}{
		{name: "SHA-1", staple: byHash(crypto.SHA1)},
		{name: "SHA-256", staple: byHash(crypto.SHA256), args: []string{"-sha256"}},
		{name: "SHA-384", staple: byHash(crypto.SHA384), args: []string{"-sha384"}},
		{name: "SHA-512", staple: byHash(crypto.SHA512), args: []string{"-sha512"}},
		{name: "a hash that nobody knows", staple: single(func(s *answerSingle) { s.ID.Hash.Algorithm = asn1.ObjectIdentifier{1, 2, 3} }), refused: "hash algorithm 1.2.3 is not supported"},
		{name: "of another hash than it says", staple: single(func(s *answerSingle) {
			s.ID.Hash.Algorithm = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
		}), refused: "of another issuer's certificate"},
		{name: "another issuer's, by the issuer", staple: about(two), refused: "of another issuer's certificate"},
		{name: "another issuer's, by a responder of both", staple: testcert.Staple(t, two, twin, nil, signer), refused: "of another issuer's certificate"},
		{name: "of an issuer with the same name and another key", staple: about(namesake), refused: "of another issuer's certificate"},
		{name: "of an issuer with the same key and another name", staple: single(func(s *answerSingle) { s.ID.Name = sha(two.RawSubject) }), refused: "of another issuer's certificate"},
		{name: "of another number", staple: testcert.Staple(t, one, customer, nil), refused: "no status of this certificate"},
		{name: "of none", staple: several(), refused: "no status of this certificate"},

		{name: "among others", staple: several(testcert.Staple(t, one, customer, revoked), testcert.Staple(t, two, twin, revoked), good), differs: true}, // openssl wants one issuer for all
		{name: "revoked among others", staple: several(testcert.Staple(t, two, twin, nil), testcert.Staple(t, one, server, revoked)), revoked: true},
		{name: "twice", staple: several(good, byHash(crypto.SHA256))},
		{name: "twice, and once revoked", staple: several(good, testcert.Staple(t, one, server, revoked)), revoked: true, differs: true}, // openssl takes the first

		{name: "of yesterday, behind that of today", staple: several(good, testcert.Staple(t, one, server, yesterday))},
		{name: "of yesterday, before that of today", staple: several(testcert.Staple(t, one, server, yesterday), good), differs: true}, // openssl takes the first
		{name: "of yesterday, twice", staple: several(testcert.Staple(t, one, server, yesterday), testcert.Staple(t, one, server, yesterday)), refused: "was valid until"},
		{name: "good and unknown", staple: several(good, testcert.Staple(t, one, server, unknown)), refused: "is unknown", differs: true},
		{name: "good, and unknown yesterday", staple: several(good, testcert.Staple(t, one, server, func(r *ocsp.Response) { yesterday(r); unknown(r) }))},

		{name: "the signer alone", staple: goodBySigner},
		{name: "the issuer before the signer", staple: withCerts(raw(one, signer)...)},
		{name: "the issuer behind the signer", staple: withCerts(raw(signer, one)...)},
		{name: "a customer before the signer", staple: withCerts(raw(customer, signer)...)},
		{name: "another's before the signer, of the same name and key", staple: withCerts(raw(signerOfTwo, signer)...), differs: true}, // openssl tries the first alone
		{name: "another's alone, of the same name and key", staple: withCerts(raw(signerOfTwo)...), refused: "is not signed by the issuer"},
		{name: "what cannot be read before the signer", staple: withCerts(append([]asn1.RawValue{{FullBytes: []byte{0x30, 0}}}, raw(signer)...)...), differs: true}, // openssl parses them all
		{name: "not the signer", staple: withCerts(raw(customer, one)...), refused: "neither the issuer nor the subject"},
		{name: "none", staple: withCerts(), refused: "neither the issuer nor the subject"},
		{name: "the issuer, and others that are needless", staple: changed(func(a *basicAnswer) { a.Certs = raw(customer, one, two) })},
		{name: "a responder of an authority below", staple: testcert.Staple(t, one, server, nil, ofMiddle), refused: "is not signed by the issuer"},
		{name: "a responder that is revoked", staple: testcert.Staple(t, one, server, nil, revokedSigner), list: one.Revoke(t, nil, revokedSigner), refused: `"CN=revoked responder" is revoked`, differs: true}, // openssl gets no list here

		{name: "by the hash of the issuer's key", staple: changed(func(a *basicAnswer) { a.Data.Responder = byKey(one) })},
		{name: "by the hash of the signer's key", staple: resigned(t, goodBySigner, signerKey, func(a *basicAnswer) { a.Data.Responder = byKey(signer) })},
		{name: "by the hash of another's key", staple: changed(func(a *basicAnswer) { a.Data.Responder = byKey(two) }), refused: "neither the issuer nor the subject"},
		{name: "by nobody", staple: changed(func(a *basicAnswer) { a.Data.Responder = asn1.RawValue{Class: 2, Tag: 3, IsCompound: true} }), refused: "neither the issuer nor the subject"},
		{name: "by RSA", staple: testcert.Staple(t, one, server, nil, rsaSigner)},
		{name: "by RSA with SHA-1", staple: signedBySHA1(t, testcert.Staple(t, one, server, nil, rsaSigner), rsaKey)},
		{name: "by ECDSA with SHA-1", staple: signedBySHA1(t, good, one.Key)},
		{name: "a responder with a critical extension that nobody knows", staple: testcert.Staple(t, one, server, nil, strictSigner), refused: "not valid for OCSP signing"},
		{name: "by Ed25519", staple: resigned(t, goodBySigner, edKey, func(a *basicAnswer) { a.Data.Responder, a.Certs = byKey(edSigner), raw(edSigner) })},
		{name: "by an algorithm that nobody knows", staple: resigned(t, good, nil, func(a *basicAnswer) { a.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 3} }), refused: "signature algorithm 1.2.3"},
		{name: "changed after it was signed", staple: resigned(t, good, nil, func(a *basicAnswer) { a.Data.Produced = a.Data.Produced.Add(-time.Hour) }), refused: "cannot be used"},

		{name: "with a nonce", staple: changed(func(a *basicAnswer) { a.Data.Extensions = nonce })},
		{name: "with a critical extension", staple: changed(func(a *basicAnswer) { a.Data.Extensions = critical }), refused: "critical extension", differs: true}, // openssl ignores them
		{name: "with a critical extension of its one", staple: single(func(s *answerSingle) { s.Extensions = critical }), refused: "critical extension", differs: true},
		{name: "with an extension of its one", staple: single(func(s *answerSingle) { s.Extensions = nonce })},
		{name: "of version 2", staple: changed(func(a *basicAnswer) { a.Data.Version = 1 }), refused: "version 2 is not supported", differs: true},
		{name: "with a status that is none", staple: single(func(s *answerSingle) { s.Status.Tag = 3; s.Status.FullBytes = nil }), refused: "malformed status", differs: true},
		{name: "with more behind it", staple: append(slices.Clone(good), 5, 0), refused: "malformed", differs: true},

		{name: "of a clock that is four minutes ahead", staple: testcert.Staple(t, one, server, func(r *ocsp.Response) { r.ThisUpdate = time.Now().Add(4 * time.Minute) })},
		{name: "of a clock that is six minutes ahead", staple: testcert.Staple(t, one, server, func(r *ocsp.Response) { r.ThisUpdate = time.Now().Add(6 * time.Minute) }), refused: "not valid before"},
		{name: "that was to be replaced a minute ago", staple: testcert.Staple(t, one, server, func(r *ocsp.Response) { r.NextUpdate = time.Now().Add(-time.Minute) }), refused: "was valid until", differs: true}, // openssl allows 5 minutes
		{name: "that ends before it begins", staple: testcert.Staple(t, one, server, func(r *ocsp.Response) {
			r.ThisUpdate, r.NextUpdate = time.Now().Add(3*time.Minute), time.Now().Add(2*time.Minute)
		}), refused: "is before thisUpdate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name string, data []byte) string {
				path := filepath.Join(dir, name)
				require.NoError(t, os.WriteFile(path, data, 0o600))
				return path
			}
			ca := write("ca.pem", one.CertPEM())
			if !test.differs {
				said, _ := exec.Command(openssl, append(append([]string{"ocsp"}, test.args...), "-respin", write("staple", test.staple), "-CAfile", ca, "-issuer", ca, "-cert", write("leaf.pem", server.CertPEM()), "-no_nonce")...).CombinedOutput()
				isGood := bytes.Contains(said, []byte("Response verify OK")) && bytes.Contains(said, []byte("leaf.pem: good")) && !bytes.Contains(said, []byte("WARNING"))
				require.Equalf(t, test.refused == "" && !test.revoked, isGood, "openssl: %s", said)
			}
			for _, required := range []bool{false, true} {
				for _, pinned := range []bool{false, true} {
					trusted := one.CertPEM()
					if pinned {
						trusted = append(server.CertPEM(), trusted...)
					}
					opts := &Config{CAFile: write("trusted.pem", trusted), RequireStaple: required}
					if test.list != nil {
						opts.CRLFile = write("list", test.list)
					}
					s := serve(server, func(c *tls.Config) { c.Certificates[0].OCSPStaple = test.staple })
					got, err := s.outcome(t, opts)
					switch {
					case test.revoked:
						require.Truef(t, isRevocation(true)(err), "%v", err)
					case test.refused != "":
						require.Truef(t, isRevocation(false)(err), "%v", err)
						require.ErrorContains(t, err, test.refused)
					default:
						require.NoError(t, err)
						require.Equal(t, "secret", got)
					}
				}
			}
		})
	}
}

func TestStaple_DecidesOnCertificate(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := root.Issue(t, "server", nil)
	signer := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }
	promise, err := asn1.Marshal([]int{5})
	require.NoError(t, err)
	promising := root.Issue(t, "promising", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: promise}}
	})
	revoked := func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, time.Now().Add(-time.Minute) }
	unknown := func(r *ocsp.Response) { r.Status = ocsp.Unknown }
	old := func(r *ocsp.Response) {
		r.ThisUpdate, r.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(r *ocsp.Response) { r.ThisUpdate = time.Now().Add(time.Hour) }
	oldSigner := func(c *x509.Certificate) { signer(c); c.NotAfter = time.Now().Add(-time.Minute) }
	other := testcert.NewRoot(t, "root")
	self := testcert.SelfSigned(t, "self", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
	endless := func(age time.Duration) func(*ocsp.Response) {
		return func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = time.Now().Add(-age), time.Time{} }
	}
	middle := root.Issue(t, "intermediate", testcert.Authority)
	below := middle.Issue(t, "below", nil)
	pinned := testcert.TempFile(t, "pinned.pem", append(server.CertPEM(), root.CertPEM()...))
	alone := testcert.TempFile(t, "alone.pem", server.CertPEM())
	for _, test := range []struct {
		name    string
		cert    *testcert.Cert
		staple  []byte
		opts    Config
		refused func(error) bool
		text    string
	}{
		{name: "good", cert: server, staple: testcert.Staple(t, root, server, nil)},
		{name: "good and required", cert: server, staple: testcert.Staple(t, root, server, nil), opts: Config{RequireStaple: true}},
		{name: "none", cert: server},
		{name: "none, required", cert: server, opts: Config{RequireStaple: true}, refused: isRevocation(false), text: "RequireStaple is set"},
		{name: "none, promised", cert: promising, refused: isRevocation(false), text: "RFC 7633"},
		{name: "promised and there", cert: promising, staple: testcert.Staple(t, root, promising, nil)},
		{name: "revoked", cert: server, staple: testcert.Staple(t, root, server, revoked), refused: isRevocation(true), text: "as the stapled OCSP response says"},
		{name: "revoked, self-signed allowed", cert: server, staple: testcert.Staple(t, root, server, revoked), opts: Config{AllowSelfSigned: true}, refused: isRevocation(true), text: "revoked"},
		{name: "unknown", cert: server, staple: testcert.Staple(t, root, server, unknown), refused: isRevocation(false), text: "is unknown"},
		{name: "out of date", cert: server, staple: testcert.Staple(t, root, server, old), refused: isRevocation(false), text: "was valid until"},
		{name: "of tomorrow", cert: server, staple: testcert.Staple(t, root, server, early), refused: isRevocation(false), text: "not valid before"},
		{name: "about another", cert: server, staple: testcert.Staple(t, root, promising, nil), refused: isRevocation(false), text: "cannot be used"},
		{name: "by a stranger", cert: server, staple: testcert.Staple(t, other, server, nil), refused: isRevocation(false), text: "cannot be used"},
		{name: "by who may answer for the issuer", cert: server, staple: testcert.Staple(t, root, server, nil, root.Issue(t, "responder", signer))},
		{name: "by who might once", cert: server, staple: testcert.Staple(t, root, server, nil, root.Issue(t, "responder", oldSigner)), refused: isRevocation(false), text: "not valid for OCSP signing"},
		{name: "by another of the issuer's customers", cert: server, staple: testcert.Staple(t, root, server, nil, root.Issue(t, "customer", nil)), refused: isRevocation(false), text: "not valid for OCSP signing (RFC 6960"},
		{name: "by itself", cert: server, staple: testcert.Staple(t, root, server, nil, server), refused: isRevocation(false), text: "not valid for OCSP signing"},
		{name: "with the issuer's own certificate", cert: server, staple: testcert.Staple(t, root, server, nil, root)},
		{name: "with the intermediate's own certificate", cert: below, staple: testcert.Staple(t, middle, below, nil, middle)},
		{name: "by who may answer for the root alone", cert: below, staple: testcert.Staple(t, middle, below, nil, root.Issue(t, "responder", signer)), refused: isRevocation(false), text: "is not signed by the issuer"},
		{name: "without an end, new", cert: server, staple: testcert.Staple(t, root, server, endless(6*24*time.Hour))},
		{name: "without an end, old", cert: server, staple: testcert.Staple(t, root, server, endless(8*24*time.Hour)), refused: isRevocation(false), text: "was valid until"},
		{name: "trusted for itself, good", cert: server, staple: testcert.Staple(t, root, server, nil), opts: Config{CAFile: pinned, RequireStaple: true}},
		{name: "trusted for itself, revoked", cert: server, staple: testcert.Staple(t, root, server, revoked), opts: Config{CAFile: pinned}, refused: isRevocation(true), text: "revoked"},
		{name: "trusted for itself, by nobody knows whom", cert: server, staple: testcert.Staple(t, root, server, nil), opts: Config{CAFile: alone}},
		{name: "trusted for itself, by nobody knows whom, required", cert: server, staple: testcert.Staple(t, root, server, nil),
			opts: Config{CAFile: alone, RequireStaple: true}, refused: isRevocation(false), text: "certificate is not known"},
		{name: "garbage", cert: server, staple: []byte("good"), refused: isRevocation(false), text: "cannot be used"},
		{name: "an error in place of an answer", cert: server, staple: ocsp.TryLaterErrorResponse, refused: isRevocation(false), text: "try later"},
		{name: "self-signed, of itself", cert: self, staple: testcert.Staple(t, self, self, nil), opts: Config{AllowSelfSigned: true, RequireStaple: true}},
		{name: "garbage, if verification is off", cert: server, staple: []byte("good"), opts: Config{InsecureSkipVerify: true}},
	} {
		eachTLSVersion(t, func(t *testing.T, version uint16) {
			t.Run(test.name, func(t *testing.T) {
				s := serve(test.cert, func(c *tls.Config) {
					c.MaxVersion = version
					c.Certificates[0].OCSPStaple = test.staple
				})
				opts := test.opts
				if opts.CAFile == "" {
					opts.CAFile = testcert.TempFile(t, "root.pem", root.CertPEM())
				}
				got, err := s.outcome(t, &opts)
				if test.refused == nil {
					require.NoError(t, err)
					require.Equal(t, "secret", got)
					return
				}
				require.Truef(t, test.refused(err), "%v", err)
				require.ErrorContains(t, err, test.text)
				require.Empty(t, got)
			})
		})
	}
}
