package client_test

import (
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

	"github.com/blocksock/client"
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
func TestAPartialRevocationListIsNotTakenForACompleteOne(t *testing.T) {
	openssl := requireProgram(t, "openssl", "openssl")
	const here, there = "http://crl.test/1", "http://crl.test/2"
	root := newRoot(t, "root")
	server := root.issue(t, "server", nil)
	naming := root.issue(t, "server", func(c *x509.Certificate) { c.CRLDistributionPoints = []string{here} })
	const idp, delta, freshest = 28, 27, 46
	namingAt := func(t *testing.T, fields ...[]byte) *cert { // a certificate with one distribution point
		return root.issue(t, "server", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: wrapped(t, 0x30, wrapped(t, 0x30, fields...))}}
		})
	}
	someReasons := []byte{0x81, 2, 6, 0x40}
	crlIssuer := func(c *cert) []byte { return wrapped(t, 0xa2, wrapped(t, 0xa4, c.RawSubject)) }
	ends := append([]byte{0x30, byte(2 + 2 + len(pointAt(here))), 0x30, byte(2 + len(pointAt(here))), 0xa0, byte(len(pointAt(here)))}, pointAt(here)...)
	for _, test := range []struct {
		name    string
		arc     int
		value   []byte
		cert    *cert
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
		{name: "for a point that the certificate has for another issuer", arc: idp, value: point(pointAt(here)), cert: namingAt(t, pointAt(here), crlIssuer(newRoot(t, "other"))), unknown: "for the distribution point"},
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
				list := root.revoke(t, func(l *x509.RevocationList) {
					l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, test.arc}, Critical: critical, Value: test.value}}
				})
				opts := &client.TLSOptions{CAFile: tempFile(t, "ca.pem", root.certPEM()), CRLFile: tempFile(t, "list.pem", []byte(pemList(list)))}
				if test.refused != "" {
					require.Contains(t, refusedOption(t, opts).Reason, test.refused)
					return
				}
				got, err := listenWith(t, "tcp", c, nil).outcome(t, opts)
				said, opensslErr := exec.Command(openssl, "verify", "-crl_check", "-CAfile", opts.CAFile, "-CRLfile", opts.CRLFile, tempFile(t, "leaf.pem", c.certPEM())).CombinedOutput()
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
		list := root.revoke(t, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: time.Now(),
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Value: []byte{0x30, 0}}}}}
		})
		bad := refusedOption(t, &client.TLSOptions{CRLFile: tempFile(t, "list", list)})
		require.Contains(t, bad.Reason, "another issuer")
	})
}

