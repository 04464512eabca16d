package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TLS with servers that others wrote, on OpenSSL. As in servers_test.go the
// tests start them; that it is really the one which was started is known by its
// certificate, since each test makes a root of its own.

// trusting are options that accept what one root has signed.
func trusting(t testing.TB, c *testcert.Cert) *client.TLSOptions {
	t.Helper()
	return &client.TLSOptions{CAFile: tempFile(t, "ca.pem", c.Root.CertPEM())}
}

// showing are the same options with a certificate of the client's own.
func showing(t testing.TB, trust *client.TLSOptions, c *testcert.Cert) *client.TLSOptions {
	t.Helper()
	o := *trust
	o.CertFile, o.KeyFile, _ = c.Files(t)
	return &o
}

// tlsServerSays is serverSays over TLS.
func tlsServerSays(address string, opts *client.TLSOptions, question, want string) error {
	c, err := client.Dial("tcp", address, &client.Options{Timeout: time.Second, TLS: opts})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Send([]byte(question), 0); err != nil {
		return err
	}
	answer := make([]byte, len(want))
	n, err := c.Recv(answer, client.WaitAll)
	if err == nil && string(answer) != want {
		err = errors.New("is not the answer")
	}
	if err != nil {
		return fmt.Errorf("%q: %w", answer[:n], err)
	}
	return nil
}

// receivesLate has a Recv fail at a deadline that is near, with as many bytes as
// had has, and takes the deadline away.
func receivesLate(t *testing.T, c *client.Client, p []byte, flags client.Flag, had string) {
	t.Helper()
	limit := 20 * time.Millisecond
	if had != "" { // and has to be taken before the limit
		limit = 300 * time.Millisecond
	}
	start := time.Now()
	require.NoError(t, c.SetReadDeadline(start.Add(limit)))
	n, err := c.Recv(p, flags)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, had, string(p[:n]))
	require.GreaterOrEqual(t, time.Since(start), limit)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
}

// endsProperly checks that the peer has ended TLS and not just the connection.
func endsProperly(t *testing.T, c *client.Client) {
	t.Helper()
	for range 2 { // and it stays so
		n, err := c.Recv(make([]byte, 1), client.WaitAll)
		require.True(t, err == io.EOF, "%v", err) //nolint:errorlint // bare, as documented
		require.Zero(t, n)
	}
	require.False(t, c.IsConnected())
}

// killedUnder kills a server while Recv waits for more than had, which has
// arrived. No close_notify was sent, so this is not an end that io.EOF means:
// whoever cuts the connection could cut the answer.
func killedUnder(t *testing.T, s *testserver.Server, c *client.Client, had string) {
	t.Helper()
	type result struct {
		said string
		err  error
	}
	received := make(chan result, 1)
	go func() {
		p := make([]byte, len(had)+1)
		n, err := c.Recv(p, client.WaitAll)
		received <- result{string(p[:n]), err}
	}()
	inKernel(t)
	require.True(t, c.IsConnected())
	s.Kill()
	select {
	case r := <-received:
		require.Equal(t, had, r.said)
		require.NotErrorIs(t, r.err, io.EOF)
		if !errors.Is(r.err, io.ErrUnexpectedEOF) {
			require.ErrorIs(t, r.err, unix.ECONNRESET)
		}
		require.False(t, timedOut(r.err))
	case <-time.After(testTimeout): // long before the client's limit
		t.Fatal("Recv does not notice")
	}
	require.False(t, c.IsConnected())
	n, err := c.Recv(make([]byte, 1), 0)
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
	require.Zero(t, n)
}

// alerted checks that an error has the alert of the peer in it.
func alerted(t *testing.T, err error, alert string) {
	t.Helper()
	require.ErrorContains(t, err, "remote error: tls: "+alert)
	require.NotErrorIs(t, err, io.EOF)
	require.False(t, timedOut(err))
}

// openssl runs openssl(1) with what a test needs of it.
func openssl(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(requireProgram(t, "openssl", "openssl"), args...)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v said:\n%s", cmd, said)
}

// startOpenSSL starts s_server so that it sends each line back with its bytes in
// reverse, and ends the connection when told to CLOSE. It serves one client at a
// time.
func startOpenSSL(t *testing.T, c *testcert.Cert, args ...string) *testserver.Server {
	t.Helper()
	return startSServer(t, c, append([]string{"-rev"}, args...)...)
}

func startSServer(t *testing.T, c *testcert.Cert, args ...string) *testserver.Server {
	t.Helper()
	path := requireProgram(t, "openssl", "openssl")
	chain, key, ca := c.Files(t)
	return startServer(t, path, func(port string) []string {
		return append([]string{
			"s_server", "-accept", "127.0.0.1:" + port,
			"-cert", chain, "-cert_chain", chain, "-key", key, "-CAfile", ca,
		}, args...)
	}, func(s *testserver.Server) error {
		if !strings.Contains(s.Output(), "\nACCEPT\n") { // it listens
			return errors.New("it does not accept yet")
		}
		return nil
	})
}

// reverses checks that OpenSSL sends a line back reversed.
func reverses(t *testing.T, c *client.Client, line, reversed string) {
	t.Helper()
	sends(t, c, []byte(line+"\n"))
	receives(t, c, []byte(reversed+"\n"))
}

// opensslName is what servers on OpenSSL call a version of TLS.
func opensslName(version uint16) string {
	return strings.Replace(tls.VersionName(version), "TLS ", "TLSv", 1)
}

// opensslOnly are s_server's options for one version.
func opensslOnly(version uint16) []string {
	return []string{"-min_protocol", opensslName(version), "-max_protocol", opensslName(version)}
}

// underOpenSSL runs a test with a server of each version.
func underOpenSSL(t *testing.T, c *testcert.Cert, args []string, f func(t *testing.T, s *testserver.Server, version uint16)) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		f(t, startOpenSSL(t, c, append(opensslOnly(version), args...)...), version)
	})
}

