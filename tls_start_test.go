package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A mailServer implements as much of SMTP as STARTTLS needs.
type mailServer struct {
	*tlsServer
	alsoSays string        // in the same segment as its agreement
	hangs    bool          // in place of the handshake
	gate     chan struct{} // to be closed before the handshake, if there is one
}

// serve serves one connection. The channels return what was received over TLS and before.
func (m *mailServer) serve() (overTLS, before <-chan string) {
	inside, outside := make(chan string, 1), make(chan string, 1)
	go func() {
		defer close(inside)
		defer close(outside)
		conn, err := m.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, "220 localhost\r\n")
		var told strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				outside <- told.String()
				return
			}
			told.WriteString(line)
			if line == "STARTTLS\r\n" {
				break
			}
			_, _ = io.WriteString(conn, "250 STARTTLS\r\n")
		}
		_, _ = io.WriteString(conn, "220 go ahead\r\n"+m.alsoSays)
		if m.hangs {
			rest, _ := io.ReadAll(r)
			outside <- told.String() + string(rest)
			return
		}
		outside <- told.String()
		if m.gate != nil {
			<-m.gate
		}
		peer := tls.Server(conn, m.config)
		_, _ = io.WriteString(peer, "250 inside\r\n")
		all, _ := io.ReadAll(peer)
		inside <- string(all)
	}()
	return inside, outside
}

// agrees brings a client to the point where TLS begins.
func (m *mailServer) agrees(t *testing.T, opts *client.Options, host string) *client.Client {
	t.Helper()
	_, port, err := net.SplitHostPort(m.Addr().String())
	require.NoError(t, err)
	c, err := client.Dial("tcp4", net.JoinHostPort(host, port), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	for _, say := range []string{"", "EHLO me\r\n", "STARTTLS\r\n"} {
		_, err := c.Send([]byte(say), 0)
		require.NoError(t, err)
		readLine(t, c)
	}
	return c
}

func readLine(t *testing.T, c *client.Client) string {
	t.Helper()
	var line []byte
	for p := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; {
		_, err := c.Recv(p, 0)
		require.NoError(t, err)
		line = append(line, p[0])
	}
	return string(line)
}

func newMailServer(t *testing.T) *mailServer {
	t.Helper()
	return &mailServer{tlsServer: listenTLS(t, "tcp4", nil)}
}

func TestStartTLS_UpgradesAStream(t *testing.T) {
	m := newMailServer(t)
	trust := &client.TLSOptions{CAFile: m.trust(t).CAFile}
	for _, host := range []string{"localhost", "127.0.0.1"} { // which is the name to verify
		inside, before := m.serve()
		c := m.agrees(t, nil, host)
		require.NoError(t, c.StartTLS(t.Context(), trust))
		require.True(t, c.ConnectionState().HandshakeComplete)
		require.Equal(t, "250 inside\r\n", readLine(t, c))
		_, err := c.Send([]byte("secret"), 0)
		require.NoError(t, err)

		err = c.StartTLS(t.Context(), trust)
		require.ErrorIs(t, err, unix.EALREADY)
		require.ErrorContains(t, err, "starttls tcp4 ")
		_, err = c.Write([]byte(" goes on"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, "EHLO me\r\nSTARTTLS\r\n", <-before)
		require.Equal(t, "secret goes on", <-inside)
		require.ErrorIs(t, c.StartTLS(t.Context(), trust), net.ErrClosed)
	}
}

// What an attacker has injected before TLS must not count as sent by the peer that TLS has
// verified (CVE-2011-0411 and many like it).
func TestStartTLS_RefusesUnreadBytes(t *testing.T) {
	m := newMailServer(t)
	m.alsoSays = "250 injected\r\n"
	inside, before := m.serve()
	c := m.agrees(t, nil, "localhost")
	arrived(t, c)
	err := c.StartTLS(t.Context(), m.trust(t))
	require.ErrorContains(t, err, "the peer has sent unencrypted bytes")
	require.Equal(t, tls.ConnectionState{}, c.ConnectionState())
	require.Equal(t, "250 injected\r\n", readLine(t, c)) // nothing is lost either
	require.NoError(t, c.Close())
	require.Equal(t, "EHLO me\r\nSTARTTLS\r\n", <-before)
	require.Empty(t, <-inside)
}

func TestStartTLS_FailureClosesTheClient(t *testing.T) {
	m := newMailServer(t)
	for name, test := range map[string]struct {
		opts  *client.TLSOptions
		wrong func(error) bool
	}{
		"nobody to trust": {nil, isUnknownAuthority},
		"wrong name":      {&client.TLSOptions{ServerName: "example.com", CAFile: m.trust(t).CAFile}, isHostname},
	} {
		t.Run(name, func(t *testing.T) {
			inside, _ := m.serve()
			c := m.agrees(t, nil, "localhost")
			err := c.StartTLS(t.Context(), test.opts)
			require.Truef(t, test.wrong(err), "%v", err)
			var failed *client.TLSError
			require.ErrorAs(t, err, &failed)
			require.False(t, client.SafeToRetry(err))
			_, err = c.Send([]byte("secret"), 0) // by one who did not look
			require.ErrorIs(t, err, net.ErrClosed)
			_, err = c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, net.ErrClosed)
			require.Empty(t, <-inside)
		})
	}
}

func TestStartTLS_HasALimit(t *testing.T) {
	const limit = 50 * time.Millisecond
	m := newMailServer(t)
	m.hangs = true
	for name, start := range map[string]func(t *testing.T, c *client.Client) error{
		"ConnectTimeout": func(t *testing.T, c *client.Client) error { return c.StartTLS(t.Context(), m.trust(t)) },
		"a context": func(t *testing.T, c *client.Client) error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err := c.StartTLS(ctx, m.trust(t))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return err
		},
		"a deadline": func(t *testing.T, c *client.Client) error {
			require.NoError(t, c.SetDeadline(time.Now().Add(limit)))
			return c.StartTLS(t.Context(), m.trust(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := &client.Options{ConnectTimeout: -1}
			inside, before := m.serve()
			c := m.agrees(t, opts, "localhost")
			if name == "ConnectTimeout" {
				_ = c.Close()
				<-before
				inside, before = m.serve()
				c = m.agrees(t, &client.Options{ConnectTimeout: limit, RecvTimeout: testTimeout}, "localhost")
			}
			begin := time.Now()
			err := start(t, c)
			require.GreaterOrEqual(t, time.Since(begin), limit-time.Millisecond) // a context's began before
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			_, err = c.Send([]byte("secret"), 0)
			require.ErrorIs(t, err, net.ErrClosed)
			require.NotContains(t, <-before, "secret")
			require.Empty(t, <-inside)
		})
	}
	t.Run("cancel", func(t *testing.T) {
		_, before := m.serve()
		c := m.agrees(t, &client.Options{ConnectTimeout: -1}, "localhost")
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- c.StartTLS(ctx, m.trust(t)) }()
		inKernel(t)
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
		<-before
	})
	t.Run("Close", func(t *testing.T) {
		_, before := m.serve()
		c := m.agrees(t, &client.Options{ConnectTimeout: -1}, "localhost")
		result := make(chan error, 1)
		go func() { result <- c.StartTLS(context.Background(), m.trust(t)) }()
		inKernel(t)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-result, net.ErrClosed)
		<-before
	})
}