// A revoked certificate stays revoked, so an entry of a list that is out of date counts,
// and the absence of one does not. A certificate that is trusted for itself needs no list,
// and an entry about it was ignored a minute after nextUpdate.
func TestAnEntryOfAnOldListCounts(t *testing.T) {
	root := newRoot(t, "root")
	middle := root.issue(t, "intermediate", authority)
	server := root.issue(t, "server", nil)
	below := middle.issue(t, "below", nil)
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
		cert    *cert
		pinned  bool
		lists   [][]byte
		refused func(error) bool
	}{
		{"pinned, in an old list", server, true, [][]byte{root.revoke(t, old, server)}, isRevocation(true)},
		{"pinned, in a list of tomorrow", server, true, [][]byte{root.revoke(t, soon, server)}, isRevocation(true)},
		{"pinned, in no list, which is old", server, true, [][]byte{root.revoke(t, old)}, nil},
		{"pinned, in an old list and not in a new one", server, true, [][]byte{root.revoke(t, old, server), root.revoke(t, nil)}, isRevocation(true)},
		{"in an old list", server, false, [][]byte{root.revoke(t, old, server)}, isRevocation(true)},
		{"in an old list and not in a new one", server, false, [][]byte{root.revoke(t, nil), root.revoke(t, with(keyCompromise, old), server)}, isRevocation(true)},
		{"held in an old list", server, false, [][]byte{root.revoke(t, with(hold, old), server)}, isRevocation(true)},
		{"held in an old list, and released since", server, false, [][]byte{root.revoke(t, with(hold, old), server), root.revoke(t, nil)}, nil},
		{"held", server, false, [][]byte{root.revoke(t, with(hold, nil), server)}, isRevocation(true)},
		{"removed", server, false, [][]byte{root.revoke(t, with(removed, nil), server)}, nil},
		{"removed from an old list", server, false, [][]byte{root.revoke(t, with(removed, old), server)}, isRevocation(false)},
		{"in no list, which is old", server, false, [][]byte{root.revoke(t, old)}, isRevocation(false)},
		{"in a list for another distribution point", server, false, [][]byte{root.revoke(t, nil), root.revoke(t, elsewhere, server)}, isRevocation(true)},
		{"the intermediate is in an old list", below, false, [][]byte{middle.revoke(t, nil), root.revoke(t, old, middle)}, isRevocation(true)},
		{"a list of a clock that is a minute ahead", server, false, [][]byte{root.revoke(t, ahead)}, isRevocation(false)},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca, lists := root.certPEM(), ""
			if test.pinned {
				ca = append(test.cert.certPEM(), ca...)
			}
			for _, l := range test.lists {
				lists += pemList(l)
			}
			opts := &client.TLSOptions{CAFile: tempFile(t, "ca.pem", ca), CRLFile: tempFile(t, "lists.pem", []byte(lists))}
			got, err := listenWith(t, "tcp", test.cert, nil).outcome(t, opts)
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
func TestTheNewestListDecides(t *testing.T) {
	openssl := requireProgram(t, "openssl", "openssl")
	root := newRoot(t, "root")
	server := root.issue(t, "server", nil)
	ca := tempFile(t, "ca.pem", root.certPEM())
	list := func(age time.Duration, held ...*cert) string {
		return pemList(root.revoke(t, func(l *x509.RevocationList) {
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
			lists := tempFile(t, "lists.pem", []byte(test.lists))
			_, err := listenWith(t, "tcp", server, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: lists})
			said, opensslErr := exec.Command(openssl, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", lists, tempFile(t, "leaf.pem", server.certPEM())).CombinedOutput()
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
func TestListsThatOpensslMakes(t *testing.T) {
	openssl := requireProgram(t, "openssl", "openssl")
	root := newRoot(t, "root")
	server, revoked := root.issue(t, "server", nil), root.issue(t, "revoked", nil)
	forger := newRoot(t, "root")
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	ca := write("ca.pem", root.certPEM())
	write("index.txt", nil)
	write("number", []byte("01\n"))
	conf := "[ca]\ndefault_ca=d\n[d]\ndatabase=" + dir + "/index.txt\ndefault_md=sha256\ndefault_crl_days=1\n"
	run := func(config, cert, key string, args ...string) {
		args = append([]string{"ca", "-config", config, "-cert", cert, "-keyfile", key}, args...)
		out, err := exec.Command(openssl, args...).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	key := write("key.pem", root.keyPEM(t))
	one := write("one.cnf", []byte(conf))
	two := write("two.cnf", []byte(conf+"crlnumber="+dir+"/number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"))
	run(one, ca, key, "-revoke", write("revoked.pem", revoked.certPEM()))
	for name, config := range map[string]string{"version 1": one, "version 2": two} {
		t.Run(name, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "list.pem")
			run(config, ca, key, "-gencrl", "-out", list)
			_, err := listenWith(t, "tcp", server, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: list})
			require.NoError(t, err)
			_, err = listenWith(t, "tcp", revoked, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: list})
			require.Truef(t, isRevocation(true)(err), "%v", err)
			data, err := os.ReadFile(list)
			require.NoError(t, err)
			b, _ := pem.Decode(data)
			_, err = listenWith(t, "tcp", revoked, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: tempFile(t, "list.der", b.Bytes)})
			require.Truef(t, isRevocation(true)(err), "%v", err)

			run(config, write("forger.pem", forger.certPEM()), write("forger.key", forger.keyPEM(t)), "-gencrl", "-out", list)
			_, err = listenWith(t, "tcp", server, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: list})
			require.Truef(t, isRevocation(false)(err), "%v", err)
			require.ErrorContains(t, err, "not signed with the key of that issuer")
		})
	}
}
