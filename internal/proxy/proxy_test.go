package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A fakeConn is a proxy that has sent its reply before it is asked.
type fakeConn struct {
	reply   []byte
	piece   int   // Peek returns at most that many bytes
	end     error // after reply; nil is io.ErrUnexpectedEOF
	sendErr error

	sent []byte
}

func (c *fakeConn) Send(p []byte) error {
	c.sent = append(c.sent, p...)
	return c.sendErr
}

func (c *fakeConn) Recv(p []byte) error {
	n := copy(p, c.reply)
	c.reply = c.reply[n:]
	if n < len(p) {
		return c.ended()
	}
	return nil
}

func (c *fakeConn) Peek(p []byte) (int, error) {
	n := min(copy(p, c.reply), c.piece)
	if n == 0 {
		return 0, c.ended()
	}
	return n, nil
}

func (c *fakeConn) ended() error {
	if c.end != nil {
		return c.end
	}
	return io.ErrUnexpectedEOF
}

// connect makes the handshake with a proxy that sends reply.
func connect(t *testing.T, proxyURL, host, reply string) (c *fakeConn, err error) {
	t.Helper()
	config, err := Parse(proxyURL)
	require.NoError(t, err)
	c = &fakeConn{reply: []byte(reply), piece: len(reply)}
	return c, config.Connect(c, host, 443)
}

const (
	httpProxy     = "http://proxy.test:3128"
	socksProxy    = "socks5://proxy.test:1080"
	socksWithUser = "socks5://me:pass%40word@proxy.test:1080"
)

func TestParse_TakesWhatAProxyIsDialledBy(t *testing.T) {
	for _, rawURL := range []string{
		"http://proxy.test:3128", "http://proxy.test:3128/", "socks5://192.0.2.1:1080", "socks5h://[2001:db8::1]:1080",
		"http://me@proxy.test:1", "socks5://" + strings.Repeat("u", 255) + ":" + strings.Repeat("p", 255) + "@proxy.test:65535",
	} {
		c, err := Parse(rawURL)
		require.NoError(t, err, rawURL)
		scheme, address, _ := strings.Cut(strings.TrimSuffix(rawURL, "/"), "://")
		address = address[strings.LastIndex(address, "@")+1:]
		require.Equal(t, address, c.Address)
		require.Equal(t, scheme+"://"+address, c.URL, "without user and password")
	}
}

func TestParse_RefusesWhatIsNoProxyAndKeepsThePassword(t *testing.T) {
	for rawURL, text := range map[string]string{
		"socks5://me:secret%zz@127.0.0.1:1080":                              "not a URL",
		"socks5://127.0.0.1:http":                                           "not a URL",
		"127.0.0.1:1080":                                                    "not a URL",
		"socks4://127.0.0.1:1080":                                           `scheme "socks4" is not supported`,
		"https://127.0.0.1:1080":                                            `scheme "https" is not supported`,
		"socks5://127.0.0.1":                                                "no host and port",
		"http://:1080":                                                      "no host and port",
		"socks5://127.0.0.1:0":                                              "no host and port",
		"socks5://127.0.0.1:65536":                                          "no host and port",
		"socks5://me:123456/secret@127.0.0.1:1080":                          "%2F %3F %23",
		"http://me:0/secret@127.0.0.1:1080":                                 "%2F %3F %23",
		"socks5://127.0.0.1:1080/path":                                      "remove the path",
		"socks5://127.0.0.1:1080?query":                                     "remove the path",
		"socks5://127.0.0.1:1080#fragment":                                  "remove the path",
		"socks5://:secret@127.0.0.1:1080":                                   "password without a user",
		"http://me%3Ax:secret@127.0.0.1:1080":                               "colon",
		"socks5://" + strings.Repeat("u", 256) + ":secret@127.0.0.1:1080":   "255 bytes",
		"socks5://u:secret" + strings.Repeat("p", 250) + "@127.0.0.1:1080":  "255 bytes",
		"socks5h://u:secret" + strings.Repeat("p", 250) + "@127.0.0.1:1080": "255 bytes",
	} {
		_, err := Parse(rawURL)
		require.ErrorContains(t, err, text, rawURL)
		require.NotContains(t, err.Error(), "secret")
		require.NotContains(t, err.Error(), "123456")
	}
}

