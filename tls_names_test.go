package client_test

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os/exec"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// spelled returns an authority with the same key, whose lists and answers have another
// encoding of its name.
func spelled(t *testing.T, c *cert, tag int, name string) *cert {
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
func TestAnIssuersNameInAnotherEncoding(t *testing.T) {
	openssl := requireProgram(t, "openssl", "openssl")
	root := newRoot(t, "My Root")
	middle := root.issue(t, "The Middle", authority)
	server, direct := middle.issue(t, "server", nil), root.issue(t, "server", nil)
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
			ca := tempFile(t, "ca.pem", root.certPEM())
			for _, c := range []struct {
				name    string
				cert    *cert
				lists   string
				all     string
				refused func(error) bool
			}{
				{"good", direct, pemList(other.revoke(t, nil)), "-crl_check", nil},
				{"revoked", direct, pemList(other.revoke(t, nil, direct)), "-crl_check", isRevocation(true)},
				{"intermediate", server, pemList(middle.revoke(t, nil)) + pemList(other.revoke(t, nil, middle)), "-crl_check_all", isRevocation(true)},
			} {
				t.Run(c.name, func(t *testing.T) {
					lists := tempFile(t, "lists.pem", []byte(c.lists))
					_, err := listenWith(t, "tcp", c.cert, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: lists})
					said, opensslErr := exec.Command(openssl, "verify", c.all, "-CAfile", ca, "-CRLfile", lists, "-untrusted", tempFile(t, "middle.pem", middle.certPEM()), tempFile(t, "leaf.pem", c.cert.certPEM())).CombinedOutput()
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
				staple := answers(t, root, direct, nil, other)
				s := listenWith(t, "tcp", direct, func(c *tls.Config) { c.Certificates[0].OCSPStaple = staple })
				_, err := s.outcome(t, &client.TLSOptions{CAFile: ca})
				said, _ := exec.Command(openssl, "ocsp", "-respin", tempFile(t, "staple", staple), "-CAfile", ca, "-issuer", ca, "-cert", tempFile(t, "leaf.pem", direct.certPEM()), "-no_nonce").CombinedOutput()
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
func TestATrustedAuthorityThatIsRevoked(t *testing.T) {
	openssl := requireProgram(t, "openssl", "openssl")
	root := newRoot(t, "root")
	middle := root.issue(t, "intermediate", authority)
	server, direct := middle.issue(t, "server", nil), root.issue(t, "server", nil)
	bundle := append(middle.certPEM(), root.certPEM()...)
	for _, test := range []struct {
		name    string
		cert    *cert
		ca      []byte
		lists   string
		refused func(error) bool
	}{
		{"an intermediate in CAFile", server, bundle, pemList(middle.revoke(t, nil)) + pemList(root.revoke(t, nil, middle)), isRevocation(true)},
		{"an intermediate in CAFile that is not revoked", server, bundle, pemList(middle.revoke(t, nil)) + pemList(root.revoke(t, nil)), nil},
		{"a root in its own list", direct, root.certPEM(), pemList(root.revoke(t, nil, root)), isRevocation(true)},
		{"a root that is not", direct, root.certPEM(), pemList(root.revoke(t, nil)), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca, lists := tempFile(t, "ca.pem", test.ca), tempFile(t, "lists.pem", []byte(test.lists))
			_, err := listenWith(t, "tcp", test.cert, nil).outcome(t, &client.TLSOptions{CAFile: ca, CRLFile: lists})
			said, opensslErr := exec.Command(openssl, "verify", "-crl_check_all", "-CAfile", ca, "-CRLfile", lists, tempFile(t, "leaf.pem", test.cert.certPEM())).CombinedOutput()
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
		opts := &client.TLSOptions{CAFile: tempFile(t, "ca.pem", bundle), CRLFile: tempFile(t, "list.pem", []byte(pemList(middle.revoke(t, nil))))}
		_, err := listenWith(t, "tcp", server, nil).outcome(t, opts)
		require.NoError(t, err)
	})
}
