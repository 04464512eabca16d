package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// framed returns a client with a framing, and its peer.
func framed(t testing.TB, network string, f client.Framing) (*client.Client, net.Conn) {
	t.Helper()
	return stream(t, network, &client.Options{Framing: f})
}

func writes(t testing.TB, peer net.Conn, p string) {
	t.Helper()
	_, err := io.WriteString(peer, p)
	require.NoError(t, err)
}

func wantPacket(t testing.TB, c *client.Client, want string) {
	t.Helper()
	p, err := c.RecvPacket()
	require.NoError(t, err)
	require.Equal(t, want, string(p))
}

var (
	lines = client.Delimiter{Delim: []byte("\r\n")}
	short = client.LengthPrefix{Encoding: 'n', BodyOffset: 2}
)

// prefixed returns a packet with a length of two bytes.
func prefixed(body string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(body)))) + body
}

func TestLengthPrefix_EveryEncoding(t *testing.T) {
	native := binary.NativeEndian
	for _, test := range []struct {
		types string
		width int
		order binary.ByteOrder
	}{
		{"cC", 1, native}, {"sS", 2, native}, {"n", 2, binary.BigEndian}, {"v", 2, binary.LittleEndian},
		{"lLiI", 4, native}, {"N", 4, binary.BigEndian}, {"V", 4, binary.LittleEndian},
		{"qQ", 8, native}, {"J", 8, binary.BigEndian}, {"P", 8, binary.LittleEndian},
	} {
		encode := func(n uint64) string {
			p := make([]byte, 8)
			switch test.width {
			case 1:
				p[0] = byte(n)
			case 2:
				test.order.PutUint16(p, uint16(n))
			case 4:
				test.order.PutUint32(p, uint32(n))
			case 8:
				test.order.PutUint64(p, n)
			}
			return string(p[:test.width])
		}
		for _, letter := range []byte(test.types) {
			t.Run(string(letter), func(t *testing.T) {
				signed := strings.ContainsRune("cslqi", rune(letter))
				most := uint64(math.MaxUint64) >> (64 - 8*test.width)
				if signed {
					most >>= 1
				}
				f := client.LengthPrefix{Encoding: client.LengthEncoding(letter), Offset: 1, BodyOffset: 1 + test.width, Max: 100_000}
				c, peer := framed(t, "unix", f)
				for _, n := range []uint64{0, 1, 100, 127, 128, 255, 256, 65_535} {
					if n > most {
						continue
					}
					body := strings.Repeat("x", int(n))
					whole := "t" + encode(n) + body
					done := make(chan error, 1)
					go func() { _, err := io.WriteString(peer, whole); done <- err }()
					wantPacket(t, c, whole)
					require.NoError(t, <-done)

					go func() {
						got := make([]byte, len(whole))
						_, err := io.ReadFull(peer, got)
						if err == nil && string(got) != whole {
							err = fmt.Errorf("%q for %q", got, whole)
						}
						done <- err
					}()
					sent, err := c.SendPacket([]byte("t" + body))
					require.NoError(t, err)
					require.Equal(t, len(whole), sent)
					require.NoError(t, <-done)
				}

				// All bits set is the largest there is, or -1.
				writes(t, peer, "t"+encode(math.MaxUint64)+"rest")
				require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
				_, err := c.RecvPacket()
				switch {
				case signed:
					isMalformed(t, err, -1, "the length -1 is negative")
				case test.width == 1:
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				case test.width == 2:
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				default:
					isMalformed(t, err, int64(min(most, math.MaxInt64-1-uint64(test.width))+1+uint64(test.width)), "larger than Max, which is 100000")
				}
			})
		}
	}
}

// isMalformed checks a *PacketError.
func isMalformed(t testing.TB, err error, length int64, text string) {
	t.Helper()
	var bad *client.PacketError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, length, bad.Length)
	require.ErrorContains(t, err, text)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.False(t, op.Timeout())
	require.NotErrorIs(t, err, io.EOF)
}

