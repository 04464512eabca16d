package tlsverify

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pemChanges are what editors and scripts do to a PEM file: Notepad adds a byte order mark
// or writes UTF-16, a bundle in YAML is indented, cat(1) joins files whose last line has
// no end. Each file is read completely or refused.
var pemChanges = []struct {
	name    string
	edit    func(string) string
	refused string // empty: it is read
}{
	{"as it was", func(s string) string { return s }, ""},
	{"byte order mark", func(s string) string { return "\ufeff" + s }, ""},
	{"CRLF", func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }, ""},
	{"CR", func(s string) string { return strings.ReplaceAll(s, "\n", "\r") }, ""},
	{"space before BEGIN", func(s string) string { return strings.ReplaceAll(s, "-----BEGIN", " -----BEGIN") }, ""},
	{"tab before END", func(s string) string { return strings.ReplaceAll(s, "-----END", "\t-----END") }, ""},
	{"indented", func(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }, ""},
	{"space at the end of lines", func(s string) string { return strings.ReplaceAll(s, "\n", " \n") }, ""},
	{"bag attributes of pkcs12", func(s string) string {
		return strings.ReplaceAll(s, "-----BEGIN", "Bag Attributes\n    localKeyID: 01 02 \nsubject=CN = x\n\nissuer=CN = y\n-----BEGIN")
	}, ""},
	{"no end of the last line", func(s string) string { return strings.TrimSuffix(s, "\n") }, ""},
	{"no line end between", func(s string) string { return strings.ReplaceAll(s, "-----\n-----BEGIN", "----------BEGIN") }, "before line"},
	{"a word before BEGIN", func(s string) string { return strings.ReplaceAll(s, "-----BEGIN", "ca: -----BEGIN") }, "the line must be"},
	{"commented out", func(s string) string { return "# " + strings.ReplaceAll(s, "\n", "\n# ") }, "the line must be"},
	{"a byte order mark in its midst", func(s string) string { return "\n" + strings.ReplaceAll(s, "-----BEGIN", "\ufeff-----BEGIN") }, "the line must be"},
	{"a BEGIN that is cut", func(s string) string { return strings.Replace(s, "-----BEGIN", "----BEGIN", 1) }, "the line must be"},
	{"an END that is cut", func(s string) string { return strings.Replace(s, "-----END", "----END", 1) }, "PEM block"},
	{"no dashes behind the label", func(s string) string { return strings.Replace(s, "-----\n", "\n", 1) }, "the line must be"},
	{"another label at its END", func(s string) string { return strings.Replace(s, "-----END ", "-----END OF ", 1) }, "before line"},
	{"escaped line ends", func(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }, "the line must be"},
	{"markers in lower case", markers(strings.ToLower), "the line must be"},
	{"a space before the label of BEGIN", markers(func(m string) string { return "----- " + m[5:] }), "the line must be"},
	{"a no-break space there", markers(func(m string) string { return "-----\u00a0" + m[5:] }), "the line must be"},
	{"a zero-width space there", markers(func(m string) string { return "-----\u200b" + m[5:] }), "the line must be"},
	{"four dashes", markers(func(m string) string { return m[1 : len(m)-1] }), "the line must be"},
	{"two dashes", markers(func(m string) string { return m[3 : len(m)-3] }), "the line must be"},
	{"en dashes", markers(func(m string) string { return strings.ReplaceAll(m, "-", "\u2013") }), "the line must be"},
	{"minus signs", markers(func(m string) string { return strings.ReplaceAll(m, "-", "\u2212") }), "the line must be"},
	{"no dashes before BEGIN", markers(func(m string) string { return m[5:] }), "the line must be"},
	{"no markers", markers(func(string) string { return "" }), "base64"},
	{"text with dashes and words", func(s string) string {
		return "-- the beginning, to the end --\nCN = send--receive\nappend it at the end - or the beginning\n" + strings.Repeat("=", 70) + "\n" + strings.Repeat("A", 64) + "\n" + s
	}, ""},
	{"UTF-16", func(s string) string { return inUTF16(s, true) }, "UTF-16"},
	{"UTF-16 without a mark", func(s string) string { return inUTF16(s, false) }, "UTF-16"},
}

// markers edits the BEGIN and the END of the first block.
func markers(edit func(string) string) func(string) string {
	return func(s string) string {
		lines := strings.Split(s, "\n")
		for n, left := 0, 2; left > 0; n++ {
			if strings.HasPrefix(lines[n], "-----") {
				lines[n] = edit(lines[n])
				left--
			}
		}
		return strings.Join(lines, "\n")
	}
}

func inUTF16(s string, mark bool) string {
	var b bytes.Buffer
	if mark {
		b.WriteString("\xff\xfe")
	}
	for _, u := range utf16.Encode([]rune(s)) {
		b.Write([]byte{byte(u), byte(u >> 8)})
	}
	return b.String()
}

