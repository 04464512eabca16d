package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A cutConn lets so many bytes of what is written through, and no more.
type cutConn struct {
	net.Conn
	room  int
	close bool // the connection, when there is no more room
}

func (c *cutConn) Write(p []byte) (int, error) {
	n := min(c.room, len(p))
	c.room -= n
	if n > 0 {
		if _, err := c.Conn.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	if c.room == 0 && c.close {
		_ = c.Conn.(*net.TCPConn).CloseWrite() // an end, and no reset by what is unread
	}
	return len(p), nil // it believes that all is well
}

// fixedSize is a server whose side of a handshake is of the same length each
// time: tickets off, and signatures that do not vary.
func fixedSize(t *testing.T, version uint16) *tlsServer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return listenWith(t, "tcp", testcert.NewRoot(t, "root").IssueFor(t, "server", key, nil), func(c *tls.Config) {
		c.MaxVersion, c.SessionTicketsDisabled = version, true
	})
}

// cutAfter serves one connection, whose client sees so many bytes, and gives what
// was decrypted of what it sent.
func (s *tlsServer) cutAfter(n int, closes bool) (received func() string) {
	result := make(chan string, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			result <- err.Error()
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(tls.Server(&cutConn{Conn: conn, room: n, close: closes}, s.config))
		result <- string(data)
	}()
	return func() string { return <-result }
}

// sizeOfHandshake is how many bytes the server's side of a handshake has.
func (s *tlsServer) sizeOfHandshake(t *testing.T) int {
	t.Helper()
	size := make(chan int, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			size <- 0
			return
		}
		defer conn.Close()
		const plenty = 1 << 20
		cut := &cutConn{Conn: conn, room: plenty}
		_ = tls.Server(cut, s.config).Handshake()
		size <- plenty - cut.room
	}()
	c, err := s.dial(&client.Options{TLS: s.trust(t)})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return <-size
}

func TestTLSHandshake_EndAnywhereFailsDial(t *testing.T) {
	inParallelIfShort(t)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := fixedSize(t, version)
		trust := s.trust(t)
		all := s.sizeOfHandshake(t)
		require.Greater(t, all, 500)
		for n := 1; n < all; n = min(n+7, max(n+1, all-3)) {
			received := s.cutAfter(n, true)
			c, err := s.dial(&client.Options{TLS: trust})
			require.Nil(t, c, n)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed, n)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, n)
			require.NotErrorIs(t, err, io.EOF, n)
			require.ErrorContains(t, err, "the peer closed during the handshake")
			require.Empty(t, received())
		}
		received := s.cutAfter(all, true)
		c, err := s.dial(&client.Options{TLS: trust})
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 1), 0)
		require.Equal(t, io.ErrUnexpectedEOF, err)
		require.NoError(t, c.Close())
		require.Empty(t, received())
	})
}

// The original connected when its limit came before the end of the handshake, and
// sent the request to whoever was there.
func TestTLSHandshake_StallAnywhereFailsDialAtLimit(t *testing.T) {
	inParallelIfShort(t)
	const limit = 30 * time.Millisecond
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := fixedSize(t, version)
		trust := s.trust(t)
		all := s.sizeOfHandshake(t)
		for n := 0; n < all; n = min(n+all/15, max(n+1, all-1)) {
			received := s.cutAfter(n, false)
			begin := time.Now()
			c, err := s.dial(&client.Options{TLS: trust, Timeout: limit})
			require.GreaterOrEqual(t, time.Since(begin), limit)
			require.Nil(t, c)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			require.True(t, timeout.Timeout())
			require.ErrorContains(t, err, "was not complete at the limit")
			require.Empty(t, received())
		}
	})
}

// A dripConn sends byte by byte.
type dripConn struct{ net.Conn }

func (c dripConn) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(time.Millisecond)
	}
	return len(p), nil
}

// Never is the next byte so late that a limit for each receive would notice.
func TestTLSHandshake_SlowBytesDoNotExtendLimit(t *testing.T) {
	const limit = 50 * time.Millisecond
	s := fixedSize(t, tls.VersionTLS13)
	received := make(chan string, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(tls.Server(dripConn{conn}, s.config))
		received <- string(data)
	}()
	begin := time.Now()
	_, err := s.dial(&client.Options{TLS: s.trust(t), Timeout: limit})
	require.GreaterOrEqual(t, time.Since(begin), limit)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Empty(t, <-received)
}

func TestTLSHandshake_ContextAndDeadlineEndIt(t *testing.T) {
	s := fixedSize(t, tls.VersionTLS13)
	trust := s.trust(t)
	t.Run("cancel", func(t *testing.T) {
		received := s.cutAfter(100, false)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := client.DialContext(ctx, "tcp", s.Addr().String(), &client.Options{TLS: trust, Timeout: -1})
			result <- err
		}()
		inKernel(t)
		cancel()
		err := <-result
		require.ErrorIs(t, err, context.Canceled)
		var failed *client.TLSError
		require.ErrorAs(t, err, &failed)
		require.Empty(t, received())
	})
	t.Run("deadline", func(t *testing.T) {
		received := s.cutAfter(100, false)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := client.DialContext(ctx, "tcp", s.Addr().String(), &client.Options{TLS: trust, Timeout: -1})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Empty(t, received())
	})
}

