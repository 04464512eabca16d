package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/blocksock/client/internal/header"
	"golang.org/x/sys/unix"
)

const (
	maxReply   = 64 << 10 // bytes of the header of a reply
	maxReplies = 16       // interim replies and the final one
)

func (c *Config) httpConnect(h *handshake, host string, port uint16) error {
	authority := net.JoinHostPort(host, strconv.Itoa(int(port)))
	var request bytes.Buffer
	fmt.Fprintf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", authority, authority)
	if c.user != nil {
		password, _ := c.user.Password()
		credentials := base64.StdEncoding.EncodeToString([]byte(c.user.Username() + ":" + password))
		fmt.Fprintf(&request, "Proxy-Authorization: Basic %s\r\n", credentials)
	}
	request.WriteString("\r\n")
	h.send(request.Bytes())
	for range maxReplies {
		resp, err := readReply(h)
		switch {
		case err != nil:
			return err
		case resp.StatusCode >= 200 && resp.StatusCode < 300:
			return nil
		case resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			continue // interim: RFC 9110, 15.2
		}
		return &RefusedError{Reason: printable(resp.Status), Status: resp.StatusCode}
	}
	return fmt.Errorf("no final reply among %d, only interim ones", maxReplies)
}

// printable makes the text of a peer fit for a log: short, and without control characters.
func printable(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return s[:min(len(s), most)]
}

// readReply reads the header of a reply and not one byte more: what follows it is sent by
// the target. Peek shows where the header ends. A complete status line is enough to
// recognise a refusal, if the proxy closes the connection before the end of the header.
func readReply(c Conn) (*http.Response, error) {
	var head []byte
	buf := make([]byte, 4<<10)
	for end := -1; end < 0; {
		n, err := c.Peek(buf[:min(len(buf), maxReply-len(head))])
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
			if resp, bad := parseStatus(head); bad == nil && resp.StatusCode >= 300 {
				return resp, nil
			}
		}
		if err != nil {
			return nil, err
		}
		seen := append(head, buf[:n]...)
		end = header.End(seen, len(head))
		take := n
		if end >= 0 {
			take = end - len(head)
		}
		if err := c.Recv(buf[:take]); err != nil {
			return nil, err
		}
		head = seen[:len(head)+take]
		if end < 0 && len(head) == maxReply {
			return nil, fmt.Errorf("the header of the reply is longer than %d bytes", maxReply)
		}
	}
	return parseStatus(head)
}

// parseStatus parses the status line of a reply. The fields are ignored: what they say about
// a body does not count (RFC 9110, 9.3.6), and a malformed one must not hide a refusal.
func parseStatus(head []byte) (*http.Response, error) {
	status, _, whole := bytes.Cut(head, []byte("\n"))
	if !whole {
		return nil, io.ErrUnexpectedEOF
	}
	line := append(bytes.Clone(status), "\n\r\n"...)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(line)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("malformed reply: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode < 100 || resp.StatusCode > 599 { // net/http accepts "+20" and "000"
		return nil, errors.New("malformed reply: the status is not one of 100 to 599 (RFC 9110, 15)")
	}
	if resp.ProtoMajor != 1 || resp.ProtoMinor > 1 {
		return nil, fmt.Errorf("the reply is %s: CONNECT must be answered in HTTP/1.0 or HTTP/1.1 (RFC 9112, 2.3)", resp.Proto)
	}
	return resp, nil
}
