package tlsverify

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testleak"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A tlsServer makes handshakes with crypto/tls on both sides.
type tlsServer struct {
	cert   *testcert.Cert
	config *tls.Config
}

func serve(c *testcert.Cert, change func(*tls.Config)) *tlsServer {
	config := &tls.Config{Certificates: []tls.Certificate{c.Pair()}}
	if change != nil {
		change(config)
	}
	return &tlsServer{cert: c, config: config}
}

// connect makes a handshake with a client that c protects. It returns what the client has
// sent after that and the server's state, and the client's error.
func (s *tlsServer) connect(t testing.TB, c *Config, base *tls.Config) (got string, state tls.ConnectionState, err error) {
	t.Helper()
	v, err := c.Load()
	require.NoError(t, err)
	here, there := connection(t)
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer there.Close()
		peer := tls.Server(there, s.config)
		data, _ := io.ReadAll(peer) // an error is the client's refusal
		got, state = string(data), peer.ConnectionState()
	}()
	config := base.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = "localhost"
	}
	accepted := v.Protect(config)
	conn := tls.Client(here, config)
	err = conn.Handshake()
	if err == nil {
		require.Equal(t, c.InsecureSkipVerify, accepted() == nil)
		drained := make(chan struct{})
		go func() { // session tickets, or the server's refusal of a client certificate
			defer close(drained)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write([]byte("secret"))
		_ = conn.CloseWrite()
		<-drained
	}
	_ = here.Close()
	<-received
	return got, state, err
}

// connection returns both ends of one. Those of net.Pipe would not do: they have no buffers,
// and one side sends an alert while the other one sends its certificates.
func connection(t testing.TB) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	here, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	there, err = ln.Accept()
	require.NoError(t, err)
	return here, there
}

// outcome is connect without more of the client's config.
func (s *tlsServer) outcome(t testing.TB, c *Config) (got string, err error) {
	t.Helper()
	got, _, err = s.connect(t, c, nil)
	return got, err
}

// refused loads a Config that must not be accepted.
func refused(t testing.TB, c *Config) *FieldError {
	t.Helper()
	v, err := c.Load()
	require.Nil(t, v)
	var bad *FieldError
	require.ErrorAs(t, err, &bad)
	return bad
}

func isRevocation(revoked bool) func(error) bool {
	return func(err error) bool {
		var e *RevocationError
		return errors.As(err, &e) && e.Revoked == revoked
	}
}

func isUnknownAuthority(err error) bool {
	var e x509.UnknownAuthorityError
	return errors.As(err, &e)
}

func eachTLSVersion(t *testing.T, test func(t *testing.T, version uint16)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { test(t, version) })
	}
}

func findOpenSSL(t testing.TB) string {
	t.Helper()
	path, err := testserver.Find("openssl", "openssl")
	testserver.Require(t, err)
	return path
}

