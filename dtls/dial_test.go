package dtls_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/dtls"
	"github.com/blocksock/client/internal/testcert"
	pion "github.com/pion/dtls/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func rsaKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

// trusting are options that accept what root has signed.
func trusting(t testing.TB, root *testcert.Cert) *client.Options {
	return &client.Options{Timeout: testTimeout, TLS: &client.TLSOptions{CAFile: testcert.TempFile(t, "ca.pem", root.CertPEM())}}
}

func dial(t testing.TB, addr string, opts *client.Options, d *dtls.Options) *dtls.Conn {
	t.Helper()
	c, err := dtls.Dial(context.Background(), "udp", addr, opts, d)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// dialFails returns the error of a Dial that must not succeed.
func dialFails(t testing.TB, addr string, opts *client.Options, d *dtls.Options) error {
	t.Helper()
	c, err := dtls.Dial(context.Background(), "udp", addr, opts, d)
	if err == nil {
		_ = c.Close()
	}
	require.Error(t, err)
	return err
}

func sends(t testing.TB, c *dtls.Conn, record string) {
	t.Helper()
	n, err := c.Send([]byte(record), 0)
	require.NoError(t, err)
	require.Equal(t, len(record), n)
}

func receives(t testing.TB, c *dtls.Conn, record string) {
	t.Helper()
	p := make([]byte, 1<<14)
	n, err := c.Recv(p, 0)
	require.NoError(t, err)
	require.Equal(t, record, string(p[:n]))
}

// talks checks that records go both ways.
func talks(t testing.TB, c *dtls.Conn, server *openssl) {
	t.Helper()
	line := "from the client " + time.Now().String() + "\n"
	sends(t, c, line)
	require.True(t, server.says(line))
	server.send("from the server")
	receives(t, c, "from the server\n")
}

func TestDial_KindsOfKeys(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	for name, c := range map[string]*testcert.Cert{
		"RSA": root.IssueFor(t, "server", rsaKey(t), nil), "ECDSA": root.Issue(t, "server", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, c)
			conn := dial(t, server.addr, trusting(t, root), nil)
			talks(t, conn, server)
			state := conn.ConnectionState()
			require.Equal(t, uint16(pion.VersionDTLS12), state.Version)
			require.True(t, state.HandshakeComplete)
			require.Equal(t, "127.0.0.1", state.ServerName)
			require.Len(t, state.VerifiedChains, 1)
			require.True(t, state.PeerCertificates[0].Equal(c.Certificate))
		})
	}
}

func TestDial_CipherSuites(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	ecdsa, rsa := root.Issue(t, "server", nil), root.IssueFor(t, "server", rsaKey(t), nil)
	for name, test := range map[string]struct {
		cert *testcert.Cert
		id   pion.CipherSuiteID
	}{
		"ECDHE-ECDSA-AES128-GCM-SHA256": {ecdsa, pion.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		"ECDHE-ECDSA-AES256-GCM-SHA384": {ecdsa, pion.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
		"ECDHE-ECDSA-CHACHA20-POLY1305": {ecdsa, pion.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		"ECDHE-ECDSA-AES128-CCM":        {ecdsa, pion.TLS_ECDHE_ECDSA_WITH_AES_128_CCM},
		"ECDHE-ECDSA-AES128-CCM8":       {ecdsa, pion.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8},
		"ECDHE-RSA-AES128-GCM-SHA256":   {rsa, pion.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		"ECDHE-RSA-AES256-GCM-SHA384":   {rsa, pion.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
		"ECDHE-RSA-CHACHA20-POLY1305":   {rsa, pion.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, test.cert, "-cipher", name+":@SECLEVEL=0")
			conn := dial(t, server.addr, trusting(t, root), nil)
			talks(t, conn, server)
			require.Equal(t, uint16(test.id), conn.ConnectionState().CipherSuite)
		})
	}
}

func TestDial_PSK(t *testing.T) {
	key := []byte("0123456789abcdef")
	d := &dtls.Options{PSK: key, PSKIdentity: "sensor 7"}
	for name, id := range map[string]pion.CipherSuiteID{
		"ECDHE-PSK-CHACHA20-POLY1305": pion.TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256,
		"PSK-AES128-GCM-SHA256":       pion.TLS_PSK_WITH_AES_128_GCM_SHA256,
		"PSK-CHACHA20-POLY1305":       pion.TLS_PSK_WITH_CHACHA20_POLY1305_SHA256,
		"PSK-AES128-CCM":              pion.TLS_PSK_WITH_AES_128_CCM,
		"PSK-AES128-CCM8":             pion.TLS_PSK_WITH_AES_128_CCM_8,
		"PSK-AES256-CCM8":             pion.TLS_PSK_WITH_AES_256_CCM_8,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, nil, "-psk", hex.EncodeToString(key), "-psk_identity", "sensor 7", "-cipher", name+":@SECLEVEL=0")
			conn := dial(t, server.addr, &client.Options{Timeout: testTimeout}, d)
			talks(t, conn, server)
			state := conn.ConnectionState()
			require.Equal(t, uint16(id), state.CipherSuite)
			require.Empty(t, state.PeerCertificates)
			require.NotContains(t, server.output(), "PSK warning")
		})
	}
}

