package client

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// A lookup is a question of package net for both families of a host, which it asks once
// for all who have it at the same time. Net's Go resolver asks for one name of the search list after
// another, and the first that has an address of either family is the host. So the
// addresses that come in the first answer are among those that net is going to give,
// however long the other answer takes. Of a lookup by the system's library nothing is
// learnt before it ends.
type lookup struct {
	mu       sync.Mutex
	searches map[*search]struct{}
	answered map[dnsmessage.Type][]netip.Addr
	failed   map[dnsmessage.Type]*net.DNSError // if the last answer to the question is none
}

// join has a search told of the early answers of the lookup that it is going to be part of.
func (t *tiedResolver) join(s *search) *lookup {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lookups[s.host]
	if l == nil {
		l = &lookup{
			searches: make(map[*search]struct{}),
			answered: make(map[dnsmessage.Type][]netip.Addr),
			failed:   make(map[dnsmessage.Type]*net.DNSError),
		}
		t.lookups[s.host] = l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.searches[s] = struct{}{}
	for _, ips := range l.answered {
		s.hear(ips)
	}
	return l
}

// leave ends that. The lookup goes on for others unless it is over.
func (t *tiedResolver) leave(l *lookup, s *search, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.searches, s)
	if (over || len(l.searches) == 0) && t.lookups[s.host] == l {
		delete(t.lookups, s.host)
	}
}

// hear takes an early answer.
func (s *search) hear(ips []netip.Addr) {
	if addrs := s.n.addrs(ips, s.port); len(addrs) > 0 {
		s.answers <- answer{early: true, addrs: addrs} // there is room
		s.later.Notify()
	}
}

// answer takes an answer to a question, or none.
func (l *lookup) answer(typ dnsmessage.Type, ips []netip.Addr, failed *net.DNSError) {
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
	for s := range l.searches {
		s.hear(ips)
	}
}

// mostTelling is the error of a lookup: that there is no such host has to be said by both
// answers, and package net gives the error of the one that comes first.
func (l *lookup) mostTelling(host string, err error) error {
	var dns *net.DNSError
	if l == nil || !errors.As(err, &dns) || !dns.IsNotFound {
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
	named.Name = host
	return &named
}

// An observedConn reads along on a resolver's connection, which is for one question.
type observedConn struct {
	net.Conn
	of       *lookup
	stream   bool
	id       uint16
	question dnsmessage.Question
	received []byte // of a stream
}

// An observedPacketConn is one that package net sees is for datagrams.
type observedPacketConn struct {
	*observedConn
	net.PacketConn
}

func (l *lookup) observe(conn net.Conn) net.Conn {
	c := &observedConn{Conn: conn, of: l}
	if pc, ok := conn.(net.PacketConn); ok {
		return observedPacketConn{c, pc}
	}
	c.stream = true
	return c
}

func (c *observedConn) Write(b []byte) (int, error) {
	message := b
	if c.stream {
		message = b[min(2, len(b)):] // its length comes first
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
		c.of.answer(c.question.Type, nil, &net.DNSError{Err: err.Error(), UnwrapErr: err, IsTimeout: isTimeout(err), IsTemporary: true})
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

// parse takes from a message what package net would take. A datagram that does not
// answer the question can be anybody's.
func (c *observedConn) parse(message []byte) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || !h.Response || h.ID != c.id || h.Truncated && !c.stream {
		return
	}
	q, err := p.Question()
	if err != nil || q.Type != c.question.Type || q.Class != c.question.Class || !sameName(q.Name, c.question.Name) {
		return
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		c.of.answer(q.Type, nil, nil)
		return
	default:
		c.of.answer(q.Type, nil, &net.DNSError{Err: "server misbehaving", Server: c.RemoteAddr().String(), IsTemporary: true})
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
	c.of.answer(q.Type, ips, nil)
}

// sameName compares as RFC 4343 has it: without case, in ASCII.
func sameName(a, b dnsmessage.Name) bool {
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