func TestOpenSSL_BothDirections(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "between", testcert.Authority).Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, version uint16) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
		state := c.ConnectionState()
		require.Equal(t, version, state.Version)
		require.True(t, state.HandshakeComplete)
		require.False(t, state.DidResume)
		require.Len(t, state.VerifiedChains, 1)
		require.Len(t, state.VerifiedChains[0], 3)
		reverses(t, c, "hello", "olleh")

		// Many records, and lines that lie across their borders.
		var lines, reversed strings.Builder
		for i := range 2000 {
			fmt.Fprintf(&lines, "<%048d\n", i)
			digits := []byte(fmt.Sprintf("%048d", i))
			for i := range digits[:len(digits)/2] {
				j := len(digits) - 1 - i
				digits[i], digits[j] = digits[j], digits[i]
			}
			fmt.Fprintf(&reversed, "%s<\n", digits)
		}
		sends(t, c, []byte(lines.String()))
		receives(t, c, []byte(reversed.String()))
		receivesNoMore(t, c)
	})
}

// A server of TLS 1.3 sends tickets after the handshake: something to receive
// for the kernel, and nothing for who asks what there is.
func TestOpenSSL_TicketsAreNothingToReceive(t *testing.T) {
	inParallelIfShort(t)
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	for name, receive := range map[string]func(t *testing.T, c *client.Client){
		"DontWait": func(t *testing.T, c *client.Client) {
			receivesNoMore(t, c)
		},
		"Peek and DontWait": func(t *testing.T, c *client.Client) {
			n, err := c.Recv(make([]byte, 10), client.Peek|client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Zero(t, n)
		},
		"WaitAll and DontWait": func(t *testing.T, c *client.Client) {
			n, err := c.Recv(make([]byte, 10), client.WaitAll|client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			require.Zero(t, n)
		},
		"a Recv that waits": func(t *testing.T, c *client.Client) {
			receivesLate(t, c, make([]byte, 10), 0, "")
		},
		"a WaitAll that waits": func(t *testing.T, c *client.Client) {
			receivesLate(t, c, make([]byte, 10), client.WaitAll, "")
		},
		"a Peek that waits": func(t *testing.T, c *client.Client) {
			receivesLate(t, c, make([]byte, 10), client.Peek, "")
		},
		"a Send": func(t *testing.T, c *client.Client) {
			reverses(t, c, "first", "tsrif")
		},
	} {
		t.Run(name, func(t *testing.T) {
			underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, version uint16) {
				c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
				if version == tls.VersionTLS13 {
					arrived(t, c)
				}
				receive(t, c)
				reverses(t, c, "hello", "olleh")
				receivesNoMore(t, c)
			})
		})
	}
}

func TestOpenSSL_PeekLeavesWhatWasSent(t *testing.T) {
	inParallelIfShort(t)
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
		sends(t, c, []byte("hello\n"))
		p := make([]byte, 6)
		for _, flags := range []client.Flag{client.Peek | client.WaitAll, client.Peek, client.Peek | client.DontWait} {
			clear(p)
			n, err := c.Recv(p, flags)
			require.NoError(t, err)
			require.Equal(t, "olleh\n", string(p[:n]))
		}
		// More than there is: what there is, and with WaitAll no success either.
		long := make([]byte, 10)
		n, err := c.Recv(long, client.Peek)
		require.NoError(t, err)
		require.Equal(t, "olleh\n", string(long[:n]))
		receivesLate(t, c, long, client.Peek|client.WaitAll, "olleh\n")

		receives(t, c, []byte("oll"))
		sends(t, c, []byte("world\n"))
		receives(t, c, []byte("eh\ndlrow\n"))
		receivesNoMore(t, c)
	})
}

func TestOpenSSL_NothingIsLostToALimit(t *testing.T) {
	inParallelIfShort(t)
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
		p := make([]byte, 100)
		for range 3 {
			for _, flags := range []client.Flag{0, client.WaitAll, client.Peek} {
				sends(t, c, []byte("he")) // no line yet, and so no answer
				receivesLate(t, c, p, flags, "")
				reverses(t, c, "llo", "olleh")
			}
		}
		sends(t, c, []byte("hello\n"))
		arrived(t, c)
		receivesLate(t, c, p, client.WaitAll, "olleh\n") // its count says that these are taken
		reverses(t, c, "world", "dlrow")
		receivesNoMore(t, c)
	})
}

func TestOpenSSL_ResumesTheSession(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, version uint16) {
		opts := trusting(t, c)
		opts.Config = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(10)}
		for i := range 4 {
			c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
			state := c.ConnectionState()
			require.Equal(t, version, state.Version)
			require.Equal(t, i > 0, state.DidResume)
			require.NotEmpty(t, state.VerifiedChains)
			reverses(t, c, "hello", "olleh")
			require.NoError(t, c.Close())
		}
		// Each Options has the sessions of its own cache alone.
		opts.Config = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(10)}
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
		require.False(t, c.ConnectionState().DidResume)
	})
}

// What a session remembers to have been verified does not count: the roots of
// the dial that resumes it do.
func TestOpenSSL_IsVerifiedAgainInAResumedSession(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		opts := trusting(t, c)
		opts.Config = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(10)}
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
		reverses(t, c, "hello", "olleh")
		require.NoError(t, c.Close())

		others := *opts
		others.CAFile = tempFile(t, "ca.pem", testcert.NewRoot(t, "another").CertPEM())
		_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: &others})
		require.True(t, isUnknownAuthority(err), "%v", err)
	})
}

