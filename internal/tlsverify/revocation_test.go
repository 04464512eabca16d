package tlsverify

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// point encodes an issuing distribution point (RFC 5280, 5.2.5).
func point(fields ...[]byte) []byte {
	var body []byte
	for _, f := range fields {
		body = append(body, f...)
	}
	return append([]byte{0x30, byte(len(body))}, body...)
}

// pointAt encodes its name, a URI.
func pointAt(uri string) []byte {
	name := append([]byte{0x86, byte(len(uri))}, uri...)
	for _, tag := range []byte{0xa0, 0xa0} {
		name = append([]byte{tag, byte(len(name))}, name...)
	}
	return name
}

// A partial list proves nothing about a certificate that is not in it, whether or not its
// extension is marked critical: smallstep/certificates did not mark the issuing
// distribution point before #1293. The test also runs openssl-verify(1), which must agree.
func TestLists_PartialIsNotTakenForComplete(t *testing.T) {
	openssl := findOpenSSL(t)
	const here, there = "http://crl.test/1", "http://crl.test/2"
	root := testcert.NewRoot(t, "root")
	server := root.Issue(t, "server", nil)
	naming := root.Issue(t, "server", func(c *x509.Certificate) { c.CRLDistributionPoints = []string{here} })
	const idp, delta, freshest = 28, 27, 46
	namingAt := func(t *testing.T, fields ...[]byte) *testcert.Cert { // a certificate with one distribution point
		return root.Issue(t, "server", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: wrapped(t, 0x30, wrapped(t, 0x30, fields...))}}
		})
	}
	someReasons := []byte{0x81, 2, 6, 0x40}
	crlIssuer := func(c *testcert.Cert) []byte { return wrapped(t, 0xa2, wrapped(t, 0xa4, c.RawSubject)) }
	ends := append([]byte{0x30, byte(2 + 2 + len(pointAt(here))), 0x30, byte(2 + len(pointAt(here))), 0xa0, byte(len(pointAt(here)))}, pointAt(here)...)
	for _, test := range []struct {
		name    string
		arc     int
		value   []byte
		cert    *testcert.Cert
		refused string // by the file; empty: see unknown
		unknown string // by the dial; empty: it is accepted
	}{
		{name: "a delta list", arc: delta, value: []byte{2, 1, 5}, refused: "is a delta list"},
		{name: "of users alone", arc: idp, value: point([]byte{0x81, 1, 0xff}), refused: "one kind of certificates"},
		{name: "of authorities alone", arc: idp, value: point([]byte{0x82, 1, 0xff}), refused: "one kind of certificates"},
		{name: "of attributes alone", arc: idp, value: point([]byte{0x85, 1, 0xff}), refused: "one kind of certificates"},
		{name: "of some reasons", arc: idp, value: point([]byte{0x83, 2, 6, 0x40}), refused: "some reasons"},
		{name: "of no reason", arc: idp, value: point([]byte{0x83, 1, 0}), refused: "some reasons"},
		{name: "indirect", arc: idp, value: point([]byte{0x84, 1, 0xff}), refused: "other issuers"},
		{name: "of users alone, at a point", arc: idp, value: point(pointAt(here), []byte{0x81, 1, 0xff}), cert: naming, refused: "one kind of certificates"},
		{name: "a point that is empty", arc: idp, value: point(), refused: "malformed"},
		{name: "a point that is cut", arc: idp, value: []byte{0x30, 3, 0x81, 1}, refused: "malformed"},
		{name: "a point with more behind it", arc: idp, value: append(point(pointAt(here)), 5, 0), refused: "malformed"},
		{name: "a point with more in it", arc: idp, value: point([]byte{0x86, 1, 0xff}), refused: "malformed"},
		{name: "a point of another type", arc: idp, value: []byte{4, 0}, refused: "malformed"},
		{name: "for a point, with FALSE written out", arc: idp, value: point(pointAt(here), []byte{0x81, 1, 0}), cert: naming},
		{name: "for a point, with a flag of two bytes", arc: idp, value: point(pointAt(here), []byte{0x81, 2, 0, 0}), cert: naming, refused: "malformed"},
		{name: "for a point that the certificate has for some reasons", arc: idp, value: point(pointAt(here)), cert: namingAt(t, pointAt(here), someReasons), unknown: "for the distribution point"},
		{name: "for a point that the certificate has for another issuer", arc: idp, value: point(pointAt(here)), cert: namingAt(t, pointAt(here), crlIssuer(testcert.NewRoot(t, "other"))), unknown: "for the distribution point"},
		{name: "for a point that the certificate has for its issuer", arc: idp, value: point(pointAt(here)), cert: namingAt(t, pointAt(here), crlIssuer(root))},
		{name: "for a point that the certificate has for all reasons", arc: idp, value: point(pointAt(here)), cert: namingAt(t, pointAt(here))},
		{name: "for a point, and the certificate has it", arc: idp, value: point(pointAt(here)), cert: naming},
		{name: "for a point, and the certificate has another", arc: idp, value: point(pointAt(there)), cert: naming, unknown: "for the distribution point"},
		{name: "for a point, and the certificate has none", arc: idp, value: point(pointAt(here)), unknown: "for the distribution point"},
		{name: "with the place of its delta list", arc: freshest, value: ends},
	} {
		for _, critical := range []bool{false, true} {
			name := test.name
			if critical {
				if test.arc == freshest {
					continue // RFC 5280, 5.2.6: it never is
				}
				name += ", critical"
			}
			t.Run(name, func(t *testing.T) {
				c := test.cert
				if c == nil {
					c = server
				}
				list := root.Revoke(t, func(l *x509.RevocationList) {
					l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, test.arc}, Critical: critical, Value: test.value}}
				})
				opts := &Config{CAFile: testcert.TempFile(t, "ca.pem", root.CertPEM()), CRLFile: testcert.TempFile(t, "list.pem", []byte(testcert.ListPEM(list)))}
				if test.refused != "" {
					require.Contains(t, refused(t, opts).Error(), test.refused)
					return
				}
				got, err := serve(c, nil).outcome(t, opts)
				said, opensslErr := exec.Command(openssl, "verify", "-crl_check", "-CAfile", opts.CAFile, "-CRLfile", opts.CRLFile, testcert.TempFile(t, "leaf.pem", c.CertPEM())).CombinedOutput()
				if test.unknown != "" {
					require.Truef(t, isRevocation(false)(err), "%v", err)
					require.ErrorContains(t, err, test.unknown)
					require.Errorf(t, opensslErr, "%s", said)
					return
				}
				require.NoError(t, err)
				require.Equal(t, "secret", got)
				require.NoErrorf(t, opensslErr, "%s", said)
			})
		}
	}
	t.Run("with an entry of another issuer", func(t *testing.T) {
		list := root.Revoke(t, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: time.Now(),
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Value: []byte{0x30, 0}}}}}
		})
		bad := refused(t, &Config{CRLFile: testcert.TempFile(t, "list", list)})
		require.Contains(t, bad.Error(), "another issuer")
	})
}