// A server with another key cannot be told from one whose datagrams are lost: DTLS discards
// what it cannot decipher (RFC 6347, 4.1.2.7).
func TestDial_AnotherPSKIsNeverAccepted(t *testing.T) {
	server := sServer(t, nil, "-psk", "aabbcc", "-cipher", "PSK")
	relay := newRelay(t, server.addr, nil, nil)
	err := dialFails(t, relay.addr, &client.Options{Timeout: 300 * time.Millisecond}, &dtls.Options{PSK: []byte("another"), PSKIdentity: "x"})
	var failed *client.TLSError
	require.ErrorAs(t, err, &failed)
	require.False(t, relay.sent(applicationData))
}

// applicationData is the type of the records that have the application's bytes.
const applicationData = 23

func TestDial_ServersThatMustNotBeTrusted(t *testing.T) {
	root, stranger := testcert.NewRoot(t, "root"), testcert.NewRoot(t, "stranger")
	for name, test := range map[string]struct {
		cert *testcert.Cert
		is   func(err error) bool
	}{
		"wrong name": {root.Issue(t, "server", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"elsewhere"} }),
			isA[x509.HostnameError]},
		"expired": {root.Issue(t, "server", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
			func(err error) bool {
				var invalid x509.CertificateInvalidError
				return errors.As(err, &invalid) && invalid.Reason == x509.Expired
			}},
		"unknown authority": {stranger.Issue(t, "server", nil), isA[x509.UnknownAuthorityError]},
		"self-signed":       {testcert.SelfSigned(t, "server", nil), isA[x509.UnknownAuthorityError]},
		"a client's": {root.Issue(t, "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
			func(err error) bool {
				var invalid x509.CertificateInvalidError
				return errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, test.cert)
			relay := newRelay(t, server.addr, nil, nil)
			begin := time.Now()
			err := dialFails(t, relay.addr, trusting(t, root), nil)
			require.Less(t, time.Since(begin), testTimeout/2)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "dial", op.Op)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.True(t, isA[*tls.CertificateVerificationError](err), "%v", err)
			require.True(t, test.is(err), "%v", err)
			require.False(t, op.Timeout())
			require.False(t, relay.sent(applicationData))
			require.True(t, server.says("alert bad certificate")) // and is told

			// openssl is of the same opinion.
			other := startOpenSSL(t, "s_client", "-dtls1_2", "-connect", server.addr, "-CAfile", testcert.TempFile(t, "ca.pem", root.CertPEM()),
				"-verify_return_error", "-verify_ip", "127.0.0.1", "-purpose", "sslserver")
			require.True(t, other.says("verify error"))

			// It is the verification alone that stands between.
			insecure := trusting(t, root)
			insecure.TLS.InsecureSkipVerify = true
			conn := dial(t, server.addr, insecure, nil)
			talks(t, conn, server)
			require.Empty(t, conn.ConnectionState().VerifiedChains)
		})
	}
}

// timedOut reports what the error's own Timeout says.
func timedOut(err error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // what a caller looks at
	return ok && e.Timeout()
}

