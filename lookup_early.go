package client

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// recordAnswer records the answer to a query, or why there is none.
func (l *sharedLookup) recordAnswer(typ dnsmessage.Type, ips []netip.Addr, failed *net.DNSError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failed, typ)
	if failed != nil {
		l.failed[typ] = failed
	}
	if len(ips) == 0 || l.answered[typ] != nil {
		return
	}
	l.answered[typ] = ips
	for s := range l.members {
		s.addEarly(ips)
	}
}

// bestError returns the error of a lookup. The host does not exist only if both answers
// say so; package net returns the error of the answer that arrives first.
func (l *sharedLookup) bestError(err error) error {
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var most *net.DNSError
	for _, failed := range l.failed {
		if most == nil || failed.IsTimeout {
			most = failed
		}
	}
	if most == nil {
		return err
	}
	named := *most
	named.Name = l.host
	return &named
}

// An observedConn parses the messages on a resolver's connection, which is for one query.
type observedConn struct {
	net.Conn
	lookup   *sharedLookup
	stream   bool
	id       uint16
	question dnsmessage.Question
	received []byte // from a stream
}

// An observedPacketConn is an observedConn that package net recognizes as one for
// datagrams.
type observedPacketConn struct {
	*observedConn
	net.PacketConn
}

func (l *sharedLookup) observe(conn net.Conn) net.Conn {
	c := &observedConn{Conn: conn, lookup: l}
	if pc, ok := conn.(net.PacketConn); ok {
		return observedPacketConn{c, pc}
	}
	c.stream = true
	return c
}

func (c *observedConn) Write(b []byte) (int, error) {
	message := b
	if c.stream {
		message = b[min(2, len(b)):] // after the length
	}
	var p dnsmessage.Parser
	if h, err := p.Start(message); err == nil {
		c.id = h.ID
		c.question, _ = p.Question()
	}
	return c.Conn.Write(b)
}

func (c *observedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.lookup.recordAnswer(c.question.Type, nil, &net.DNSError{Err: err.Error(), UnwrapErr: err, IsTimeout: isTimeout(err), IsTemporary: true})
		return n, err
	}
	if !c.stream {
		c.parse(b[:n])
		return n, nil
	}
	c.received = append(c.received, b[:n]...)
	if len(c.received) >= 2 {
		if end := 2 + int(binary.BigEndian.Uint16(c.received)); len(c.received) == end {
			c.parse(c.received[2:])
		}
	}
	return n, nil
}

// parse reads from a message what package net reads. It ignores a message that does not
// answer the query: anyone can send such a datagram.
func (c *observedConn) parse(message []byte) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || !h.Response || h.ID != c.id || h.Truncated && !c.stream {
		return
	}
	q, err := p.Question()
	if err != nil || q.Type != c.question.Type || q.Class != c.question.Class || !sameQuestion(q.Name, c.question.Name) {
		return
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		c.lookup.recordAnswer(q.Type, nil, nil)
		return
	default:
		c.lookup.recordAnswer(q.Type, nil, &net.DNSError{Err: "server misbehaving", Server: c.RemoteAddr().String(), IsTemporary: true})
		return
	}
	if p.SkipAllQuestions() != nil {
		return
	}
	var ips []netip.Addr
	for {
		rh, err := p.AnswerHeader()
		if err != nil {
			break
		}
		switch rh.Type {
		case dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				ips = append(ips, netip.AddrFrom4(a.A))
			}
		case dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				ips = append(ips, netip.AddrFrom16(a.AAAA))
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			break
		}
	}
	c.lookup.recordAnswer(q.Type, ips, nil)
}

// sameQuestion compares names without regard to ASCII case (RFC 4343).
func sameQuestion(a, b dnsmessage.Name) bool {
	if a.Length != b.Length {
		return false
	}
	lower := func(c byte) byte {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	for i := range a.Length {
		if lower(a.Data[i]) != lower(b.Data[i]) {
			return false
		}
	}
	return true
}