// A revoked certificate stays revoked, so an entry of a list that is out of date counts,
// and the absence of one does not. A certificate that is trusted for itself needs no list,
// and an entry about it was ignored a minute after nextUpdate.
func TestLists_EntryOfOldListCounts(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	server := root.Issue(t, "server", nil)
	below := middle.Issue(t, "below", nil)
	old := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Minute)
	}
	soon := func(l *x509.RevocationList) {
		l.ThisUpdate = time.Now().Add(time.Hour)
		l.NextUpdate = l.ThisUpdate.Add(time.Hour)
	}
	ahead := func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(time.Minute) }
	with := func(reason int, change func(*x509.RevocationList)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			if change != nil {
				change(l)
			}
			for i := range l.RevokedCertificateEntries {
				l.RevokedCertificateEntries[i].ReasonCode = reason
			}
		}
	}
	const keyCompromise, hold, removed = 1, 6, 8
	elsewhere := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Value: point(pointAt("http://crl.test/"))}}
	}
	for _, test := range []struct {
		name    string
		cert    *testcert.Cert
		pinned  bool
		lists   [][]byte
		refused func(error) bool
	}{
		{"pinned, in an old list", server, true, [][]byte{root.Revoke(t, old, server)}, isRevocation(true)},
		{"pinned, in a list of tomorrow", server, true, [][]byte{root.Revoke(t, soon, server)}, isRevocation(true)},
		{"pinned, in no list, which is old", server, true, [][]byte{root.Revoke(t, old)}, nil},
		{"pinned, in an old list and not in a new one", server, true, [][]byte{root.Revoke(t, old, server), root.Revoke(t, nil)}, isRevocation(true)},
		{"in an old list", server, false, [][]byte{root.Revoke(t, old, server)}, isRevocation(true)},
		{"in an old list and not in a new one", server, false, [][]byte{root.Revoke(t, nil), root.Revoke(t, with(keyCompromise, old), server)}, isRevocation(true)},
		{"held in an old list", server, false, [][]byte{root.Revoke(t, with(hold, old), server)}, isRevocation(true)},
		{"held in an old list, and released since", server, false, [][]byte{root.Revoke(t, with(hold, old), server), root.Revoke(t, nil)}, nil},
		{"held", server, false, [][]byte{root.Revoke(t, with(hold, nil), server)}, isRevocation(true)},
		{"removed", server, false, [][]byte{root.Revoke(t, with(removed, nil), server)}, nil},
		{"removed from an old list", server, false, [][]byte{root.Revoke(t, with(removed, old), server)}, isRevocation(false)},
		{"in no list, which is old", server, false, [][]byte{root.Revoke(t, old)}, isRevocation(false)},
		{"in a list for another distribution point", server, false, [][]byte{root.Revoke(t, nil), root.Revoke(t, elsewhere, server)}, isRevocation(true)},
		{"the intermediate is in an old list", below, false, [][]byte{middle.Revoke(t, nil), root.Revoke(t, old, middle)}, isRevocation(true)},
		{"a list of a clock that is a minute ahead", server, false, [][]byte{root.Revoke(t, ahead)}, isRevocation(false)},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca, lists := root.CertPEM(), ""
			if test.pinned {
				ca = append(test.cert.CertPEM(), ca...)
			}
			for _, l := range test.lists {
				lists += testcert.ListPEM(l)
			}
			opts := &Config{CAFile: testcert.TempFile(t, "ca.pem", ca), CRLFile: testcert.TempFile(t, "lists.pem", []byte(lists))}
			got, err := serve(test.cert, nil).outcome(t, opts)
			if test.refused == nil {
				require.NoError(t, err)
				require.Equal(t, "secret", got)
				return
			}
			require.Truef(t, test.refused(err), "%v", err)
			require.Empty(t, got)
		})
	}
}

