package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A script is a resolver's connection that gives one piece after another.
type script struct {
	net.Conn
	pieces [][]byte
}

func (*script) Write(b []byte) (int, error) { return len(b), nil }
func (*script) RemoteAddr() net.Addr        { return &net.UDPAddr{} }
func (s *script) Read(b []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func dnsMessage(t testing.TB, change func(*dnsmessage.Message)) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName("Host.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
	}}
	change(&m)
	b, err := m.Pack()
	require.NoError(t, err)
	return b
}

// aReply is the valid answer after a change.
func aReply(t testing.TB, change func(*dnsmessage.Message)) []byte {
	return dnsMessage(t, func(m *dnsmessage.Message) {
		m.Response = true
		m.Questions[0].Name = dnsmessage.MustNewName("host.TEST.")
		m.Answers = []dnsmessage.Resource{
			{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("real.test.")},
			},
			{
				Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("real.test."), Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
			},
		}
		change(m)
	})
}

// Only what package net accepts is taken from a resolver's connection: the answer to the
// query, not a datagram of someone else (golang.org/issue/13281).
func TestLookup_EarlyAnswerMustMatchItsQuery(t *testing.T) {
	same := func(*dnsmessage.Message) {}
	reply := aReply(t, same)
	for name, test := range map[string]struct {
		message []byte
		taken   bool
	}{
		"the answer":        {reply, true},
		"another ID":        {aReply(t, func(m *dnsmessage.Message) { m.ID = 8 }), false},
		"a question":        {aReply(t, func(m *dnsmessage.Message) { m.Response = false }), false},
		"cut off":           {aReply(t, func(m *dnsmessage.Message) { m.Truncated = true }), false},
		"another name":      {aReply(t, func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("mail.test.") }), false},
		"a longer name":     {aReply(t, func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("host.test.test.") }), false},
		"another type":      {aReply(t, func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX }), false},
		"another class":     {aReply(t, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), false},
		"no question":       {aReply(t, func(m *dnsmessage.Message) { m.Questions = nil }), false},
		"no such name":      {aReply(t, func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), false},
		"a failure":         {aReply(t, func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }), false},
		"nothing":           {nil, false},
		"no message":        {[]byte("hello"), false},
		"half of a header":  {reply[:6], false},
		"half of an answer": {reply[:len(reply)-2], false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLookup(lookupKey{"ip", "host.test"})
			c := observedPacketConn{observedConn: &observedConn{Conn: &script{pieces: [][]byte{test.message, reply}}, lookup: l}}
			_, err := c.Write(dnsMessage(t, same))
			require.NoError(t, err)
			buf := make([]byte, 1500)
			want := map[dnsmessage.Type][]netip.Addr{}
			for _, taken := range []bool{test.taken, true} { // the second is the answer
				if taken {
					want[dnsmessage.TypeA] = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
				}
				_, err = c.Read(buf)
				require.NoError(t, err)
				require.Equal(t, want, l.answered)
			}
		})
	}
}

// On a stream a message follows its length (RFC 1035, 4.2.2), in any number of pieces.
func TestLookup_EarlyAnswerFromAStreamInPieces(t *testing.T) {
	question := dnsMessage(t, func(*dnsmessage.Message) {})
	reply := aReply(t, func(*dnsmessage.Message) {})
	framed := func(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }
	whole := framed(reply)
	for at := range len(whole) {
		l := newLookup(lookupKey{"ip", "host.test"})
		c := l.observe(&script{pieces: [][]byte{whole[:at], whole[at:]}})
		_, isPacket := c.(net.PacketConn)
		require.False(t, isPacket, "package net would not send the length")
		_, err := c.Write(framed(question))
		require.NoError(t, err)
		if at == 0 {
			_, err = c.Read(make([]byte, 1500)) // an empty piece
			require.NoError(t, err)
		}
		_, err = io.ReadFull(c, make([]byte, len(whole)))
		require.NoError(t, err)
		require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, l.answered[dnsmessage.TypeA])

		_, err = c.Read(make([]byte, 10))
		require.ErrorIs(t, err, io.EOF)
	}
}

// A failed query decides the error, as long as no other server has answered it.
func TestLookup_NotFoundNeedsBothAnswers(t *testing.T) {
	missing := &net.DNSError{Err: "no such host", Name: "host.test", IsNotFound: true}
	other := errors.New("other")
	l := newLookup(lookupKey{"ip", "host.test"})
	require.Equal(t, missing, l.bestError(missing))
	l.recordAnswer(dnsmessage.TypeA, nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true})
	require.Equal(t, other, l.bestError(other))
	require.EqualError(t, l.bestError(missing), "lookup host.test: server misbehaving")
	l.recordAnswer(dnsmessage.TypeAAAA, nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true})
	for range 20 {
		require.EqualError(t, l.bestError(missing), "lookup host.test: i/o timeout")
	}
	l.recordAnswer(dnsmessage.TypeA, nil, nil)
	l.recordAnswer(dnsmessage.TypeAAAA, nil, nil)
	require.Equal(t, missing, l.bestError(missing))
}

// Datagrams are parsed before package net has judged them. Whatever one contains, an
// address is taken only from an answer with the query's ID, and once.
func FuzzAnswer(f *testing.F) {
	same := func(*dnsmessage.Message) {}
	f.Add(aReply(f, same))
	f.Add(dnsMessage(f, same))
	f.Add([]byte("hello"))
	question := dnsMessage(f, same)
	f.Fuzz(func(t *testing.T, message []byte) {
		l := newLookup(lookupKey{"ip", "host.test"})
		c := observedPacketConn{observedConn: &observedConn{Conn: &script{pieces: [][]byte{message}}, lookup: l}}
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(message)+1)
		if n, err := c.Read(buf); err == nil && n != len(message) {
			t.Fatalf("%d bytes of %d", n, len(message))
		}
		for typ, ips := range l.answered {
			if len(message) < 12 || !bytes.Equal(message[:2], question[:2]) || typ != dnsmessage.TypeA || len(ips) == 0 {
				t.Fatalf("%v for %v from %q", ips, typ, message)
			}
		}
	})
}