func TestDial_VerifiesAsTheLibraryDoes(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	between := root.Issue(t, "between", testcert.Authority)
	chained, plain, own := between.Issue(t, "server", nil), root.Issue(t, "server", nil), testcert.SelfSigned(t, "server", nil)
	revoked := testcert.TempFile(t, "list", []byte(testcert.ListPEM(root.Revoke(t, nil, plain))))
	list := testcert.TempFile(t, "list", []byte(testcert.ListPEM(root.Revoke(t, nil))))
	for name, test := range map[string]struct {
		cert    *testcert.Cert
		set     func(*client.TLSOptions)
		refused func(error) bool // nil: accepted
	}{
		"intermediate":           {chained, func(o *client.TLSOptions) { o.VerifyDepth = 1 }, nil},
		"too many intermediates": {chained, func(o *client.TLSOptions) { o.VerifyDepth = -1 }, isA[x509.CertificateInvalidError]},
		"not in the list":        {plain, func(o *client.TLSOptions) { o.CRLFile = list }, nil},
		"in the list": {plain, func(o *client.TLSOptions) { o.CRLFile = revoked }, func(err error) bool {
			var revocation *client.RevocationError
			return errors.As(err, &revocation) && revocation.Revoked
		}},
		"no list of its issuer": {chained, func(o *client.TLSOptions) { o.CRLFile = list }, func(err error) bool {
			var revocation *client.RevocationError
			return errors.As(err, &revocation) && !revocation.Revoked
		}},
		"self-signed":               {own, func(o *client.TLSOptions) { o.AllowSelfSigned = true }, nil},
		"self-signed, another name": {own, func(o *client.TLSOptions) { o.AllowSelfSigned, o.ServerName = true, "another" }, isA[x509.HostnameError]},
		"roots of Config":           {plain, func(o *client.TLSOptions) { o.CAFile, o.Config = "", &tls.Config{RootCAs: testcert.Pool(root)} }, nil},
		"another time": {plain, func(o *client.TLSOptions) {
			o.Config = &tls.Config{Time: func() time.Time { return time.Now().Add(48 * time.Hour) }}
		}, isA[x509.CertificateInvalidError]},
		"a promised staple": {root.Issue(t, "server", func(c *x509.Certificate) { // RFC 7633: DTLS has no way to keep it here
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
		}), func(*client.TLSOptions) {}, isA[*client.RevocationError]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, test.cert)
			opts := trusting(t, root)
			test.set(opts.TLS)
			if test.refused == nil {
				talks(t, dial(t, server.addr, opts, nil), server)
				return
			}
			err := dialFails(t, server.addr, opts, nil)
			require.True(t, isA[*tls.CertificateVerificationError](err), "%v", err)
			require.True(t, test.refused(err), "%v", err)
		})
	}
}

func isA[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func TestDial_SClientAcceptsWhatIsAccepted(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	other := startOpenSSL(t, "s_client", "-dtls1_2", "-connect", server.addr, "-CAfile", testcert.TempFile(t, "ca.pem", root.CertPEM()),
		"-verify_return_error", "-verify_ip", "127.0.0.1", "-purpose", "sslserver")
	require.True(t, other.says("Verify return code: 0 (ok)"))
	_ = other.in.Close() // it takes its leave, and the server has one client at a time
	<-other.ended
	talks(t, dial(t, server.addr, trusting(t, root), nil), server)
}

func TestDial_NameToVerify(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"sensors.example"} }))
	for _, name := range []string{"sensors.example", "sensors.example."} {
		opts := trusting(t, root)
		opts.TLS.ServerName = name
		relay := newRelay(t, server.addr, nil, nil)
		conn := dial(t, relay.addr, opts, nil)
		talks(t, conn, server)
		require.Equal(t, name, conn.ConnectionState().ServerName)
		require.True(t, relay.toServer.has([]byte("sensors.example"))) // SNI
		require.NoError(t, conn.Close())                               // the server has one client at a time
	}
}

func TestDial_ClientCertificateOfSeveralFragments(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	for name, key := range map[string]*testcert.Cert{"RSA": root.IssueFor(t, "server", rsaKey(t), nil), "ECDSA": root.Issue(t, "server", nil)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const mtu = 256
			server := sServer(t, root.IssueFor(t, "server", rsaKey(t), nil), "-mtu", "300", "-Verify", "3", "-CAfile", testcert.TempFile(t, "ca.pem", root.CertPEM()), "-verify_return_error")
			relay := newRelay(t, server.addr, nil, nil)
			opts := trusting(t, root)
			opts.TLS.CertFile, opts.TLS.KeyFile, _ = key.Files(t)
			conn := dial(t, relay.addr, opts, &dtls.Options{MTU: mtu})
			talks(t, conn, server)
			longest, _ := relay.toServer.sizes()
			require.LessOrEqual(t, longest, mtu)
			require.Greater(t, longest, mtu*3/4) // and room is used
			longest, _ = relay.toClient.sizes()
			require.LessOrEqual(t, longest, 300)
		})
	}
}