func TestSOCKS5_RequestIsAsInRFC1928(t *testing.T) {
	const granted = "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
	for host, address := range map[string]string{
		"name.test":   "\x03\x09name.test",
		"192.0.2.1":   "\x01\xc0\x00\x02\x01",
		"2001:db8::1": "\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
	} {
		c, err := connect(t, socksProxy, host, "\x05\x00"+granted+"after")
		require.NoError(t, err)
		require.Equal(t, "\x05\x01\x00"+"\x05\x01\x00"+address+"\x01\xbb", string(c.sent))
		require.Equal(t, "after", string(c.reply), "is the target's")

		c, err = connect(t, socksWithUser, host, "\x05\x02"+"\x01\x00"+granted)
		require.NoError(t, err)
		require.Equal(t, "\x05\x02\x00\x02"+"\x01\x02me\x09pass@word"+"\x05\x01\x00"+address+"\x01\xbb", string(c.sent))

		c, err = connect(t, socksWithUser, host, "\x05\x00"+granted)
		require.NoError(t, err)
		require.NotContains(t, string(c.sent), "pass@word", "the proxy has not asked for it")
	}
}

func TestSOCKS5_ReplyHasAnyTypeOfAddress(t *testing.T) {
	for _, reply := range []string{
		"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x00\x04" + strings.Repeat("\x00", 18), "\x05\x00\x00\x03\x04name\x00\x50",
	} {
		c, err := connect(t, socksProxy, "name.test", "\x05\x00"+reply+"after")
		require.NoError(t, err)
		require.Equal(t, "after", string(c.reply))
		for n := range reply {
			_, err := connect(t, socksProxy, "name.test", "\x05\x00"+reply[:n])
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut after %d bytes", n)
		}
	}
}

// Some proxies send a refusal of two or three bytes, without an address, and close.
func TestSOCKS5_RefusalHasItsReply(t *testing.T) {
	for code := 1; code < 256; code++ {
		_, err := connect(t, socksProxy, "name.test", "\x05\x00\x05"+string([]byte{byte(code)}))
		var refused *RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, &RefusedError{Reason: ReplyText(uint8(code)), Reply: uint8(code)}, refused)
	}
	require.Equal(t, "succeeded", ReplyText(0))
	require.Equal(t, "address type not supported", ReplyText(8))
	require.Equal(t, "unknown code: 9", ReplyText(9))
}

func TestSOCKS5_ErrorsNameWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		url, reply, text string
		refused          bool
	}{
		{socksProxy, "\x05\xff", "no acceptable authentication methods: set user and password", true},
		{socksWithUser, "\x05\xff", "no acceptable authentication methods", true},
		{socksWithUser, "\x05\x02\x01\x01", "username/password authentication failed", true},
		{socksWithUser, "\x05\x02\x05\x00", "unexpected version 5", false},
		{socksProxy, "\x04\x00", "unexpected protocol version 4", false},
		{socksProxy, "\x05\x02", "method 2 was chosen, which was not offered", false},
		{socksWithUser, "\x05\x01", "method 1 was chosen, which was not offered", false},
		{socksProxy, "\x05\x00\x00\x5b", "unexpected protocol version 0", false},
		{socksProxy, "\x05\x00\x05\x00\x01\x01", "non-zero reserved field", false},
		{socksProxy, "\x05\x00\x05\x00\x00\x09", "unknown address type 9", false},
	} {
		_, err := connect(t, test.url, "name.test", test.reply)
		require.ErrorContains(t, err, test.text)
		var refused *RefusedError
		require.Equal(t, test.refused, errors.As(err, &refused))
	}
}

