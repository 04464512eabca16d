package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

const fuzzMax = 1000

// A fuzzCodec is a codec, and what makes one of its packets of some bytes, or nil if they
// cannot be in one.
type fuzzCodec struct {
	codec  Codec
	packet func(p []byte) []byte
}

func must(c Codec, err error) Codec {
	if err != nil {
		panic(err)
	}
	return c
}

// fuzzCodecs are one of each kind.
var fuzzCodecs = []fuzzCodec{
	{must(NewLengthPrefix('n', 0, 2, fuzzMax)), func(p []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
	}},
	{must(NewLengthPrefix('s', 1, 1, fuzzMax)), func(p []byte) []byte {
		return append(binary.NativeEndian.AppendUint16([]byte{p[0]}, uint16(len(p)+1)), p[1:]...)
	}},
	{must(NewLengthPrefix('P', 3, 0, fuzzMax)), func(p []byte) []byte {
		if len(p) < 3 {
			return nil
		}
		return append(binary.LittleEndian.AppendUint64(bytes.Clone(p[:3]), uint64(len(p)+8)), p[3:]...)
	}},
	{must(NewDelimiter([]byte("\r\n"), fuzzMax)), delimited("\r\n")},
	{must(NewDelimiter([]byte("aab"), fuzzMax)), delimited("aab")},
	{must(NewLengthFunc(varint, fuzzMax)), func(p []byte) []byte {
		return append([]byte{'m', byte(len(p)) | 0x80, byte(len(p) >> 7)}, p...)
	}},
}

func delimited(delim string) func([]byte) []byte {
	return func(p []byte) []byte {
		whole := append(bytes.Clone(p), delim...)
		return whole[:bytes.Index(whole, []byte(delim))+len(delim)]
	}
}

// varint is the length of MQTT: seven bits to each byte after the first.
func varint(p []byte) (int, error) {
	n := 0
	for i := 1; i < len(p); i++ {
		n |= int(p[i]&0x7f) << (7 * (i - 1))
		switch {
		case p[i]&0x80 == 0:
			return 1 + i + n, nil
		case i == 4:
			return 0, errors.New("a length of more than four bytes")
		}
	}
	return 0, nil
}

// A cutStream gives a stream in pieces of random sizes.
type cutStream struct {
	rest []byte
	cuts *rand.Rand
}

func newCutStream(p []byte) *cutStream {
	return &cutStream{p, rand.New(rand.NewPCG(uint64(len(p)), 1))}
}

// fill receives once into the room, or reports that the stream has ended.
func (s *cutStream) fill(t *testing.T, b *Buffer, room []byte) bool {
	t.Helper()
	require.NotEmpty(t, room)
	if len(s.rest) == 0 {
		return false
	}
	n := copy(room, s.rest[:min(len(s.rest), 1+s.cuts.IntN(1<<s.cuts.IntN(14)))])
	s.rest = s.rest[n:]
	b.Filled(n)
	return true
}

// next receives until there is a packet. Without one and without an error the stream has
// ended.
func (s *cutStream) next(t *testing.T, b *Buffer, x *Batch) ([]byte, error) {
	t.Helper()
	for {
		p, size, err := b.Next(x)
		if p != nil || err != nil {
			return p, err
		}
		room, _ := b.Room(size)
		if !s.fill(t, b, room) {
			return nil, nil
		}
	}
}

