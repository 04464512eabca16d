package proxy

import (
	"bytes"
	"net/url"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/header"
	"github.com/stretchr/testify/require"
)

func FuzzHTTPReply(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nafter"), 1)
	f.Add([]byte("HTTP/1.1 200 OK\nA: b\n\nafter"), 7)
	f.Add([]byte("HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nabc"), 100)
	f.Add([]byte("\r\n\r\n\n\n"), 2)
	f.Add(bytes.Repeat([]byte("x"), maxReply+1), 4096)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		c := &fakeConn{reply: data, piece: max(piece, 1)}
		resp, err := readReply(c)
		read := len(data) - len(c.reply)
		require.LessOrEqual(t, read, maxReply)
		end := header.End(data, 0)
		if end > 0 && end <= maxReply {
			require.Equal(t, end, read, "the header and not a byte more, however it is split")
		}
		if err == nil {
			require.NotNil(t, resp)
		}
	})
}

func FuzzSOCKS5Reply(f *testing.F) {
	f.Add([]byte("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50after"), 1)
	f.Add([]byte("\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x00\x50after"), 3)
	f.Add([]byte("\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"), 100)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		for _, user := range []*url.Userinfo{nil, url.UserPassword("me", "secret")} {
			for _, host := range []string{"name.test", "192.0.2.1", "2001:db8::1", strings.Repeat("n", 255)} {
				c := &fakeConn{reply: data, piece: max(piece, 1)}
				config := &Config{user: user, connect: (*Config).socks5}
				if config.Connect(c, host, 80) == nil {
					require.GreaterOrEqual(t, len(data)-len(c.reply), 2+4+1+2)
				}
			}
		}
	})
}
