package tlsverify

import (
	"bytes"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"github.com/youmark/pkcs8"
)

func TestAuthorities_FromFileAndDirectory(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	other := testcert.NewRoot(t, "other")
	s := serve(root.Issue(t, "server", nil), nil)
	dir := func(files map[string][]byte) string {
		d := t.TempDir()
		for name, data := range files {
			require.NoError(t, os.WriteFile(filepath.Join(d, name), data, 0o600))
		}
		return d
	}
	comment := []byte("# the authorities of this test\n")
	bundle := bytes.Join([][]byte{comment, other.CertPEM(), comment, root.CertPEM(), comment}, nil)
	windows := bytes.ReplaceAll(bundle, []byte("\n"), []byte("\r\n"))
	ca, others := testcert.TempFile(t, "ca.pem", root.CertPEM()), testcert.TempFile(t, "others.pem", other.CertPEM())
	for name, opts := range map[string]*Config{
		"a file":                   {CAFile: ca},
		"a bundle":                 {CAFile: testcert.TempFile(t, "bundle", bundle)},
		"a bundle with CRLF":       {CAFile: testcert.TempFile(t, "bundle", windows)},
		"a directory":              {CAPath: dir(map[string][]byte{"root.pem": root.CertPEM(), "README": []byte("not a certificate")})},
		"a directory, other names": {CAPath: dir(map[string][]byte{"a.crt": other.CertPEM(), "b.cer": root.CertPEM()})},
		"a rehashed directory":     {CAPath: dir(map[string][]byte{"0a1b2c3d.0": root.CertPEM(), "0a1b2c3d.r0": []byte("a list")})},
		"both":                     {CAFile: others, CAPath: dir(map[string][]byte{"root.pem": root.CertPEM()})},
		"RootCAs":                  {RootCAs: testcert.Pool(root)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.outcome(t, opts)
			require.NoError(t, err)
			require.Equal(t, "secret", got)
		})
	}
	t.Run("in place of RootCAs", func(t *testing.T) {
		_, err := s.outcome(t, &Config{CAFile: others, RootCAs: testcert.Pool(root)})
		require.Truef(t, isUnknownAuthority(err), "%v", err)
	})

	broken := bytes.Replace(root.CertPEM(), []byte("M"), []byte("*"), 1)
	unparsable := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no ASN.1")})
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		name   string
		opts   Config
		option string
		text   string // beside the file's name
		file   string
	}{
		{name: "missing", opts: Config{CAFile: missing}, option: "CAFile", text: "no such file", file: missing},
		{name: "a directory as a file", opts: Config{CAFile: os.TempDir()}, option: "CAFile", text: "is a directory", file: os.TempDir()},
		{name: "empty", option: "CAFile", text: "no certificate in PEM", file: testcert.TempFile(t, "empty", nil)},
		{name: "text", option: "CAFile", text: "no certificate in PEM", file: testcert.TempFile(t, "text", comment)},
		{name: "a key", option: "CAFile", text: "line 1: PEM block \"PRIVATE KEY\" is a private key", file: testcert.TempFile(t, "key", root.KeyPEM(t))},
		{name: "not base64", option: "CAFile", text: "line 1: PEM block \"CERTIFICATE\" is malformed", file: testcert.TempFile(t, "broken", broken)},
		{name: "one of two is broken", option: "CAFile", text: "line 1: PEM block", file: testcert.TempFile(t, "two", append(bytes.Clone(broken), root.CertPEM()...))},
		{name: "cut", option: "CAFile", text: "the file ends before it does", file: testcert.TempFile(t, "cut", bundle[:len(bundle)-100])},
		{name: "no certificate in the block", option: "CAFile", text: "x509: malformed certificate", file: testcert.TempFile(t, "asn1", unparsable)},
		{name: "directory missing", opts: Config{CAPath: missing}, option: "CAPath", text: "no such file", file: missing},
		{name: "a file as a directory", opts: Config{CAPath: ca}, option: "CAPath", text: "not a directory", file: ca},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := test.opts
			if opts.CAFile == "" && opts.CAPath == "" {
				opts.CAFile = test.file
			}
			bad := refused(t, &opts)
			require.Equal(t, test.option, bad.Field)
			require.Contains(t, bad.Error(), test.text)
			require.Contains(t, bad.Error(), test.file)
			if test.file == missing {
				require.ErrorIs(t, bad, fs.ErrNotExist)
			}
		})
	}
	t.Run("directory without certificates", func(t *testing.T) {
		d := dir(map[string][]byte{"README": []byte("none here")})
		bad := refused(t, &Config{CAPath: d})
		require.Equal(t, "CAPath", bad.Field)
		require.Contains(t, bad.Error(), d)
	})
	t.Run("directory with a broken one", func(t *testing.T) {
		d := dir(map[string][]byte{"good.pem": root.CertPEM(), "broken.pem": broken})
		bad := refused(t, &Config{CAPath: d})
		require.Contains(t, bad.Error(), filepath.Join(d, "broken.pem"))
	})
}

