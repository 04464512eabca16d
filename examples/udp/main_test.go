package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// dnsServer answers questions in the way that the first label of their name says.
func dnsServer(t *testing.T) (address string) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		asked := make(map[string]int)
		for buf := make([]byte, 2000); ; {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			name := m.Questions[0].Name.String()
			asked[name]++
			for _, reply := range replies(m, asked[name]) {
				if p, err := reply.Pack(); err == nil {
					_, _ = server.WriteTo(p, from)
				}
			}
		}
	}()
	return server.LocalAddr().String()
}

// hostile has control characters for the terminal.
var hostile = dnsmessage.MustNewName("a\x1b[31m\r\n.test.")

// replies are what the server sends for a question that it is asked for the nth time.
func replies(asked dnsmessage.Message, n int) []dnsmessage.Message {
	q := asked.Questions[0]
	good := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: asked.ID, Response: true},
		Questions: asked.Questions,
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(n)}},
		}},
	}
	forged := good
	forged.Answers = []dnsmessage.Resource{{Header: good.Answers[0].Header, Body: &dnsmessage.AResource{A: [4]byte{6, 6, 6, 6}}}}
	switch label, _, _ := strings.Cut(q.Name.String(), "."); label {
	case "silent":
		return nil
	case "lost":
		if n == 1 {
			return nil
		}
	case "unknown":
		good.RCode, good.Answers = dnsmessage.RCodeNameError, nil
	case "empty":
		good.Answers = nil
	case "long":
		good.Truncated = true
	case "doubled":
		return []dnsmessage.Message{good, good}
	case "hostile":
		good.Answers = []dnsmessage.Resource{
			{Header: good.Answers[0].Header, Body: &dnsmessage.CNAMEResource{CNAME: hostile}},
			{Header: good.Answers[0].Header, Body: &dnsmessage.MXResource{Pref: 1, MX: hostile}},
			{Header: good.Answers[0].Header, Body: &dnsmessage.NSResource{NS: hostile}},
			{Header: good.Answers[0].Header, Body: &dnsmessage.PTRResource{PTR: hostile}},
			{Header: good.Answers[0].Header, Body: &dnsmessage.TXTResource{TXT: []string{hostile.String()}}},
		}
	case "forged":
		otherID, otherName, noReply := forged, forged, forged
		otherID.ID++
		otherName.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("elsewhere."), Type: q.Type, Class: q.Class}}
		noReply.Response = false
		return []dnsmessage.Message{otherID, otherName, noReply, good}
	}
	return []dnsmessage.Message{good}
}

// table runs the program and gives its table by name, in columns.
func table(t *testing.T, in string, args ...string) (rows map[string][]string, out string, err error) {
	t.Helper()
	var b bytes.Buffer
	err = run(t.Context(), args, strings.NewReader(in), &b)
	rows = make(map[string][]string)
	for line := range strings.Lines(b.String()) {
		if columns := regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(line), -1); len(columns) == 4 {
			rows[columns[0]] = columns[1:]
		}
	}
	return rows, b.String(), err
}

func TestUDP_EachNameHasItsAnswerInTheTable(t *testing.T) {
	rows, out, err := table(t, "", "-server", dnsServer(t), "-wait", "200ms",
		"known.test", "Upper.TEST.", "unknown.test", "empty.test", "long.test", "doubled.test", "forged.test")
	require.NoError(t, err)
	for name, want := range map[string][2]string{
		"known.test": {"1", "192.0.2.1"}, "Upper.TEST.": {"1", "192.0.2.1"}, "unknown.test": {"1", "NameError"},
		"empty.test": {"1", "(no such records)"}, "long.test": {"1", "192.0.2.1 (there is more, over tcp)"},
		"doubled.test": {"1", "192.0.2.1"}, "forged.test": {"1", "192.0.2.1"},
	} {
		require.Len(t, rows[name], 3, "%s: %s", name, out)
		require.Equal(t, want, [2]string(rows[name][1:]), name)
	}
	require.Contains(t, out, "7 of 7 answered")
}

