package tlsconn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const testTimeout = 10 * time.Second // of waits that are not to take long

func TestMain(m *testing.M) { testleak.Main(m) }

// A testClient locks for each call.
type testClient struct {
	*Conn
	sock *sock.Socket
}

func (c testClient) recv(p []byte, flags int, timeout time.Duration) (int, error) {
	lock, err := c.sock.LockRecv(flags, timeout)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	return c.Recv(&lock, p, flags)
}

func (c testClient) send(p []byte, flags int, timeout time.Duration) (n int, some bool, err error) {
	lock, err := c.sock.LockSend(flags, timeout)
	if err != nil {
		return 0, false, err
	}
	defer func() { c.UnlockSend(lock) }()
	return c.Send(&lock, p)
}

func (c testClient) closeWrite(t *testing.T) {
	t.Helper()
	lock, err := c.sock.LockSend(0, testTimeout)
	require.NoError(t, err)
	defer func() { c.UnlockSend(lock) }()
	require.NoError(t, c.CloseWrite(&lock))
}

// readable is a look at what is in the connection, while nobody receives.
func (c testClient) readable(t *testing.T, inSocket bool) bool {
	t.Helper()
	lock, ok := c.sock.TryLockRecv()
	require.True(t, ok)
	defer lock.Unlock()
	return c.Readable(&lock, inSocket)
}

// arrives waits until the socket has something to receive.
func (c testClient) arrives(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return c.sock.Probe() != sock.Idle }, testTimeout, time.Millisecond)
}

// A holdableConn is the peer's connection. What the peer writes can be held back.
type holdableConn struct {
	net.Conn

	mu   sync.Mutex
	hold bool
	held []byte
}

func (h *holdableConn) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hold {
		h.held = append(h.held, p...)
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// records is what the peer's TLS makes of the writes of do, which are not sent.
func (h *holdableConn) records(t *testing.T, do func() error) []byte {
	t.Helper()
	h.mu.Lock()
	h.hold = true
	h.mu.Unlock()
	require.NoError(t, do())
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.held, h.hold = nil, false }()
	return bytes.Clone(h.held)
}

// tcpPair is a connected socket and its peer.
func tcpPair(t *testing.T) (*sock.Socket, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	return accept(t, ln, unix.AF_INET, sock.Addr{IP: netip.MustParseAddrPort(ln.Addr().String())})
}

// unixPair is tcpPair with unix sockets, whose buffers stay as small as they are set.
func unixPair(t *testing.T) (*sock.Socket, net.Conn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	return accept(t, ln, unix.AF_UNIX, sock.Addr{Path: ln.Addr().String()})
}

func accept(t *testing.T, ln net.Listener, domain int, to sock.Addr) (*sock.Socket, net.Conn) {
	t.Helper()
	defer ln.Close()
	s, err := sock.Open(domain, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	require.NoError(t, s.Connect(to, sock.In(testTimeout), nil))
	peer, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	return s, peer
}

var certificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

// handshake is Handshake with both locks.
func handshake(ctx context.Context, s *sock.Socket, timeout time.Duration, config *tls.Config) (*Conn, error) {
	rd, wr, ok := s.TryLockBoth(sock.In(timeout))
	if !ok {
		return nil, net.ErrClosed
	}
	defer rd.Unlock()
	defer wr.Unlock()
	return Handshake(ctx, s, rd, wr, nil, nil, config)
}

// dial is a connection over TCP that verifies nothing, and its peer. Both configs may be nil.
func dial(t *testing.T, server, client *tls.Config) (testClient, *tls.Conn, *holdableConn) {
	t.Helper()
	s, peer := tcpPair(t)
	return dialOver(t, s, peer, server, client)
}

func dialOver(t *testing.T, s *sock.Socket, raw net.Conn, server, client *tls.Config) (testClient, *tls.Conn, *holdableConn) {
	t.Helper()
	own, err := certificate()
	require.NoError(t, err)
	if server == nil {
		server = &tls.Config{}
	}
	if client == nil {
		client = &tls.Config{}
	}
	server.Certificates = []tls.Certificate{own}
	client.InsecureSkipVerify = true
	client.DynamicRecordSizingDisabled = true
	h := &holdableConn{Conn: raw}
	peer := tls.Server(h, server)
	done := make(chan error, 1)
	go func() { done <- peer.Handshake() }()
	conn, err := handshake(t.Context(), s, testTimeout, client)
	require.NoError(t, err)
	require.NoError(t, <-done)
	return testClient{conn, s}, peer, h
}

func eachVersion(t *testing.T, f func(t *testing.T, server *tls.Config)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			f(t, &tls.Config{MinVersion: version, MaxVersion: version})
		})
	}
}
