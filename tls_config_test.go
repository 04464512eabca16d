package client_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"github.com/youmark/pkcs8"
)

// refusedOption dials a listener that nobody may connect to, and gives the option
// that was refused.
func refusedOption(t *testing.T, opts *client.TLSOptions) *client.OptionError {
	t.Helper()
	ln := listen(t, "tcp")
	c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{TLS: opts})
	require.Nil(t, c)
	var bad *client.OptionError
	require.ErrorAs(t, err, &bad)
	require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now()))
	_, err = ln.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded) // nobody has
	_, err = client.NewTCP(&client.Options{TLS: opts})
	require.ErrorAs(t, err, &bad)
	return bad
}

func TestCertificateAuthorities(t *testing.T) {
	root := newRoot(t, "root")
	other := newRoot(t, "other")
	s := listenWith(t, "tcp", root.issue(t, "server", nil), nil)
	dir := func(files map[string][]byte) string {
		d := t.TempDir()
		for name, data := range files {
			require.NoError(t, os.WriteFile(filepath.Join(d, name), data, 0o600))
		}
		return d
	}
	comment := []byte("# the authorities of this test\n")
	bundle := bytes.Join([][]byte{comment, other.certPEM(), comment, root.certPEM(), comment}, nil)
	windows := bytes.ReplaceAll(bundle, []byte("\n"), []byte("\r\n"))
	ca, others := tempFile(t, "ca.pem", root.certPEM()), tempFile(t, "others.pem", other.certPEM())
	for name, opts := range map[string]*client.TLSOptions{
		"a file":                   {CAFile: ca},
		"a bundle":                 {CAFile: tempFile(t, "bundle", bundle)},
		"a bundle with CRLF":       {CAFile: tempFile(t, "bundle", windows)},
		"a directory":              {CAPath: dir(map[string][]byte{"root.pem": root.certPEM(), "README": []byte("not a certificate")})},
		"a directory, other names": {CAPath: dir(map[string][]byte{"a.crt": other.certPEM(), "b.cer": root.certPEM()})},
		"a rehashed directory":     {CAPath: dir(map[string][]byte{"0a1b2c3d.0": root.certPEM(), "0a1b2c3d.r0": []byte("a list")})},
		"both":                     {CAFile: others, CAPath: dir(map[string][]byte{"root.pem": root.certPEM()})},
		"Config's":                 {Config: &tls.Config{RootCAs: pool(root)}},
	} {
		t.Run(name, func(t *testing.T) {
			opts.ServerName = "localhost"
			got, err := s.outcome(t, opts)
			require.NoError(t, err)
			require.Equal(t, "secret", got)
		})
	}
	t.Run("in place of Config's", func(t *testing.T) {
		_, err := s.outcome(t, &client.TLSOptions{ServerName: "localhost", CAFile: others, Config: &tls.Config{RootCAs: pool(root)}})
		require.Truef(t, isUnknownAuthority(err), "%v", err)
	})

	broken := bytes.Replace(root.certPEM(), []byte("M"), []byte("*"), 1)
	unparsable := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no ASN.1")})
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		name   string
		opts   client.TLSOptions
		option string
		text   string // beside the file's name
		file   string
	}{
		{name: "missing", opts: client.TLSOptions{CAFile: missing}, option: "TLS.CAFile", text: "no such file", file: missing},
		{name: "a directory as a file", opts: client.TLSOptions{CAFile: os.TempDir()}, option: "TLS.CAFile", text: "is a directory", file: os.TempDir()},
		{name: "empty", option: "TLS.CAFile", text: "no certificate in PEM", file: tempFile(t, "empty", nil)},
		{name: "text", option: "TLS.CAFile", text: "no certificate in PEM", file: tempFile(t, "text", comment)},
		{name: "a key", option: "TLS.CAFile", text: "line 1: PEM block \"PRIVATE KEY\" is a private key", file: tempFile(t, "key", root.keyPEM(t))},
		{name: "not base64", option: "TLS.CAFile", text: "line 1: PEM block \"CERTIFICATE\" is malformed", file: tempFile(t, "broken", broken)},
		{name: "one of two is broken", option: "TLS.CAFile", text: "line 1: PEM block", file: tempFile(t, "two", append(bytes.Clone(broken), root.certPEM()...))},
		{name: "cut", option: "TLS.CAFile", text: "the file ends before it does", file: tempFile(t, "cut", bundle[:len(bundle)-100])},
		{name: "no certificate in the block", option: "TLS.CAFile", text: "x509: malformed certificate", file: tempFile(t, "asn1", unparsable)},
		{name: "directory missing", opts: client.TLSOptions{CAPath: missing}, option: "TLS.CAPath", text: "no such file", file: missing},
		{name: "a file as a directory", opts: client.TLSOptions{CAPath: ca}, option: "TLS.CAPath", text: "not a directory", file: ca},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := test.opts
			if opts.CAFile == "" && opts.CAPath == "" {
				opts.CAFile = test.file
			}
			bad := refusedOption(t, &opts)
			require.Equal(t, test.option, bad.Option)
			require.Contains(t, bad.Error(), test.text)
			require.Contains(t, bad.Error(), test.file)
			if test.file == missing {
				require.ErrorIs(t, bad, fs.ErrNotExist)
			}
		})
	}
	t.Run("directory without certificates", func(t *testing.T) {
		d := dir(map[string][]byte{"README": []byte("none here")})
		bad := refusedOption(t, &client.TLSOptions{CAPath: d})
		require.Equal(t, "TLS.CAPath", bad.Option)
		require.Contains(t, bad.Error(), d)
	})
	t.Run("directory with a broken one", func(t *testing.T) {
		d := dir(map[string][]byte{"good.pem": root.certPEM(), "broken.pem": broken})
		bad := refusedOption(t, &client.TLSOptions{CAPath: d})
		require.Contains(t, bad.Error(), filepath.Join(d, "broken.pem"))
	})
}