// A block that is skipped is a revocation that has no effect, or a root or intermediate
// whose absence shows as an error elsewhere.
func TestPEM_NoBlockIsIgnored(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	other := testcert.NewRoot(t, "other")
	middle := root.Issue(t, "intermediate", testcert.Authority)
	server := middle.Issue(t, "server", nil)
	lists := testcert.ListPEM(middle.Revoke(t, nil)) + testcert.ListPEM(root.Revoke(t, nil, middle))
	plain := serve(server, nil)
	asking := serve(root.Issue(t, "server", nil), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, testcert.Pool(root)
	})
	trust := testcert.TempFile(t, "root.pem", root.CertPEM())
	certFile, keyFile := testcert.TempFile(t, "cert.pem", server.CertPEM()), testcert.TempFile(t, "key.pem", server.KeyPEM(t))
	for _, e := range pemChanges {
		write := func(text string) string { return testcert.TempFile(t, "edited.pem", []byte(e.edit(text))) }
		for _, test := range []struct {
			field string
			s     *tlsServer
			opts  Config
			wants func(error) bool // of a file that is read; nil: no error
		}{
			{"CAFile", plain, Config{CAFile: write(string(other.CertPEM()) + string(root.CertPEM()))}, nil},
			{"CAPath", plain, Config{CAPath: filepath.Dir(write(string(other.CertPEM()) + string(root.CertPEM())))}, nil},
			{"CRLFile", plain, Config{CAFile: trust, CRLFile: write(lists)}, isRevocation(true)},
			{"CertFile", asking, Config{CAFile: trust, CertFile: write(string(server.CertPEM())), KeyFile: keyFile}, nil},
			{"KeyFile", asking, Config{CAFile: trust, CertFile: certFile, KeyFile: write(string(server.CertPEM()) + string(server.KeyPEM(t)))}, nil},
		} {
			t.Run(e.name+" in "+test.field, func(t *testing.T) {
				if e.refused != "" {
					bad := refused(t, &test.opts)
					require.Equal(t, test.field, bad.Field)
					require.Contains(t, bad.Error(), e.refused)
					require.Contains(t, bad.Error(), "edited.pem")
					return
				}
				got, err := test.s.outcome(t, &test.opts)
				if test.wants != nil {
					require.Truef(t, test.wants(err), "%v", err)
					return
				}
				require.NoError(t, err)
				require.Equal(t, "secret", got)
			})
		}
	}
}

// A block with another label is read or refused, too: openssl has two more labels for
// certificates, some bundles have lists among the roots, and some servers keep certificate
// and key in one file.
func TestPEM_BlocksOfOtherKinds(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	mine := root.Issue(t, "me", nil)
	s := serve(root.Issue(t, "server", nil), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, testcert.Pool(root)
	})
	block := func(label string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	ca, cert, key := string(root.CertPEM()), string(mine.CertPEM()), string(mine.KeyPEM(t))
	list, dh := testcert.ListPEM(root.Revoke(t, nil)), block("DH PARAMETERS", []byte{0x30, 0})
	older := block("X509 CERTIFICATE", mine.Raw)
	trusted := block("TRUSTED CERTIFICATE", root.Raw)
	for _, test := range []struct {
		name, field, file string
		refused           string
	}{
		{"a root by its older name", "CAFile", block("X509 CERTIFICATE", root.Raw), ""},
		{"openssl's trust settings", "CAFile", ca + trusted, "openssl x509"},
		{"a list among roots", "CAFile", ca + list, "CRLFile"},
		{"a key among roots", "CAFile", ca + key, "private key"},
		{"a PKCS #7 bundle", "CAFile", ca + block("PKCS7", root.Raw), "openssl pkcs7"},
		{"a request among roots", "CAFile", ca + block("CERTIFICATE REQUEST", root.Raw), "not a certificate"},
		{"a root in DER", "CAFile", string(root.Raw), "openssl x509 -inform DER"},
		{"a root among lists", "CRLFile", list + ca, "not a revocation list"},
		{"a list by another name", "CRLFile", list + block("CRL", root.Revoke(t, nil)), "not a revocation list"},
		{"two lists in DER", "CRLFile", string(root.Revoke(t, nil)) + string(root.Revoke(t, nil)), "trailing data"},
		{"a certificate by its older name", "CertFile", older, ""},
		{"the key behind the certificate", "CertFile", cert + key + dh, ""},
		{"the key before the certificate", "CertFile", dh + key + cert, ""},
		{"an intermediate with trust settings", "CertFile", cert + trusted, "openssl x509"},
		{"a list behind the certificate", "CertFile", cert + list, "CRLFile"},
		{"the certificate behind the key", "KeyFile", key + cert + older, ""},
		{"the certificate before the key", "KeyFile", cert + dh + key, ""},
		{"two keys", "KeyFile", key + string(root.KeyPEM(t)), "second private key"},
		{"a request behind the key", "KeyFile", key + block("CERTIFICATE REQUEST", root.Raw), "not a private key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := &Config{CAFile: testcert.TempFile(t, "ca.pem", []byte(ca)), CertFile: testcert.TempFile(t, "cert.pem", []byte(cert)), KeyFile: testcert.TempFile(t, "key.pem", []byte(key))}
			file := testcert.TempFile(t, "it.pem", []byte(test.file))
			switch test.field {
			case "CAFile":
				opts.CAFile = file
			case "CRLFile":
				opts.CRLFile = file
			case "CertFile":
				opts.CertFile = file
			case "KeyFile":
				opts.KeyFile = file
			}
			if test.refused != "" {
				bad := refused(t, opts)
				require.Equal(t, test.field, bad.Field)
				require.Contains(t, bad.Error(), test.refused)
				return
			}
			_, state, err := s.connect(t, opts, nil)
			require.NoError(t, err)
			require.Equal(t, mine.Raw, state.PeerCertificates[0].Raw)
		})
	}
	t.Run("names of Windows in CAPath", func(t *testing.T) {
		d := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(d, "ROOT.CRT"), root.CertPEM(), 0o600))
		opts := &Config{CAPath: d, CertFile: testcert.TempFile(t, "cert.pem", []byte(cert)), KeyFile: testcert.TempFile(t, "key.pem", []byte(key))}
		_, err := s.outcome(t, opts)
		require.NoError(t, err)
	})
}