func TestTLSHandshake_ConnectMakesIt(t *testing.T) {
	s := listenTLS(t, "tcp4", nil)
	connect := func(opts *client.Options) (*client.Client, error) {
		c, err := client.NewTCP(opts)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c, c.Connect(t.Context(), s.Addr().String())
	}
	t.Run("works", func(t *testing.T) {
		go func() {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			peer := tls.Server(conn, s.config)
			_, _ = io.Copy(peer, peer)
		}()
		c, err := connect(&client.Options{TLS: &client.TLSOptions{CAFile: s.trust(t).CAFile}}) // by the address
		require.NoError(t, err)
		_, err = c.Send([]byte("ping"), 0)
		require.NoError(t, err)
		p := make([]byte, 4)
		_, err = c.Recv(p, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "ping", string(p))
	})
	t.Run("refused", func(t *testing.T) {
		received := s.cutAfter(1<<20, false)
		c, err := connect(&client.Options{TLS: &client.TLSOptions{}})
		require.Truef(t, isUnknownAuthority(err), "%v", err)
		require.True(t, client.SafeToRetry(err))
		require.False(t, c.IsConnected())
		_, err = c.Send([]byte("secret"), 0)
		require.ErrorIs(t, err, net.ErrClosed)
		require.Empty(t, received())
	})
	t.Run("not yet", func(t *testing.T) {
		received := s.cutAfter(100, false)
		c, err := client.NewTCP(&client.Options{TLS: s.trust(t)})
		require.NoError(t, err)
		result := make(chan error, 1)
		go func() { result <- c.Connect(t.Context(), s.Addr().String()) }()
		inKernel(t)
		_, err = c.Send([]byte("secret"), 0)
		require.ErrorIs(t, err, unix.ENOTCONN)
		require.False(t, c.IsConnected())
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-result, net.ErrClosed)
		require.Empty(t, received())
	})
}

func TestTLSHandshake_FailuresNameTheReason(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := root.Issue(t, "server", nil)
	for _, test := range []struct {
		name   string
		server func(*tls.Config)
		client func(*client.TLSOptions)
		text   string
	}{
		{
			name:   "version too low",
			server: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			text:   "protocol version not supported (the peer refused: check versions",
		},
		{
			name:   "version too high",
			server: func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 },
			client: func(o *client.TLSOptions) { o.MaxVersion = tls.VersionTLS12 },
			text:   "protocol version not supported (the peer refused",
		},
		{
			name: "no common cipher",
			server: func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
			},
			client: func(o *client.TLSOptions) {
				o.Config = &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}
			},
			text: "handshake failure (the peer refused: check versions, cipher suites",
		},
		{
			name:   "no common curve",
			server: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} },
			client: func(o *client.TLSOptions) { o.Config = &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}} },
			text:   "(the peer refused",
		},
		{
			name:   "no common protocol",
			server: func(c *tls.Config) { c.NextProtos = []string{"h2"} },
			client: func(o *client.TLSOptions) { o.NextProtos = []string{"smtp"} },
			text:   "no application protocol (the peer refused",
		},
		{
			name:   "client certificate missing",
			server: func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 },
			text:   "ServerName and client certificate)",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := listenWith(t, "tcp", server, test.server)
			opts := s.trust(t)
			if test.client != nil {
				test.client(opts)
			}
			got, err := s.outcome(t, opts)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "remote error")
			require.Empty(t, got)
		})
	}
}

// TLS 1.3 ends for the client before the server has seen its certificate: a
// refusal is what the first receive meets.
func TestTLSHandshake_MissingClientCertificateFailsFirstRecvInTLS13(t *testing.T) {
	s := listenTLS(t, "tcp", func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	go func() {
		conn, err := s.Accept()
		if err == nil {
			_ = tls.Server(conn, s.config).Handshake()
			conn.Close()
		}
	}()
	c, err := s.dial(&client.Options{TLS: s.trust(t)})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Recv(make([]byte, 1), 0)
	require.ErrorContains(t, err, "certificate required")
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	_, again := c.Recv(make([]byte, 1), 0)
	require.Equal(t, err.Error(), again.Error())
	require.False(t, c.IsConnected())
}

func TestTLSHandshake_PeerWithoutTLSIsNamed(t *testing.T) {
	for _, test := range []struct{ name, says string }{
		{"SMTP", "220 localhost ESMTP\r\n"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"},
		{"garbage", "\x16\x03\x03\xff\xffgarbage and more of it"},
		{"a ServerHello of garbage", "\x16\x03\x03\x00\x08\x02\x00\x00\x04\x01\x02\x03\x04"},
		{"SSL 2", "\x80\x2e\x01\x00\x02"},
		{"an alert", "\x15\x03\x01\x00\x02\x02\x28"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln := listen(t, "tcp")
			received := make(chan []byte, 1)
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, test.says)
				all, _ := io.ReadAll(conn)
				received <- all
			}()
			c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{TLS: &client.TLSOptions{ServerName: "localhost"}})
			require.Nil(t, c)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "localhost", failed.ServerName)
			var header tls.RecordHeaderError
			if errors.As(err, &header) {
				require.ErrorContains(t, err, "the peer does not speak TLS on this port, or only after a command: see StartTLS")
			}
			require.NotContains(t, fmt.Sprintf("%q", <-received), "secret")
		})
	}
}