func TestLengthPrefix_OffsetAndBodyOffset(t *testing.T) {
	for _, test := range []struct {
		name string
		f    client.LengthPrefix
		p    string
	}{
		{"of the body", client.LengthPrefix{BodyOffset: 4}, "\x00\x00\x00\x04body"},
		{"of all", client.LengthPrefix{}, "\x00\x00\x00\x08body"},
		{"of itself and what follows", client.LengthPrefix{Offset: 1, BodyOffset: 1}, "Q\x00\x00\x00\x08body"},
		{"of a body behind more header", client.LengthPrefix{Offset: 1, BodyOffset: 7}, "t\x00\x00\x00\x03abxyz"},
		{"header alone", client.LengthPrefix{BodyOffset: 4}, "\x00\x00\x00\x00"},
		{"header alone, counted", client.LengthPrefix{Offset: 2}, "ab\x00\x00\x00\x06"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, peer := framed(t, "unix", test.f)
			writes(t, peer, test.p+test.p)
			wantPacket(t, c, test.p)
			wantPacket(t, c, test.p)
			n, err := c.SendPacket([]byte(test.p[:test.f.Offset] + test.p[test.f.Offset+4:]))
			require.NoError(t, err)
			require.Equal(t, len(test.p), n)
			got := make([]byte, len(test.p))
			_, err = io.ReadFull(peer, got)
			require.NoError(t, err)
			require.Equal(t, test.p, string(got))
		})
	}
}

func TestRecvPacket_OneSegmentOfSeveralPackets(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		for name, test := range map[string]struct {
			f       client.Framing
			packets []string
		}{
			"length":    {short, []string{prefixed("one"), prefixed(""), prefixed("three")}},
			"delimiter": {lines, []string{"one\r\n", "\r\n", "a\rb\nc\r\r\n"}},
			// The original has lost all but the first.
			"function": {client.LengthFunc{Func: func(p []byte) (int, error) { return bytes.IndexByte(p, ';') + 1, nil }}, []string{"one;", ";", "three;"}},
		} {
			t.Run(name, func(t *testing.T) {
				c, peer := framed(t, network, test.f)
				writes(t, peer, strings.Join(test.packets, "")+test.packets[0])
				for _, want := range test.packets {
					wantPacket(t, c, want)
				}
				wantPacket(t, c, test.packets[0])
			})
		}
	})
}

func TestRecvPacket_PacketInAnyPieces(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		for name, test := range map[string]struct {
			f client.Framing
			p string
		}{
			"length":         {short, prefixed("body")},
			"delimiter":      {client.Delimiter{Delim: []byte("--end--\r\n")}, "--end--\r--end-- --end--\r\n"},
			"same delimiter": {client.Delimiter{Delim: []byte("aab")}, "aaaaab"},
			"function": {client.LengthFunc{Func: func(p []byte) (int, error) {
				if len(p) < 3 {
					return 0, nil
				}
				return int(p[2]), nil
			}}, "ab\x08cdefg"},
		} {
			t.Run(name, func(t *testing.T) {
				c, peer := framed(t, network, test.f)
				for cut := range len(test.p) {
					go func() {
						_, _ = io.WriteString(peer, test.p[:cut])
						if cut%2 == 0 {
							time.Sleep(time.Millisecond) // or the pieces come as one
						}
						_, _ = io.WriteString(peer, test.p[cut:])
					}()
					wantPacket(t, c, test.p)
				}
			})
		}
	})
}

// The original discards the part and takes the rest for a packet.
func TestRecvPacket_TimeoutKeepsThePart(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		for name, test := range map[string]struct {
			f client.Framing
			p string
		}{"length": {short, prefixed("body")}, "delimiter": {lines, "hello\r\n"}} {
			t.Run(name, func(t *testing.T) {
				const limit = 10 * time.Millisecond
				c, peer := stream(t, network, &client.Options{Framing: test.f, RecvTimeout: limit})
				for i := range len(test.p) - 1 {
					writes(t, peer, test.p[i:i+1])
					begin := time.Now()
					p, err := c.RecvPacket()
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.Nil(t, p)
					require.GreaterOrEqual(t, time.Since(begin), limit)
				}
				writes(t, peer, test.p[len(test.p)-1:])
				require.Eventually(t, func() bool {
					p, err := c.RecvPacket()
					return err == nil && string(p) == test.p
				}, testTimeout, time.Nanosecond)
			})
		}
	})
}

