package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// receive has the buffer receive a stream as stream.go does, and returns its next packet.
func receive(t *testing.T, b *Buffer, stream *bytes.Reader) []byte {
	t.Helper()
	return receiveInto(t, b, stream, nil)
}

func receiveInto(t *testing.T, b *Buffer, stream *bytes.Reader, x *Batch) []byte {
	t.Helper()
	for {
		p, size, err := b.Next(x)
		require.NoError(t, err)
		if p != nil {
			return p
		}
		room, _ := b.Room(size)
		n, err := stream.Read(room)
		require.NoError(t, err)
		b.Filled(n)
	}
}

func prefixed(size int) *bytes.Reader {
	return bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...))
}

// A buffer that one large packet has made is released when no packet needs it any more.
func TestBuffer_LargeBufferIsReleased(t *testing.T) {
	b := NewBuffer(must(NewLengthPrefix('N', 0, 4, 0)))
	receives := func(size int) {
		require.Len(t, receive(t, b, prefixed(size)), 4+size)
	}
	receives(10)
	require.LessOrEqual(t, len(b.buf), leastAhead, "what is not needed is not taken")
	for range 2 {
		receives(1 << 20)
		require.Greater(t, len(b.buf), 1<<20)
		for range patience / 2 {
			receives(10)
		}
		require.Greater(t, len(b.buf), 1<<20, "another may come")
	}
	for range patience {
		receives(10)
	}
	require.LessOrEqual(t, len(b.buf), readAhead)
}

// Packets that are taken in batches count as small ones too.
func TestBuffer_LargeBufferIsReleasedAfterBatches(t *testing.T) {
	b := NewBuffer(must(NewLengthPrefix('N', 0, 4, 0)))
	require.Len(t, receive(t, b, prefixed(1<<20)), 4+1<<20)
	require.Greater(t, len(b.buf), 1<<20)
	stream := bytes.NewReader(bytes.Repeat(append(binary.BigEndian.AppendUint32(nil, 10), make([]byte, 10)...), 3*patience))
	var x Batch
	batched := 0
	for range 3 * patience {
		if x.Next() != nil {
			batched++
		} else {
			receiveInto(t, b, stream, &x)
		}
	}
	require.Greater(t, batched, 2*patience)
	require.Zero(t, b.Len())
	receive(t, b, prefixed(10))
	require.LessOrEqual(t, len(b.buf), readAhead)
}

// As long as another call takes packets back, the next batches are short.
func TestBatch_GrowsWhileItIsUsed(t *testing.T) {
	b := NewBuffer(must(NewDelimiter([]byte("\n"), 0)))
	stream := bytes.NewReader(bytes.Repeat([]byte("line\n"), 700))
	var x Batch
	var sizes []int
	for i := range 500 {
		if i >= 300 {
			_ = b.Len()
		}
		if x.Next() == nil {
			receiveInto(t, b, stream, &x)
			sizes = append(sizes, x.size)
		}
	}
	require.Equal(t, []int{1, 3, 7, 15, 31, 63, 64, 64}, sizes[:8])
	require.Equal(t, 1, sizes[len(sizes)-1])
}

// A length on the wire is a claim: memory follows what has arrived.
func TestBuffer_MemoryFollowsWhatHasArrived(t *testing.T) {
	const size = 1 << 30
	b := NewBuffer(must(NewLengthPrefix('N', 0, 4, size+4)))
	room, all := b.Room(0)
	require.False(t, all)
	b.Filled(copy(room, binary.BigEndian.AppendUint32(nil, size)))
	p, n, err := b.Next(nil)
	require.NoError(t, err)
	require.Nil(t, p)
	require.Equal(t, size+4, n)
	for range 3 {
		room, all = b.Room(n)
		require.True(t, all)
		require.LessOrEqual(t, len(b.buf), max(atOnce, 2*(b.Len()+len(room))))
		b.Filled(len(room))
	}
	require.LessOrEqual(t, len(b.buf), 4*atOnce)
}

func TestBuffer_UnansweredCountsPacketsBothWays(t *testing.T) {
	require.False(t, (*Buffer)(nil).Unanswered())
	require.Zero(t, (*Buffer)(nil).Len())
	b := NewBuffer(must(NewDelimiter([]byte("\n"), 0)))
	require.Equal(t, "hello\n", string(receive(t, b, bytes.NewReader([]byte("hello\n"))))) // a greeting
	require.False(t, b.Unanswered())
	_, total, err := b.Encode([]byte("question"))
	require.NoError(t, err)
	b.Sent(total, total)
	require.True(t, b.Unanswered())
	receive(t, b, bytes.NewReader([]byte("answer\n")))
	require.False(t, b.Unanswered())
}

func TestEncode_ShortPacketIsOnePieceAndALongOneIsNotCopied(t *testing.T) {
	for name, test := range map[string]struct {
		codec Codec
		size  int
		want  []int // lengths of the pieces
	}{
		"short":               {must(NewLengthPrefix('N', 2, 0, 0)), 100, []int{104, 0, 0}},
		"long":                {must(NewLengthPrefix('N', 2, 0, 0)), 2 * gather, []int{gather + 4, gather, 0}},
		"length far in":       {must(NewLengthPrefix('N', gather+1, 0, 0)), 2 * gather, []int{gather + 1, 4, gather - 1}},
		"delimiter, long":     {must(NewDelimiter([]byte("\n"), 0)), 2 * gather, []int{2 * gather, 1, 0}},
		"nothing to be added": {must(NewLengthFunc(func(p []byte) (int, error) { return len(p), nil }, 0)), 10, []int{10, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			pieces, total, err := NewBuffer(test.codec).Encode(make([]byte, test.size))
			require.NoError(t, err)
			sum := 0
			for i, p := range pieces {
				require.Len(t, p, test.want[i])
				sum += len(p)
			}
			require.Equal(t, total, sum)
		})
	}
}