// The newest list of several decides whether a certificate is held, and a list that is not
// valid yet does not count, not even by a minute. openssl must agree.
func TestLists_NewestDecides(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	server := root.Issue(t, "server", nil)
	ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
	list := func(age time.Duration, held ...*testcert.Cert) string {
		return testcert.ListPEM(root.Revoke(t, func(l *x509.RevocationList) {
			l.ThisUpdate = time.Now().Add(-age)
			for i := range l.RevokedCertificateEntries {
				l.RevokedCertificateEntries[i].ReasonCode = 6 // certificateHold
			}
		}, held...))
	}
	for _, test := range []struct {
		name    string
		lists   string
		refused func(error) bool
	}{
		{"held, and released since", list(3*time.Hour, server) + list(2*time.Hour), nil},
		{"released, and held before", list(2*time.Hour) + list(3*time.Hour, server), nil},
		{"held since", list(3*time.Hour) + list(2*time.Hour, server), isRevocation(true)},
		{"held, the older list behind", list(2*time.Hour, server) + list(3*time.Hour), isRevocation(true)},
		{"held, and released in a list that is not valid yet", list(2*time.Hour, server) + list(-2*time.Minute), isRevocation(true)},
		{"a list that is not valid yet", list(-2 * time.Minute), isRevocation(false)},
		{"a list that has just become valid", list(time.Minute), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			lists := testcert.TempFile(t, "lists.pem", []byte(test.lists))
			_, err := serve(server, nil).outcome(t, &Config{CAFile: ca, CRLFile: lists})
			said, opensslErr := exec.Command(openssl, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", lists, testcert.TempFile(t, "leaf.pem", server.CertPEM())).CombinedOutput()
			if test.refused == nil {
				require.NoErrorf(t, opensslErr, "%s", said)
				require.NoError(t, err)
				return
			}
			require.Errorf(t, opensslErr, "%s", said)
			require.Truef(t, test.refused(err), "%v", err)
		})
	}
}