// The original has a limit for each recv(2), and two for a header.
func TestRecvPacket_HasOneLimit(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		const limit = 100 * time.Millisecond
		c, peer := stream(t, network, &client.Options{Framing: client.LengthPrefix{Encoding: 'N', BodyOffset: 4}, RecvTimeout: limit})
		end, done := make(chan struct{}), make(chan int)
		packet := "\x00\x00\xff\xff" + strings.Repeat("x", 0xffff)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					done <- i
					return
				case <-time.After(limit / 10):
					_, _ = io.WriteString(peer, packet[i:i+1])
				}
			}
		}()
		begin := time.Now()
		_, err := c.RecvPacket()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), limit)
		require.Less(t, time.Since(begin), testTimeout)
		close(end)
		n := <-done
		go func() { _, _ = io.WriteString(peer, packet[n:]) }()
		require.Eventually(t, func() bool { p, err := c.RecvPacket(); return err == nil && string(p) == packet }, testTimeout, time.Nanosecond)
	})
}

func TestRecvPacket_DeadlineAndCloseEndIt(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, &client.Options{Framing: lines, Timeout: -1})
		writes(t, peer, "half")
		result := make(chan error, 1)
		receive := func() { _, err := c.RecvPacket(); result <- err }
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
		go receive()
		inKernel(t)
		require.NoError(t, c.SetReadDeadline(time.Now()))
		require.ErrorIs(t, <-result, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		go receive()
		inKernel(t)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-result, net.ErrClosed)
		_, err := c.RecvPacket()
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = c.SendPacket([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestRecv_GetsWhatFollowsAPacket(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := framed(t, network, lines)
		writes(t, peer, "one\r\ntwo\r\nthree")
		wantPacket(t, c, "one\r\n")
		p := make([]byte, 100)
		n, err := c.Recv(p[:2], 0)
		require.NoError(t, err)
		require.Equal(t, "tw", string(p[:n]))
		wantPacket(t, c, "o\r\n")
		n, err = c.Recv(p[:5], client.WaitAll|client.Peek)
		require.NoError(t, err)
		require.Equal(t, "three", string(p[:n]))
		n, err = c.Recv(p, client.Peek|client.DontWait)
		require.NoError(t, err)
		require.Equal(t, "three", string(p[:n]))
		writes(t, peer, " and four")
		require.Eventually(t, func() bool { // what arrives later is seen too
			n, err = c.Recv(p, client.Peek)
			return err == nil && string(p[:n]) == "three and four"
		}, testTimeout, time.Millisecond)
		n, err = c.Read(p[:3])
		require.NoError(t, err)
		require.Equal(t, "thr", string(p[:n]))
		n, err = c.Recv(p[:11], client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "ee and four", string(p[:n]))
		_, err = c.Recv(p, client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
		_, err = c.Recv(p, client.DontWait|client.Peek)
		require.ErrorIs(t, err, unix.EAGAIN)
		n, err = c.Recv(nil, 0)
		require.NoError(t, err)
		require.Zero(t, n)

		writes(t, peer, "12\r\n34") // an exact receive from both sides of the buffer's end
		wantPacket(t, c, "12\r\n")
		go func() { time.Sleep(time.Millisecond); _, _ = io.WriteString(peer, "5\r\n6") }()
		n, err = c.Recv(p[:3], client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "345", string(p[:n]))
		wantPacket(t, c, "\r\n")
		go func() { time.Sleep(time.Millisecond); closeWrite(peer) }()
		n, err = c.Recv(p[:3], client.WaitAll)
		require.Equal(t, io.ErrUnexpectedEOF, err)
		require.Equal(t, "6", string(p[:n]))
	})
}

// closeWrite ends the direction in which the peer sends.
func closeWrite(peer net.Conn) {
	_ = peer.(interface{ CloseWrite() error }).CloseWrite()
}

// Four things that have happened, and the original has ” for all of them.
func TestRecvPacket_FourKindsOfEnds(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		t.Run("the end between packets", func(t *testing.T) {
			c, peer := framed(t, network, lines)
			writes(t, peer, "all\r\n")
			closeWrite(peer)
			wantPacket(t, c, "all\r\n")
			for range 2 {
				_, err := c.RecvPacket()
				require.Equal(t, io.EOF, err)
			}
		})
		t.Run("the end within one", func(t *testing.T) {
			c, peer := framed(t, network, lines)
			writes(t, peer, "all\r\npart")
			closeWrite(peer)
			wantPacket(t, c, "all\r\n")
			for range 2 {
				_, err := c.RecvPacket()
				require.Equal(t, io.ErrUnexpectedEOF, err)
			}
			p := make([]byte, 10)
			n, err := c.Recv(p, 0) // nothing is lost
			require.NoError(t, err)
			require.Equal(t, "part", string(p[:n]))
		})
		t.Run("malformed", func(t *testing.T) {
			c, peer := framed(t, network, client.LengthPrefix{Encoding: 'n', BodyOffset: 2, Max: 1000})
			writes(t, peer, "\x10\x00and more")
			for range 2 {
				_, err := c.RecvPacket()
				isMalformed(t, err, 0x1002, "the length 4098 is larger than Max, which is 1000")
				var bad *client.PacketError
				require.ErrorAs(t, err, &bad)
				require.Equal(t, 1000, bad.Max)
				require.Contains(t, string(bad.Head), "\x10\x00")
			}
			p := make([]byte, 10)
			n, err := c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "\x10\x00and more", string(p[:n]))
			_, err = c.RecvPacket()
			isMalformed(t, err, 0x1002, "")
		})
		t.Run("a timeout", func(t *testing.T) {
			c, _ := stream(t, network, &client.Options{Framing: lines, RecvTimeout: time.Millisecond})
			_, err := c.RecvPacket()
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.True(t, op.Timeout())
			require.Equal(t, "recvpacket", op.Op)
		})
	})
}

