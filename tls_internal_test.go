package client

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A zone means something on this machine alone; no certificate has one.
func TestTLSConfig_NameToVerifyHasNoZone(t *testing.T) {
	s, err := new(TLSOptions).load()
	require.NoError(t, err)
	s, err = s.forHost("fe80::1%lo")
	require.NoError(t, err)
	require.Equal(t, "fe80::1", s.base.ServerName)
}

// securedWith gives both ends of a TLS connection that verifies nothing.
func securedWith(t *testing.T, server *tls.Config, opts *Options) (*Client, *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	server.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer ln.Close()
	peers := make(chan *tls.Conn, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			close(peers)
			return
		}
		peer := tls.Server(conn, server)
		_ = peer.HandshakeContext(context.Background())
		peers <- peer
	}()
	opts.TLS = &TLSOptions{InsecureSkipVerify: true, ServerName: "x"}
	c, err := Dial(ln.Addr().Network(), ln.Addr().String(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	peer := <-peers
	require.NotNil(t, peer)
	t.Cleanup(func() { _ = peer.NetConn().Close() })
	return c, peer
}

// The peer may see the goodbye, and have another close this client, before the descriptor
// is closed: it is the one who said it to whom Close has to be no error.
func TestWhoSaysGoodbyeClosesAndNobodyElse(t *testing.T) {
	c, peer := securedWith(t, &tls.Config{}, &Options{})
	stream := c.tls.Load()
	stream.closing.Store(true) // as it is while another Close says goodbye
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	stream.closing.Store(false)
	_, err := c.Send([]byte("x"), 0)
	require.NoError(t, err, "the other one closes")
	first := make(chan error, 1)
	go func() { first <- c.Close() }()
	_, err = io.Copy(io.Discard, peer)
	require.NoError(t, err)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.NoError(t, <-first)
}

// What has been sent takes no memory any more.
func TestTheQueueIsEmptiedAsItIsSent(t *testing.T) {
	c, peer := securedWith(t, &tls.Config{}, &Options{})
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	for range 100 {
		_, err := c.Send(make([]byte, 64<<10), 0)
		require.NoError(t, err)
	}
	w := &c.tls.Load().wire
	require.Empty(t, w.queued())
	require.LessOrEqual(t, cap(w.buf), 4*maxPlaintext)
}

// A sealer makes records of TLS_AES_128_GCM_SHA256 as crypto/tls would not.
type sealer struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// expand is HKDF-Expand-Label of RFC 8446, 7.1, without a context.
func expand(t *testing.T, secret []byte, label string, size int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(append(info, "tls13 "+label...), 0)
	key, err := hkdf.Expand(sha256.New, secret, string(info), size)
	require.NoError(t, err)
	return key
}

func (s *sealer) use(secret []byte) {
	block, err := aes.NewCipher(expand(s.t, secret, "key", 16))
	require.NoError(s.t, err)
	s.aead, err = cipher.NewGCM(block)
	require.NoError(s.t, err)
	s.secret, s.iv, s.seq = secret, expand(s.t, secret, "iv", 12), 0
}

func (s *sealer) record(kind byte, p []byte) []byte {
	header := []byte{23, 3, 3, 0, byte(len(p) + 1 + s.aead.Overhead())}
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	return s.aead.Seal(header, nonce, append(bytes.Clone(p), kind), header)
}

// keyUpdate asks for one in return: RFC 8446, 4.6.3.
func (s *sealer) keyUpdate() []byte {
	r := s.record(22, []byte{24, 0, 0, 1, 1})
	s.use(expand(s.t, s.secret, "traffic upd", 32))
	return r
}

// A peer that asks for answers and does not receive them is not to fill our memory.
func TestAPeerThatTakesNoAnswersIsGivenUp(t *testing.T) {
	var keys bytes.Buffer
	small := func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 1) })
	}
	c, peer := securedWith(t, &tls.Config{KeyLogWriter: &keys, SessionTicketsDisabled: true}, &Options{Control: small})
	if peer.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("this machine prefers another cipher suite")
	}
	_, log, _ := strings.Cut(keys.String(), "SERVER_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(log)[1])
	require.NoError(t, err)
	s := &sealer{t: t}
	s.use(secret)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := peer.NetConn().Write(append(s.keyUpdate(), s.record(23, []byte("x"))...)); err != nil {
				return
			}
		}
	}()
	got := 0
	for err = nil; err == nil; got++ {
		_, err = c.Recv(make([]byte, 1), 0)
	}
	require.ErrorIs(t, err, errGreedy)
	require.Greater(t, got, 100)
	require.Less(t, len(c.tls.Load().wire.queued()), 2*maxQueued)
	require.NoError(t, c.Close())
	<-done
}