func TestUDP_NamesInAnswersAreEscaped(t *testing.T) {
	rows, out, err := table(t, "", "-server", dnsServer(t), "hostile.test")
	require.NoError(t, err)
	const name = `a\x1b[31m\r\n.test.`
	require.Equal(t, "→ "+name+" 1 "+name+" "+name+" "+name+` "`+name+`"`, rows["hostile.test"][2], out)
	require.NotContains(t, out, "\x1b")
}

func TestUDP_AQuestionIsAskedAgain(t *testing.T) {
	rows, _, err := table(t, "", "-server", dnsServer(t), "-wait", "50ms", "lost.test", "known.test")
	require.NoError(t, err)
	require.Equal(t, []string{"2", "192.0.2.2"}, rows["lost.test"][1:])
	took, err := time.ParseDuration(rows["lost.test"][0])
	require.NoError(t, err)
	require.GreaterOrEqual(t, took, 50*time.Millisecond)
}

func TestUDP_ANameWithoutAnAnswerIsAnError(t *testing.T) {
	began := time.Now()
	rows, out, err := table(t, "silent.test\nknown.test", "-server", dnsServer(t), "-wait", "20ms", "-tries", "2")
	require.EqualError(t, err, "no answer for 1 of 2 names")
	require.GreaterOrEqual(t, time.Since(began), 60*time.Millisecond, "20 ms, and then 40")
	require.Equal(t, []string{"-", "2", "no answer"}, rows["silent.test"])
	require.Equal(t, "192.0.2.1", rows["known.test"][2])
	require.Contains(t, out, "1 of 2 answered")
}

func TestUDP_ManyNamesInBatches(t *testing.T) {
	var names strings.Builder
	for i := range 500 {
		fmt.Fprintf(&names, "n%d.test ", i)
	}
	_, out, err := table(t, names.String(), "-server", dnsServer(t), "-wait", "2s", "-window", "50")
	require.NoError(t, err)
	require.Contains(t, out, "500 of 500 answered")
}

func TestUDP_AClosedPortIsToldAtOnce(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	began := time.Now()
	_, _, err = table(t, "", "-server", gone.LocalAddr().String(), "-wait", "1m", "known.test")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestUDP_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	err := run(ctx, []string{"-server", dnsServer(t), "-wait", "1m", "silent.test"}, nil, new(bytes.Buffer))
	require.ErrorIs(t, err, context.Canceled)
}

func TestUDP_ArgumentsThatMeanNothingAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"known.test"}, {"-server", "127.0.0.1"}, {"-server", "127.0.0.1", "-type", "HINFO", "known.test"},
		{"-server", "127.0.0.1", "-tries", "0", "known.test"}, {"-server", "127.0.0.1", "-wait", "-1s", "known.test"},
		{"-server", "127.0.0.1", "-window", "0", "known.test"},
		{"-server", "127.0.0.1", strings.Repeat("a", 64) + ".test"}, {"-server", "127.0.0.1", "a..test"},
	} {
		_, _, err := table(t, "", args...)
		require.Error(t, err, args)
	}
	_, _, err := table(t, "", "-server", "127.0.0.1", "-window", "65537", "known.test") // there are 65,536 IDs
	require.ErrorContains(t, err, "-window is 65537")
	for address, want := range map[string]string{
		"192.0.2.53": "192.0.2.53:53", "192.0.2.53:5353": "192.0.2.53:5353", "2001:db8::53": "[2001:db8::53]:53",
		"[2001:db8::53]": "[2001:db8::53]:53", "[2001:db8::53]:5353": "[2001:db8::53]:5353", "dns.test": "dns.test:53",
	} {
		require.Equal(t, want, withPort(address, "53"))
	}
}
