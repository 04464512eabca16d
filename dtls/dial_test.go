package dtls_test

import (
	"context"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/dtls"
	"github.com/stretchr/testify/require"
)

// trusting are options that accept what root has signed.
func trusting(t testing.TB, root *cert) *client.Options {
	return &client.Options{Timeout: testTimeout, TLS: &client.TLSOptions{CAFile: root.file(t)}}
}

func dial(t testing.TB, addr string, opts *client.Options, d *dtls.Options) *dtls.Conn {
	t.Helper()
	c, err := dtls.Dial(context.Background(), "udp", addr, opts, d)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
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

func TestDial_OpenSSLWithRSAAndWithECDSA(t *testing.T) {
	root := newRoot(t)
	for name, c := range map[string]*cert{
		"RSA": root.issue(t, rsaKey(t), nil), "ECDSA": root.issue(t, ecdsaKey(t), nil),
	} {
		t.Run(name, func(t *testing.T) {
			server := sServer(t, c)
			talks(t, dial(t, server.addr, trusting(t, root), nil), server)
		})
	}
}