func TestOpenSSL_ClientCertificate(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	required := []string{"-Verify", "1", "-verify_return_error"}
	underOpenSSL(t, c, required, func(t *testing.T, s *testserver.Server, version uint16) {
		trust := trusting(t, c)
		for name, test := range map[string]struct {
			opts     *client.TLSOptions
			old, new string // the alert of TLS 1.2 and of 1.3
		}{
			"none": {trust, "handshake failure", "certificate required"},
			// One that the server does not ask for is not shown to it.
			"another root's":  {showing(t, trust, testcert.NewRoot(t, "another").Issue(t, "client", nil)), "handshake failure", "certificate required"},
			"a false root's":  {showing(t, trust, testcert.NewRoot(t, "root").Issue(t, "client", nil)), "unknown certificate authority", "unknown certificate authority"},
			"one of the past": {showing(t, trust, root.Issue(t, "client", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), "expired certificate", "expired certificate"},
			"the right one":   {showing(t, trust, root.Issue(t, "client", nil)), "", ""},
		} {
			t.Run(name, func(t *testing.T) {
				c, err := client.Dial("tcp", s.Addr, &client.Options{TLS: test.opts})
				switch {
				case test.old == "":
					require.NoError(t, err)
					defer c.Close()
					reverses(t, c, "hello", "olleh")
				case version == tls.VersionTLS12:
					alerted(t, err, test.old)
					var failed *client.TLSError
					require.ErrorAs(t, err, &failed)
				default: // to the client the handshake was over before the server looked
					require.NoError(t, err)
					defer c.Close()
					for range 2 {
						n, err := c.Recv(make([]byte, 1), 0)
						require.Zero(t, n)
						alerted(t, err, test.new)
					}
					require.False(t, c.IsConnected())
				}
			})
		}
	})
}

func TestOpenSSL_ALPN(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, []string{"-alpn", "h2,http/1.1"}, func(t *testing.T, s *testserver.Server, _ uint16) {
		for _, test := range []struct {
			offered []string
			chosen  string
		}{
			{nil, ""},
			{[]string{"spdy/3", "http/1.1"}, "http/1.1"},
			{[]string{"http/1.1", "h2"}, "h2"}, // its own order counts
		} {
			opts := trusting(t, c)
			opts.NextProtos = test.offered
			c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
			require.Equal(t, test.chosen, c.ConnectionState().NegotiatedProtocol)
			reverses(t, c, "hello", "olleh")
			require.NoError(t, c.Close())
		}
		opts := trusting(t, c)
		opts.NextProtos = []string{"spdy/3"}
		_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: opts})
		alerted(t, err, "no application protocol")
		var failed *client.TLSError
		require.ErrorAs(t, err, &failed)
	})
}

func TestOpenSSL_NoSharedVersion(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, version uint16) {
		opts := trusting(t, c)
		opts.MinVersion, opts.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if version == tls.VersionTLS12 {
			opts.MinVersion, opts.MaxVersion = tls.VersionTLS13, 0
		}
		_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: opts})
		alerted(t, err, "protocol version not supported")
		var failed *client.TLSError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "127.0.0.1", failed.ServerName)
	})
}

func TestOpenSSL_WrongCertificate(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", func(c *x509.Certificate) { c.IPAddresses = nil })
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		opts := trusting(t, c)
		_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: opts}) // by its address, which the certificate lacks
		require.True(t, isHostname(err), "%v", err)
		opts.ServerName = "elsewhere.test"
		_, err = client.Dial("tcp", s.Addr, &client.Options{TLS: opts})
		require.True(t, isHostname(err), "%v", err)
		_, err = client.Dial("tcp", s.Addr, &client.Options{TLS: &client.TLSOptions{ServerName: "localhost"}}) // by the system's roots
		require.True(t, isUnknownAuthority(err), "%v", err)

		opts.ServerName = "localhost"
		reverses(t, dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts}), "hello", "olleh")
	})
}

func TestOpenSSL_EndsTheConnection(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
		opts := &client.Options{TLS: trusting(t, c)}
		c := dialServer(t, "tcp", s.Addr, opts)
		sends(t, c, []byte("hello\nCLOSE\n"))
		receives(t, c, []byte("olleh\n"))
		endsProperly(t, c)
		require.NoError(t, c.Close())

		// In the middle of what was asked for it is an end too early, and peeked at
		// it stays where it is.
		c = dialServer(t, "tcp", s.Addr, opts)
		sends(t, c, []byte("hello\nCLOSE\n"))
		p := make([]byte, 10)
		for _, flags := range []client.Flag{client.Peek | client.WaitAll, client.WaitAll} {
			clear(p)
			n, err := c.Recv(p, flags)
			require.True(t, err == io.ErrUnexpectedEOF, "%v", err) //nolint:errorlint // bare, as documented
			require.Equal(t, "olleh\n", string(p[:n]))
		}
		endsProperly(t, c)
		require.NoError(t, c.Close())

		// The other way round: what the server had to say before it learnt of our
		// end arrives, and then its own end.
		c = dialServer(t, "tcp", s.Addr, opts)
		sends(t, c, []byte("hello\n"))
		require.NoError(t, c.CloseWrite())
		receives(t, c, []byte("olleh\n"))
		endsProperly(t, c)
	})
}

func TestOpenSSL_KilledIsNotEOF(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	for _, had := range []string{"", "olleh\n"} {
		t.Run(fmt.Sprintf("after %d bytes", len(had)), func(t *testing.T) {
			underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
				c := dialServer(t, "tcp", s.Addr, &client.Options{RecvTimeout: time.Minute, TLS: trusting(t, c)})
				reverses(t, c, "first", "tsrif") // so that it serves, and not just the kernel's backlog
				if had != "" {
					sends(t, c, []byte("hello\n"))
					arrived(t, c)
				}
				killedUnder(t, s, c, had)
			})
		})
	}
}

// A page of s_server's ends when the connection does.
func TestOpenSSL_PageIsWholeWhenTLSEnds(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := startSServer(t, c, append(opensslOnly(version), "-www")...)
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)})
		require.NoError(t, c.SetReadDeadline(time.Now().Add(testTimeout)))
		sends(t, c, []byte("GET / HTTP/1.0\r\n\r\n"))
		page, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(page), "HTTP/1.0 200 ok\r\n"), "%s", page)
		require.Contains(t, string(page), opensslName(version))
		require.True(t, strings.HasSuffix(strings.ToLower(strings.TrimSpace(string(page))), "</html>"), "%s", page)
		endsProperly(t, c)
	})
}

// opensslKeys are keys of each kind that TLS has.
func opensslKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey, "ed25519": edKey}
}

