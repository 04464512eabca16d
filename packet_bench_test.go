package client_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// repeats serves one connection the same bytes again and again, in pieces of a size.
func repeats(b testing.TB, p []byte, piece int) string {
	b.Helper()
	ln := listen(b, "unix")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					for piece := range slices.Chunk(p, piece) {
						if _, err := conn.Write(piece); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// besides runs two ways to receive a batch of packets in turns, and reports the medians for a
// packet and their ratio.
func besides(b *testing.B, batch int, ours, theirs func()) {
	b.Helper()
	var times [2][]float64
	b.ReportAllocs()
	for b.Loop() {
		for i, f := range []func(){ours, theirs} {
			begin := time.Now()
			f()
			times[i] = append(times[i], float64(time.Since(begin).Nanoseconds())/float64(batch))
		}
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	a, z := median(times[0]), median(times[1])
	b.ReportMetric(a, "ns/packet")
	b.ReportMetric(z, "ns/other")
	b.ReportMetric(a/z, "ratio")
	b.ReportMetric(0, "ns/op")
}

func dialsPlain(b *testing.B, address string) net.Conn {
	b.Helper()
	c, err := client.Dial("unix", address, nil)
	require.NoError(b, err)
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func dialsFramed(b *testing.B, address string, f client.Framing) *client.Client {
	b.Helper()
	c, err := client.Dial("unix", address, &client.Options{Framing: f})
	require.NoError(b, err)
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func takes(b *testing.B, c *client.Client, size int) func() {
	return func() {
		p, err := c.RecvPacket()
		if err != nil || len(p) != size {
			b.Fatal(len(p), err)
		}
	}
}

// A long line that comes in pieces, beside a bufio.Scanner on the same stream.
func BenchmarkLongLineBesideScanner(b *testing.B) {
	const size = 1_900_000
	line := append(bytes.Repeat([]byte("x"), size-2), "\r\n"...)
	address := repeats(b, line, 64<<10)
	scanner := bufio.NewScanner(dialsPlain(b, address))
	scanner.Buffer(make([]byte, 2<<20), 2<<20)
	besides(b, 1, takes(b, dialsFramed(b, address, client.Delimiter{Delim: []byte("\r\n")}), size), func() {
		if !scanner.Scan() || len(scanner.Bytes()) != size-2 {
			b.Fatal(len(scanner.Bytes()), scanner.Err())
		}
	})
}

// Lines of 64 bytes, beside a bufio.Scanner on the same stream.
func BenchmarkShortLinesBesideScanner(b *testing.B) {
	const size, batch = 64, 10_000
	line := append(bytes.Repeat([]byte("x"), size-1), '\n')
	address := repeats(b, bytes.Repeat(line, 1000), 64<<10)
	eachWayToReceive(b, address, client.Delimiter{Delim: []byte("\n")}, size, batch, func() func() {
		scanner := bufio.NewScanner(dialsPlain(b, address))
		scanner.Buffer(make([]byte, 64<<10), 1<<20)
		return func() {
			for range batch {
				if !scanner.Scan() || len(scanner.Bytes()) != size-1 {
					b.Fatal(len(scanner.Bytes()), scanner.Err())
				}
			}
		}
	})
}

// Packets of 64 bytes with a length, beside a bufio.Reader that reads header and body.
func BenchmarkShortPacketsBesideReader(b *testing.B) {
	const size, batch = 64, 10_000
	packet := append(binary.BigEndian.AppendUint32(nil, size-4), make([]byte, size-4)...)
	address := repeats(b, bytes.Repeat(packet, 1000), 64<<10)
	reads := func() func() {
		reader := bufio.NewReaderSize(dialsPlain(b, address), 64<<10)
		p := make([]byte, size)
		return func() {
			for range batch {
				if _, err := io.ReadFull(reader, p[:4]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(reader, p[4:4+binary.BigEndian.Uint32(p)]); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("LengthPrefix", func(b *testing.B) {
		eachWayToReceive(b, address, client.LengthPrefix{BodyOffset: 4}, size, batch, reads)
	})
	b.Run("LengthFunc", func(b *testing.B) {
		eachWayToReceive(b, address, client.LengthFunc{Func: func(p []byte) (int, error) {
			if len(p) < 4 {
				return 0, nil
			}
			return 4 + int(binary.BigEndian.Uint32(p)), nil
		}}, size, batch, reads)
	})
}

// eachWayToReceive compares RecvPacket and Packets with another way to receive a batch of packets.
func eachWayToReceive(b *testing.B, address string, f client.Framing, size, batch int, others func() func()) {
	b.Run("RecvPacket", func(b *testing.B) {
		next := takes(b, dialsFramed(b, address, f), size)
		besides(b, batch, func() {
			for range batch {
				next()
			}
		}, others())
	})
	b.Run("Packets", func(b *testing.B) {
		c := dialsFramed(b, address, f)
		besides(b, batch, func() {
			left := batch
			for p, err := range c.Packets() {
				if err != nil || len(p) != size {
					b.Fatal(len(p), err)
				}
				if left--; left == 0 {
					break
				}
			}
		}, others())
	})
}

// One packet of a mebibyte, beside an exact receive of as much.
func BenchmarkLongPacketBesideWaitAll(b *testing.B) {
	const size = 1 << 20
	packet := append(binary.BigEndian.AppendUint32(nil, size-4), make([]byte, size-4)...)
	address := repeats(b, packet, size)
	plain := dialsPlain(b, address).(*client.Client)
	p := make([]byte, size)
	besides(b, 1, takes(b, dialsFramed(b, address, client.LengthPrefix{BodyOffset: 4}), size), func() {
		if _, err := plain.Recv(p, client.WaitAll); err != nil {
			b.Fatal(err)
		}
	})
}

func TestRecvPacket_AllocatesNothing(t *testing.T) {
	packet := append(binary.BigEndian.AppendUint32(nil, 196), make([]byte, 196)...)
	address := repeats(t, bytes.Repeat(packet, 100), 777)
	for name, f := range map[string]client.Framing{"length": client.LengthPrefix{BodyOffset: 4}, "delimiter": client.Delimiter{Delim: packet[:4]}} {
		c, err := client.Dial("unix", address, &client.Options{Framing: f})
		require.NoError(t, err)
		defer c.Close()
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			if _, err := c.RecvPacket(); err != nil {
				t.Error(err)
			}
		}), name)
		loop := testing.AllocsPerRun(10, func() {
			left := 1000
			for _, err := range c.Packets() {
				if left--; left == 0 || err != nil {
					require.NoError(t, err)
					break
				}
			}
		})
		require.LessOrEqual(t, loop, 3.0, "%s: of a loop", name)
	}
	c, err := client.Dial("unix", otherProcess(t, "sink", "unix"), &client.Options{Framing: client.LengthPrefix{BodyOffset: 4}})
	require.NoError(t, err)
	defer c.Close()
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := c.SendPacket(packet); err != nil {
			t.Error(err)
		}
	}))
}