func TestDial_IPv6(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} })
	addr := pionServerAt(t, net.IPv6loopback, c, echo)
	for _, network := range []string{"udp", "udp6"} {
		conn, err := dtls.Dial(context.Background(), network, addr, trusting(t, root), nil)
		require.NoError(t, err)
		sends(t, conn, network)
		receives(t, conn, network)
		require.Equal(t, "::1", conn.ConnectionState().ServerName)
		require.NoError(t, conn.Close())
	}
}

func TestDial_ALPN(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil), "-alpn", "coap,other")
	opts := trusting(t, root)
	opts.TLS.NextProtos = []string{"nothing", "coap"}
	conn := dial(t, server.addr, opts, nil)
	require.Equal(t, "coap", conn.ConnectionState().NegotiatedProtocol)
	talks(t, conn, server)
}

func TestDial_AlertOfTheServer(t *testing.T) {
	server := sServer(t, testcert.NewRoot(t, "root").Issue(t, "server", nil), "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
	err := dialFails(t, server.addr, &client.Options{Timeout: testTimeout}, nil)
	var alert tls.AlertError
	require.ErrorAs(t, err, &alert)
	require.Equal(t, tls.AlertError(40), alert, "handshake_failure")
	require.ErrorContains(t, err, "remote error: tls: handshake failure")
	require.False(t, timedOut(err))
}

func TestDial_ClosedPortIsToldAtOnce(t *testing.T) {
	begin := time.Now()
	err := dialFails(t, freePort(t), &client.Options{Timeout: testTimeout}, nil)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Less(t, time.Since(begin), testTimeout/2)
	require.True(t, client.SafeToRetry(err))
}

// silentPeer is the address of somebody who says what answer makes of each datagram.
func silentPeer(t testing.TB, answer func([]byte) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, p := range answer(buf[:n]) {
				_, _ = conn.WriteTo(p, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

func TestDial_LimitsHoldWhateverThePeerSays(t *testing.T) {
	// A cookie request for each ClientHello, with another cookie (RFC 6347, 4.2.1).
	var n atomic.Int32
	verifyRequest := func([]byte) [][]byte {
		i := byte(n.Add(1))
		body := []byte{0xfe, 0xfd, 4, i, i, i, i}
		message := append([]byte{3, 0, 0, byte(len(body)), 0, i - 1, 0, 0, 0, 0, 0, byte(len(body))}, body...)
		return [][]byte{append([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, i, 0, byte(len(message))}, message...)}
	}
	for name, answer := range map[string]func([]byte) [][]byte{
		"silence": func([]byte) [][]byte { return nil },
		"noise":   func(p []byte) [][]byte { return [][]byte{p, []byte("no DTLS"), {}, bytes.Repeat([]byte{22}, 40)} },
		"cookies": verifyRequest,
	} {
		addr := silentPeer(t, answer)
		const limit = 300 * time.Millisecond
		measured := func(t *testing.T, dial func() error) error {
			begin := time.Now()
			err := dial()
			took := time.Since(begin)
			require.GreaterOrEqual(t, took, limit)
			require.Less(t, took, testTimeout/2)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, timedOut(err))
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			return err
		}
		t.Run(name+"/ConnectTimeout", func(t *testing.T) {
			t.Parallel()
			err := measured(t, func() error {
				return dialFails(t, addr, &client.Options{Timeout: -1, ConnectTimeout: limit}, &dtls.Options{Retransmit: 10 * time.Millisecond})
			})
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		})
		t.Run(name+"/deadline of the context", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			err := measured(t, func() error {
				_, err := dtls.Dial(ctx, "udp", addr, &client.Options{Timeout: -1}, nil)
				return err
			})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		t.Run(name+"/cancelled context", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(limit, func() { cancel(errors.New("enough")) })
			begin := time.Now()
			_, err := dtls.Dial(ctx, "udp", addr, &client.Options{Timeout: -1}, nil)
			require.Less(t, time.Since(begin), testTimeout/2)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
}

func TestDial_LimitHoldsForAServerThatFallsSilent(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	for answers := range 4 { // the handshake needs more datagrams of the server
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			t.Parallel()
			server := sServer(t, c, "-mtu", "300")
			relay := newRelay(t, server.addr, nil, func(n int, p []byte) [][]byte {
				if n < answers {
					return [][]byte{p}
				}
				return nil
			})
			opts := trusting(t, root)
			opts.ConnectTimeout = 300 * time.Millisecond
			begin := time.Now()
			err := dialFails(t, relay.addr, opts, &dtls.Options{Retransmit: 20 * time.Millisecond})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, timedOut(err))
			require.GreaterOrEqual(t, time.Since(begin), opts.ConnectTimeout)
			require.Less(t, time.Since(begin), testTimeout/2)
			require.False(t, relay.sent(applicationData))
		})
	}
}

func TestDial_RecordsThatCannotBeTheServersAreDropped(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	relay := newRelay(t, server.addr, nil, func(_ int, p []byte) [][]byte {
		return [][]byte{
			plaintext(applicationData, 100, 'x'), plaintext(21, 101, 1), plaintext(20, 102), plaintext(99, 103, 1),
			plaintext(applicationData, 1<<48|1, 'x'), plaintext(21, 1<<48|2, 2, 80), []byte("no DTLS"), p,
		}
	})
	c := dial(t, relay.addr, trusting(t, root), nil)
	relay.toClient.set(nil)
	talks(t, c, server)
}

func TestDial_RetransmitBeginsAfterTheGivenTime(t *testing.T) {
	var datagrams atomic.Int32
	addr := silentPeer(t, func([]byte) [][]byte { datagrams.Add(1); return nil })
	err := dialFails(t, addr, &client.Options{Timeout: 2 * time.Second}, &dtls.Options{Retransmit: 50 * time.Millisecond})
	require.True(t, timedOut(err))
	require.GreaterOrEqual(t, datagrams.Load(), int32(3)) // after 0, 50, 150, 350, 750, 1550 ms
	require.LessOrEqual(t, datagrams.Load(), int32(6))
}

func TestDial_HandshakeSurvivesAnyOneLoss(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	for name, lost := range map[string]struct{ toServer, toClient fate }{
		"client's first":  {lose(0), nil},
		"client's second": {lose(1), nil},
		"client's third":  {lose(2), nil},
		"client's fourth": {lose(3), nil},
		"server's first":  {nil, lose(0)},
		"server's second": {nil, lose(1)},
		"server's third":  {nil, lose(2)},
		"server's fourth": {nil, lose(3)},
		"server's last":   {nil, lose(4)},
		"both's first":    {lose(0, 2), lose(0, 2)},
		"all doubled":     {double, double},
		"all swapped":     {nil, swap()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sServer(t, c, "-mtu", "300") // several datagrams a flight
			relay := newRelay(t, server.addr, lost.toServer, lost.toClient)
			conn := dial(t, relay.addr, trusting(t, root), &dtls.Options{Retransmit: 50 * time.Millisecond, MTU: 256})
			relay.toServer.set(nil)
			relay.toClient.set(nil)
			talks(t, conn, server)
		})
	}
}

func TestDial_WhatCannotBeUsedIsRefusedByName(t *testing.T) {
	for option, test := range map[string]struct {
		opts *client.Options
		d    *dtls.Options
	}{
		"TLS.RequireStaple":             {opts: &client.Options{TLS: &client.TLSOptions{RequireStaple: true}}},
		"TLS.MinVersion":                {opts: &client.Options{TLS: &client.TLSOptions{MinVersion: tls.VersionTLS13}}},
		"TLS.MaxVersion":                {opts: &client.Options{TLS: &client.TLSOptions{MaxVersion: tls.VersionTLS11}}},
		"TLS.Config.CipherSuites":       {opts: withConfig(&tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}})},
		"TLS.Config.MinVersion":         {opts: withConfig(&tls.Config{MinVersion: tls.VersionTLS13})},
		"TLS.Config.Renegotiation":      {opts: withConfig(&tls.Config{Renegotiation: tls.RenegotiateOnceAsClient})},
		"TLS.Config.InsecureSkipVerify": {opts: withConfig(&tls.Config{InsecureSkipVerify: true})},
		"TLS.Config.ClientSessionCache": {opts: withConfig(&tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)})},
		"TLS.CAFile":                    {opts: &client.Options{TLS: &client.TLSOptions{CAFile: "/missing"}}},
		"TLS.InsecureSkipVerify":        {&client.Options{TLS: &client.TLSOptions{InsecureSkipVerify: true}}, &dtls.Options{PSK: []byte("k"), PSKIdentity: "i"}},
		"TLS.Config.RootCAs":            {withConfig(&tls.Config{RootCAs: x509.NewCertPool()}), &dtls.Options{PSK: []byte("k"), PSKIdentity: "i"}},
		"PSK":                           {d: &dtls.Options{PSKIdentity: "i"}},
		"PSKIdentity":                   {d: &dtls.Options{PSK: []byte("k")}},
		"MTU":                           {d: &dtls.Options{MTU: 255}},
		"Retransmit":                    {d: &dtls.Options{Retransmit: -1}},
		"Proxy":                         {opts: &client.Options{Proxy: "socks5://127.0.0.1:1"}},
		"Unconnected":                   {opts: &client.Options{Unconnected: true}},
		"Framing":                       {opts: &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}},
	} {
		t.Run(option, func(t *testing.T) {
			err := dialFails(t, "127.0.0.1:1", test.opts, test.d)
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, option, bad.Option)
		})
	}
	t.Run("empty PSK", func(t *testing.T) {
		require.ErrorContains(t, dialFails(t, "127.0.0.1:1", nil, &dtls.Options{PSK: []byte{}, PSKIdentity: "i"}), "PSK: is empty")
	})
	t.Run("no host", func(t *testing.T) {
		require.ErrorContains(t, dialFails(t, ":1", nil, nil), "TLS.ServerName: is missing")
	})
	for _, network := range []string{"tcp", "unixgram", "nothing"} {
		_, err := dtls.Dial(context.Background(), network, "127.0.0.1:1", nil, nil)
		require.True(t, isA[net.UnknownNetworkError](err), network)
		require.ErrorContains(t, err, "DTLS needs udp")
	}
}