func TestOpenSSL_EncryptedKeys(t *testing.T) {
	inParallelIfShort(t)
	const passphrase = "correct horse: b\u00e4ttery $taple"
	secret := tempFile(t, "passphrase", []byte(passphrase+"\n"+passphrase+"\n")) // one to read with and one to write with
	root := testcert.NewRoot(t, "root")
	s := startOpenSSL(t, root.Issue(t, "server", nil), "-Verify", "1", "-verify_return_error")
	trust := trusting(t, root)
	loads := func(t *testing.T, chain, key string) {
		t.Helper()
		opts := *trust
		opts.CertFile, opts.KeyFile, opts.Passphrase = chain, key, passphrase
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: &opts})
		reverses(t, c, "hello", "olleh") // it has accepted the certificate
		require.NoError(t, c.Close())    // it serves one at a time

		for _, wrong := range []string{"", "wrong", passphrase + "\n"} {
			opts.Passphrase = wrong
			_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: &opts})
			var option *client.OptionError
			require.ErrorAs(t, err, &option)
			require.Equal(t, "TLS.KeyFile", option.Option)
			require.ErrorContains(t, err, key)
			require.ErrorContains(t, err, "Passphrase")
			if wrong != "" {
				require.NotContains(t, err.Error(), strings.TrimSpace(wrong))
			}
		}
	}

	const modern, legacy = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "\nProc-Type: 4,ENCRYPTED\n"
	for kind, key := range opensslKeys(t) {
		c := root.IssueFor(t, "client", key, nil)
		chain, plain, _ := c.Files(t)
		ways := map[string]string{"pkcs8 -topk8": modern, "pkcs8 -topk8 -scrypt": modern, "pkey -aes256": modern}
		switch kind {
		case "ec":
			for _, way := range []string{
				"-v2 aes-128-cbc", "-v2 aes-192-cbc", "-v2 aes-256-cbc", "-v2 des3",
				"-v2 aes-256-cbc -iter 10000", "-v2 aes-256-cbc -v2prf hmacWithSHA1",
				"-scrypt -scrypt_N 1024 -scrypt_p 2 -v2 aes-128-cbc",
			} {
				ways["pkcs8 -topk8 "+way] = modern
			}
			for _, cipher := range []string{"-aes128", "-aes192", "-aes256", "-des3"} {
				ways["ec "+cipher] = legacy
			}
		case "rsa": // ed25519 has no older form
			ways["rsa -traditional -aes256"] = legacy
			ways["pkey -traditional -aes256"] = legacy
		}
		for way, form := range ways {
			t.Run(kind+" by "+way, func(t *testing.T) {
				encrypted := filepath.Join(t.TempDir(), "encrypted.pem")
				openssl(t, append(strings.Fields(way), "-in", plain, "-out", encrypted, "-passout", "file:"+secret)...)
				text, err := os.ReadFile(encrypted)
				require.NoError(t, err)
				require.Contains(t, string(text), form)
				loads(t, chain, encrypted)
			})
		}

		// What openssl makes of a PKCS #12 file is one file with all in it, and with
		// lines between that are not PEM.
		t.Run(kind+" by pkcs12", func(t *testing.T) {
			dir := t.TempDir()
			packed, all := filepath.Join(dir, "packed.p12"), filepath.Join(dir, "all.pem")
			openssl(t, "pkcs12", "-export", "-in", chain, "-inkey", plain, "-out", packed, "-passout", "file:"+secret)
			openssl(t, "pkcs12", "-in", packed, "-out", all, "-passin", "file:"+secret, "-passout", "file:"+secret)
			text, err := os.ReadFile(all)
			require.NoError(t, err)
			require.Contains(t, string(text), "Bag Attributes")
			require.Contains(t, string(text), modern)
			loads(t, all, all)
		})
	}
}

// What can not be read is said so, before anything is dialled.
func TestOpenSSL_UnreadableKeyIsAnOptionError(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	chain, plain, _ := root.Issue(t, "client", nil).Files(t)
	for _, way := range []string{"-v1 PBE-SHA1-3DES", "-v2 aria-256-cbc", "-v2 aes-256-cbc -v2prf hmacWithSHA512"} {
		encrypted := filepath.Join(t.TempDir(), "encrypted.pem")
		openssl(t, append([]string{"pkcs8", "-topk8", "-in", plain, "-out", encrypted, "-passout", "pass:secret"}, strings.Fields(way)...)...)
		opts := trusting(t, root)
		opts.CertFile, opts.KeyFile, opts.Passphrase = chain, encrypted, "secret"
		_, err := client.Dial("tcp", refused(t, "tcp"), &client.Options{TLS: opts})
		var option *client.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, "TLS.KeyFile", option.Option)
		require.ErrorContains(t, err, encrypted)
		require.NotContains(t, err.Error(), "secret")
	}
}

// The older encryption has no checksum: of wrong passphrases one in 256 gives
// what looks like a key until it is parsed.
func TestOpenSSL_WrongPassphraseIsNotBlamedOnTheCertificate(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	chain, plain, _ := root.Issue(t, "client", nil).Files(t)
	encrypted := filepath.Join(t.TempDir(), "encrypted.pem")
	openssl(t, "ec", "-aes256", "-in", plain, "-out", encrypted, "-passout", "pass:secret")
	data, err := os.ReadFile(encrypted)
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block)
	opts := trusting(t, root)
	opts.CertFile, opts.KeyFile = chain, encrypted
	for i := 0; ; i++ {
		opts.Passphrase = fmt.Sprint("wrong", i)
		_, err := x509.DecryptPEMBlock(block, []byte(opts.Passphrase)) //nolint:staticcheck // it is what is tested
		if err == nil {
			break
		}
		require.Less(t, i, 1<<16)
	}
	_, err = client.Dial("tcp", refused(t, "tcp"), &client.Options{TLS: opts})
	var option *client.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, "TLS.KeyFile", option.Option)
	require.NotContains(t, err.Error(), opts.Passphrase)
}

func TestOpenSSL_RehashedDirectory(t *testing.T) {
	root, another := testcert.NewRoot(t, "root"), testcert.NewRoot(t, "another")
	s := startOpenSSL(t, root.Issue(t, "between", testcert.Authority).Issue(t, "server", nil))

	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	write("root.pem", root.CertPEM())
	write("another.crt", another.CertPEM())
	// Its links have names like those to certificates, with r0 for 0.
	write("root.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: root.Revoke(t, nil)}))
	openssl(t, "rehash", dir)

	// The links alone, as copies, in a directory where nothing else leads to the root.
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	hashed := map[string]string{"root": t.TempDir(), "another": t.TempDir()}
	link := regexp.MustCompile(`^[0-9a-f]{8}\.0$`)
	for _, e := range entries {
		if link.MatchString(e.Name()) {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			whose := "another"
			if bytes.Equal(data, root.CertPEM()) {
				whose = "root"
			}
			require.NoError(t, os.WriteFile(filepath.Join(hashed[whose], e.Name()), data, 0o600))
		}
	}
	require.Len(t, entries, 6)

	for _, path := range []string{dir, hashed["root"]} {
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: &client.TLSOptions{CAPath: path}})
		reverses(t, c, "hello", "olleh")
		require.NoError(t, c.Close())
	}
	_, err = client.Dial("tcp", s.Addr, &client.Options{TLS: &client.TLSOptions{CAPath: hashed["another"]}})
	require.True(t, isUnknownAuthority(err), "%v", err)
}