// openssl ca -gencrl writes version 1 unless its configuration has crl_extensions, and
// crypto/x509 parses version 2 only.
func TestLists_OfOpenSSL(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	server, revoked := root.Issue(t, "server", nil), root.Issue(t, "revoked", nil)
	forger := testcert.NewRoot(t, "root")
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	ca := write("ca.pem", root.CertPEM())
	write("index.txt", nil)
	write("number", []byte("01\n"))
	conf := "[ca]\ndefault_ca=d\n[d]\ndatabase=" + dir + "/index.txt\ndefault_md=sha256\ndefault_crl_days=1\n"
	run := func(config, cert, key string, args ...string) {
		args = append([]string{"ca", "-config", config, "-cert", cert, "-keyfile", key}, args...)
		out, err := exec.Command(openssl, args...).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	key := write("key.pem", root.KeyPEM(t))
	one := write("one.cnf", []byte(conf))
	two := write("two.cnf", []byte(conf+"crlnumber="+dir+"/number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"))
	run(one, ca, key, "-revoke", write("revoked.pem", revoked.CertPEM()))
	for name, config := range map[string]string{"version 1": one, "version 2": two} {
		t.Run(name, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "list.pem")
			run(config, ca, key, "-gencrl", "-out", list)
			_, err := serve(server, nil).outcome(t, &Config{CAFile: ca, CRLFile: list})
			require.NoError(t, err)
			_, err = serve(revoked, nil).outcome(t, &Config{CAFile: ca, CRLFile: list})
			require.Truef(t, isRevocation(true)(err), "%v", err)
			data, err := os.ReadFile(list)
			require.NoError(t, err)
			b, _ := pem.Decode(data)
			_, err = serve(revoked, nil).outcome(t, &Config{CAFile: ca, CRLFile: testcert.TempFile(t, "list.der", b.Bytes)})
			require.Truef(t, isRevocation(true)(err), "%v", err)

			run(config, write("forger.pem", forger.CertPEM()), write("forger.Key", forger.KeyPEM(t)), "-gencrl", "-out", list)
			_, err = serve(server, nil).outcome(t, &Config{CAFile: ca, CRLFile: list})
			require.Truef(t, isRevocation(false)(err), "%v", err)
			require.ErrorContains(t, err, "not signed with the key of that issuer")
		})
	}
}

