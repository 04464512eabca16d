package client

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A wire gives what a proxy sends, a piece at a time.
type wire struct {
	rest  []byte
	piece int
}

func (w *wire) Recv(p []byte, flags Flag) (int, error) {
	if len(w.rest) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, w.rest)
	if flags&WaitAll == 0 {
		n = min(n, w.piece)
	}
	if flags&Peek == 0 {
		w.rest = w.rest[n:]
	}
	if flags&WaitAll != 0 && n < len(p) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) { return len(p), nil }

func FuzzHTTPReply(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nafter"), 1)
	f.Add([]byte("HTTP/1.1 200 OK\nA: b\n\nafter"), 7)
	f.Add([]byte("HTTP/1.1 407 No\r\nContent-Length: 3\r\n\r\nabc"), 100)
	f.Add([]byte("\r\n\r\n\n\n"), 2)
	f.Add(bytes.Repeat([]byte("x"), maxReply+1), 4096)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		w := &wire{rest: data, piece: max(piece, 1)}
		resp, err := readReply(w)
		read := len(data) - len(w.rest)
		require.LessOrEqual(t, read, maxReply)
		end := headerEnd(data, 0)
		if end > 0 && end <= maxReply {
			require.Equal(t, end, read, "the header and not a byte more, however it is cut")
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
		for _, host := range []string{"name.test", "192.0.2.1", "2001:db8::1", strings.Repeat("n", 255)} {
			w := &wire{rest: data, piece: max(piece, 1)}
			if (&via{address: "proxy.test:1080"}).socks5(w, host, 80) == nil {
				require.GreaterOrEqual(t, len(data)-len(w.rest), 2+4+1+2)
			}
		}
	})
}
