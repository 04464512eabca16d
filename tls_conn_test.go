package client_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// endings serves connections that send say over TLS and then call end.
func endings(t *testing.T, version uint16, say string, end func(peer *tls.Conn, raw *net.TCPConn)) *tlsServer {
	t.Helper()
	s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				peer := tls.Server(conn, s.config)
				if peer.Handshake() != nil {
					return
				}
				_, _ = peer.Read(make([]byte, 1)) // after the client's side of the handshake
				_, _ = io.WriteString(peer, say)
				end(peer, conn.(*net.TCPConn))
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return s
}

// Some peers close the connection between two records without close_notify. crypto/tls
// returns io.EOF then, and drivers and net/http rely on it. So must a Dialer's connection,
// with a pool or without. Recv, and Read of a Client, report io.ErrUnexpectedEOF.
func TestTLSConn_EndsAsThatOfCryptoTLS(t *testing.T) {
	inParallelIfShort(t)
	part := func(n int) func(*tls.Conn, *net.TCPConn) {
		return func(_ *tls.Conn, raw *net.TCPConn) {
			_, _ = raw.Write([]byte{23, 3, 3, 0, 100, 1, 2, 3}[:n])
			_ = raw.CloseWrite()
		}
	}
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		for _, test := range []struct {
			name   string
			end    func(*tls.Conn, *net.TCPConn)
			driver error // of io.ReadAll, which crypto/tls must return as well; nil is io.EOF
			strict error // what Recv gives
		}{
			{"between two records", part(0), nil, io.ErrUnexpectedEOF},
			{"in a header", part(3), io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
			{"behind a header", part(5), io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
			{"in a record", part(8), io.ErrUnexpectedEOF, io.ErrUnexpectedEOF},
			{"after TLS has ended", func(peer *tls.Conn, raw *net.TCPConn) { _ = peer.CloseWrite(); _ = raw.CloseWrite() }, nil, io.EOF},
			{"after TLS has ended, and is cut again", func(peer *tls.Conn, raw *net.TCPConn) {
				_ = peer.CloseWrite()
				part(3)(peer, raw)
			}, nil, io.EOF},
		} {
			for _, say := range []string{"", "the answer"} {
				name := test.name
				if say != "" {
					name += ", with an answer before"
				}
				t.Run(name, func(t *testing.T) {
					s := endings(t, version, say, test.end)
					address := s.Addr().String()
					opts := &client.Options{TLS: s.trust(t), Timeout: testTimeout}
					readAll := func(conn net.Conn, err error) {
						t.Helper()
						require.NoError(t, err)
						defer conn.Close()
						require.NoError(t, conn.SetDeadline(time.Now().Add(testTimeout)))
						_, err = conn.Write([]byte("?"))
						require.NoError(t, err)
						data, err := io.ReadAll(conn)
						require.Equal(t, test.driver, err)
						require.Equal(t, say, string(data))
						_, again := conn.Read(make([]byte, 1)) // the error stays
						if test.driver == nil {
							require.True(t, again == io.EOF, again) //nolint:errorlint // bare, as net.Conn has it
						} else {
							require.Equal(t, test.driver, again)
						}
					}
					readAll(tls.Dial("tcp", address, &tls.Config{RootCAs: testcert.Pool(s.cert.Root), ServerName: "localhost"}))
					readAll((&client.Dialer{Options: opts}).Dial("tcp", address))
					readAll((&client.Dialer{Options: opts, Pool: newPool(t, client.PoolOptions{})}).Dial("tcp", address))

					for _, receive := range []func(c *client.Client, p []byte) (int, error){
						func(c *client.Client, p []byte) (int, error) { return c.Recv(p, 0) },
						(*client.Client).Read,
					} {
						conn, err := (&client.Dialer{Options: opts}).Dial("tcp", address)
						require.NoError(t, err)
						wrapped, ok := client.FromConn(conn)
						require.True(t, ok)
						dialled, err := client.Dial("tcp", address, opts)
						require.NoError(t, err)
						for _, c := range []*client.Client{wrapped, dialled} {
							_, err = c.Send([]byte("?"), 0)
							require.NoError(t, err)
							for err = nil; err == nil; {
								_, err = receive(c, make([]byte, 100))
							}
							require.True(t, err == test.strict, err) //nolint:errorlint // bare, as documented
							require.NoError(t, c.Close())
						}
					}
				})
			}
		}
	})
}

// A timeout in a Read is not the end of the stream.
func TestTLSConn_ReadTimeoutIsNotEOF(t *testing.T) {
	s := endings(t, tls.VersionTLS13, "", func(*tls.Conn, *net.TCPConn) {})
	conn, err := (&client.Dialer{Options: &client.Options{TLS: s.trust(t)}}).Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err = conn.Read(make([]byte, 1))
	require.True(t, timedOut(err), err)
	require.False(t, errors.Is(err, io.EOF))
}
