package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"
)

// resumes dials, receives what the server has to give of sessions, and tells what
// the two sides know of each other.
func (s *tlsServer) resumes(t *testing.T, opts *client.TLSOptions) (resumed bool, shown []*x509.Certificate) {
	t.Helper()
	c, peer := s.handshakes(t, client.Options{TLS: opts})
	_, err := peer.Write([]byte("!"))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), 0)
	require.NoError(t, err)
	defer c.Close()
	return c.ConnectionState().DidResume, peer.ConnectionState().PeerCertificates
}

func cached(config *tls.Config) *tls.Config {
	if config == nil {
		config = &tls.Config{}
	}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return config
}

// To the server, who resumes a session is whom it was begun with.
func TestTLSSession_IsNotResumedWithAnotherCertificate(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		root := testcert.NewRoot(t, "root")
		alice, bob := root.Issue(t, "alice", nil), root.Issue(t, "bob", nil)
		s := listenWith(t, "tcp", root.Issue(t, "server", nil), func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth, c.ClientCAs = version, tls.VerifyClientCertIfGiven, testcert.Pool(root)
		})
		config := cached(nil) // of all
		as := func(who *testcert.Cert) *client.TLSOptions {
			opts := s.trust(t)
			opts.Config = config
			if who != nil {
				opts.CertFile, opts.KeyFile, _ = who.Files(t)
			}
			return opts
		}
		for _, again := range []bool{false, true} {
			for _, who := range []*testcert.Cert{alice, bob, nil} {
				resumed, shown := s.resumes(t, as(who))
				require.Equal(t, again, resumed)
				if who == nil {
					require.Empty(t, shown)
				} else {
					require.Equal(t, who.Raw, shown[0].Raw)
				}
			}
		}
		t.Run("one that nobody can foresee", func(t *testing.T) {
			opts := s.trust(t)
			opts.Config = config.Clone()
			next := []*testcert.Cert{alice, bob, alice}
			opts.Config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair := next[0].Pair()
				return &pair, nil
			}
			for ; len(next) > 0; next = next[1:] {
				resumed, shown := s.resumes(t, opts)
				require.False(t, resumed)
				require.Equal(t, next[0].Raw, shown[0].Raw)
			}
		})
	})
}

// A session that cannot be used any more costs a whole handshake, not a dial.
func TestTLSSession_EndsWithValidityOfCertificateAndStaple(t *testing.T) {
	for name, selfSignedToo := range map[string]bool{"": false, "self-signed allowed": true} {
		t.Run(name, func(t *testing.T) {
			eachTLSVersion(t, func(t *testing.T, version uint16) {
				root := testcert.NewRoot(t, "root")
				server := root.Issue(t, "server", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * time.Minute) })
				now := time.Now()
				good := func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-time.Minute), now.Add(10*time.Minute) }
				s := listenWith(t, "tcp", server, func(c *tls.Config) {
					c.MaxVersion = version
					c.Time = func() time.Time { return now }
					c.Certificates[0].OCSPStaple = testcert.Staple(t, root, server, good)
				})
				opts := s.trust(t)
				opts.AllowSelfSigned = selfSignedToo
				opts.Config = cached(&tls.Config{Time: func() time.Time { return now }})
				expect := func(want bool) {
					t.Helper()
					resumed, _ := s.resumes(t, opts)
					require.Equal(t, want, resumed)
				}
				expect(false)
				expect(true)
				now = now.Add(11 * time.Minute) // the staple's end
				s.config.Certificates[0].OCSPStaple = testcert.Staple(t, root, server, good)
				expect(false)
				expect(true)
				now = now.Add(10 * time.Minute) // the certificate's
				s.config.Certificates = []tls.Certificate{root.Issue(t, "server", nil).Pair()}
				expect(false)
				expect(true)
			})
		})
	}
}

func TestTLSSession_IsForgottenWhenServerIsRefused(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
		opts := s.trust(t)
		opts.Config = cached(nil)
		for _, want := range []bool{false, true} {
			resumed, _ := s.resumes(t, opts)
			require.Equal(t, want, resumed)
		}
		listed := *opts
		listed.CRLFile = tempFile(t, "list", s.cert.Root.Revoke(t, nil, s.cert))
		_, err := s.outcome(t, &listed)
		require.Truef(t, isRevocation(true)(err), "%v", err)
		resumed, _ := s.resumes(t, opts)
		require.False(t, resumed)
	})
}

// What one has accepted without looking is no session of one who looks.
func TestTLSSession_IsNotResumedWithOtherSettings(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
		trust := s.trust(t)
		config := cached(nil)
		rules := []client.TLSOptions{
			{InsecureSkipVerify: true}, {CAFile: trust.CAFile}, {CAFile: trust.CAFile, AllowSelfSigned: true}, {CAFile: trust.CAFile, VerifyDepth: 2},
		}
		for _, again := range []bool{false, true} {
			for _, opts := range rules {
				opts.ServerName, opts.Config = "localhost", config
				resumed, _ := s.resumes(t, &opts)
				require.Equal(t, again, resumed)
			}
		}
	})
}