func TestLists_DecideOnChain(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	server := middle.Issue(t, "server", nil)
	direct := root.Issue(t, "direct", nil)
	namesake := testcert.NewRoot(t, "intermediate")
	pinned := testcert.TempFile(t, "pinned.pem", append(direct.CertPEM(), root.CertPEM()...))
	inPEM := func(lists ...[]byte) []byte {
		var b bytes.Buffer
		for _, l := range lists {
			_ = pem.Encode(&b, &pem.Block{Type: "X509 CRL", Bytes: l})
		}
		return b.Bytes()
	}
	old := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	early := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	for _, test := range []struct {
		name    string
		cert    *testcert.Cert
		list    []byte
		opts    Config
		refused func(error) bool
		text    string
	}{
		{name: "nothing is revoked", cert: server, list: inPEM(middle.Revoke(t, nil))},
		{name: "others are revoked", cert: server, list: inPEM(middle.Revoke(t, nil, middle.Issue(t, "x", nil)))},
		{name: "in DER", cert: server, list: middle.Revoke(t, nil)},
		{name: "revoked", cert: server, list: inPEM(middle.Revoke(t, nil, server)), refused: isRevocation(true), text: "as CRLFile says"},
		{name: "revoked, in DER", cert: server, list: middle.Revoke(t, nil, server), refused: isRevocation(true), text: `certificate of "CN=server" is revoked`},
		{name: "revoked, self-signed allowed", cert: server, list: middle.Revoke(t, nil, server), opts: Config{AllowSelfSigned: true}, refused: isRevocation(true), text: "revoked"},
		{name: "the second list says so", cert: server, list: inPEM(middle.Revoke(t, nil), middle.Revoke(t, nil, server)), refused: isRevocation(true), text: "revoked"},
		{name: "intermediate revoked", cert: server, list: inPEM(middle.Revoke(t, nil), root.Revoke(t, nil, middle)), refused: isRevocation(true), text: `"CN=intermediate" is revoked`},
		{name: "intermediate not revoked", cert: server, list: inPEM(middle.Revoke(t, nil), root.Revoke(t, nil))},
		{name: "no list of the issuer", cert: server, list: inPEM(root.Revoke(t, nil)), refused: isRevocation(false), text: "no list of CN=intermediate"},
		{name: "list out of date", cert: server, list: inPEM(middle.Revoke(t, old)), refused: isRevocation(false), text: "is out of date since"},
		{name: "list out of date, and a new one", cert: server, list: inPEM(middle.Revoke(t, old), middle.Revoke(t, nil))},
		{name: "intermediate's list out of date", cert: server, list: inPEM(middle.Revoke(t, nil), root.Revoke(t, old)), refused: isRevocation(false), text: "is out of date since"},
		{name: "list of tomorrow", cert: server, list: inPEM(middle.Revoke(t, early)), refused: isRevocation(false), text: "not valid before"},
		{name: "list by a namesake of the issuer", cert: server, list: inPEM(namesake.Revoke(t, nil)), refused: isRevocation(false), text: "is not signed with the key of that issuer"},
		{name: "signed by a root", cert: direct, list: inPEM(root.Revoke(t, nil))},
		{name: "signed by a root, revoked", cert: direct, list: inPEM(root.Revoke(t, nil, direct)), refused: isRevocation(true), text: "revoked"},
		{name: "trusted for itself, and not revoked", cert: direct, list: inPEM(root.Revoke(t, nil)), opts: Config{CAFile: pinned}},
		{name: "trusted for itself, and revoked", cert: direct, list: inPEM(root.Revoke(t, nil, direct)), opts: Config{CAFile: pinned}, refused: isRevocation(true), text: "as CRLFile says"},
		{name: "trusted for itself, and revoked by whose certificate came along", cert: server, list: inPEM(middle.Revoke(t, nil, server)),
			opts: Config{CAFile: testcert.TempFile(t, "leaf.pem", server.CertPEM()[:len(server.CertPEM())-len(middle.CertPEM())])}, refused: isRevocation(true), text: "as CRLFile says"},
		{name: "trusted for itself, and revoked by nobody knows whom", cert: direct, list: inPEM(root.Revoke(t, nil, direct)),
			opts: Config{CAFile: testcert.TempFile(t, "leaf.pem", direct.CertPEM())}},
		{name: "trusted for itself, and revoked by a namesake of its issuer", cert: server, list: inPEM(namesake.Revoke(t, nil, server)),
			opts: Config{CAFile: testcert.TempFile(t, "leaf.pem", append(server.CertPEM(), namesake.CertPEM()...))}},
		{name: "self-signed has no issuer to revoke it", cert: testcert.SelfSigned(t, "s", nil), list: inPEM(root.Revoke(t, nil)), opts: Config{AllowSelfSigned: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := test.opts
			if opts.CAFile == "" {
				opts.CAFile = testcert.TempFile(t, "root.pem", root.CertPEM())
			}
			opts.CRLFile = testcert.TempFile(t, "list", test.list)
			got, err := serve(test.cert, nil).outcome(t, &opts)
			if test.refused == nil {
				require.NoError(t, err)
				require.Equal(t, "secret", got)
				return
			}
			require.Truef(t, test.refused(err), "%v", err)
			require.ErrorContains(t, err, test.text)
			require.Empty(t, got)
		})
	}
}

func TestLists_UnusableIsRefused(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	partial := func(l *x509.RevocationList) {
		l.ExtraExtensions = criticalExtension(28)
	}
	indirect := func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{
			SerialNumber: big.NewInt(1), RevocationTime: time.Now(), ExtraExtensions: criticalExtension(29),
		}}
	}
	for name, test := range map[string]struct {
		data []byte
		text string
	}{
		"empty":           {nil, "no revocation list"},
		"text":            {[]byte("none"), "no revocation list"},
		"a certificate":   {root.CertPEM(), "is not a revocation list"},
		"cut":             {root.Revoke(t, nil)[:100], "x509"},
		"partial":         {root.Revoke(t, partial), "only complete lists can be used"},
		"of other issuer": {root.Revoke(t, indirect), "only an issuer's own certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			file := testcert.TempFile(t, "list", test.data)
			bad := refused(t, &Config{CRLFile: file})
			require.Equal(t, "CRLFile", bad.Field)
			require.Contains(t, bad.Error(), file)
			require.Contains(t, bad.Error(), test.text)
		})
	}
}

// criticalExtension returns an extension that nothing may ignore.
func criticalExtension(arc int) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, arc}, Critical: true, Value: []byte{0x30, 0}}}
}