// Verify is for handshakes that crypto/tls does not make.
func TestVerify_RawCertificates(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	server, direct := middle.Issue(t, "server", nil), root.Issue(t, "direct", nil)
	old := root.Issue(t, "old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	self := testcert.SelfSigned(t, "self", nil)
	pretender := testcert.NewRoot(t, "self").Issue(t, "self", nil) // its issuer has its name, and another key
	pool := testcert.Pool(root)
	list := testcert.TempFile(t, "list", root.Revoke(t, nil, middle, direct))
	hostname := func(err error) bool { var e x509.HostnameError; return errors.As(err, &e) }
	invalid := func(reason x509.InvalidReason) func(error) bool {
		return func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == reason
		}
	}
	says := func(text string) func(error) bool {
		return func(err error) bool { return strings.Contains(err.Error(), text) }
	}
	for _, test := range []struct {
		name    string
		config  Config
		cert    *testcert.Cert
		host    string // default: localhost
		refused func(error) bool
	}{
		{name: "chain", config: Config{RootCAs: pool}, cert: server},
		{name: "IP address", config: Config{RootCAs: pool}, cert: server, host: "127.0.0.1"},
		{name: "another name", config: Config{RootCAs: pool}, cert: server, host: "example.com", refused: hostname},
		{name: "expired", config: Config{RootCAs: pool}, cert: old, refused: invalid(x509.Expired)},
		{name: "the system's roots", cert: server, refused: isUnknownAuthority},
		{name: "self-signed", config: Config{RootCAs: pool}, cert: self, refused: isUnknownAuthority},
		{name: "self-signed, allowed", config: Config{RootCAs: pool, AllowSelfSigned: true}, cert: self},
		{name: "self-signed by name only, allowed", config: Config{RootCAs: pool, AllowSelfSigned: true}, cert: pretender, refused: isUnknownAuthority},
		{name: "self-signed, allowed, another name", config: Config{AllowSelfSigned: true}, cert: self, host: "example.com", refused: hostname},
		{name: "pinned", config: Config{CAFile: testcert.TempFile(t, "pinned.pem", self.CertPEM())}, cert: self},
		{name: "another is pinned", config: Config{CAFile: testcert.TempFile(t, "pinned.pem", direct.CertPEM())}, cert: self, refused: isUnknownAuthority},
		{name: "chain as deep as allowed", config: Config{RootCAs: pool, VerifyDepth: 1}, cert: server},
		{name: "chain too deep", config: Config{RootCAs: pool, VerifyDepth: -1}, cert: server, refused: invalid(x509.TooManyIntermediates)},
		{name: "revoked", config: Config{RootCAs: pool, CRLFile: list}, cert: direct, refused: isRevocation(true)},
		{name: "no list", config: Config{RootCAs: pool, CRLFile: list}, cert: server, refused: isRevocation(false)},
		{name: "no staple", config: Config{RootCAs: pool, RequireStaple: true}, cert: server, refused: isRevocation(false)},
		{name: "anything", config: Config{InsecureSkipVerify: true}, cert: old, host: "example.com"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := test.config.Load()
			require.NoError(t, err)
			chains, err := v.Verify(test.cert.Pair().Certificate, cmp.Or(test.host, "localhost"), time.Now())
			if test.refused == nil {
				require.NoError(t, err)
				require.Equal(t, test.config.InsecureSkipVerify, len(chains) == 0)
				return
			}
			require.Empty(t, chains)
			var failed *tls.CertificateVerificationError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, test.cert.Raw, failed.UnverifiedCertificates[0].Raw)
			require.Truef(t, test.refused(err), "%v", err)
		})
	}
	v, err := (&Config{RootCAs: pool}).Load()
	require.NoError(t, err)
	for _, test := range []struct {
		raw     [][]byte
		host    string
		refused func(error) bool
	}{
		{nil, "localhost", says("the server has sent no certificate")},
		{[][]byte{[]byte("no ASN.1")}, "localhost", says("malformed certificate")},
		{direct.Pair().Certificate, "", says("set ServerName")},
	} {
		_, err := v.Verify(test.raw, test.host, time.Now())
		require.Error(t, err)
		require.Truef(t, test.refused(err), "%v", err)
	}
}

// The caller's callbacks run after the verification, and see the chains that it has accepted.
func TestProtect_CallbacksRunAfterVerification(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		root := testcert.NewRoot(t, "root")
		s := serve(root.Issue(t, "server", nil), func(c *tls.Config) { c.MaxVersion = version })
		var calls []string
		base := &tls.Config{
			VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
				require.Equal(t, s.cert.Raw, raw[0])
				require.Len(t, chains, 1)
				calls = append(calls, "peer")
				return nil
			},
			VerifyConnection: func(state tls.ConnectionState) error {
				require.Len(t, state.VerifiedChains, 1)
				calls = append(calls, "connection")
				return errors.New("no")
			},
		}
		_, _, err := s.connect(t, &Config{RootCAs: testcert.Pool(root)}, base)
		require.ErrorContains(t, err, "no")
		require.Equal(t, []string{"peer", "connection"}, calls)
		_, _, err = s.connect(t, &Config{}, base)
		require.Truef(t, isUnknownAuthority(err), "%v", err)
		require.Len(t, calls, 2)
	})
}

func TestSession_IsResumedWithItsSettingsOnly(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		root := testcert.NewRoot(t, "root")
		now := time.Now()
		end := now.Add(20 * time.Minute)
		s := serve(root.Issue(t, "server", func(c *x509.Certificate) { c.NotAfter = end }), func(c *tls.Config) { c.MaxVersion = version })
		pool := testcert.Pool(root)
		base := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0), Time: func() time.Time { return now }}
		resumed := func(c *Config) bool {
			_, state, err := s.connect(t, c, base)
			require.NoError(t, err)
			return state.DidResume
		}
		settings := []*Config{{InsecureSkipVerify: true}, {RootCAs: pool}, {RootCAs: pool, AllowSelfSigned: true}}
		for _, again := range []bool{false, true} {
			for _, c := range settings {
				require.Equal(t, again, resumed(c))
			}
		}
		list := testcert.TempFile(t, "list", root.Revoke(t, nil, s.cert))
		_, _, err := s.connect(t, &Config{RootCAs: pool, CRLFile: list}, base)
		require.Truef(t, isRevocation(true)(err), "%v", err)
		require.False(t, resumed(settings[1]), "the session whose server was refused is forgotten")
		require.True(t, resumed(settings[1]))
		now = end.Add(-time.Minute)
		require.True(t, resumed(settings[2]))
		s.config.Certificates = []tls.Certificate{root.Issue(t, "server", nil).Pair()}
		now = end.Add(time.Minute)
		require.False(t, resumed(settings[2]), "the certificate that it was begun with has expired")
		require.True(t, resumed(settings[2]))
	})
}