// openssl writes text before a block, trust settings into it, and bag attributes between
// the blocks of a PKCS #12 file.
func TestPEM_FilesOfOpenSSL(t *testing.T) {
	openssl := findOpenSSL(t)
	root := testcert.NewRoot(t, "root")
	mine := root.Issue(t, "me", nil)
	s := serve(root.Issue(t, "server", nil), func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, testcert.Pool(root)
	})
	cert, key, ca := mine.Files(t)
	run := func(args ...string) string {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		text, err := exec.Command(openssl, append(args, "-out", out)...).CombinedOutput()
		require.NoErrorf(t, err, "%s", text)
		return out
	}
	p12 := run("pkcs12", "-export", "-in", cert, "-inkey", key, "-certfile", ca, "-passout", "pass:x")
	both := run("pkcs12", "-in", p12, "-passin", "pass:x", "-nodes")
	text := run("x509", "-in", ca, "-text")
	_, state, err := s.connect(t, &Config{CAFile: text, CertFile: both, KeyFile: both}, nil)
	require.NoError(t, err)
	require.True(t, mine.Equal(state.PeerCertificates[0]))

	rejected := run("x509", "-in", ca, "-addreject", "serverAuth", "-trustout")
	bad := refused(t, &Config{CAFile: rejected})
	require.Contains(t, bad.Error(), "may reject it")
}

// A directory of certificates may have directories in it, with names like those of files. A
// FIFO or a device is refused by name and not opened: to open a FIFO blocks until somebody
// writes to it, which no limit of Dial ends.
func TestFiles_OnlyRegularOnesAreRead(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	s := serve(root.Issue(t, "server", nil), nil)
	t.Run("directories in CAPath", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "root.pem"), root.CertPEM(), 0o600))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "directory.pem"), 0o700))
		require.NoError(t, os.Symlink("directory.pem", filepath.Join(dir, "link.crt")))
		_, err := s.outcome(t, &Config{CAPath: dir})
		require.NoError(t, err)
	})
	fifos := t.TempDir()
	fifo := filepath.Join(fifos, "fifo.pem")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	cert, key, _ := s.cert.Files(t)
	for _, test := range []struct {
		field string
		opts  Config
		named string
	}{
		{"CAPath", Config{CAPath: fifos}, "fifo.pem"},
		{"CAFile", Config{CAFile: fifo}, "fifo.pem"},
		{"CAFile", Config{CAFile: os.DevNull}, os.DevNull},
		{"CAFile", Config{CAFile: fifos}, "is a directory"},
		{"CRLFile", Config{CRLFile: fifo}, "fifo.pem"},
		{"CertFile", Config{CertFile: fifo, KeyFile: key}, "fifo.pem"},
		{"KeyFile", Config{CertFile: cert, KeyFile: fifo}, "fifo.pem"},
	} {
		t.Run(test.field+" "+filepath.Base(test.named), func(t *testing.T) {
			bad := refused(t, &test.opts)
			require.Equal(t, test.field, bad.Field)
			require.Contains(t, bad.Error(), test.named)
		})
	}
}