func pool(certs ...*cert) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c.Certificate)
	}
	return p
}

func TestClientCertificates(t *testing.T) {
	root := newRoot(t, "root")
	middle := root.issue(t, "intermediate", authority)
	mine := middle.issue(t, "me", nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rsaCert := root.issueFor(t, "me", rsaKey, nil)
	ecKey := mine.key.(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	require.NoError(t, err)

	const passphrase = "open sesame"
	legacy := func(typ string, der []byte) []byte {
		b, err := x509.EncryptPEMBlock(rand.Reader, typ, der, []byte(passphrase), x509.PEMCipherAES256) //nolint:staticcheck // it is what is tested
		require.NoError(t, err)
		return pem.EncodeToMemory(b)
	}
	encrypted := func(opts *pkcs8.Opts) []byte {
		der, err := pkcs8.MarshalPrivateKey(ecKey, []byte(passphrase), opts)
		require.NoError(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	}
	scrypt := &pkcs8.Opts{Cipher: pkcs8.AES128CBC, KDFOpts: pkcs8.ScryptOpts{SaltSize: 8, CostParameter: 1 << 10, BlockSize: 8, ParallelizationParameter: 1}}
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})

	s := listenWith(t, "tcp", root.issue(t, "server", nil), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool(root)
	})
	trust := s.trust(t)
	for _, test := range []struct {
		name       string
		cert       *cert
		key        []byte
		passphrase string
	}{
		{name: "PKCS #8", cert: mine, key: mine.keyPEM(t)},
		{name: "PKCS #8, needless passphrase", cert: mine, key: mine.keyPEM(t), passphrase: passphrase},
		{name: "SEC 1 with parameters", cert: mine, key: append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...)},
		{name: "PKCS #1", cert: rsaCert, key: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})},
		{name: "encrypted PKCS #8", cert: mine, key: encrypted(nil), passphrase: passphrase},
		{name: "encrypted PKCS #8, scrypt", cert: mine, key: encrypted(scrypt), passphrase: passphrase},
		{name: "encrypted SEC 1", cert: mine, key: legacy("EC PRIVATE KEY", sec1), passphrase: passphrase},
		{name: "encrypted PKCS #1", cert: rsaCert, key: legacy("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), passphrase: passphrase},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := *trust
			opts.CertFile, opts.KeyFile = tempFile(t, "cert.pem", test.cert.certPEM()), tempFile(t, "key.pem", test.key)
			opts.Passphrase = test.passphrase
			_, peer := s.handshakes(t, client.Options{TLS: &opts})
			shown := peer.ConnectionState().PeerCertificates
			require.Equal(t, test.cert.Raw, shown[0].Raw)
			require.Len(t, shown, 1+len(test.cert.above))
		})
	}
	t.Run("Config's", func(t *testing.T) {
		opts := *trust
		opts.Config = &tls.Config{Certificates: []tls.Certificate{mine.pair()}}
		s.handshakes(t, client.Options{TLS: &opts})
	})

	t.Run("before Config's", func(t *testing.T) {
		opts := *trust
		opts.CertFile, opts.KeyFile, _ = mine.files(t)
		opts.Config = &tls.Config{
			Certificates: []tls.Certificate{rsaCert.pair()},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return nil, errors.New("asked")
			},
		}
		_, peer := s.handshakes(t, client.Options{TLS: &opts})
		require.Equal(t, mine.Raw, peer.ConnectionState().PeerCertificates[0].Raw)
	})

	certFile, keyFile := tempFile(t, "cert.pem", mine.certPEM()), tempFile(t, "key.pem", mine.keyPEM(t))
	missing := filepath.Join(t.TempDir(), "missing")
	bent := func(der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	}
	good, _ := pem.Decode(encrypted(nil))
	for _, test := range []struct {
		name   string
		opts   client.TLSOptions
		option string
		text   string
	}{
		{"no key", client.TLSOptions{CertFile: certFile}, "TLS.KeyFile", "is missing"},
		{"no certificate", client.TLSOptions{KeyFile: keyFile}, "TLS.CertFile", "is missing"},
		{"certificate's file missing", client.TLSOptions{CertFile: missing, KeyFile: keyFile}, "TLS.CertFile", missing},
		{"key's file missing", client.TLSOptions{CertFile: certFile, KeyFile: missing}, "TLS.KeyFile", missing},
		{"certificate and key exchanged", client.TLSOptions{CertFile: keyFile, KeyFile: certFile}, "TLS.CertFile", "no certificate in PEM"},
		{"another's key", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", root.keyPEM(t))}, "TLS.CertFile", "private key does not match public key"},
		{"empty key", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", nil)}, "TLS.KeyFile", "no private key in PEM"},
		{"empty certificate", client.TLSOptions{CertFile: tempFile(t, "cert.pem", nil), KeyFile: keyFile}, "TLS.CertFile", "cert.pem"},
		{"broken certificate", client.TLSOptions{CertFile: tempFile(t, "cert.pem", mine.certPEM()[:200]), KeyFile: keyFile}, "TLS.CertFile", "malformed"},
		{"no passphrase", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", encrypted(nil))}, "TLS.KeyFile", "there is no Passphrase"},
		{"wrong passphrase", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", encrypted(nil)), Passphrase: "close sesame"}, "TLS.KeyFile", "cannot be opened with Passphrase"},
		{"no passphrase, legacy", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", legacy("EC PRIVATE KEY", sec1))}, "TLS.KeyFile", "there is no Passphrase"},
		{"wrong passphrase, legacy", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", legacy("EC PRIVATE KEY", sec1)), Passphrase: "close sesame"}, "TLS.KeyFile", "cannot be opened with Passphrase"},
		{"cut, encrypted", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", bent(odd(t, good.Bytes))), Passphrase: passphrase}, "TLS.KeyFile", "key.pem"},
		{"no ASN.1, encrypted", client.TLSOptions{CertFile: certFile, KeyFile: tempFile(t, "key.pem", bent([]byte("x"))), Passphrase: passphrase}, "TLS.KeyFile", "key.pem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := refusedOption(t, &test.opts)
			require.Contains(t, bad.Option, test.option)
			require.Contains(t, bad.Error(), test.text)
			require.NotContains(t, bad.Error(), "sesame")
		})
	}
}

// odd gives an encrypted key whose ciphertext is no multiple of a block: what
// lies in the last OCTET STRING, one byte shorter.
func odd(t *testing.T, der []byte) []byte {
	t.Helper()
	k := bytes.LastIndex(der, []byte{0x04, 0x81})
	require.Positive(t, k)
	size := int(der[k+2])
	require.Equal(t, 0, size%aes.BlockSize)
	require.Equal(t, len(der), k+3+size)
	bent := bytes.Clone(der[:len(der)-1])
	bent[k+2]--
	require.Equal(t, byte(0x81), bent[1])
	bent[2]--
	return bent
}

func TestVersionsAndTheRestOfTheConfig(t *testing.T) {
	t.Run("1.2 is the least by default", func(t *testing.T) {
		for _, config := range []*tls.Config{nil, {}} {
			c, _ := secured(t, client.Options{})
			require.Equal(t, uint16(tls.VersionTLS13), c.ConnectionState().Version)
			s := listenTLS(t, "tcp", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
			opts := s.trust(t)
			opts.Config = config
			_, err := s.outcome(t, opts)
			require.Error(t, err)
		}
	})
	t.Run("less if asked for", func(t *testing.T) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
		opts := s.trust(t)
		opts.MinVersion = tls.VersionTLS10
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		require.Equal(t, uint16(tls.VersionTLS11), c.ConnectionState().Version)
	})
	t.Run("MaxVersion", func(t *testing.T) {
		s := listenTLS(t, "tcp", nil)
		opts := s.trust(t)
		opts.MaxVersion = tls.VersionTLS12
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		require.Equal(t, uint16(tls.VersionTLS12), c.ConnectionState().Version)
	})
	t.Run("ciphers, ALPN and the key log", func(t *testing.T) {
		s := listenTLS(t, "tcp", func(c *tls.Config) {
			c.MaxVersion, c.NextProtos = tls.VersionTLS12, []string{"b", "a"}
		})
		opts := s.trust(t)
		opts.NextProtos = []string{"a", "c"}
		var keys bytes.Buffer
		opts.Config = &tls.Config{
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
			KeyLogWriter: &keys, NextProtos: []string{"b"}, ServerName: "example.com", MinVersion: tls.VersionTLS13,
		}
		opts.MinVersion = tls.VersionTLS12
		c, _ := s.handshakes(t, client.Options{TLS: opts})
		state := c.ConnectionState()
		require.Equal(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, state.CipherSuite)
		require.Equal(t, "a", state.NegotiatedProtocol)
		require.Equal(t, "localhost", state.ServerName)
		require.Contains(t, keys.String(), "CLIENT_RANDOM ")
		require.Equal(t, "example.com", opts.Config.ServerName)
		require.Equal(t, []string{"b"}, opts.Config.NextProtos)
		require.Nil(t, opts.Config.VerifyConnection)
		require.False(t, opts.Config.DynamicRecordSizingDisabled)
	})
	t.Run("Config's ServerName", func(t *testing.T) {
		s := listenTLS(t, "unix", nil)
		opts := s.trust(t)
		opts.ServerName, opts.Config = "", &tls.Config{ServerName: "localhost"}
		s.handshakes(t, client.Options{TLS: opts})
	})
	t.Run("no TLS", func(t *testing.T) {
		c, _ := stream(t, "tcp", nil)
		require.Equal(t, tls.ConnectionState{}, c.ConnectionState())
	})
}

func TestTLSOptionsThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name, option, text string
		opts               client.TLSOptions
	}{
		{"unknown MinVersion", "TLS.MinVersion", "0x0305 is not a version", client.TLSOptions{MinVersion: 0x0305}},
		{"SSL 3", "TLS.MinVersion", "0x0300", client.TLSOptions{MinVersion: 0x0300}},
		{"unknown MaxVersion", "TLS.MaxVersion", "0x0001", client.TLSOptions{MaxVersion: 1}},
		{"nothing between", "TLS.MaxVersion", "TLS 1.2 is below MinVersion, which is TLS 1.3", client.TLSOptions{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12}},
		{"MaxVersion below the default", "TLS.MaxVersion", "TLS 1.1 is below MinVersion, which is TLS 1.2", client.TLSOptions{MaxVersion: tls.VersionTLS11}},
		{"verification turned off elsewhere", "TLS.Config", "InsecureSkipVerify", client.TLSOptions{Config: &tls.Config{InsecureSkipVerify: true}}},
		{"renegotiation", "TLS.Config", "Renegotiation", client.TLSOptions{Config: &tls.Config{Renegotiation: tls.RenegotiateOnceAsClient}}},
		{"list missing", "TLS.CRLFile", "/missing", client.TLSOptions{CRLFile: "/missing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := refusedOption(t, &test.opts)
			require.Equal(t, test.option, bad.Option)
			require.Contains(t, bad.Reason, test.text)
		})
	}
	t.Run("datagrams", func(t *testing.T) {
		for _, network := range datagramNetworks {
			_, err := client.Dial(network, "127.0.0.1:1", &client.Options{TLS: &client.TLSOptions{}})
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad, network)
			require.Equal(t, "TLS", bad.Option)
		}
		_, err := client.NewUDP(&client.Options{TLS: &client.TLSOptions{}})
		require.ErrorContains(t, err, "only for streams")
	})
	t.Run("no name to verify", func(t *testing.T) {
		for network, address := range map[string]string{"unix": "/missing", "tcp": ":1"} {
			_, err := client.Dial(network, address, &client.Options{TLS: &client.TLSOptions{}})
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad, network)
			require.Equal(t, "TLS.ServerName", bad.Option)
		}
		c, err := client.NewUnix(&client.Options{TLS: &client.TLSOptions{}})
		require.NoError(t, err)
		defer c.Close()
		require.ErrorContains(t, c.Connect(context.Background(), "/missing"), "ServerName")
	})
	t.Run("no name and no verification", func(t *testing.T) {
		s := listenTLS(t, "unix", nil)
		opts := &client.TLSOptions{InsecureSkipVerify: true, Config: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}}
		s.handshakes(t, client.Options{TLS: opts})
	})
}

func TestRevocationListsThatCannotBeUsed(t *testing.T) {
	root := newRoot(t, "root")
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
		"a certificate":   {root.certPEM(), "is not a revocation list"},
		"cut":             {root.revoke(t, nil)[:100], "x509"},
		"partial":         {root.revoke(t, partial), "only complete lists can be used"},
		"of other issuer": {root.revoke(t, indirect), "only an issuer's own certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			file := tempFile(t, "list", test.data)
			bad := refusedOption(t, &client.TLSOptions{CRLFile: file})
			require.Equal(t, "TLS.CRLFile", bad.Option)
			require.Contains(t, bad.Error(), file)
			require.Contains(t, bad.Error(), test.text)
		})
	}
}
