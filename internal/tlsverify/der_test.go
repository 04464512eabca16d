package tlsverify

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os/exec"
	"slices"
	"testing"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// elements splits what is in a SEQUENCE.
func elements(t *testing.T, sequence []byte) (all []asn1.RawValue) {
	t.Helper()
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(sequence, &outer)
	require.NoError(t, err)
	require.Empty(t, rest)
	for rest := outer.Bytes; len(rest) > 0; {
		var one asn1.RawValue
		rest, err = asn1.Unmarshal(rest, &one)
		require.NoError(t, err)
		all = append(all, one)
	}
	return all
}

func wrapped(t *testing.T, tag byte, all ...[]byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: bytes.Join(all, nil)})
	require.NoError(t, err)
	der[0] = tag
	return der
}

func full(all []asn1.RawValue) (each [][]byte) {
	for _, e := range all {
		each = append(each, e.FullBytes)
	}
	return each
}

// changedList changes the elements of a list and signs it again.
func changedList(t *testing.T, der []byte, key crypto.Signer, change func([][]byte) [][]byte) []byte {
	t.Helper()
	outer := elements(t, der)
	tbs := wrapped(t, 0x30, change(full(elements(t, outer[0].FullBytes)))...)
	digest := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	bits, err := asn1.Marshal(asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)})
	require.NoError(t, err)
	return wrapped(t, 0x30, tbs, outer[1].FullBytes, bits)
}

var (
	derNull = []byte{5, 0}
	derJunk = []byte{0x81, 1, 'x'}
)

// crypto/x509 ignores the rest of a list behind an element that it does not expect. Entries
// and extensions were lost: a revoked certificate was accepted, and a delta list was taken
// for a complete one. openssl must not accept what is refused.
func TestLists_MalformedIsRefused(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	server, other := root.Issue(t, "server", nil), root.Issue(t, "other", nil)
	ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
	const nextUpdate, entries, extensions = 4, 5, 6
	insert := func(at int, more ...[]byte) func([][]byte) [][]byte {
		return func(e [][]byte) [][]byte { return slices.Insert(e, at, more...) }
	}
	inEntry := func(more []byte) func([][]byte) [][]byte {
		return func(e [][]byte) [][]byte {
			entry := full(elements(t, elements(t, e[entries])[0].FullBytes))
			e[entries] = wrapped(t, 0x30, wrapped(t, 0x30, append(entry, more)...))
			return e
		}
	}
	delta := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 5}}}
	}
	twice := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: derNull}, {Id: asn1.ObjectIdentifier{1, 2, 3}, Value: derNull}}
	}
	empty := wrapped(t, 0x30)
	for _, test := range []struct {
		name    string
		change  func([][]byte) [][]byte
		list    func(*x509.RevocationList)
		good    bool
		differs bool // openssl accepts it
	}{
		{name: "as it was", change: insert(0), good: true},
		{name: "something before the entries", change: insert(entries, derJunk)},
		{name: "the entries in a SET", change: func(e [][]byte) [][]byte { e[entries][0] = 0x31; return e }},
		{name: "nextUpdate twice", change: func(e [][]byte) [][]byte { return slices.Insert(e, entries, e[nextUpdate]) }},
		{name: "the entries twice", change: insert(entries, empty)},
		{name: "something before the extensions", change: insert(extensions, derJunk), list: delta},
		{name: "NULL at the end", change: insert(extensions+1, derNull)},
		{name: "the extensions twice", change: func(e [][]byte) [][]byte { return append(e, e[extensions]) }},
		{name: "NULL behind the extensions", change: func(e [][]byte) [][]byte {
			e[extensions] = wrapped(t, 0xa0, elements(t, e[extensions])[0].FullBytes, derNull)
			return e
		}},
		{name: "NULL at the end of an entry", change: inEntry(derNull)},
		{name: "NULL at the end of the extensions of an entry", change: inEntry(wrapped(t, 0x30, derNull))},
		{name: "an extension twice", change: insert(0), list: twice, differs: true},
		{name: "no entries", change: func(e [][]byte) [][]byte { return slices.Delete(e, entries, entries+1) }, good: true},
		{name: "entries, of which there are none", change: func(e [][]byte) [][]byte { e[entries] = empty; return e }, good: true},
		{name: "no nextUpdate", change: func(e [][]byte) [][]byte { return slices.Delete(e, nextUpdate, nextUpdate+1) }, good: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := changedList(t, root.Revoke(t, test.list, other), root.Key, test.change)
			opts := &Config{CAFile: ca, CRLFile: testcert.TempFile(t, "list.pem", []byte(testcert.ListPEM(list)))}
			said, opensslErr := exec.Command(openssl, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", opts.CRLFile, testcert.TempFile(t, "leaf.pem", server.CertPEM())).CombinedOutput()
			if test.good {
				require.NoErrorf(t, opensslErr, "%s", said)
				_, err := serve(server, nil).outcome(t, opts)
				require.NoError(t, err)
				return
			}
			if !test.differs {
				require.Errorf(t, opensslErr, "%s", said)
			}
			require.Contains(t, refused(t, opts).Error(), "malformed")
		})
	}
}