func TestRecvPacket_Malformed(t *testing.T) {
	reason := errors.New("this is no packet")
	for _, test := range []struct {
		name   string
		f      client.Framing
		p      string
		length int64
		text   string
	}{
		{"too short for its header", client.LengthPrefix{Encoding: 'C', Offset: 3}, "abc\x02", 2, "of the header, which has 4 bytes"},
		{"negative", client.LengthPrefix{Encoding: 's', BodyOffset: 2}, "\xff\xff", -1, "the length -1 is negative"},
		{"one too long", client.LengthPrefix{Encoding: 'n', BodyOffset: 2, Max: 9}, "\x00\x08", 10, "the length 10 is larger than Max, which is 9"},
		{"beyond all counting", client.LengthPrefix{Encoding: 'J', BodyOffset: 8}, "\xff\xff\xff\xff\xff\xff\xff\xff", math.MaxInt64, "the length 18446744073709551615"},
		{"2 GiB and more are not negative", client.LengthPrefix{Encoding: 'N', BodyOffset: 4}, "\xff\xff\xff\xf0", 0xfffffff4, "the length 4294967284"},
		{"no delimiter", client.Delimiter{Delim: []byte("\n"), Max: 5}, "12345\n", 0, `without "\n", and Max is 5`},
		{"a delimiter that comes too late", client.Delimiter{Delim: []byte("\r\n"), Max: 5}, "1234\r\n", 0, "Max is 5"},
		{"by the function", client.LengthFunc{Func: func([]byte) (int, error) { return -1, nil }}, "x", -1, "the length -1 is negative"},
		{"with the function's reason", client.LengthFunc{Func: func([]byte) (int, error) { return 0, reason }}, "x", 0, "this is no packet"},
		{"too long, by the function", client.LengthFunc{Func: func([]byte) (int, error) { return 11, nil }, Max: 10}, "x", 11, "larger than Max, which is 10"},
		{"never decided by the function", client.LengthFunc{Func: func([]byte) (int, error) { return 0, nil }, Max: 3}, "abc", 3, "Func returned no length for 3 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, peer := framed(t, "unix", test.f)
			writes(t, peer, test.p)
			var bad *client.PacketError
			_, err := c.RecvPacket()
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, test.text)
			if test.length != 0 {
				require.Equal(t, test.length, bad.Length)
			}
			require.Equal(t, test.p, string(bad.Head))
			if strings.Contains(test.name, "reason") {
				require.ErrorIs(t, err, reason)
			}
			_, again := c.RecvPacket()
			require.Equal(t, err, again)
			require.False(t, client.SafeToRetry(err))
		})
	}
}

