package client_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func starting(t *testing.T, network, address string, opts *client.Options) *client.Client {
	t.Helper()
	var c *client.Client
	var err error
	if network == "unix" {
		c, err = client.NewUnix(opts)
	} else {
		c, err = client.NewTCP(opts)
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	begin := time.Now()
	require.NoError(t, c.StartConnect(address))
	require.Less(t, time.Since(begin), testTimeout/10)
	return c
}

func TestStartConnect_FirstCallWaits(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ln := listen(t, network)
			for _, first := range []string{"send", "recv"} {
				c := starting(t, network, ln.Addr().String(), nil)
				accepted := make(chan net.Conn, 1)
				go func() {
					peer, err := ln.Accept()
					if err == nil {
						_, _ = peer.Write([]byte("pong"))
						accepted <- peer
					}
				}()
				p := make([]byte, 4)
				if first == "recv" {
					_, err := c.Recv(p, client.WaitAll)
					require.NoError(t, err)
				}
				_, err := c.Send([]byte("ping"), 0)
				require.NoError(t, err)
				peer := <-accepted
				_, err = peer.Read(p)
				require.NoError(t, err)
				require.Equal(t, "ping", string(p))
				require.NoError(t, peer.Close())
				require.ErrorIs(t, c.StartConnect(ln.Addr().String()), unix.EISCONN)
			}
		})
	}
}

func TestStartConnect_FirstCallReturnsTheError(t *testing.T) {
	c := starting(t, "tcp", refused(t, "tcp"), nil)
	for range 2 {
		_, err := c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		_, err = c.Send([]byte("x"), 0)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		require.True(t, client.SafeToRetry(err))
	}
	ln := listen(t, "tcp")
	require.NoError(t, c.StartConnect(ln.Addr().String()))
	_, err := c.Send([]byte("x"), 0)
	require.NoError(t, err)

	hole := blackHole(t, "tcp", "127.0.0.1")
	c = starting(t, "tcp", hole, &client.Options{ConnectTimeout: 30 * time.Millisecond})
	require.ErrorIs(t, c.StartConnect(hole), unix.EALREADY)
	_, err = c.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	_, err = c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Error(t, c.StartConnect("no port"))
}

func TestStartConnect_CloseEndsTheWait(t *testing.T) {
	c := starting(t, "tcp", blackHole(t, "tcp", "127.0.0.1"), nil)
	time.AfterFunc(10*time.Millisecond, func() { _ = c.Close() })
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, c.StartConnect("127.0.0.1:1"), net.ErrClosed)
}

func TestStartConnect_TLSIsPartOfIt(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	c := starting(t, "tcp", s.Addr().String(), &client.Options{TLS: s.trust(t), ConnectTimeout: 50 * time.Millisecond})
	_, err := c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded) // nobody accepts
}

func TestSelect_WaitsForConnectingClients(t *testing.T) {
	ln := listen(t, "tcp")
	hole := starting(t, "tcp", blackHole(t, "tcp", "127.0.0.1"), &client.Options{ConnectTimeout: -1})
	clients := []*client.Client{hole}
	_, err := client.Select(clients, clients, clients, 20*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	c := starting(t, "tcp", ln.Addr().String(), nil)
	clients = append(clients, c)
	ready, err := client.Select(clients, clients, clients, testTimeout)
	require.NoError(t, err)
	require.Equal(t, client.Ready{Write: []*client.Client{c}}, empty(ready))

	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	again := starting(t, "tcp", ln.Addr().String(), nil)
	go func() {
		if peer, err := ln.Accept(); err == nil {
			_, _ = peer.Write([]byte("x"))
			time.Sleep(testTimeout / 100)
			_ = peer.Close()
		}
	}()
	ready, err = client.Select([]*client.Client{hole, again}, nil, nil, testTimeout)
	require.NoError(t, err)
	require.Equal(t, []*client.Client{again}, ready.Read)

	failing := starting(t, "tcp", refused(t, "tcp"), nil)
	ready, err = client.Select([]*client.Client{hole, failing}, []*client.Client{failing}, nil, testTimeout)
	require.NoError(t, err)
	require.Equal(t, []*client.Client{failing}, ready.Read)
	require.Equal(t, []*client.Client{failing}, ready.Write)
	_, err = failing.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, unix.ECONNREFUSED)

	time.AfterFunc(10*time.Millisecond, func() { _ = hole.Close() })
	_, err = client.Select([]*client.Client{hole}, nil, nil, testTimeout)
	var failed *client.SelectError
	require.ErrorAs(t, err, &failed)
	require.ErrorIs(t, err, net.ErrClosed)
}

// Select looked at the second connect only, and neither returned nor ended at its limit.
func TestSelect_ClientThatConnectsAgainIsReady(t *testing.T) {
	ln, hole := listen(t, "tcp"), blackHole(t, "tcp", "127.0.0.1")
	for range 10 {
		c := starting(t, "tcp", hole, &client.Options{ConnectTimeout: 10 * time.Millisecond})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for errors.Is(c.StartConnect(ln.Addr().String()), unix.EALREADY) {
				runtime.Gosched()
			}
		}()
		r, err := client.Select(nil, []*client.Client{c}, nil, testTimeout)
		require.NoError(t, err)
		require.Equal(t, []*client.Client{c}, r.Write)
		<-done
	}
}

// The socket is not readable: crypto/tls has received the data together with the end of the
// handshake.
func TestSelect_FindsDataThatCameWithTheHandshakeOfAConnectingClient(t *testing.T) {
	v := new(valve)
	s := listenTLS(t, "tcp", func(c *tls.Config) {
		c.MaxVersion = tls.VersionTLS12 // whose handshake the server ends
		c.VerifyConnection = func(tls.ConnectionState) error { v.shut(); return nil }
	})
	c := starting(t, "tcp", s.Addr().String(), &client.Options{TLS: s.trust(t)})
	served := make(chan error, 1)
	go func() {
		time.Sleep(testTimeout / 100) // until Select waits
		var err error
		if v.Conn, err = s.Accept(); err == nil {
			_, err = tls.Server(v, s.config).Write([]byte("greeting"))
		}
		if err == nil {
			_, err = v.Conn.Write(v.holds())
		}
		served <- err
	}()
	ready, err := client.Select([]*client.Client{c}, nil, nil, testTimeout)
	require.NoError(t, <-served)
	defer v.Close()
	require.NoError(t, err)
	require.Equal(t, []*client.Client{c}, ready.Read)
	_, err = c.Recv(make([]byte, len("greeting")), client.WaitAll|client.DontWait)
	require.NoError(t, err)
}

// empty makes nil of empty sets.
func empty(r client.Ready) client.Ready {
	if len(r.Read) == 0 {
		r.Read = nil
	}
	if len(r.Write) == 0 {
		r.Write = nil
	}
	if len(r.Except) == 0 {
		r.Except = nil
	}
	return r
}
