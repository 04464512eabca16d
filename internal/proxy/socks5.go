package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ReplyText returns the name of a SOCKS5 reply (RFC 1928, 6).
func ReplyText(code uint8) string {
	names := [...]string{
		"succeeded", "general SOCKS server failure", "connection not allowed by ruleset", "network unreachable", "host unreachable",
		"connection refused", "TTL expired", "command not supported", "address type not supported",
	}
	if int(code) < len(names) {
		return names[code]
	}
	return fmt.Sprintf("unknown code: %d", code)
}

// socks5 requests a connection (RFC 1928). Two bytes of a reply are enough to recognise a
// refusal: some proxies close the connection after them.
func (c *Config) socks5(h *handshake, host string, port uint16) error {
	if err := c.authenticate(h); err != nil {
		return err
	}
	const v4, name, v6 = 1, 3, 4
	request := []byte{5, 1, 0}
	if ip, err := netip.ParseAddr(host); err != nil {
		request = append(append(request, name, byte(len(host))), host...)
	} else if ip.Is4() {
		request = append(append(request, v4), ip.AsSlice()...)
	} else {
		request = append(append(request, v6), ip.AsSlice()...)
	}
	h.send(binary.BigEndian.AppendUint16(request, port))
	var head [2]byte
	if err := h.Recv(head[:]); err != nil {
		return err
	}
	switch {
	case head[0] != 5:
		return fmt.Errorf("unexpected protocol version %d", head[0])
	case head[1] != 0:
		return &RefusedError{Reason: ReplyText(head[1]), Reply: head[1]}
	}
	if err := h.Recv(head[:]); err != nil { // RSV and ATYP
		return err
	}
	if head[0] != 0 {
		return errors.New("non-zero reserved field")
	}
	var rest int
	switch head[1] {
	case v4:
		rest = net.IPv4len
	case v6:
		rest = net.IPv6len
	case name:
		if err := h.Recv(head[:1]); err != nil {
			return err
		}
		rest = int(head[0])
	default:
		return fmt.Errorf("unknown address type %d", head[1])
	}
	return h.Recv(make([]byte, rest+2)) // and the port
}

// authenticate negotiates the method (RFC 1928, 3) and sends user and password (RFC 1929).
func (c *Config) authenticate(h *handshake) error {
	const noAuth, userAndPassword, noneAcceptable = 0, 2, 0xff
	offers := []byte{5, 1, noAuth}
	if c.user != nil {
		offers = []byte{5, 2, noAuth, userAndPassword}
	}
	h.send(offers)
	var head [2]byte
	if err := h.Recv(head[:]); err != nil {
		return err
	}
	switch method := head[1]; {
	case head[0] != 5:
		return fmt.Errorf("unexpected protocol version %d", head[0])
	case method == noAuth:
		return nil
	case method == userAndPassword && c.user != nil:
	case method == noneAcceptable && c.user == nil:
		return &RefusedError{Reason: "no acceptable authentication methods: set user and password in Proxy"}
	case method == noneAcceptable:
		return &RefusedError{Reason: "no acceptable authentication methods"}
	default:
		return fmt.Errorf("authentication method %d was chosen, which was not offered", method)
	}
	user := c.user.Username()
	password, _ := c.user.Password()
	request := append([]byte{1, byte(len(user))}, user...)
	h.send(append(append(request, byte(len(password))), password...))
	if err := h.Recv(head[:]); err != nil {
		return err
	}
	switch {
	case head[0] != 1:
		return fmt.Errorf("unexpected version %d of the user and password protocol", head[0])
	case head[1] != 0:
		return &RefusedError{Reason: "username/password authentication failed"}
	}
	return nil
}
