package client_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// manyLines returns lines with the numbers from 0 to n-1.
func manyLines(n int) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "%d\r\n", i)
	}
	return all.String()
}

// buffered returns a client that has received bytes from its peer and returned none.
func buffered(t *testing.T, network string, f client.Framing, p string) (*client.Client, net.Conn) {
	t.Helper()
	c, peer := framed(t, network, f)
	writes(t, peer, p)
	n, err := c.Recv(make([]byte, len(p)), client.Peek|client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
	return c, peer
}

func TestPackets_RangesUntilTheEnd(t *testing.T) {
	c, peer := framed(t, "tcp", lines)
	writes(t, peer, "one\r\ntwo\r\nthree\r\n")
	closeWrite(peer)
	var got []string
	for p, err := range c.Packets() {
		require.NoError(t, err)
		if got = append(got, string(p)); len(got) == 2 {
			break
		}
	}
	for p, err := range c.Packets() { // goes on
		require.NoError(t, err)
		got = append(got, string(p))
	}
	require.Equal(t, []string{"one\r\n", "two\r\n", "three\r\n"}, got)

	c, peer = framed(t, "tcp", lines)
	writes(t, peer, "one\r\npart")
	closeWrite(peer)
	var errs []error
	for p, err := range c.Packets() {
		require.Equal(t, err == nil, p != nil)
		errs = append(errs, err)
	}
	require.Equal(t, []error{nil, io.ErrUnexpectedEOF}, errs)
}

// A body of the loop may receive: Redis announces in a line how many bytes follow it.
func TestPackets_BodyMayReceive(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := buffered(t, network, lines, manyLines(10)+"$5\r\nhello"+manyLines(10)+"$4\r\n1\r\n2"+manyLines(100)+"end\r\n")
		var got strings.Builder
		p := make([]byte, 5)
		for line, err := range c.Packets() {
			require.NoError(t, err)
			got.Write(line)
			switch string(line) {
			case "$5\r\n":
				n, err := c.Recv(p, client.WaitAll)
				require.NoError(t, err)
				got.Write(p[:n])
			case "$4\r\n":
				_, err := io.ReadFull(c, p[:4])
				require.NoError(t, err)
				got.Write(p[:4])
			case "50\r\n":
				n, err := c.Recv(p[:4], client.Peek)
				require.NoError(t, err)
				require.Equal(t, "51\r\n", string(p[:n]))
			case "60\r\n":
				line, err := c.RecvPacket()
				require.NoError(t, err)
				got.Write(line)
			case "70\r\n":
				for line, err := range c.Packets() {
					require.NoError(t, err)
					got.Write(line)
					if string(line) == "79\r\n" {
						break
					}
				}
			case "90\r\n":
				ready, err := client.Select([]*client.Client{c}, nil, nil, 0)
				require.NoError(t, err)
				require.Len(t, ready.Read, 1)
			case "end\r\n":
				_ = peer.Close()
			}
		}
		require.Equal(t, manyLines(10)+"$5\r\nhello"+manyLines(10)+"$4\r\n1\r\n2"+manyLines(100)+"end\r\n", got.String())
	})
}

func TestPackets_BreakLeavesTheRest(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		for stop := range 12 {
			c, _ := buffered(t, network, lines, manyLines(100))
			got := 0
			for line, err := range c.Packets() {
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("%d\r\n", got), string(line))
				if got++; got > stop {
					break
				}
			}
			rest := manyLines(100)[len(manyLines(got)):]
			p := make([]byte, len(rest))
			n, err := c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, rest, string(p[:n]))
		}
	})
}

// Close and a deadline end the loop, however many packets have been received already.
func TestPackets_EndBetweenBufferedPackets(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		end  func(c *client.Client)
		want error
	}{
		"Close":    {func(c *client.Client) { _ = c.Close() }, net.ErrClosed},
		"deadline": {func(c *client.Client) { _ = c.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"deadline in a while": {func(c *client.Client) {
			_ = c.SetDeadline(time.Now().Add(5 * time.Millisecond))
			time.Sleep(6 * time.Millisecond)
		}, os.ErrDeadlineExceeded},
		"context": {func(c *client.Client) { c.Watch(ctx) }, context.Canceled},
	} {
		for _, by := range []string{"the body", "another goroutine"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				eachStream(t, func(t *testing.T, network string) {
					for _, after := range []int{1, 2, 5, 50} {
						c, _ := buffered(t, network, lines, manyLines(200))
						var err error
						got := 0
						for _, err = range c.Packets() {
							if err != nil {
								continue
							}
							if got++; got < after {
								continue
							}
							done := make(chan struct{})
							end := func() { test.end(c); close(done) }
							if by == "the body" {
								end()
							} else {
								go end()
							}
							<-done
						}
						require.ErrorIs(t, err, test.want)
						require.Equal(t, after, got)
						if test.want == os.ErrDeadlineExceeded { //nolint:errorlint // of the table
							require.NoError(t, c.SetDeadline(time.Time{}))
							wantPacket(t, c, fmt.Sprintf("%d\r\n", after))
						}
					}
				})
			})
		}
	}
}