func TestRecvPacket_LongestIsNotTooLong(t *testing.T) {
	for name, test := range map[string]struct {
		f client.Framing
		p string
	}{
		"length":    {client.LengthPrefix{Encoding: 'n', BodyOffset: 2, Max: 10}, prefixed("12345678")},
		"delimiter": {client.Delimiter{Delim: []byte("\r\n"), Max: 10}, "12345678\r\n"},
		"function":  {client.LengthFunc{Func: func(p []byte) (int, error) { return len(p) / 10 * 10, nil }, Max: 10}, "1234567890"},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := framed(t, "unix", test.f)
			for range 3 {
				writes(t, peer, test.p)
				wantPacket(t, c, test.p)
				for i := range test.p { // also byte by byte
					writes(t, peer, test.p[i:i+1])
				}
				wantPacket(t, c, test.p)
			}
			var bad *client.PacketError
			if name != "function" {
				_, err := c.SendPacket([]byte("123456789"))
				require.ErrorAs(t, err, &bad)
				require.True(t, client.SafeToRetry(err))
			}
		})
	}
}

func TestSendPacket_AddsWhatIsMissing(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		for name, test := range map[string]struct {
			f       client.Framing
			p, want string
		}{
			"length":       {short, "body", prefixed("body")},
			"delimiter":    {lines, "body", "body\r\n"},
			"function":     {client.LengthFunc{Func: func(p []byte) (int, error) { return len(p), nil }}, "body", "body"},
			"long":         {client.LengthPrefix{BodyOffset: 4}, strings.Repeat("x", 1<<20), "\x00\x10\x00\x00" + strings.Repeat("x", 1<<20)},
			"long, behind": {client.LengthPrefix{Offset: 1 << 17, BodyOffset: 1<<17 + 4}, strings.Repeat("x", 1<<18), strings.Repeat("x", 1<<17) + "\x00\x02\x00\x00" + strings.Repeat("x", 1<<17)},
			"long line":    {lines, strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20) + "\r\n"},
		} {
			t.Run(name, func(t *testing.T) {
				c, peer := framed(t, network, test.f)
				for range 2 {
					result := make(chan error, 1)
					go func() {
						got := make([]byte, len(test.want))
						_, err := io.ReadFull(peer, got)
						if err == nil && string(got) != test.want {
							err = errors.New("the peer got something else")
						}
						result <- err
					}()
					n, err := c.SendPacket([]byte(test.p))
					require.NoError(t, err)
					require.Equal(t, len(test.want), n)
					require.NoError(t, <-result)
				}
			})
		}
	})
}

func TestSendPacket_RefusesWhatIsNoPacket(t *testing.T) {
	for name, test := range map[string]struct {
		f    client.Framing
		p    string
		text string
	}{
		"two lines":                 {lines, "a\r\nb", "which would end it there"},
		"a line that ends too soon": {client.Delimiter{Delim: []byte("aa")}, "ba", "which would end it there"},
		"too long":                  {client.Delimiter{Delim: []byte("\n"), Max: 4}, "1234", "the length 5 is larger than Max, which is 4"},
		"too long for its length":   {client.LengthPrefix{Encoding: 'c', BodyOffset: 1}, strings.Repeat("x", 128), "does not fit"},
		"shorter than its header":   {client.LengthPrefix{Offset: 4, BodyOffset: 8}, "abc", "shorter than Offset and BodyOffset require"},
		"without all of its header": {client.LengthPrefix{BodyOffset: 8}, "abc", "shorter than Offset and BodyOffset require"},
		"two, says the function":    {client.LengthFunc{Func: func([]byte) (int, error) { return 1, nil }}, "ab", "packet of 2 bytes has the length 1 by the framing"},
		"no whole one":              {client.LengthFunc{Func: func([]byte) (int, error) { return 0, nil }}, "ab", "packet of 2 bytes has the length 0 by the framing"},
		"none, says the function":   {client.LengthFunc{Func: func([]byte) (int, error) { return -1, nil }}, "ab", "the length -1 is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := framed(t, "unix", test.f)
			n, err := c.SendPacket([]byte(test.p))
			require.Zero(t, n)
			var bad *client.PacketError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "sendpacket")
			require.True(t, client.SafeToRetry(err))
			require.NoError(t, c.CloseWrite())
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.Empty(t, got)
		})
	}
}