func TestCONNECT_RequestIsAsInRFC9110(t *testing.T) {
	for host, authority := range map[string]string{"name.test": "name.test:443", "192.0.2.1": "192.0.2.1:443", "2001:db8::1": "[2001:db8::1]:443"} {
		line := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n"
		c, err := connect(t, httpProxy, host, "HTTP/1.1 200 OK\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, line+"\r\n", string(c.sent))
		c, err = connect(t, "http://me:pass%3Aword@proxy.test:3128", host, "HTTP/1.1 200 OK\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, line+"Proxy-Authorization: Basic bWU6cGFzczp3b3Jk\r\n\r\n", string(c.sent))
	}
}

func TestCONNECT_NoByteAfterTheHeaderIsConsumed(t *testing.T) {
	for _, header := range []string{
		"HTTP/1.1 200 Connection established\r\n\r\n",
		"HTTP/1.0 204 Yes\nX-A: b\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		config, err := Parse(httpProxy)
		require.NoError(t, err)
		for piece := 1; piece <= len(header)+5; piece++ {
			c := &fakeConn{reply: []byte(header + "after"), piece: piece}
			require.NoError(t, config.Connect(c, "name.test", 443))
			require.Equal(t, "after", string(c.reply))
		}
		for n := range header {
			_, err := connect(t, httpProxy, "name.test", header[:n])
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut after %d bytes", n)
		}
	}
}

// The status line is enough: some proxies reset the connection after it.
func TestCONNECT_RefusalHasItsStatus(t *testing.T) {
	for _, status := range []string{"101 Switching Protocols", "300 Multiple Choices", "403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"} {
		for _, rest := range []string{"\r\n", "no colon\r\n\r\n", "Proxy-Authen", ""} {
			if status[0] == '1' && !strings.HasSuffix(rest, "\r\n") {
				continue // it might be followed by another reply
			}
			if status[0] == '1' {
				rest = "\r\n"
			}
			for _, end := range []error{io.ErrUnexpectedEOF, unix.ECONNRESET} {
				config, err := Parse(httpProxy)
				require.NoError(t, err)
				c := &fakeConn{reply: []byte("HTTP/1.1 " + status + "\r\n" + rest), piece: 1, end: end}
				var code int
				_, err = fmt.Sscan(status, &code)
				require.NoError(t, err)
				require.Equal(t, &RefusedError{Reason: status, Status: code}, config.Connect(c, "name.test", 443))
			}
		}
	}
}

func TestCONNECT_ErrorsNameWhatIsWrong(t *testing.T) {
	for reply, text := range map[string]string{
		"SSH-2.0-x\r\n\r\n":                                                "malformed reply",
		"HTTP/1.1 +20 OK\r\n\r\n":                                          "malformed reply",
		"HTTP/1.1 000 OK\r\n\r\n":                                          "malformed reply",
		"HTTP/1.1 600 OK\r\n\r\n":                                          "malformed reply",
		"HTTP/2.0 200 OK\r\n\r\n":                                          "the reply is HTTP/2.0",
		"HTTP/1.2 403 Forbidden\r\n\r\n":                                   "the reply is HTTP/1.2",
		strings.Repeat("a", 70<<10):                                        "longer than 65536 bytes",
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20):                "no final reply among 16",
		"HTTP/1.1 500 a\x1b[31mb" + strings.Repeat("c", 5000) + "\r\n\r\n": "500 a[31mbccc",
	} {
		_, err := connect(t, httpProxy, "name.test", reply)
		require.ErrorContains(t, err, text)
		require.Less(t, len(err.Error()), 300)
	}
}

// A proxy may refuse and reset the connection before it has read the request.
func TestConnect_RefusalAfterAFailedSendIsReceived(t *testing.T) {
	for proxyURL, replies := range map[string]struct{ refusal, grant string }{
		httpProxy:  {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
		socksProxy: {"\x05\x00\x05\x02", "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		config, err := Parse(proxyURL)
		require.NoError(t, err)
		var refused *RefusedError
		require.ErrorAs(t, config.Connect(&fakeConn{reply: []byte(replies.refusal), piece: 9, sendErr: unix.EPIPE}, "name.test", 443), &refused)
		for _, reply := range []string{replies.grant, ""} {
			err = config.Connect(&fakeConn{reply: []byte(reply), piece: 9, sendErr: unix.EPIPE}, "name.test", 443)
			require.ErrorIs(t, err, unix.EPIPE)
		}
	}
}

func TestConnect_ErrorOfTheConnectionIsReturned(t *testing.T) {
	for proxyURL, reply := range map[string]string{httpProxy: "HTTP/1.1 200 OK\r\n\r\n", socksWithUser: "\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"} {
		config, err := Parse(proxyURL)
		require.NoError(t, err)
		for n := range reply {
			err := config.Connect(&fakeConn{reply: bytes.Clone([]byte(reply[:n])), piece: 1, end: os.ErrDeadlineExceeded}, "name.test", 443)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "after %d bytes", n)
		}
	}
}