// opensslIndex is the list that openssl-ca(1) keeps of what an authority has
// issued, and that its OCSP answers and revocation lists come from.
func opensslIndex(t *testing.T, revoked bool, c *testcert.Cert) string {
	t.Helper()
	const day = "060102150405Z"
	state, since := "V", ""
	if revoked {
		state, since = "R", time.Now().Add(-time.Minute).UTC().Format(day)+",keyCompromise"
	}
	serial := fmt.Sprintf("%X", c.SerialNumber)
	if len(serial)%2 == 1 {
		serial = "0" + serial
	}
	line := fmt.Sprintf("%s\t%s\t%s\t%s\tunknown\t/CN=%s\n", state, c.NotAfter.UTC().Format(day), since, serial, c.Subject.CommonName)
	path := tempFile(t, "index.txt", []byte(line))
	require.NoError(t, os.WriteFile(path+".attr", []byte("unique_subject = no\n"), 0o600))
	return path
}

// opensslAnswers has openssl-ocsp(1) answer about a certificate, as its issuer
// or as somebody whom that has appointed, and gives the answer's file.
func opensslAnswers(t *testing.T, index string, c, issuer, signer *testcert.Cert) string {
	t.Helper()
	about := tempFile(t, "about.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	authority := tempFile(t, "issuer.pem", issuer.CertPEM())
	by, key, _ := signer.Files(t)
	dir := t.TempDir()
	question, answer := filepath.Join(dir, "question"), filepath.Join(dir, "answer")
	openssl(t, "ocsp", "-issuer", authority, "-cert", about, "-no_nonce", "-reqout", question)
	openssl(t, "ocsp", "-index", index, "-CA", authority, "-rsigner", by, "-rkey", key, "-ndays", "1", "-reqin", question, "-respout", answer)
	return answer
}

func TestOpenSSL_StapledOCSPAnswer(t *testing.T) {
	inParallelIfShort(t)
	root := testcert.NewRoot(t, "root")
	appointed := root.Issue(t, "responder", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
	c, other := root.Issue(t, "server", nil), root.Issue(t, "other", nil)
	refused := func(t *testing.T, s *testserver.Server, opts *client.TLSOptions) *client.RevocationError {
		t.Helper()
		_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: opts})
		var revocation *client.RevocationError
		require.ErrorAs(t, err, &revocation)
		require.True(t, c.Equal(revocation.Certificate))
		var verification *tls.CertificateVerificationError
		require.ErrorAs(t, err, &verification)
		return revocation
	}
	staple := func(t *testing.T, index string, signer *testcert.Cert) []string {
		return []string{"-status_file", opensslAnswers(t, index, c, root, signer)}
	}
	insisting := trusting(t, c)
	insisting.RequireStaple = true
	either := []*client.TLSOptions{insisting, trusting(t, c)}

	for name, signer := range map[string]*testcert.Cert{"the issuer": root, "who is appointed": appointed} {
		t.Run("good, by "+name, func(t *testing.T) {
			underOpenSSL(t, c, staple(t, opensslIndex(t, false, c), signer), func(t *testing.T, s *testserver.Server, _ uint16) {
				for _, opts := range either {
					c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
					require.NotEmpty(t, c.ConnectionState().OCSPResponse)
					reverses(t, c, "hello", "olleh")
					require.NoError(t, c.Close())
				}
			})
		})
		t.Run("revoked, by "+name, func(t *testing.T) {
			underOpenSSL(t, c, staple(t, opensslIndex(t, true, c), signer), func(t *testing.T, s *testserver.Server, _ uint16) {
				for _, opts := range either {
					require.True(t, refused(t, s, opts).Revoked)
				}
			})
		})
	}
	t.Run("good, by another of the issuer's customers", func(t *testing.T) {
		underOpenSSL(t, c, staple(t, opensslIndex(t, false, c), other), func(t *testing.T, s *testserver.Server, _ uint16) {
			for _, opts := range either {
				require.False(t, refused(t, s, opts).Revoked)
			}
		})
	})
	t.Run("unknown", func(t *testing.T) {
		underOpenSSL(t, c, staple(t, opensslIndex(t, false, other), root), func(t *testing.T, s *testserver.Server, _ uint16) {
			for _, opts := range either {
				require.False(t, refused(t, s, opts).Revoked)
			}
		})
	})
	t.Run("none", func(t *testing.T) {
		underOpenSSL(t, c, nil, func(t *testing.T, s *testserver.Server, _ uint16) {
			require.False(t, refused(t, s, insisting).Revoked)
			reverses(t, dialServer(t, "tcp", s.Addr, &client.Options{TLS: trusting(t, c)}), "hello", "olleh")
		})
	})
}

func TestOpenSSL_RevocationList(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	s := startOpenSSL(t, c)
	list := func(t *testing.T, revoked bool, issuer, about *testcert.Cert) string {
		t.Helper()
		chain, key, _ := issuer.Files(t)
		dir := t.TempDir()
		number := filepath.Join(dir, "number")
		require.NoError(t, os.WriteFile(number, []byte("1000\n"), 0o600)) // with one, the list is of version 2
		path := filepath.Join(dir, "list.pem")
		openssl(t, "ca", "-gencrl", "-cert", chain, "-keyfile", key, "-out", path, "-config", config(t, `
			[ca]
			default_ca = this
			[this]
			database = `+opensslIndex(t, revoked, about)+`
			crlnumber = `+number+`
			default_md = sha256
			default_crl_days = 1
		`))
		return path
	}
	t.Run("good", func(t *testing.T) {
		opts := trusting(t, c)
		opts.CRLFile = list(t, false, root, c)
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
		reverses(t, c, "hello", "olleh")
		require.NoError(t, c.Close())
	})
	t.Run("another one is revoked", func(t *testing.T) {
		opts := trusting(t, c)
		opts.CRLFile = list(t, true, root, root.Issue(t, "other", nil))
		c := dialServer(t, "tcp", s.Addr, &client.Options{TLS: opts})
		reverses(t, c, "hello", "olleh")
		require.NoError(t, c.Close())
	})
	for name, issuer := range map[string]*testcert.Cert{"revoked": root, "another's list": testcert.NewRoot(t, "another")} {
		t.Run(name, func(t *testing.T) {
			opts := trusting(t, c)
			opts.CRLFile = list(t, true, issuer, c)
			_, err := client.Dial("tcp", s.Addr, &client.Options{TLS: opts})
			var revocation *client.RevocationError
			require.ErrorAs(t, err, &revocation)
			require.Equal(t, issuer == root, revocation.Revoked)
			require.True(t, c.Equal(revocation.Certificate))
		})
	}
}