// What RecvPacket returns, SendPacket of another client sends unchanged.
func TestSendPacket_WholePacketsAreForwardedUnchanged(t *testing.T) {
	body := []byte("a body")
	for name, test := range map[string]struct {
		adds, whole client.Framing // the same, without Whole and with it
		packet      string
	}{
		"length": {
			client.LengthPrefix{Encoding: client.Uint16BE, Offset: 1, BodyOffset: 1},
			client.LengthPrefix{Encoding: client.Uint16BE, Offset: 1, BodyOffset: 1, Whole: true},
			"a\x00\x07 body",
		},
		"delimiter": {lines, client.Delimiter{Delim: []byte("\r\n"), Whole: true}, "a body\r\n"},
		"function": {
			client.LengthFunc{Func: func([]byte) (int, error) { return 6, nil }},
			client.LengthFunc{Func: func([]byte) (int, error) { return 6, nil }}, "a body",
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachStream(t, func(t *testing.T, network string) {
				first, peer := framed(t, network, test.adds)
				n, err := first.SendPacket(body)
				require.NoError(t, err)
				require.Equal(t, len(test.packet), n)
				p := make([]byte, n)
				_, err = io.ReadFull(peer, p)
				require.NoError(t, err)
				require.Equal(t, test.packet, string(p))

				from, peer := framed(t, network, test.adds)
				to, echoed := framed(t, network, test.whole)
				go func() { _, _ = io.Copy(echoed, echoed) }()
				for range 3 {
					_, err = peer.Write(p)
					require.NoError(t, err)
					packet, err := from.RecvPacket()
					require.NoError(t, err)
					n, err := to.SendPacket(packet)
					require.NoError(t, err)
					require.Equal(t, len(test.packet), n)
					wantPacket(t, to, test.packet)
				}
			})
		})
	}
}