func TestEncode_AfterAPartIsAnError(t *testing.T) {
	b := NewBuffer(must(NewDelimiter([]byte("\n"), 0)))
	for _, sent := range []int{0, 2} {
		_, total, err := b.Encode([]byte("x"))
		require.NoError(t, err)
		b.Sent(sent, total)
	}
	_, total, err := b.Encode([]byte("xy"))
	require.NoError(t, err)
	b.Sent(total-1, total)
	_, _, err = b.Encode([]byte("x"))
	require.ErrorIs(t, err, ErrPartial)
}

func TestCodec_BadParameters(t *testing.T) {
	for text, err := range map[string]error{
		"Max is -1":                     second(NewDelimiter([]byte("x"), -1)),
		"Delim is empty":                second(NewDelimiter(nil, 0)),
		"Delim has 2 bytes and Max":     second(NewDelimiter([]byte("xy"), 1)),
		"Func is nil":                   second(NewLengthFunc(nil, 0)),
		"Encoding is 'x'":               second(NewLengthPrefix('x', 0, 0, 0)),
		"Offset is -1":                  second(NewLengthPrefix('N', -1, 0, 0)),
		"Offset 0 and BodyOffset 11":    second(NewLengthPrefix('N', 0, 11, 10)),
		"Offset 7 and BodyOffset 0":     second(NewLengthPrefix('N', 7, 0, 10)),
		"Max is -2: set a size":         second(NewLengthFunc(varint, -2)),
		"Max is -3: set a size in byte": second(NewLengthPrefix('N', 0, 0, -3)),
	} {
		require.ErrorContains(t, err, text)
	}
}

func second(_ Codec, err error) error { return err }

func TestSize_MalformedPackets(t *testing.T) {
	odd := errors.New("odd")
	for name, test := range map[string]struct {
		codec  Codec
		stream string
		text   string
		length int64
	}{
		"negative":              {must(NewLengthPrefix('c', 0, 1, 0)), "\xff", "the length -1 is negative", -1},
		"too long":              {must(NewLengthPrefix('n', 0, 2, 10)), "\x00\x09", "the length 11 is larger than Max, which is 10", 11},
		"longer than any":       {must(NewLengthPrefix('J', 0, 8, 10)), "\xff\xff\xff\xff\xff\xff\xff\xff", "is larger than Max", math.MaxInt64},
		"shorter than header":   {must(NewLengthPrefix('n', 1, 0, 0)), "x\x00\x02", "less than that of the header, which has 3 bytes", 2},
		"no delimiter":          {must(NewDelimiter([]byte("\n"), 3)), "abc", `3 bytes were received without "\n"`, 3},
		"by the function":       {must(NewLengthFunc(func([]byte) (int, error) { return 7, odd }, 0)), "abc", "odd", 7},
		"negative by function":  {must(NewLengthFunc(func([]byte) (int, error) { return -7, nil }, 0)), "abc", "the length -7 is negative", -7},
		"too long by function":  {must(NewLengthFunc(func([]byte) (int, error) { return 7, nil }, 6)), "abc", "the length 7 is larger than Max", 7},
		"function knows no end": {must(NewLengthFunc(func([]byte) (int, error) { return 0, nil }, 3)), "abc", "Func returned no length for 3 bytes", 3},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBuffer(test.codec)
			room, _ := b.Room(0)
			b.Filled(copy(room, test.stream))
			_, _, err := b.Next(nil)
			var bad *Error
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "malformed packet: ")
			require.Equal(t, test.length, bad.Length)
			require.Equal(t, test.codec.Max(), bad.Max)
			require.Equal(t, test.stream, string(bad.Head))
			if name == "by the function" {
				require.ErrorIs(t, err, odd)
			}
			_, _, again := b.Next(nil)
			require.Equal(t, err, again)
		})
	}
}

func TestFrame_WhatThePeerWouldNotTakeIsRefused(t *testing.T) {
	for text, test := range map[string]struct {
		codec Codec
		p     string
	}{
		"packet of 5 bytes is shorter than Offset and BodyOffset": {must(NewLengthPrefix('N', 2, 0, 0)), "x"},
		"the length 11 is larger than Max":                        {must(NewLengthPrefix('C', 0, 0, 10)), "0123456789"},
		"does not fit into Encoding 'c'":                          {must(NewLengthPrefix('c', 0, 0, 0)), string(make([]byte, 127))},
		"the length 4 is larger than Max, which is 3":             {must(NewDelimiter([]byte("\n"), 3)), "abc"},
		`it contains "\n"`:                                        {must(NewDelimiter([]byte("\n"), 0)), "a\nb"},
		`it contains "aba"`:                                       {must(NewDelimiter([]byte("aba"), 0)), "xab"},
		"packet of 3 bytes has the length 2 by the framing":       {must(NewLengthFunc(func([]byte) (int, error) { return 2, nil }, 0)), "abc"},
	} {
		_, _, err := NewBuffer(test.codec).Encode([]byte(test.p))
		var bad *Error
		require.ErrorAs(t, err, &bad, text)
		require.ErrorContains(t, err, text)
	}
	for _, width := range "CnNJvVPsSlLiIqQc" { // whatever is accepted is read back
		c := must(NewLengthPrefix(byte(width), 1, 2, 0))
		pieces, total, err := NewBuffer(c).Encode([]byte("x123"))
		require.NoError(t, err)
		size, err := c.Size(bytes.Join(pieces[:], nil), 0)
		require.NoError(t, err)
		require.Equal(t, total, size)
	}
}
