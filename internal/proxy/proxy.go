// Package proxy asks a proxy to connect to a target, by SOCKS5 (RFC 1928, RFC 1929) or by
// HTTP CONNECT (RFC 9110, 9.3.6). It works on any connection and makes none.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// A Conn is a connection to a proxy. One limit bounds all calls. A stream that ends is
// io.ErrUnexpectedEOF.
type Conn interface {
	Send(p []byte) error        // sends all of p
	Recv(p []byte) error        // fills p
	Peek(p []byte) (int, error) // waits for a byte or more and leaves them in the stream
}

// A Config says how to ask a proxy.
type Config struct {
	URL     string // without user and password, for errors
	Address string // host:port

	user    *url.Userinfo // nil: none
	connect func(c *Config, h *handshake, host string, port uint16) error
}

// Parse parses the URL of a proxy. No error contains the password.
func Parse(rawURL string) (*Config, error) {
	u, err := url.Parse(rawURL)
	if err != nil { // its text contains the password
		return nil, errors.New("not a URL: set it to scheme://user:password@host:port or scheme://host:port")
	}
	c := &Config{URL: u.Scheme + "://" + u.Host, Address: u.Host, user: u.User}
	switch u.Scheme {
	case "socks5", "socks5h":
		c.connect = (*Config).socks5
	case "http":
		c.connect = (*Config).httpConnect
	default:
		return nil, fmt.Errorf("scheme %q is not supported: use socks5, socks5h or http", u.Scheme)
	}
	switch {
	case !hasPort(u.Host): // u.Host may be the beginning of a password with a "/" in it
		return nil, errors.New("no host and port: set both, and escape / ? # in user and password as %2F %3F %23")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("more than a host and a port: remove the path, the query and the fragment")
	}
	if c.user == nil {
		return c, nil
	}
	password, _ := c.user.Password()
	switch user := c.user.Username(); {
	case user == "":
		return nil, errors.New("password without a user: set both")
	case u.Scheme == "http" && strings.Contains(user, ":"):
		return nil, errors.New("the user must not contain a colon (RFC 7617)")
	case u.Scheme != "http" && (len(user) > 255 || len(password) > 255):
		return nil, errors.New("user and password must not be longer than 255 bytes (RFC 1929)")
	}
	return c, nil
}

func hasPort(address string) bool {
	host, service, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return false
	}
	port, err := strconv.ParseUint(service, 10, 16)
	return err == nil && port != 0
}

// A RefusedError is the error of a proxy that understood the request and refused it.
type RefusedError struct {
	Reason string
	Reply  uint8 // of a SOCKS5 proxy to the request; otherwise zero
	Status int   // of an HTTP proxy; otherwise zero
}

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Connect makes the handshake, after which the connection is one to host and port. No byte
// that the target has sent is consumed.
func (c *Config) Connect(conn Conn, host string, port uint16) error {
	h := &handshake{Conn: conn}
	err := c.connect(c, h, host, port)
	var refused *RefusedError
	if h.sendErr != nil && !errors.As(err, &refused) {
		return h.sendErr
	}
	return err
}

// A handshake goes on after a Send that failed: a proxy that refuses before it has read the
// request may reset the connection, and the refusal can still be received.
type handshake struct {
	Conn
	sendErr error // of the first Send that failed
}

func (h *handshake) send(p []byte) {
	if h.sendErr == nil {
		h.sendErr = h.Send(p)
	}
}