func TestSendPacket_WholeRefusesWhatIsNotOnePacket(t *testing.T) {
	for p, f := range map[string]client.Framing{
		"without its end": client.Delimiter{Delim: []byte("\n"), Whole: true},
		"two\nlines\n":    client.Delimiter{Delim: []byte("\n"), Whole: true},
		"\x00\x05body":    client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Whole: true},
		"\x00\x03body":    client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Whole: true},
		"\x00":            client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Whole: true},
		"\xff\xffbody":    client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Max: 100, Whole: true},
	} {
		c, peer := framed(t, "unix", f)
		n, err := c.SendPacket([]byte(p))
		require.Zero(t, n)
		var bad *client.PacketError
		require.ErrorAs(t, err, &bad, p)
		require.NoError(t, c.CloseWrite())
		got, err := io.ReadAll(peer)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

// After a part of a packet, the peer would take another packet for the rest of it.
func TestSendPacket_AfterAPartIsAnError(t *testing.T) {
	c, peer := stream(t, "unix", &client.Options{Framing: client.LengthPrefix{BodyOffset: 4, Max: 1 << 30}, SendTimeout: 20 * time.Millisecond})
	n, err := c.SendPacket(make([]byte, 16<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Positive(t, n)
	require.Less(t, n, 16<<20)
	_, err = io.ReadFull(peer, make([]byte, n))
	require.NoError(t, err)
	_, err = c.SendPacket([]byte("x"))
	require.ErrorContains(t, err, "an earlier packet was sent in part")
	require.False(t, client.SafeToRetry(err))
	_, err = c.Send([]byte("x"), 0) // who knows what to send may
	require.NoError(t, err)
}

func TestFraming_InvalidOptions(t *testing.T) {
	ln := listen(t, "tcp")
	for name, f := range map[string]client.Framing{
		"type":               client.LengthPrefix{Encoding: 'x'},
		"negative offset":    client.LengthPrefix{Offset: -1},
		"negative body":      client.LengthPrefix{BodyOffset: -1},
		"negative Max":       client.LengthPrefix{Max: -1},
		"offset beyond Max":  client.LengthPrefix{Offset: 7, Max: 10},
		"body beyond Max":    client.LengthPrefix{BodyOffset: 11, Max: 10},
		"empty EOF":          client.Delimiter{},
		"EOF beyond Max":     client.Delimiter{Delim: []byte("\r\n"), Max: 1},
		"no function":        client.LengthFunc{},
		"function, negative": client.LengthFunc{Func: func([]byte) (int, error) { return 0, nil }, Max: -1},
	} {
		t.Run(name, func(t *testing.T) {
			var bad *client.OptionError
			_, err := client.Dial("tcp", ln.Addr().String(), &client.Options{Framing: f})
			require.ErrorAs(t, err, &bad)
			require.Equal(t, "Framing", bad.Option)
			_, err = client.NewTCP(&client.Options{Framing: f})
			require.ErrorAs(t, err, &bad)
			_, err = newPool(t, client.PoolOptions{}).Dial(t.Context(), "tcp", ln.Addr().String(), &client.Options{Framing: f})
			require.ErrorAs(t, err, &bad)
		})
	}
	t.Run("datagrams", func(t *testing.T) {
		var bad *client.OptionError
		_, err := client.NewUDP(&client.Options{Framing: lines})
		require.ErrorAs(t, err, &bad)
		for _, network := range datagramNetworks {
			_, err := client.Dial(network, "127.0.0.1:1", &client.Options{Framing: lines})
			require.ErrorAs(t, err, &bad)
			require.Contains(t, bad.Reason, "is for streams only")
		}
	})
	t.Run("none", func(t *testing.T) {
		c, _ := stream(t, "tcp", nil)
		var bad *client.OptionError
		_, err := c.RecvPacket()
		require.ErrorAs(t, err, &bad)
		_, err = c.SendPacket([]byte("x"))
		require.ErrorAs(t, err, &bad)
		require.True(t, client.SafeToRetry(err))
	})
	t.Run("not connected", func(t *testing.T) {
		c, err := client.NewTCP(&client.Options{Framing: lines})
		require.NoError(t, err)
		defer c.Close()
		_, err = c.RecvPacket()
		require.ErrorIs(t, err, unix.ENOTCONN)
		_, err = c.SendPacket([]byte("x"))
		require.ErrorIs(t, err, unix.ENOTCONN)
		_, err = new(client.Client).RecvPacket()
		require.ErrorIs(t, err, unix.ENOTCONN)
	})
}

func TestConnect_KeepsTheFraming(t *testing.T) {
	ln := listen(t, "tcp4")
	c, err := client.NewTCP(&client.Options{Framing: lines})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Connect(t.Context(), ln.Addr().String()))
	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	writes(t, peer, "hello\r\n")
	wantPacket(t, c, "hello\r\n")
}

// What was received ahead of a packet was sent before TLS.
func TestStartTLS_RefusesBufferedBytes(t *testing.T) {
	c, peer := framed(t, "tcp", lines)
	writes(t, peer, "220 go ahead\r\n250 injected\r\n")
	wantPacket(t, c, "220 go ahead\r\n")
	require.ErrorContains(t, c.StartTLS(context.Background(), &client.TLSOptions{ServerName: "x"}), "the peer has sent unencrypted bytes")
	wantPacket(t, c, "250 injected\r\n")
}

func TestStartTLS_FramingGoesOn(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	peers := make(chan net.Conn, 1)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			close(peers)
			return
		}
		_, _ = io.WriteString(conn, "220 go ahead\r\n")
		peer := tls.Server(conn, s.config)
		_, _ = io.WriteString(peer, "250 inside\r\n250 too\r\n")
		peers <- peer
	}()
	c, err := client.Dial("tcp", s.Addr().String(), &client.Options{Framing: lines})
	require.NoError(t, err)
	defer c.Close()
	wantPacket(t, c, "220 go ahead\r\n")
	require.NoError(t, c.StartTLS(t.Context(), s.trust(t)))
	wantPacket(t, c, "250 inside\r\n")
	wantPacket(t, c, "250 too\r\n")
	peer := <-peers
	defer peer.Close()
	_, err = c.SendPacket([]byte("QUIT"))
	require.NoError(t, err)
	p := make([]byte, 6)
	_, err = io.ReadFull(peer, p)
	require.NoError(t, err)
	require.Equal(t, "QUIT\r\n", string(p))
}

// Each client of a pooled connection has its own framing. A connection with bytes that were
// received ahead is not reused.
func TestPool_Framing(t *testing.T) {
	s := countedEcho(t, "tcp")
	p := newPool(t, client.PoolOptions{})
	c := s.from(t, p, &client.Options{Framing: lines})
	sends(t, c, []byte("one\r\n"))
	wantPacket(t, c, "one\r\n")
	require.NoError(t, c.Close())

	c = s.from(t, p, &client.Options{Framing: short})
	require.True(t, c.Reused())
	sends(t, c, []byte(prefixed("two")+prefixed("three")))
	wantPacket(t, c, prefixed("two"))
	_, err := c.Recv(make([]byte, 7), client.WaitAll|client.Peek) // has it all arrive
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, p.Stats().Discards[client.DiscardUnclean], "with a packet that nobody has received")

	c = s.from(t, p, nil)
	require.False(t, c.Reused())
	_, err = c.RecvPacket()
	require.ErrorContains(t, err, "Framing")
	require.NoError(t, c.Discard())

	c = s.from(t, p, &client.Options{Framing: short})
	_, err = c.SendPacket([]byte("half"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 2, p.Stats().Discards[client.DiscardUnclean], "with an answer to come")
}

