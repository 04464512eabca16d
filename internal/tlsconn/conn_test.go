package tlsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestHandshake_ReportsWhatWasNegotiated(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		c, peer, _ := dial(t, server, nil)
		state := c.ConnectionState()
		require.True(t, state.HandshakeComplete)
		require.Equal(t, peer.ConnectionState().Version, state.Version)
		require.False(t, c.Ended())
		require.False(t, c.Truncated())
	})
}

func TestHandshake_LimitEndsIt(t *testing.T) {
	s, _ := tcpPair(t) // whose peer says nothing
	begin := time.Now()
	_, err := handshake(t.Context(), s, 20*time.Millisecond, &tls.Config{ServerName: "x"})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond)
}

func TestHandshake_LimitEndsAPeerThatKeepsSending(t *testing.T) {
	s, peer := tcpPair(t)
	go func() {
		// A ServerHello of 65,530 bytes, one in each record.
		record := []byte{22, 3, 3, 0, 4, 2, 0, 0xff, 0xfa}
		for err := error(nil); err == nil; record = []byte{22, 3, 3, 0, 1, 0} {
			_, err = peer.Write(record)
		}
	}()
	_, err := handshake(t.Context(), s, 5*time.Millisecond, &tls.Config{ServerName: "x"})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, s.Close())
}

// The peer learns why: the alert of a handshake that failed is sent.
func TestHandshake_SendsTheAlertOfAFailure(t *testing.T) {
	own, err := certificate()
	require.NoError(t, err)
	s, raw := tcpPair(t)
	refused := make(chan error, 1)
	go func() {
		peer := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{own}})
		if err := peer.Handshake(); err != nil {
			refused <- err
			return
		}
		_, err := peer.Read(make([]byte, 1))
		refused <- err
	}()
	_, err = handshake(t.Context(), s, testTimeout, &tls.Config{ServerName: "x"})
	var unverified *tls.CertificateVerificationError
	require.ErrorAs(t, err, &unverified)
	require.ErrorContains(t, <-refused, "remote error: tls: bad certificate")
}

func TestHandshake_EndOfTheStreamIsTruncated(t *testing.T) {
	s, peer := tcpPair(t)
	require.NoError(t, peer.(*net.TCPConn).CloseWrite())
	_, err := handshake(context.Background(), s, testTimeout, &tls.Config{ServerName: "x"})
	require.ErrorIs(t, err, ErrTruncated)
}

// The peer may see close_notify and have another goroutine close before the descriptor is
// closed. The call that sent close_notify reports success.
func TestClose_FirstOfOverlappingCallsSucceeds(t *testing.T) {
	c, peer, _ := dial(t, nil, nil)
	c.closing.Store(true) // as it is while another Close sends close_notify
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	c.closing.Store(false)
	_, _, err := c.send([]byte("x"), 0, testTimeout)
	require.NoError(t, err, "the other call closes")
	first := make(chan error, 1)
	go func() { first <- c.Close() }()
	_, err = io.Copy(io.Discard, peer)
	require.NoError(t, err)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.NoError(t, <-first)
}

// A panicking is a session cache whose Put panics when it is armed.
type panicking struct {
	tls.ClientSessionCache
	armed bool
}

func (p *panicking) Put(key string, s *tls.ClientSessionState) {
	if p.armed {
		p.armed = false
		panic("of the cache")
	}
	p.ClientSessionCache.Put(key, s)
}

func TestCallback_PanicEndsBothDirections(t *testing.T) {
	server := &tls.Config{ClientAuth: tls.RequestClientCert} // has the session ticket come after the handshake
	cache := &panicking{ClientSessionCache: tls.NewLRUClientSessionCache(1), armed: true}
	c, peer, _ := dial(t, server, &tls.Config{ServerName: "x", ClientSessionCache: cache})
	_, err := peer.Write([]byte("x")) // behind the session ticket
	require.NoError(t, err)
	require.PanicsWithValue(t, "of the cache", func() { _, _ = c.recv(make([]byte, 1), 0, testTimeout) })
	_, err = c.recv(make([]byte, 1), 0, testTimeout)
	require.ErrorIs(t, err, errCallback)
	_, some, err := c.send([]byte("x"), 0, testTimeout)
	require.ErrorIs(t, err, errCallback)
	require.False(t, some)
	require.True(t, c.Ended())
	require.NoError(t, c.Close())
}

func TestProbe_TellsApplicationDataFromTheRest(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		server.ClientAuth = tls.RequestClientCert // has the session ticket come after the handshake
		c, peer, h := dial(t, server, &tls.Config{ServerName: "x", ClientSessionCache: tls.NewLRUClientSessionCache(1)})
		if server.MaxVersion == tls.VersionTLS13 {
			c.arrives(t) // a session ticket
		}
		require.Equal(t, sock.Idle, c.Probe(false))
		require.Equal(t, sock.Idle, c.Probe(true))
		require.False(t, c.readable(t, false))

		record := h.records(t, func() error { _, err := peer.Write([]byte("ab")); return err })
		_, err := h.Conn.Write(record[:3])
		require.NoError(t, err)
		c.arrives(t)
		require.Equal(t, sock.Readable, c.Probe(false), "a part of a record")
		require.False(t, c.readable(t, false), "nothing of it can be received")
		_, err = h.Conn.Write(record[3:])
		require.NoError(t, err)
		c.arrives(t)
		require.True(t, c.readable(t, true))
		require.True(t, c.readable(t, false), "it is decrypted")
		require.Equal(t, sock.Readable, c.Probe(true))
		n, err := c.recv(make([]byte, 1), 0, testTimeout)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, sock.Readable, c.Probe(true), "the rest of the record, which the socket knows nothing of")
		_, err = c.recv(make([]byte, 1), 0, testTimeout)
		require.NoError(t, err)
		require.Equal(t, sock.Idle, c.Probe(true))

		lock, ok := c.sock.TryLockRecv()
		require.True(t, ok)
		require.Equal(t, sock.Readable, c.Probe(true), "for whoever has the lock")
		lock.Unlock()

		require.NoError(t, peer.CloseWrite())
		c.arrives(t)
		require.Equal(t, sock.Closed, c.Probe(true))
		require.True(t, c.readable(t, false))
		require.NoError(t, c.Close())
		require.Equal(t, sock.Closed, c.Probe(false))
	})
}

// What crypto/tls asks of its net.Conn, and may rely on.
func TestTransport_AddressesAndDeadlines(t *testing.T) {
	local, remote := &net.UnixAddr{Name: "a"}, &net.UnixAddr{Name: "b"}
	tr := &transport{local: local, remote: remote}
	require.Equal(t, local, tr.LocalAddr())
	require.Equal(t, remote, tr.RemoteAddr())
	require.NoError(t, errors.Join(tr.Close(), tr.SetDeadline(time.Now()), tr.SetReadDeadline(time.Now()), tr.SetWriteDeadline(time.Now())))
	again := pending{unix.EAGAIN}
	require.True(t, again.Timeout() && again.Temporary()) // else crypto/tls ends the connection
	require.ErrorIs(t, again, unix.EAGAIN)
}
