package client_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

const fuzzMax = 1000

// fuzzFramings are one of each kind, and longest what one packet may take.
var fuzzFramings = []client.Framing{
	client.LengthPrefix{Type: 'n', BodyOffset: 2, Max: fuzzMax},
	client.LengthPrefix{Type: 's', Offset: 1, BodyOffset: 1, Max: fuzzMax},
	client.LengthPrefix{Type: 'P', Offset: 3, Max: fuzzMax},
	client.Delimiter{EOF: []byte("\r\n"), Max: fuzzMax},
	client.Delimiter{EOF: []byte("aab"), Max: fuzzMax},
	client.LengthFunc{Func: varint, Max: fuzzMax},
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

// fuzzServer gives each who dials what it was told to, cut at random.
func fuzzServer(f *testing.F) (address string, give chan<- []byte) {
	f.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	f.Cleanup(func() { ln.Close() })
	streams := make(chan []byte, 1)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			data := <-streams
			cuts := rand.New(rand.NewPCG(uint64(len(data)), 1))
			for len(data) > 0 {
				n := min(len(data), 1+cuts.IntN(1<<cuts.IntN(14)))
				if _, err := conn.Write(data[:n]); err != nil {
					break
				}
				data = data[n:]
				if cuts.IntN(4) == 0 {
					runtime.Gosched()
				}
			}
			_ = conn.Close()
		}
	}()
	return ln.Addr().String(), streams
}

// However a stream of packets is cut, the same packets come out; and between them
// Recv takes what the packets would have, byte for byte.
func FuzzPackets(f *testing.F) {
	address, give := fuzzServer(f)
	f.Add(uint8(0), []byte("one two three"))
	f.Add(uint8(3), []byte("a\r\r\nb"))
	f.Add(uint8(4), []byte("aaaaab"))
	f.Add(uint8(5), bytes.Repeat([]byte("x"), 300))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		framing := fuzzFramings[int(kind)%len(fuzzFramings)]
		var packets [][]byte
		for i := 0; len(data) > 0 && i < 50; i++ {
			n := min(len(data), 1+int(data[0])*3)
			if p := packetOf(framing, data[:n]); p != nil {
				packets = append(packets, p)
			}
			data = data[n:]
		}
		give <- bytes.Join(packets, nil)
		c, err := client.Dial("tcp", address, &client.Options{Framing: framing})
		require.NoError(t, err)
		defer c.Close()
		for i, want := range packets {
			if i%5 == 4 { // by hand, in two pieces
				got := make([]byte, len(want))
				_, err := c.Recv(got[:len(want)/2], client.WaitAll)
				require.NoError(t, err)
				_, err = io.ReadFull(c, got[len(want)/2:])
				require.NoError(t, err)
				require.Equal(t, want, got)
				continue
			}
			got, err := c.RecvPacket()
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		_, err = c.RecvPacket()
		require.Equal(t, io.EOF, err)
	})
}

// packetOf makes a packet of some bytes, or nil if they cannot be in one.
func packetOf(framing client.Framing, p []byte) []byte {
	switch f := framing.(type) {
	case client.LengthPrefix:
		if len(p) < f.Offset {
			return nil
		}
		var length []byte
		switch f.Type {
		case 'n':
			length = binary.BigEndian.AppendUint16(nil, uint16(len(p)+2-f.BodyOffset))
		case 's':
			length = binary.NativeEndian.AppendUint16(nil, uint16(len(p)+2-f.BodyOffset))
		case 'P':
			length = binary.LittleEndian.AppendUint64(nil, uint64(len(p)+8-f.BodyOffset))
		}
		return append(append(bytes.Clone(p[:f.Offset]), length...), p[f.Offset:]...)
	case client.Delimiter:
		whole := append(bytes.Clone(p), f.EOF...)
		return whole[:bytes.Index(whole, f.EOF)+len(f.EOF)]
	}
	n := len(p)
	return append([]byte{'m', byte(n) | 0x80, byte(n >> 7)}, p...)
}

// Any bytes at all are packets, or an error that says why not.
func FuzzNoPackets(f *testing.F) {
	address, give := fuzzServer(f)
	f.Add(uint8(0), []byte("\x00\x01a\xff\xff"))
	f.Add(uint8(1), []byte("a\xff\xff\xff\xff"))
	f.Add(uint8(2), bytes.Repeat([]byte("\xff"), 20))
	f.Add(uint8(3), bytes.Repeat([]byte("\r"), 2*fuzzMax))
	f.Add(uint8(5), bytes.Repeat([]byte("\xff"), 20))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		data = data[:min(len(data), 8*fuzzMax)]
		give <- data
		c, err := client.Dial("tcp", address, &client.Options{Framing: fuzzFramings[int(kind)%len(fuzzFramings)]})
		require.NoError(t, err)
		defer c.Close()
		rest := data
		for {
			p, err := c.RecvPacket()
			if err == nil {
				require.NotEmpty(t, p)
				require.LessOrEqual(t, len(p), fuzzMax)
				require.True(t, bytes.HasPrefix(rest, p))
				rest = rest[len(p):]
				continue
			}
			var bad *client.PacketError
			switch {
			case errors.Is(err, io.EOF):
				require.Empty(t, rest)
			case errors.Is(err, io.ErrUnexpectedEOF):
				require.NotEmpty(t, rest)
			default:
				require.ErrorAs(t, err, &bad)
				require.True(t, bytes.HasPrefix(rest, bad.Head))
			}
			break
		}
		left, err := io.ReadAll(c) // nothing is lost either way
		require.NoError(t, err)
		require.True(t, bytes.Equal(rest, left))
	})
}