// Each packet goes to one caller, and each caller gets its packets in order. A packet's length is
// its number, because another call that receives may overwrite its bytes.
func TestPackets_SeveralGoroutines(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		const packets = 500
		c, peer := framed(t, network, short)
		go func() {
			defer closeWrite(peer)
			for i := range packets {
				if _, err := io.WriteString(peer, prefixed(strings.Repeat("x", i))); err != nil {
					return
				}
			}
		}()
		var mu sync.Mutex
		var all []int
		var wg sync.WaitGroup
		receive := func(next func(take func(p []byte)) error) {
			wg.Go(func() {
				var got []int
				for {
					err := next(func(p []byte) { got = append(got, len(p)-2) })
					if err == io.EOF { //nolint:errorlint // RecvPacket returns it as it is
						break
					} else if err != nil {
						t.Error(err)
						break
					}
				}
				if !slices.IsSorted(got) {
					t.Error("out of order:", got)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, got...)
			})
		}
		ranges := func(take func([]byte)) error {
			for p, err := range c.Packets() {
				if err != nil {
					return err
				}
				take(p)
			}
			return io.EOF
		}
		receive(ranges)
		receive(ranges)
		receive(func(take func([]byte)) error {
			p, err := c.RecvPacket()
			if err == nil {
				take(p)
			}
			return err
		})
		wg.Wait()
		slices.Sort(all)
		require.Len(t, all, packets)
		for i, n := range all {
			require.Equal(t, i, n)
		}
	})
}

// What is no packet ends the loop after the packets before it, and Recv returns the bytes.
func TestPackets_MalformedAmongBufferedPackets(t *testing.T) {
	good := strings.Repeat(prefixed("good"), 10)
	for name, test := range map[string]struct {
		f         client.Framing
		good, bad string
	}{
		"length":    {client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Max: 100}, good, "\x01\x00 and more"},
		"delimiter": {client.Delimiter{Delim: []byte("\r\n"), Max: 10}, manyLines(10), "0123456789\r\n1\r\n"},
		"one byte":  {client.Delimiter{Delim: []byte("\n"), Max: 10}, manyLines(10), "0123456789\n1\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := buffered(t, "unix", test.f, test.good+test.bad)
			got, failed := "", false
			for p, err := range c.Packets() {
				if err != nil {
					var bad *client.PacketError
					require.ErrorAs(t, err, &bad)
					failed = true
				}
				got += string(p)
			}
			require.True(t, failed)
			require.Equal(t, test.good, got)
			receives(t, c, []byte(test.bad))
		})
	}
}

// The body may change what the function of a LengthFunc returns for the packets after this one.
func TestPackets_FuncIsNotCalledAhead(t *testing.T) {
	size := 1
	c, peer := buffered(t, "unix", client.LengthFunc{Func: func([]byte) (int, error) { return size, nil }}, "122333444455555")
	var got []string
	for p, err := range c.Packets() {
		require.NoError(t, err)
		got = append(got, string(p))
		if size++; size > 5 {
			_ = peer.Close()
		}
	}
	require.Equal(t, []string{"1", "22", "333", "4444", "55555"}, got)
}

func TestPackets_StartTLSRefusesBufferedPackets(t *testing.T) {
	c, _ := buffered(t, "tcp", lines, "220 go ahead\r\n250 injected\r\n250 too\r\n")
	var got []string
	for line, err := range c.Packets() {
		require.NoError(t, err)
		if got = append(got, string(line)); len(got) == 3 {
			break
		}
		require.ErrorContains(t, c.StartTLS(t.Context(), &client.TLSOptions{ServerName: "x"}), "the peer has sent unencrypted bytes")
	}
	require.Equal(t, []string{"220 go ahead\r\n", "250 injected\r\n", "250 too\r\n"}, got)
}

// A pool counts the packets of a loop as it counts those of RecvPacket.
func TestPool_Packets(t *testing.T) {
	for _, test := range []struct {
		asks, answers, takes int
		idle                 bool
	}{
		{asks: 20, answers: 20, takes: 20, idle: true},
		{asks: 20, answers: 20, takes: 19},
		{asks: 20, answers: 19, takes: 19},
		{asks: 0, answers: 20, takes: 20, idle: true},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			done := make(chan struct{})
			defer close(done)
			s := countedServer(t, "tcp", func(net.Conn) { <-done })
			p := newPool(t, client.PoolOptions{})
			c := s.from(t, p, &client.Options{Framing: lines})
			peer := <-s.new
			for range test.asks {
				_, err := c.SendPacket([]byte("question"))
				require.NoError(t, err)
			}
			answers := manyLines(test.answers)
			writes(t, peer, answers)
			_, err := c.Recv(make([]byte, len(answers)), client.Peek|client.WaitAll)
			require.NoError(t, err)
			got := 0
			for _, err = range c.Packets() {
				if err != nil {
					break
				}
				if got++; got == test.takes {
					require.NoError(t, c.Close())
				}
			}
			require.ErrorIs(t, err, net.ErrClosed)
			require.Equal(t, test.takes, got)
			stats := p.Stats()
			require.Equal(t, test.idle, stats.Idle == 1, "%+v", stats)
			require.Equal(t, test.idle, stats.Discards[client.DiscardUnclean] == 0, "%+v", stats)
		})
	}
}

// A goroutine that still ranges over a client from a pool gets nothing after its Close, and nothing
// of what the next client receives.
func TestPool_CloseEndsPacketsOfAnotherGoroutine(t *testing.T) {
	s := countedEcho(t, "tcp")
	p := newPool(t, client.PoolOptions{})
	for range 20 {
		c := s.from(t, p, &client.Options{Framing: lines})
		sends(t, c, []byte(manyLines(50)))
		began, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			var err error
			got := 0
			for _, err = range c.Packets() {
				if got++; got == 10 {
					close(began)
				}
			}
			ended <- err
		}()
		<-began
		require.NoError(t, c.Close())
		other := s.from(t, p, &client.Options{Framing: lines})
		sends(t, other, []byte("other\r\n"))
		wantPacket(t, other, "other\r\n")
		require.NoError(t, other.Close())
		require.ErrorIs(t, <-ended, net.ErrClosed)
	}
}

func TestPackets_NoClient(t *testing.T) {
	for _, err := range new(client.Client).Packets() {
		require.Error(t, err)
	}
}