// A client that sends three requests and receives two answers would leave the third to the
// next client.
func TestPool_UnansweredPacketsAreNotReused(t *testing.T) {
	for _, test := range []struct {
		name             string
		asks, takes      int
		raw              bool // with what is no packet between
		greeting         bool // with a packet before them
		unanswered, idle bool
	}{
		{name: "all answered", asks: 3, takes: 3, idle: true},
		{name: "one to come", asks: 3, takes: 2},
		{name: "all to come", asks: 1},
		{name: "one to come, and that is usual", asks: 3, takes: 2, unanswered: true, idle: true},
		{name: "one to come, and other bytes answered", asks: 2, takes: 1, raw: true},
		{name: "one to come, after a greeting", greeting: true, asks: 2, takes: 1},
		{name: "all answered, after a greeting", greeting: true, asks: 2, takes: 2, idle: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			done := make(chan struct{})
			defer close(done)
			s := countedServer(t, "tcp", func(net.Conn) { <-done })
			p := newPool(t, client.PoolOptions{ReuseUnanswered: test.unanswered})
			c := s.from(t, p, &client.Options{Framing: lines})
			peer := <-s.new
			if test.greeting {
				writes(t, peer, "hello\r\n")
				wantPacket(t, c, "hello\r\n")
			}
			for range test.asks {
				_, err := c.SendPacket([]byte("question"))
				require.NoError(t, err)
			}
			for range test.takes {
				writes(t, peer, "answer\r\n")
				wantPacket(t, c, "answer\r\n")
			}
			if test.raw {
				sends(t, c, []byte("x"))
				writes(t, peer, "y")
				receives(t, c, []byte("y"))
			}
			require.NoError(t, c.Close())
			stats := p.Stats()
			require.Equal(t, test.idle, stats.Idle == 1, "%+v", stats)
			require.Equal(t, test.idle, stats.Discards[client.DiscardUnclean] == 0, "%+v", stats)
		})
	}
}

// An answer may be received before the send of its request has returned. It is no greeting.
func TestPool_AnswerDuringTheSendIsCounted(t *testing.T) {
	rest := make(chan struct{})
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Write([]byte("answer\r\n"))
		<-rest
		_, _ = io.Copy(io.Discard, conn)
	})
	p := newPool(t, client.PoolOptions{})
	const size = 16 << 20 // no socket buffers so much
	c := s.from(t, p, &client.Options{Framing: client.Delimiter{Delim: []byte("\r\n"), Max: 2 * size}})
	sent := make(chan error)
	go func() { _, err := c.SendPacket(make([]byte, size)); sent <- err }()
	wantPacket(t, c, "answer\r\n")
	close(rest)
	require.NoError(t, <-sent)
	require.NoError(t, c.Close())
	require.Equal(t, 1, p.Stats().Idle, "%+v", p.Stats())
}

// A length is a claim of the peer. Memory is allocated for what has arrived.
func TestRecvPacket_AnnouncedLengthTakesNoMemory(t *testing.T) {
	c, peer := stream(t, "unix", &client.Options{
		Framing: client.LengthPrefix{BodyOffset: 4, Max: 1 << 30}, RecvTimeout: 20 * time.Millisecond,
	})
	writes(t, peer, "\x3f\xff\x00\x00"+strings.Repeat("x", 100))
	require.Less(t, allocated(func() {
		_, err := c.RecvPacket()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}), uint64(4*client.DefaultMaxPacket))
}

// allocated returns how many bytes the process allocates while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestRecvPacket_ManyMegabytes(t *testing.T) {
	inParallelIfShort(t)
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			c, peer := framed(t, network, client.LengthPrefix{BodyOffset: 4, Max: 64 << 20})
			body := randomBytes(20 << 20)
			go func() {
				_, _ = peer.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body))))
				_, _ = peer.Write(body)
				_, _ = peer.Write([]byte("\x00\x00\x00\x02ok"))
			}()
			p, err := c.RecvPacket()
			require.NoError(t, err)
			require.True(t, bytes.Equal(body, p[4:]))
			wantPacket(t, c, "\x00\x00\x00\x02ok")
		})
	}
}