// changedStaple changes the elements of the ResponseData of an answer, or those of its one
// SingleResponse, and signs the answer again.
func changedStaple(t *testing.T, der []byte, key crypto.Signer, data, single func([][]byte) [][]byte) []byte {
	t.Helper()
	var outer anyAnswer
	_, err := asn1.Unmarshal(der, &outer)
	require.NoError(t, err)
	basic := elements(t, outer.Bytes.B)
	all := full(elements(t, basic[0].FullBytes))
	const singles = 2
	if single != nil {
		one := full(elements(t, elements(t, all[singles])[0].FullBytes))
		all[singles] = wrapped(t, 0x30, wrapped(t, 0x30, single(one)...))
	}
	if data != nil {
		all = data(all)
	}
	tbs := wrapped(t, 0x30, all...)
	digest := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	require.NoError(t, err)
	bits, err := asn1.Marshal(asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)})
	require.NoError(t, err)
	outer.Bytes.B = wrapped(t, 0x30, tbs, basic[1].FullBytes, bits)
	der, err = asn1.Marshal(outer)
	require.NoError(t, err)
	return der
}

// encoding/asn1 ignores what is left at the end of a SEQUENCE: an answer could lose its
// nextUpdate or a critical extension. openssl must not accept what is refused.
func TestStaple_MalformedIsRefused(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	server := root.Issue(t, "server", nil)
	ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
	derJunk := []byte{0x82, 1, 'x'}
	extension := func(critical byte) []byte {
		return wrapped(t, 0x30, wrapped(t, 0x30, []byte{6, 2, 0x2a, 3, 1, 1, critical, 4, 2, 5, 0}))
	}
	const status, this, next = 1, 2, 3
	insert := func(at int, more ...[]byte) func([][]byte) [][]byte {
		return func(e [][]byte) [][]byte { return slices.Insert(e, at, more...) }
	}
	add := func(more ...[]byte) func([][]byte) [][]byte {
		return func(e [][]byte) [][]byte { return append(e, more...) }
	}
	set := func(at int, to []byte) func([][]byte) [][]byte {
		return func(e [][]byte) [][]byte { e[at] = to; return e }
	}
	for _, test := range []struct {
		name         string
		data, single func([][]byte) [][]byte
		good         bool
	}{
		{name: "as it was", good: true},
		{name: "something before nextUpdate", single: insert(next, derJunk)},
		{name: "the extensions before nextUpdate", single: insert(next, wrapped(t, 0xa1, extension(0)))},
		{name: "nextUpdate twice", single: func(e [][]byte) [][]byte { return append(e, e[next]) }},
		{name: "NULL behind nextUpdate", single: func(e [][]byte) [][]byte {
			e[next] = wrapped(t, 0xa0, elements(t, e[next])[0].FullBytes, derNull)
			return e
		}},
		{name: "something before critical extensions of its one", single: add(derJunk, wrapped(t, 0xa1, extension(0xff)))},
		{name: "NULL before critical extensions", data: add(derNull, wrapped(t, 0xa1, extension(0xff)))},
		{name: "NULL behind the extensions", data: add(wrapped(t, 0xa1, extension(0), derNull))},
		{name: "extensions that are not critical", data: add(wrapped(t, 0xa1, extension(0))), single: add(wrapped(t, 0xa1, extension(0))), good: true},
		{name: "good, constructed", single: set(status, []byte{0xa0, 0})},
		{name: "good, with more in it", single: set(status, []byte{0x80, 1, 0})},
		{name: "fractions of a second", single: func(e [][]byte) [][]byte {
			e[this], e[next] = []byte("\x18\x1220200101000000.25Z"), wrapped(t, 0xa0, []byte("\x18\x1220490101000000.25Z"))
			return e
		}, good: true},
		{name: "no nextUpdate", single: func(e [][]byte) [][]byte { return e[:next] }, good: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			staple := changedStaple(t, testcert.Staple(t, root, server, nil), root.Key, test.data, test.single)
			said, _ := exec.Command(openssl, "ocsp", "-respin", testcert.TempFile(t, "staple", staple), "-CAfile", ca, "-issuer", ca, "-cert", testcert.TempFile(t, "leaf.pem", server.CertPEM()), "-no_nonce").CombinedOutput()
			isGood := bytes.Contains(said, []byte("Response verify OK")) && bytes.Contains(said, []byte("leaf.pem: good")) && !bytes.Contains(said, []byte("WARNING"))
			s := serve(server, func(c *tls.Config) { c.Certificates[0].OCSPStaple = staple })
			_, err := s.outcome(t, &Config{CAFile: ca})
			if test.good {
				require.Truef(t, isGood, "%s", said)
				require.NoError(t, err)
				return
			}
			require.Falsef(t, isGood, "%s", said)
			require.Truef(t, isRevocation(false)(err), "%v", err)
			require.ErrorContains(t, err, "malformed")
		})
	}
}
