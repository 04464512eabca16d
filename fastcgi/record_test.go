package fastcgi

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/header"
	"github.com/stretchr/testify/require"
)

func TestRecords_AreAsInTheSpecification(t *testing.T) {
	t.Parallel()
	require.Equal(t, []byte{1, 4, 0, 1, 0, 3, 5, 0, 'a', 'b', 'c', 0, 0, 0, 0, 0}, appendRecord(nil, typeParams, 1, []byte("abc")))
	require.Equal(t, []byte{1, 5, 0, 1, 0, 0, 0, 0}, appendRecord(nil, typeStdin, 1, nil))
	require.Equal(t, []byte{1, 9, 0, 0, 0, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, appendRecord(nil, typeGetValues, 0, []byte{1, 2, 3, 4, 5, 6, 7, 8}))
	require.Equal(t, "\x01\x02ab\x63", string(appendPair(nil, "a", "bc")))
	long := strings.Repeat("x", 128)
	require.Equal(t, "\x01\x80\x00\x00\x80a"+long, string(appendPair(nil, "a", long)))
}

// Records may divide parameters at any byte.
func TestParameters_OfAnyLengthAreNotTruncated(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"A": strings.Repeat("a", 70_000), strings.Repeat("N", 70_000): "v", "EMPTY": "", "": "nameless",
		"B": strings.Repeat("b", 200_000),
	}
	h, err := newRequestHead(&Request{Params: want}, 0)
	require.NoError(t, err)
	head := h.p
	var stream []byte
	ended := false
	for i := 0; len(head) > 0; i++ {
		n := recordLen(head)
		r, err := parseRecord(head[:n])
		require.NoError(t, err)
		require.EqualValues(t, firstRequestID, r.id)
		if i == 0 {
			require.Equal(t, typeBeginRequest, r.typ)
			require.Equal(t, []byte{0, 1, 1, 0, 0, 0, 0, 0}, r.content)
		} else {
			require.Equal(t, typeParams, r.typ)
			require.False(t, ended)
			ended = len(r.content) == 0
			stream = append(stream, r.content...)
		}
		head = head[n:]
	}
	require.True(t, ended)
	got, err := parsePairs(stream)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// php-fpm parses each record of parameters by itself.
func TestParameters_ThatFitIntoARecordAreNotDivided(t *testing.T) {
	t.Parallel()
	for _, lengths := range [][]int{
		{}, {maxUnpaddedLen - 6}, {maxUnpaddedLen - 6, 1}, {maxUnpaddedLen - 6 - 4, 1}, {30_000, 30_000, 30_000, 30_000},
		{65_000, 1, 126, 127, 128, 65_000}, {maxUnpaddedLen - 5, 1, 1}, {200_000, 1, 40_000, 40_000},
	} {
		r := &Request{Params: map[string]string{}, Body: strings.NewReader("")}
		for i, n := range lengths {
			r.Params[string(rune('A'+i))] = strings.Repeat("v", n)
		}
		head, err := newRequestHead(r, 7)
		require.NoError(t, err)
		want := map[string]string{"CONTENT_LENGTH": "7"}
		for name, value := range r.Params {
			if pairLen(name, value) <= maxUnpaddedLen {
				want[name] = value
			}
		}
		got := map[string]string{}
		p := head.p[recordLen(head.p):]
		for ; len(p) > headerLen; p = p[recordLen(p):] {
			r, err := parseRecord(p[:recordLen(p)])
			require.NoError(t, err)
			require.NotEmpty(t, r.content, "an empty record ends the stream")
			require.LessOrEqual(t, len(r.content), maxUnpaddedLen)
			require.Zero(t, recordLen(p)%8)
			pairs, err := parsePairs(r.content)
			if err == nil { // it is no part of a longer pair
				maps.Copy(got, pairs)
			}
		}
		require.Equal(t, appendRecord(nil, typeParams, firstRequestID, nil), p)
		for name, value := range want {
			require.Equal(t, value, got[name], "%s of %d in %v", name, len(value), lengths)
		}
		head.free()
	}
}

func TestPairs_CutOffAreAnError(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"\x01", "\x01\x01", "\x01\x01a", "\x80", "\x80\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x80\x00\x00\x05abcd"} {
		_, err := parsePairs([]byte(p))
		var bad *ProtocolError
		require.ErrorAs(t, err, &bad, "%q", p)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, typeStdout, 1, []byte("hello")))
	f.Add([]byte{1, 6, 0, 1, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		if n := recordLen(p); n < 0 || n > maxRecordLen {
			t.Fatal(n)
		}
		r, err := parseRecord(p)
		if err == nil && len(r.content)+headerLen > len(p) {
			t.Fatal(r)
		}
	})
}

