package tlsverify

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os/exec"
	"testing"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// spelled returns an authority with the same key, whose lists and answers have another
// encoding of its name.
func spelled(t *testing.T, c *testcert.Cert, tag int, name string) *testcert.Cert {
	t.Helper()
	value := []byte(name)
	if tag == asn1.TagBMPString {
		value = nil
		for _, r := range name {
			value = append(value, byte(r>>8), byte(r))
		}
	}
	var err error
	again, copied := *c, *c.Certificate
	copied.RawSubject, err = asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: asn1.RawValue{Tag: tag, Bytes: value}}}})
	require.NoError(t, err)
	again.Certificate = &copied
	return &again
}

// RFC 5280, 7.1 compares names without regard to string type, case and white space. An
// issuer that writes its name differently in its lists had a revoked intermediate accepted
// and a good server refused. openssl must agree.
func TestNames_IssuerInAnotherEncoding(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "My Root")
	middle := root.Issue(t, "The Middle", testcert.Authority)
	server, direct := middle.Issue(t, "server", nil), root.Issue(t, "server", nil)
	for _, test := range []struct {
		name string
		tag  int
		root string
		same bool
	}{
		{"as it was", asn1.TagPrintableString, "My Root", true},
		{"UTF8String", asn1.TagUTF8String, "My Root", true},
		{"BMPString", asn1.TagBMPString, "My Root", true},
		{"IA5String", asn1.TagIA5String, "My Root", true},
		{"T61String", asn1.TagT61String, "My Root", true},
		{"another case", asn1.TagUTF8String, "MY rOOT", true},
		{"more spaces", asn1.TagPrintableString, "  My   Root ", true},
		{"no space", asn1.TagUTF8String, "MyRoot", false},
		{"another name", asn1.TagUTF8String, "My Roof", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			other := spelled(t, root, test.tag, test.root)
			ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
			for _, c := range []struct {
				name    string
				cert    *testcert.Cert
				lists   string
				all     string
				refused func(error) bool
			}{
				{"good", direct, testcert.ListPEM(other.Revoke(t, nil)), "-crl_check", nil},
				{"revoked", direct, testcert.ListPEM(other.Revoke(t, nil, direct)), "-crl_check", isRevocation(true)},
				{"intermediate", server, testcert.ListPEM(middle.Revoke(t, nil)) + testcert.ListPEM(other.Revoke(t, nil, middle)), "-crl_check_all", isRevocation(true)},
			} {
				t.Run(c.name, func(t *testing.T) {
					lists := testcert.TempFile(t, "lists.pem", []byte(c.lists))
					_, err := serve(c.cert, nil).outcome(t, &Config{CAFile: ca, CRLFile: lists})
					said, opensslErr := exec.Command(openssl, "verify", c.all, "-CAfile", ca, "-CRLfile", lists, "-untrusted", testcert.TempFile(t, "middle.pem", middle.CertPEM()), testcert.TempFile(t, "leaf.pem", c.cert.CertPEM())).CombinedOutput()
					switch {
					case !test.same && c.cert == server: // a list of a stranger, and none of the root: only openssl demands one
						require.NoError(t, err)
						require.Errorf(t, opensslErr, "%s", said)
					case !test.same:
						require.Truef(t, isRevocation(false)(err), "%v", err)
						require.Errorf(t, opensslErr, "%s", said)
					case c.refused == nil:
						require.NoErrorf(t, opensslErr, "%s", said)
						require.NoError(t, err)
					default:
						require.Errorf(t, opensslErr, "%s", said)
						require.Truef(t, c.refused(err), "%v", err)
					}
				})
			}
			t.Run("staple", func(t *testing.T) {
				staple := testcert.Staple(t, root, direct, nil, other)
				s := serve(direct, func(c *tls.Config) { c.Certificates[0].OCSPStaple = staple })
				_, err := s.outcome(t, &Config{CAFile: ca})
				said, _ := exec.Command(openssl, "ocsp", "-respin", testcert.TempFile(t, "staple", staple), "-CAfile", ca, "-issuer", ca, "-cert", testcert.TempFile(t, "leaf.pem", direct.CertPEM()), "-no_nonce").CombinedOutput()
				if test.same {
					require.Contains(t, string(said), "Response verify OK")
					require.NoError(t, err)
				} else {
					require.NotContains(t, string(said), "Response verify OK")
					require.Truef(t, isRevocation(false)(err), "%v", err)
				}
			})
		})
	}
}

// An authority of CAFile is trusted for itself, so a chain may end with an intermediate. The
// list of its issuer counts all the same, as with openssl verify -crl_check_all.
func TestLists_TrustedAuthorityMayBeRevoked(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	server, direct := middle.Issue(t, "server", nil), root.Issue(t, "server", nil)
	bundle := append(middle.CertPEM(), root.CertPEM()...)
	for _, test := range []struct {
		name    string
		cert    *testcert.Cert
		ca      []byte
		lists   string
		refused func(error) bool
	}{
		{"an intermediate in CAFile", server, bundle, testcert.ListPEM(middle.Revoke(t, nil)) + testcert.ListPEM(root.Revoke(t, nil, middle)), isRevocation(true)},
		{"an intermediate in CAFile that is not revoked", server, bundle, testcert.ListPEM(middle.Revoke(t, nil)) + testcert.ListPEM(root.Revoke(t, nil)), nil},
		{"a root in its own list", direct, root.CertPEM(), testcert.ListPEM(root.Revoke(t, nil, root)), isRevocation(true)},
		{"a root that is not", direct, root.CertPEM(), testcert.ListPEM(root.Revoke(t, nil)), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca, lists := testcert.TempFile(t, "ca.pem", test.ca), testcert.TempFile(t, "lists.pem", []byte(test.lists))
			_, err := serve(test.cert, nil).outcome(t, &Config{CAFile: ca, CRLFile: lists})
			said, opensslErr := exec.Command(openssl, "verify", "-crl_check_all", "-CAfile", ca, "-CRLfile", lists, testcert.TempFile(t, "leaf.pem", test.cert.CertPEM())).CombinedOutput()
			if test.refused == nil {
				require.NoErrorf(t, opensslErr, "%s", said)
				require.NoError(t, err)
				return
			}
			require.Errorf(t, opensslErr, "%s", said)
			require.Truef(t, test.refused(err), "%v", err)
		})
	}
	t.Run("an intermediate in CAFile, no list of its issuer", func(t *testing.T) {
		opts := &Config{CAFile: testcert.TempFile(t, "ca.pem", bundle), CRLFile: testcert.TempFile(t, "list.pem", []byte(testcert.ListPEM(middle.Revoke(t, nil))))}
		_, err := serve(server, nil).outcome(t, opts)
		require.NoError(t, err)
	})
}