func TestStartTLS_Refusals(t *testing.T) {
	background := context.Background()
	t.Run("datagrams", func(t *testing.T) {
		for _, network := range datagramNetworks {
			c, _ := datagrams(t, network, nil)
			require.ErrorIs(t, c.StartTLS(background, nil), unix.EOPNOTSUPP, network)
		}
	})
	t.Run("not connected", func(t *testing.T) {
		c, err := client.NewTCP(nil)
		require.NoError(t, err)
		defer c.Close()
		require.ErrorIs(t, c.StartTLS(background, nil), unix.ENOTCONN)
		require.ErrorIs(t, new(client.Client).StartTLS(background, nil), unix.ENOTCONN)
	})
	t.Run("options", func(t *testing.T) {
		c, peer := stream(t, "tcp", nil)
		var bad *client.OptionError
		require.ErrorAs(t, c.StartTLS(background, &client.TLSOptions{CAFile: "/missing"}), &bad)
		require.Contains(t, bad.Error(), "/missing")
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 1), 0) // and the client is as it was
		require.NoError(t, err)
	})
	t.Run("no name", func(t *testing.T) {
		c, _ := stream(t, "unix", nil)
		require.ErrorContains(t, c.StartTLS(background, nil), "ServerName")
	})
	t.Run("the context has ended", func(t *testing.T) {
		c, _ := stream(t, "tcp", nil)
		ctx, cancel := context.WithCancel(background)
		cancel()
		require.ErrorIs(t, c.StartTLS(ctx, nil), context.Canceled)
		require.True(t, c.IsConnected())
	})
	t.Run("in use", func(t *testing.T) {
		c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
		result := make(chan error, 1)
		go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
		inKernel(t)
		err := c.StartTLS(background, nil)
		require.ErrorIs(t, err, unix.EBUSY)
		_, err = peer.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, <-result)
	})
	t.Run("in use by a sender", func(t *testing.T) {
		c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
		result := make(chan error, 1)
		go func() { _, err := c.Send(make([]byte, 64<<20), 0); result <- err }()
		inKernel(t)
		require.ErrorIs(t, c.StartTLS(background, &client.TLSOptions{ServerName: "x"}), unix.EBUSY)
		_, err := c.Recv(make([]byte, 1), client.DontWait) // whose lock is free
		require.ErrorIs(t, err, unix.EAGAIN)
		_, err = peer.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 1), 0)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Error(t, <-result)
	})
	t.Run("a deadline is over", func(t *testing.T) {
		for name, set := range map[string]func(*client.Client, time.Time) error{
			"read": (*client.Client).SetReadDeadline, "write": (*client.Client).SetWriteDeadline,
		} {
			t.Run(name, func(t *testing.T) {
				c, peer := stream(t, "tcp", nil)
				require.NoError(t, set(c, time.Now()))
				err := c.StartTLS(background, &client.TLSOptions{ServerName: "x"})
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.NoError(t, set(c, time.Time{})) // and nothing has been said
				_, err = c.Send([]byte("x"), 0)
				require.NoError(t, err)
				p := make([]byte, 2)
				n, err := peer.Read(p)
				require.NoError(t, err)
				require.Equal(t, "x", string(p[:n]))
			})
		}
	})
	t.Run("the peer has closed", func(t *testing.T) {
		c, peer := stream(t, "tcp", nil)
		require.NoError(t, peer.Close())
		arrived(t, c)
		require.ErrorIs(t, c.StartTLS(background, &client.TLSOptions{ServerName: "x"}), io.ErrUnexpectedEOF)
	})
}