func FuzzPairs(f *testing.F) {
	f.Add([]byte("\x01\x02ab\x63"), "NAME", "value")
	f.Fuzz(func(t *testing.T, p []byte, name, value string) {
		_, _ = parsePairs(p)
		got, err := parsePairs(appendPair(nil, name, value))
		if err != nil || len(got) != 1 || got[name] != value {
			t.Fatalf("%q %q: %q %v", name, value, got, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"Status: 404 Not Found\r\nA: b\r\n\r\nbody", "\n", "A:b\n\nx", "Location: /x\n\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		end := header.End(p, 0)
		if end > len(p) {
			t.Fatal(end)
		}
		if cut >= 0 && cut < len(p) { // in two pieces
			if first := header.End(p[:cut], 0); first >= 0 && first != end {
				t.Fatal(first, end)
			} else if first < 0 {
				if again := header.End(p, cut); again != end {
					t.Fatal(again, end)
				}
			}
		}
		if end < 0 {
			return
		}
		status, _, h, err := parseCGIHeader(p[:end])
		if err != nil {
			return
		}
		if status < 200 || status > 999 {
			t.Fatal(status)
		}
		for name, values := range h {
			for _, v := range values {
				if !isToken(name) || bytes.ContainsAny([]byte(v), "\r\n\x00") {
					t.Fatalf("%q: %q", name, v)
				}
			}
		}
	})
}

func TestHeaders_AreParsed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		status int
		reason string
		fails  string
	}{
		"Content-Type: a\r\n\r\n":             {status: 200, reason: "OK"},
		"A: b\nC:d\n\n":                       {status: 200, reason: "OK"},
		"Status: 404 Not Found\r\nA: b\r\n\n": {status: 404, reason: "Not Found"},
		"Status: 201\nA: b\n\n":               {status: 201},
		"Status: 201Made\nA: b\n\n":           {status: 201, reason: "Made"},
		"Location: /x\n\n":                    {status: 302, reason: "Found"},
		"Status: 301\nLocation: /x\n\n":       {status: 301},
		"\n":                                  {status: 200, reason: "OK"}, // after header_remove() in PHP
		"\r\n":                                {status: 200, reason: "OK"},
		"hello\n\n":                           {fails: "malformed field"},
		"A b: c\n\n":                          {fails: "malformed field name"},
		"A : c\n\n":                           {fails: "malformed field name"},
		": c\n\n":                             {fails: "malformed field name"},
		"A: b\n c\n\n":                        {fails: "malformed field name"}, // RFC 9112, section 5.2: no line folding
		"A: b\x00\n\n":                        {fails: "CR or NUL in a field value"},
		"A: b\rc\n\n":                         {fails: "CR or NUL in a field value"},
		"Status: x\n\n":                       {fails: "malformed Status"},
		"Status: 99\n\n":                      {fails: "malformed Status"},
		"Status: 100\n\n":                     {fails: "malformed Status"},
		"Status: 2000\n\n":                    {fails: "malformed Status"},
		"Status: +20\n\n":                     {fails: "malformed Status"},
		"Status:\n\n":                         {fails: "malformed Status"},
		"Status: 200\nStatus: 404\n\n":        {fails: "two Status fields that differ"},
		"Status: 404\nStatus: 404\n\n":        {status: 404},
		"A\u00e4: b\n\n":                      {fails: "malformed field"},
		"HTTP/1.1 404 Not Found\n\n":          {fails: "a status line"},
	} {
		require.Equal(t, len(in), header.End([]byte(in), 0), "%q", in)
		status, reason, h, err := parseCGIHeader([]byte(in))
		if want.fails != "" {
			var bad *HeaderError
			require.ErrorAs(t, err, &bad, "%q", in)
			require.ErrorContains(t, err, want.fails, "%q", in)
			continue
		}
		require.NoError(t, err, "%q", in)
		require.Equal(t, want.status, status)
		require.Equal(t, want.reason, reason)
		require.Empty(t, h.Get("Status"))
	}
	require.Equal(t, -1, header.End([]byte("A: b\r\n"), 0))
	require.Equal(t, -1, header.End(nil, 0))
}