func withConfig(config *tls.Config) *client.Options {
	return &client.Options{TLS: &client.TLSOptions{Config: config}}
}

func TestDial_CallbacksOfConfigAreAsked(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	server := sServer(t, c)
	var peer, connection int
	opts := trusting(t, root)
	opts.TLS.Config = &tls.Config{
		VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			peer++
			require.Equal(t, c.Raw, raw[0])
			require.Len(t, chains, 1)
			return nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			connection++
			require.Equal(t, "127.0.0.1", state.ServerName)
			return nil
		},
	}
	conn := dial(t, server.addr, opts, nil)
	talks(t, conn, server)
	require.NoError(t, conn.Close()) // the server has one client at a time
	require.Equal(t, []int{1, 1}, []int{peer, connection})

	refusal := errors.New("not this one")
	opts.TLS.Config.VerifyConnection = func(tls.ConnectionState) error { return refusal }
	require.ErrorIs(t, dialFails(t, server.addr, opts, nil), refusal)
}

type panics struct{ crypto.Signer }

func (panics) Write([]byte) (int, error)                                 { panic("of the caller's") }
func (panics) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { panic("of the caller's") }

// The protocol runs in a goroutine of its own, where a panic would end the process.
func TestDial_PanicOfTheCallersCodeIsThatOfDial(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil), "-verify", "3")
	c := root.Issue(t, "client", nil)
	for name, config := range map[string]*tls.Config{
		"VerifyConnection": {VerifyConnection: func(tls.ConnectionState) error { panic("of the caller's") }},
		"Time":             {Time: func() time.Time { panic("of the caller's") }},
		"KeyLogWriter":     {KeyLogWriter: panics{}},
		"a private key":    {Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: panics{c.Key}}}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := trusting(t, root)
			opts.TLS.Config = config
			require.PanicsWithValue(t, "of the caller's", func() { _, _ = dtls.Dial(context.Background(), "udp", server.addr, opts, nil) })
		})
	}
}

func TestDial_KeyLog(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	var log bytes.Buffer
	opts := trusting(t, root)
	opts.TLS.Config = &tls.Config{KeyLogWriter: &log}
	dial(t, server.addr, opts, nil)
	require.Contains(t, log.String(), "CLIENT_RANDOM ")
}