// A call that waited for the I/O lock while StartTLS held it uses the stream as it is when
// the call gets the lock: encrypted.
func TestStartTLS_CallsThatWaitedForTheLockGoOnEncrypted(t *testing.T) {
	const greeting = "250 inside\r\n"
	recv := func(flags client.Flag) func(*client.Client) (string, error) {
		return func(c *client.Client) (string, error) {
			p := make([]byte, len(greeting))
			n, err := c.Recv(p, flags)
			return string(p[:n]), err
		}
	}
	receiving := map[string]func(*client.Client) (string, error){
		"Recv":         recv(0),
		"Recv WaitAll": recv(client.WaitAll),
		"Peek":         recv(client.Peek),
		"Read": func(c *client.Client) (string, error) {
			p := make([]byte, len(greeting))
			n, err := c.Read(p)
			return string(p[:n]), err
		},
		"RecvPacket": func(c *client.Client) (string, error) {
			p, err := c.RecvPacket()
			return string(p), err
		},
	}
	sending := map[string]func(*client.Client) (int, error){
		"Send":       func(c *client.Client) (int, error) { return c.Send([]byte("secret\r\n"), 0) },
		"Write":      func(c *client.Client) (int, error) { return c.Write([]byte("secret\r\n")) },
		"SendPacket": func(c *client.Client) (int, error) { return c.SendPacket([]byte("secret")) },
	}
	// upgrade makes call wait for the lock that StartTLS holds, and gives its result.
	upgrade := func(t *testing.T, framing client.Framing, call func(*client.Client) (string, error)) (c *client.Client, got string, told <-chan string, err error) {
		m := newMailServer(t)
		m.gate = make(chan struct{})
		told, _ = m.serve()
		c = m.agrees(t, &client.Options{Framing: framing}, "localhost")
		started := make(chan error, 1)
		go func() { started <- c.StartTLS(t.Context(), m.trust(t)) }()
		inKernel(t)
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			got, err = call(c)
		}()
		waitForLock(t, 1)
		close(m.gate)
		require.NoError(t, <-started)
		<-returned
		return c, got, told, err
	}
	lines := client.Delimiter{Delim: []byte("\r\n")}
	for name, call := range receiving {
		for kind, framing := range map[string]client.Framing{"": nil, " with Framing": lines} {
			if name == "RecvPacket" && framing == nil {
				continue
			}
			t.Run(name+kind, func(t *testing.T) {
				c, got, told, err := upgrade(t, framing, call)
				require.NoError(t, err)
				require.Equal(t, greeting, got)
				if name == "Peek" {
					require.Equal(t, greeting, readLine(t, c))
				}
				require.NoError(t, c.Close())
				require.Empty(t, <-told)
			})
		}
	}
	for name, call := range sending {
		t.Run(name, func(t *testing.T) {
			c, _, told, err := upgrade(t, lines, func(c *client.Client) (string, error) {
				n, err := call(c)
				require.Equal(t, len("secret\r\n"), n)
				return "", err
			})
			require.NoError(t, err)
			require.Equal(t, greeting, readLine(t, c))
			require.NoError(t, c.Close())
			require.Equal(t, "secret\r\n", <-told)
		})
	}
	for name, call := range map[string]func(*client.Client) (int, error){
		"Recv": func(c *client.Client) (int, error) { return c.Recv(make([]byte, 1), client.OOB) },
		"Send": func(c *client.Client) (int, error) { return c.Send([]byte("!"), client.OOB) },
	} {
		t.Run(name+" OOB", func(t *testing.T) {
			c, _, told, err := upgrade(t, nil, func(c *client.Client) (string, error) {
				n, err := call(c)
				require.Zero(t, n)
				return "", err
			})
			require.ErrorIs(t, err, unix.EOPNOTSUPP) // there is no urgent byte in TLS
			require.NoError(t, c.Close())
			require.Empty(t, <-told)
		})
	}
}

// waitForLock waits until n goroutines wait for the I/O lock of a client.
func waitForLock(t *testing.T, n int) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	require.Eventually(t, func() bool {
		return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("sock.(*Socket).lockSlow(")) >= n
	}, testTimeout, time.Millisecond)
}