// startNginx starts an nginx that serves the files of a directory over https.
func startNginx(t *testing.T, c *testcert.Cert, files string, settings ...string) *testserver.Server {
	t.Helper()
	path := requireProgram(t, "nginx", "nginx-light")
	chain, key, _ := c.Files(t)
	dir := t.TempDir()
	trust := trusting(t, c)
	return startServer(t, path, func(port string) []string {
		// One process, so that to kill it is to stop it.
		return []string{"-p", dir, "-e", "stderr", "-c", config(t, `
			daemon off;
			master_process off;
			pid `+dir+`/pid;
			error_log stderr;
			events { }
			http {
				access_log off;
				client_body_temp_path `+dir+`/body;
				proxy_temp_path `+dir+`/proxy;
				fastcgi_temp_path `+dir+`/fastcgi;
				uwsgi_temp_path `+dir+`/uwsgi;
				scgi_temp_path `+dir+`/scgi;
				server {
					listen 127.0.0.1:`+port+` ssl;
					ssl_certificate `+chain+`;
					ssl_certificate_key `+key+`;
					ssl_protocols TLSv1.2 TLSv1.3;
					root `+files+`;
					`+strings.Join(settings, " ")+`
				}
			}
		`)}
	}, func(s *testserver.Server) error {
		return tlsServerSays(s.Addr, trust, "HEAD /small HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n")
	})
}

// nginxClient is an http.Client whose connections are the library's, and counts
// them.
func nginxClient(t *testing.T, opts *client.Options) (web *http.Client, dials *atomic.Int32) {
	t.Helper()
	dials = new(atomic.Int32)
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&client.Dialer{Options: opts}).DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}, dials
}

// fetches gets a file, which has to be the one that this is the sum of, and tells
// whether over a connection that was used before.
func fetches(t *testing.T, web *http.Client, address, file string, want [sha256.Size]byte) (reused bool) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/"+file, nil)
	require.NoError(t, err)
	response, err := web.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	sum := sha256.New()
	n, err := io.Copy(sum, response.Body)
	require.NoError(t, err)
	require.Equal(t, response.ContentLength, n)
	require.Equal(t, want[:], sum.Sum(nil), "%d bytes are not those of the file", n)
	return reused
}

// nginxFiles makes a directory with files for nginx, and gives their sums.
func nginxFiles(t *testing.T) (dir string, sums map[string][sha256.Size]byte) {
	t.Helper()
	dir, sums = t.TempDir(), make(map[string][sha256.Size]byte)
	for name, size := range map[string]int{"small": 100, "record": 16 << 10, "large": 10 << 20} {
		data := randomBytes(size)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		sums[name] = sha256.Sum256(data)
	}
	return dir, sums
}

func TestNginx_KeepsTheConnectionAlive(t *testing.T) {
	inParallelIfShort(t)
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "between", testcert.Authority).Issue(t, "server", nil)
	dir, sums := nginxFiles(t)
	s := startNginx(t, c, dir)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		opts := trusting(t, c)
		opts.MinVersion, opts.MaxVersion = version, version
		web, dials := nginxClient(t, &client.Options{TLS: opts})
		for i := range 5 {
			for j, name := range []string{"small", "record", "large"} {
				require.Equal(t, i+j > 0, fetches(t, web, s.Addr, name, sums[name]))
			}
		}
		require.EqualValues(t, 1, dials.Load())
	})
	t.Run("another root", func(t *testing.T) {
		web, _ := nginxClient(t, &client.Options{TLS: trusting(t, testcert.NewRoot(t, "another"))})
		_, err := web.Get("https://" + s.Addr + "/small")
		var failed *client.TLSError
		require.ErrorAs(t, err, &failed)
		require.True(t, isUnknownAuthority(err), "%v", err)
	})
	t.Run("no TLS", func(t *testing.T) {
		c := dialServer(t, "tcp", s.Addr, nil)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(testTimeout)))
		sends(t, c, []byte("GET /small HTTP/1.0\r\n\r\n"))
		refusal, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Contains(t, string(refusal), "400 The plain HTTP request was sent to HTTPS port")
	})
}