// However a stream of packets is cut, the same packets come out. Read and Peek between them
// take the same bytes.
func FuzzPackets(f *testing.F) {
	f.Add(uint8(0), []byte("one two three"))
	f.Add(uint8(3), []byte("a\r\r\nb"))
	f.Add(uint8(4), []byte("aaaaab"))
	f.Add(uint8(5), bytes.Repeat([]byte("x"), 300))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		c := fuzzCodecs[int(kind)%len(fuzzCodecs)]
		var packets [][]byte
		for i := 0; len(data) > 0 && i < 50; i++ {
			n := min(len(data), 1+int(data[0])*3)
			if p := c.packet(data[:n]); p != nil {
				packets = append(packets, p)
			}
			data = data[n:]
		}
		s, b := newCutStream(bytes.Join(packets, nil)), NewBuffer(c.codec)
		var batch Batch
		for i, want := range packets {
			if i%7 == 6 {
				_ = b.Len() // takes the rest of the batch back
				require.Nil(t, batch.Next())
			}
			if i%5 != 4 {
				if got := batch.Next(); got != nil {
					require.Equal(t, want, got)
					continue
				}
			} else { // by hand, in two pieces, the first of which is peeked at
				half := make([]byte, len(want)/2)
				for b.Len() < len(half) {
					require.True(t, s.fill(t, b, b.RoomToPeek(len(half))))
				}
				require.Equal(t, len(half), b.Peek(half))
				require.True(t, bytes.Equal(want[:len(half)], half))
				got := make([]byte, len(want))
				for n := b.Read(got); n < len(got); n += b.Read(got[n:]) {
					if b.Len() == 0 {
						require.True(t, s.fill(t, b, b.RoomToPeek(len(got)-n)))
					}
				}
				require.Equal(t, want, got)
				continue
			}
			got, err := s.next(t, b, &batch)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Nil(t, batch.Next())
		got, err := s.next(t, b, &batch)
		require.NoError(t, err)
		require.Nil(t, got)
		require.Zero(t, b.Len())
	})
}

// Any bytes are packets, or an error that says why not. Nothing of them is lost.
func FuzzNoPackets(f *testing.F) {
	f.Add(uint8(0), []byte("\x00\x01a\xff\xff"))
	f.Add(uint8(1), []byte("a\xff\xff\xff\xff"))
	f.Add(uint8(2), bytes.Repeat([]byte("\xff"), 20))
	f.Add(uint8(3), bytes.Repeat([]byte("\r"), 2*fuzzMax))
	f.Add(uint8(5), bytes.Repeat([]byte("\xff"), 20))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		s, b := newCutStream(data), NewBuffer(fuzzCodecs[int(kind)%len(fuzzCodecs)].codec)
		var batch Batch
		for rest := data; ; {
			p := batch.Next()
			var err error
			if p == nil {
				p, err = s.next(t, b, &batch)
			}
			if p != nil {
				require.NotEmpty(t, p)
				require.LessOrEqual(t, len(p), fuzzMax)
				require.True(t, bytes.HasPrefix(rest, p))
				rest = rest[len(p):]
				continue
			}
			var bad *Error
			if err != nil {
				require.ErrorAs(t, err, &bad)
				require.True(t, bytes.HasPrefix(rest, bad.Head))
				_, _, again := b.Next(nil)
				require.Equal(t, err, again)
			}
			left := make([]byte, b.Len())
			require.Equal(t, len(left), b.Read(left))
			require.True(t, bytes.Equal(rest, append(left, s.rest...)))
			return
		}
	})
}

// What Encode accepts is one packet, and the bytes in it are the caller's.
func FuzzEncode(f *testing.F) {
	f.Add(uint8(0), []byte("one"))
	f.Add(uint8(4), []byte("aa"))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		c := fuzzCodecs[int(kind)%len(fuzzCodecs)].codec
		pieces, total, err := NewBuffer(c).Encode(data)
		if err != nil {
			var bad *Error
			require.ErrorAs(t, err, &bad)
			require.Equal(t, fuzzMax, bad.Max)
			return
		}
		whole := bytes.Join(pieces[:], nil)
		require.Len(t, whole, total)
		size, err := c.Size(whole, 0)
		require.NoError(t, err)
		require.Equal(t, total, size)
		require.GreaterOrEqual(t, total, len(data))
		pieces, _, err = NewBuffer(Whole(c)).Encode(whole)
		require.NoError(t, err)
		require.True(t, bytes.Equal(whole, bytes.Join(pieces[:], nil)), "as it is")
	})
}