func TestClientCertificate_FromFiles(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	mine := middle.Issue(t, "me", nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	rsaCert := root.IssueFor(t, "me", rsaKey, nil)
	ecKey := mine.Key.(*ecdsa.PrivateKey)
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

	s := serve(root.Issue(t, "server", nil), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, testcert.Pool(root)
	})
	trust := Config{RootCAs: testcert.Pool(root)}
	for _, test := range []struct {
		name       string
		cert       *testcert.Cert
		key        []byte
		passphrase string
	}{
		{name: "PKCS #8", cert: mine, key: mine.KeyPEM(t)},
		{name: "PKCS #8, needless passphrase", cert: mine, key: mine.KeyPEM(t), passphrase: passphrase},
		{name: "SEC 1 with parameters", cert: mine, key: append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...)},
		{name: "PKCS #1", cert: rsaCert, key: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})},
		{name: "encrypted PKCS #8", cert: mine, key: encrypted(nil), passphrase: passphrase},
		{name: "encrypted PKCS #8, scrypt", cert: mine, key: encrypted(scrypt), passphrase: passphrase},
		{name: "encrypted SEC 1", cert: mine, key: legacy("EC PRIVATE KEY", sec1), passphrase: passphrase},
		{name: "encrypted PKCS #1", cert: rsaCert, key: legacy("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), passphrase: passphrase},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := trust
			opts.CertFile, opts.KeyFile = testcert.TempFile(t, "cert.pem", test.cert.CertPEM()), testcert.TempFile(t, "key.pem", test.key)
			opts.Passphrase = test.passphrase
			_, state, err := s.connect(t, &opts, nil)
			require.NoError(t, err)
			shown := state.PeerCertificates
			require.Equal(t, test.cert.Raw, shown[0].Raw)
			require.Len(t, shown, 1+len(test.cert.Above))
		})
	}
	t.Run("Config's", func(t *testing.T) {
		got, _, err := s.connect(t, &trust, &tls.Config{Certificates: []tls.Certificate{mine.Pair()}})
		require.NoError(t, err)
		require.Equal(t, "secret", got)
	})

	t.Run("before Config's", func(t *testing.T) {
		opts := trust
		opts.CertFile, opts.KeyFile, _ = mine.Files(t)
		_, state, err := s.connect(t, &opts, &tls.Config{
			Certificates: []tls.Certificate{rsaCert.Pair()},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return nil, errors.New("asked")
			},
		})
		require.NoError(t, err)
		require.Equal(t, mine.Raw, state.PeerCertificates[0].Raw)
	})

	certFile, keyFile := testcert.TempFile(t, "cert.pem", mine.CertPEM()), testcert.TempFile(t, "key.pem", mine.KeyPEM(t))
	missing := filepath.Join(t.TempDir(), "missing")
	bent := func(der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	}
	good, _ := pem.Decode(encrypted(nil))
	for _, test := range []struct {
		name   string
		opts   Config
		option string
		text   string
	}{
		{"no key", Config{CertFile: certFile}, "KeyFile", "is missing"},
		{"no certificate", Config{KeyFile: keyFile}, "CertFile", "is missing"},
		{"certificate's file missing", Config{CertFile: missing, KeyFile: keyFile}, "CertFile", missing},
		{"key's file missing", Config{CertFile: certFile, KeyFile: missing}, "KeyFile", missing},
		{"certificate and key exchanged", Config{CertFile: keyFile, KeyFile: certFile}, "CertFile", "no certificate in PEM"},
		{"another's key", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", root.KeyPEM(t))}, "CertFile", "private key does not match public key"},
		{"empty key", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", nil)}, "KeyFile", "no private key in PEM"},
		{"empty certificate", Config{CertFile: testcert.TempFile(t, "cert.pem", nil), KeyFile: keyFile}, "CertFile", "cert.pem"},
		{"broken certificate", Config{CertFile: testcert.TempFile(t, "cert.pem", mine.CertPEM()[:200]), KeyFile: keyFile}, "CertFile", "malformed"},
		{"no passphrase", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", encrypted(nil))}, "KeyFile", "set Passphrase"},
		{"wrong passphrase", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", encrypted(nil)), Passphrase: "close sesame"}, "KeyFile", "cannot be decrypted with Passphrase"},
		{"no passphrase, legacy", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", legacy("EC PRIVATE KEY", sec1))}, "KeyFile", "set Passphrase"},
		{"wrong passphrase, legacy", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", legacy("EC PRIVATE KEY", sec1)), Passphrase: "close sesame"}, "KeyFile", "cannot be decrypted with Passphrase"},
		{"cut, encrypted", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", bent(odd(t, good.Bytes))), Passphrase: passphrase}, "KeyFile", "key.pem"},
		{"no ASN.1, encrypted", Config{CertFile: certFile, KeyFile: testcert.TempFile(t, "key.pem", bent([]byte("x"))), Passphrase: passphrase}, "KeyFile", "key.pem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := refused(t, &test.opts)
			require.Contains(t, bad.Field, test.option)
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