func TestNginx_ServesManyAtOnce(t *testing.T) {
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	dir, sums := nginxFiles(t)
	s := startNginx(t, c, dir)
	web, dials := nginxClient(t, &client.Options{Timeout: testTimeout, TLS: trusting(t, c)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name, sum := range sums {
				response, err := web.Get("https://" + s.Addr + "/" + name)
				if err != nil {
					t.Error(err)
					continue
				}
				got := sha256.New()
				_, err = io.Copy(got, response.Body)
				_ = response.Body.Close()
				if err != nil || !bytes.Equal(sum[:], got.Sum(nil)) {
					t.Errorf("%s is not what was sent: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, dials.Load())
}

func TestNginx_BehindAProxy(t *testing.T) {
	inParallelIfShort(t)
	c := testcert.NewRoot(t, "root").Issue(t, "server", nil)
	dir, sums := nginxFiles(t)
	s := startNginx(t, c, dir)
	for _, test := range []struct {
		program, debian, scheme string
		args                    func(t *testing.T, port string) []string
	}{
		{"microsocks", "microsocks", "socks5", func(_ *testing.T, port string) []string {
			return []string{"-i", "127.0.0.1", "-p", port, "-u", "me", "-P", "secret"}
		}},
		{"tinyproxy", "tinyproxy-bin", "http", func(t *testing.T, port string) []string {
			return []string{"-d", "-c", config(t, "Port "+port+"\nListen 127.0.0.1\nBasicAuth me secret\nMaxClients 10\n")}
		}},
	} {
		t.Run(test.program, func(t *testing.T) {
			path := requireProgram(t, test.program, test.debian)
			proxy := startServer(t, path, func(port string) []string { return test.args(t, port) }, func(s *testserver.Server) error {
				c, err := client.Dial("tcp", s.Addr, nil)
				if err != nil {
					return err
				}
				return c.Close()
			})
			via := client.Options{Timeout: testTimeout, Proxy: test.scheme + "://me:secret@" + proxy.Addr, TLS: trusting(t, c)}
			// The name that counts is the target's and not the proxy's.
			for _, address := range []string{s.Addr, "localhost:" + portOf(t, s.Addr)} {
				web, dials := nginxClient(t, &via)
				for i := range 3 {
					require.Equal(t, i > 0, fetches(t, web, address, "large", sums["large"]))
				}
				require.EqualValues(t, 1, dials.Load())
			}
			direct := dialServer(t, "tcp", s.Addr, &via)
			require.Equal(t, proxy.Addr, direct.RemoteAddr().String())
			require.Equal(t, "server", direct.ConnectionState().PeerCertificates[0].Subject.CommonName)

			other := via
			other.TLS = trusting(t, testcert.NewRoot(t, "another"))
			_, err := client.Dial("tcp", s.Addr, &other)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.True(t, isUnknownAuthority(err), "%v", err)
		})
	}
}

// startStunnel starts a stunnel in front of another server. settings are lines
// of its configuration.
func startStunnel(t *testing.T, c *testcert.Cert, behind, settings string, ready func(s *testserver.Server) error) *testserver.Server {
	t.Helper()
	program := "stunnel4"
	if _, err := exec.LookPath(program); err != nil {
		program = "stunnel" // as it is called where there is no older one
	}
	path := requireProgram(t, program, "stunnel4")
	chain, key, _ := c.Files(t)
	return startServer(t, path, func(port string) []string {
		return []string{config(t, `
			foreground = yes
			syslog = no
			pid =
			[service]
			accept = 127.0.0.1:`+port+`
			connect = `+behind+`
			cert = `+chain+`
			key = `+key+`
			`+settings+"\n")}
	}, ready)
}

func TestStunnel_Redis(t *testing.T) {
	_, addrs := startRedis(t)
	c := testcert.NewRoot(t, "root").Issue(t, "between", testcert.Authority).Issue(t, "server", nil)
	trust := trusting(t, c)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := startStunnel(t, c, addrs["tcp"], "sslVersion = "+opensslName(version), func(s *testserver.Server) error {
			return tlsServerSays(s.Addr, trust, "PING\r\n", "+PONG\r\n")
		})
		c := dialServer(t, "tcp", s.Addr, &client.Options{RecvTimeout: time.Minute, TLS: trust})
		require.Equal(t, version, c.ConnectionState().Version)
		sends(t, c, []byte("*1\r\n$4\r\nPING\r\n"))
		receives(t, c, []byte("+PONG\r\n"))
		receivesNoMore(t, c)
		redisGivesBackAMebibyte(t, c)

		// Redis hangs up, and stunnel has that for a proper end.
		sends(t, c, []byte("QUIT\r\n"))
		receives(t, c, []byte("+OK\r\n"))
		endsProperly(t, c)

		c = dialServer(t, "tcp", s.Addr, &client.Options{RecvTimeout: time.Minute, TLS: trust})
		sends(t, c, []byte("PING\r\nBLPOP nothing 0\r\n"))
		receives(t, c, []byte("+PONG\r\n"))
		killedUnder(t, s, c, "")
	})
}

// startRedisTLS starts a redis that serves over TLS alone.
func startRedisTLS(t *testing.T, c *testcert.Cert, trust *client.TLSOptions, settings ...string) *testserver.Server {
	t.Helper()
	path := requireProgram(t, "redis-server", "redis-server")
	chain, key, ca := c.Files(t)
	return startServer(t, path, func(port string) []string {
		return append([]string{
			"--bind", "127.0.0.1", "--port", "0", "--tls-port", port,
			"--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", ca,
			"--save", "", "--appendonly", "no", "--daemonize", "no",
		}, settings...)
	}, func(s *testserver.Server) error { return tlsServerSays(s.Addr, trust, "PING\r\n", "+PONG\r\n") })
}

// underRedisTLS runs a test with a redis that wants a certificate of its clients
// and one that does not, over each version.
func underRedisTLS(t *testing.T, f func(t *testing.T, s *testserver.Server, opts *client.TLSOptions)) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "between", testcert.Authority).Issue(t, "server", nil)
	for clients, opts := range map[string]*client.TLSOptions{
		"no":  trusting(t, c),
		"yes": showing(t, trusting(t, c), root.Issue(t, "client", nil)),
	} {
		t.Run("tls-auth-clients "+clients, func(t *testing.T) {
			eachTLSVersion(t, func(t *testing.T, version uint16) {
				f(t, startRedisTLS(t, c, opts, "--tls-auth-clients", clients, "--tls-protocols", opensslName(version)), opts)
			})
		})
	}
}

func TestRedisTLS_EchoesAMebibyte(t *testing.T) {
	underRedisTLS(t, func(t *testing.T, s *testserver.Server, opts *client.TLSOptions) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout, TLS: opts})
		for range 3 {
			redisGivesBackAMebibyte(t, c)
		}
	})
}

func TestRedisTLS_AnswersAPipeline(t *testing.T) {
	underRedisTLS(t, func(t *testing.T, s *testserver.Server, opts *client.TLSOptions) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout, TLS: opts})
		var commands []byte
		var answers [][]byte
		for i := range 500 {
			value := randomBytes(i)
			commands = fmt.Appendf(commands, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%s\r\n", i, value)
			commands = fmt.Appendf(commands, "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
			answers = append(answers, []byte("+OK\r\n"), fmt.Appendf(nil, "$%d\r\n%s\r\n", i, value))
		}
		sends(t, c, commands)
		for i, answer := range answers[:500] { // one by one, and some of them looked at first
			if i%7 == 0 {
				peeked := make([]byte, len(answer))
				n, err := c.Recv(peeked, client.Peek|client.WaitAll)
				require.NoError(t, err)
				require.True(t, bytes.Equal(answer, peeked[:n]))
			}
			receives(t, c, answer)
		}
		receives(t, c, bytes.Join(answers[500:], nil)) // and all at once
		receivesNoMore(t, c)
	})
}

func TestRedisTLS_AnswersAfterTheLimit(t *testing.T) {
	inParallelIfShort(t)
	underRedisTLS(t, func(t *testing.T, s *testserver.Server, opts *client.TLSOptions) {
		const limit = 200 * time.Millisecond
		c := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout, RecvTimeout: limit, TLS: opts})
		other := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout, TLS: opts})
		for i := range 2 {
			sends(t, c, []byte("BLPOP list 0\r\n"))
			start := time.Now()
			n, err := c.Recv(make([]byte, 100), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Zero(t, n)
			require.GreaterOrEqual(t, time.Since(start), limit)
			require.Less(t, time.Since(start), limit+testTimeout)
			require.True(t, c.IsConnected())

			value := randomBytes(1000 + i)
			sends(t, other, fmt.Appendf(nil, "*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$%d\r\n%s\r\n", len(value), value))
			receives(t, other, []byte(":1\r\n"))
			arrived(t, c) // the limit is not for how long redis takes
			receives(t, c, fmt.Appendf(nil, "*2\r\n$4\r\nlist\r\n$%d\r\n%s\r\n", len(value), value))
			receivesNoMore(t, c)
		}
	})
}

func TestRedisTLS_KilledIsNotEOF(t *testing.T) {
	underRedisTLS(t, func(t *testing.T, s *testserver.Server, opts *client.TLSOptions) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{RecvTimeout: time.Minute, TLS: opts})
		sends(t, c, []byte("PING\r\nBLPOP nothing 0\r\n"))
		receives(t, c, []byte("+PO"))
		killedUnder(t, s, c, "NG\r\n")
	})
}

func TestRedisTLS_RefusesAClientWithoutCertificate(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	trust := trusting(t, c)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := startRedisTLS(t, c, showing(t, trust, root.Issue(t, "client", nil)), "--tls-auth-clients", "yes", "--tls-protocols", opensslName(version))
		c, err := client.Dial("tcp", s.Addr, &client.Options{TLS: trust})
		if version == tls.VersionTLS12 {
			alerted(t, err, "handshake failure")
			return
		}
		require.NoError(t, err)
		defer c.Close()
		n, err := c.Recv(make([]byte, 1), 0)
		require.Zero(t, n)
		alerted(t, err, "certificate required")
	})
}

// stunnel speaks PostgreSQL's way to TLS: eight bytes ask for it, one answers.
func TestStunnel_StartTLSOfPostgreSQL(t *testing.T) {
	_, addrs := startRedis(t)
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	const asks = "\x00\x00\x00\x08\x04\xd2\x16\x2f" // SSLRequest
	s := startStunnel(t, c, addrs["tcp"], "protocol = pgsql", func(s *testserver.Server) error {
		return testserver.Answers("tcp", s.Addr, asks, "S")
	})
	connect := func(t *testing.T) *client.Client {
		t.Helper()
		c := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout})
		sends(t, c, []byte(asks))
		receives(t, c, []byte("S"))
		return c
	}
	t.Run("TLS", func(t *testing.T) {
		c := connect(t)
		require.NoError(t, c.StartTLS(t.Context(), trusting(t, root)))
		require.True(t, c.ConnectionState().HandshakeComplete)
		redisGivesBackAMebibyte(t, c)
		sends(t, c, []byte("QUIT\r\n"))
		receives(t, c, []byte("+OK\r\n"))
		endsProperly(t, c)
	})
	t.Run("another root", func(t *testing.T) {
		c := connect(t)
		err := c.StartTLS(t.Context(), trusting(t, testcert.NewRoot(t, "another")))
		var failed *client.TLSError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "127.0.0.1", failed.ServerName)
		_, err = c.Send([]byte("PING\r\n"), 0) // never in the clear
		require.ErrorIs(t, err, net.ErrClosed)
	})
	t.Run("too early", func(t *testing.T) {
		c := dialServer(t, "tcp", s.Addr, &client.Options{Timeout: testTimeout})
		sends(t, c, []byte(asks))
		arrived(t, c) // the answer, which nobody has received
		err := c.StartTLS(t.Context(), trusting(t, root))
		require.Error(t, err)
		var failed *client.TLSError
		require.NotErrorAs(t, err, &failed)
		receives(t, c, []byte("S")) // the client is as it was
		require.NoError(t, c.StartTLS(t.Context(), trusting(t, root)))
		sends(t, c, []byte("PING\r\n"))
		receives(t, c, []byte("+PONG\r\n"))
	})
}

// stunnel speaks SMTP's STARTTLS (RFC 3207) for a server that has none.
func TestStunnel_StartTLSOfSMTP(t *testing.T) {
	inParallelIfShort(t)
	behind := listen(t, "tcp")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := behind.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer conn.Close(); smtpInTheClear(conn) })
		}
	})
	root := testcert.NewRoot(t, "root")
	s := startStunnel(t, root.Issue(t, "server", nil), behind.Addr().String(), "protocol = smtp", func(s *testserver.Server) error {
		return testserver.Answers("tcp", s.Addr, "", "stunnel")
	})
	t.Cleanup(func() { // before stunnel is killed, which startServer sees to
		s.Kill()
		_ = behind.Close()
		wg.Wait()
	})

	c := dialServer(t, "tcp", "localhost:"+portOf(t, s.Addr), &client.Options{Timeout: testTimeout})
	require.Regexp(t, `^220 .*stunnel`, readLine(t, c))
	sends(t, c, []byte("EHLO me\r\n"))
	offered := []string{readLine(t, c)}
	for strings.HasPrefix(offered[len(offered)-1], "250-") {
		offered = append(offered, readLine(t, c))
	}
	require.Contains(t, offered, "250 STARTTLS\r\n")
	sends(t, c, []byte("STARTTLS\r\n"))
	require.Regexp(t, "^220 ", readLine(t, c))
	require.NoError(t, c.StartTLS(t.Context(), trusting(t, root)))
	require.True(t, c.ConnectionState().HandshakeComplete)
	sends(t, c, []byte("EHLO again\r\n"))
	receives(t, c, []byte("250 you say EHLO again\r\n"))
	sends(t, c, []byte("QUIT\r\n"))
	receives(t, c, []byte("221 you say QUIT\r\n"))
	endsProperly(t, c)
}

// smtpInTheClear is as much of SMTP as it takes to be told from something else.
func smtpInTheClear(conn net.Conn) {
	_, _ = io.WriteString(conn, "220 smtp.test ESMTP\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		code := 250
		if lines.Text() == "QUIT" {
			code = 221
		}
		if _, err := fmt.Fprintf(conn, "%d you say %s\r\n", code, lines.Text()); err != nil || code == 221 {
			return
		}
	}
}
