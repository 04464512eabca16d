package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// eachStream runs f on every kind of stream, TLS included.
func eachStream(t *testing.T, f func(t *testing.T, network string)) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) { f(t, network) })
	}
}

func eachPlainStream(t *testing.T, f func(t *testing.T, network string)) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) { f(t, network) })
	}
}

func eachDatagram(t *testing.T, f func(t *testing.T, network string)) {
	for _, network := range datagramNetworks {
		t.Run(network, func(t *testing.T) { f(t, network) })
	}
}

func TestRecv_GetsWhatWasSent(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		n, err := c.Send([]byte("question"), 0)
		require.NoError(t, err)
		require.Equal(t, 8, n)
		got := make([]byte, 8)
		_, err = io.ReadFull(peer, got)
		require.NoError(t, err)
		require.Equal(t, "question", string(got))

		_, err = peer.Write([]byte("answer"))
		require.NoError(t, err)
		n, err = c.Recv(make([]byte, 0), 0)
		require.NoError(t, err, "room for nothing is nothing")
		require.Zero(t, n)
		n, err = c.Recv(got, client.WaitAll|client.Peek|client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN, "eight bytes are not there")
		require.LessOrEqual(t, n, 6)
		n, err = c.Recv(got[:6], client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "answer", string(got[:n]))
	})
}

func TestRecv_WaitAllFillsTheBuffer(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		want := make([]byte, 8<<20)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { _, _ = peer.Write(want) })
		got := make([]byte, len(want))
		n, err := c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, len(want), n)
		require.True(t, bytes.Equal(want, got))
	})
}

func TestSend_SendsAllOfABigMessage(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		want := bytes.Repeat([]byte("0123456789abcde\n"), 1<<19)
		var wg sync.WaitGroup
		defer wg.Wait()
		var got []byte
		wg.Go(func() { got, _ = io.ReadAll(peer) })
		n, err := c.Send(want, 0)
		require.NoError(t, err)
		require.Equal(t, len(want), n)
		require.NoError(t, c.CloseWrite())
		wg.Wait()
		require.True(t, bytes.Equal(want, got))
	})
}

func TestRecv_WaitAllReturnsThePartAtTheEndOfTheStream(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		for _, flags := range []client.Flag{client.WaitAll, client.WaitAll | client.Peek} {
			c, peer := stream(t, network, nil)
			_, err := peer.Write([]byte("half"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			got := make([]byte, 8)
			n, err := c.Recv(got, flags)
			require.Equal(t, io.ErrUnexpectedEOF, err)
			require.Equal(t, "half", string(got[:n]))
			if flags&client.Peek != 0 {
				n, err = c.Recv(got, 0)
				require.NoError(t, err, "peeked bytes are still there")
				require.Equal(t, "half", string(got[:n]))
			}
			n, err = c.Recv(got, flags)
			require.Equal(t, io.EOF, err)
			require.Zero(t, n)
		}
	})
}

func TestRecv_PeekLeavesTheBytes(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		_, err := peer.Write([]byte("abcd"))
		require.NoError(t, err)
		got := make([]byte, 4)
		for range 3 {
			n, err := c.Recv(got, client.Peek|client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "abcd", string(got[:n]))
		}
		n, err := c.Recv(got[:2], client.Peek)
		require.NoError(t, err)
		require.Equal(t, "ab", string(got[:n]))
		n, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "abcd", string(got[:n]))
	})
}

// The peek does not make the next receive a short one.
func TestRecv_AfterAPeekGetsWhatHasArrived(t *testing.T) {
	for _, framing := range []client.Framing{nil, client.Delimiter{Delim: []byte("\n")}} {
		for _, network := range append(tlsNetworks, streamNetworks...) {
			c, peer := stream(t, network, &client.Options{Framing: framing})
			_, err := peer.Write([]byte("record"))
			require.NoError(t, err)
			got := make([]byte, 10)
			_, err = c.Recv(got[:1], client.Peek)
			require.NoError(t, err)
			n, err := c.Recv(got, 0)
			require.NoError(t, err)
			require.Equal(t, "record", string(got[:n]), network)
		}
	}
}

// A peek that has a part cannot poll for the rest: the socket is readable already.
func TestRecv_PeekWaitAllWaitsForTheRest(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		test := func(t *testing.T) {
			c, peer := stream(t, network, nil)
			_, err := peer.Write([]byte("ab"))
			require.NoError(t, err)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				inKernel(t)
				_, _ = peer.Write([]byte("cd"))
			})
			got := make([]byte, 4)
			n, err := c.Recv(got, client.Peek|client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "abcd", string(got[:n]))
		}
		t.Run("quiet", test)
		t.Run("signals", func(t *testing.T) { underSignals(t, test) })
	})
}

func TestDontWait_ReturnsEAGAINAtOnce(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, &client.Options{Timeout: -1}) // a wait would be for ever
		buf := make([]byte, 10)
		n, err := c.Recv(buf, client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Zero(t, n)

		_, err = peer.Write([]byte("abc"))
		require.NoError(t, err)
		_, err = c.Recv(buf[:1], client.Peek) // it has arrived
		require.NoError(t, err)
		n, err = c.Recv(buf, client.DontWait|client.WaitAll)
		require.ErrorIs(t, err, unix.EAGAIN, "short, so not without an error")
		require.Equal(t, "abc", string(buf[:n]))

		sent := 0
		for {
			n, err = c.Send(make([]byte, 1<<20), client.DontWait)
			sent += n
			if err != nil {
				break
			}
		}
		require.ErrorIs(t, err, unix.EAGAIN)
		require.EqualValues(t, sent, readAfterEnd(t, network, c, peer), "the counts of DontWait are true")
	})
	eachDatagram(t, func(t *testing.T, network string) {
		c, _ := datagrams(t, network, &client.Options{Timeout: -1})
		_, err := c.Recv(make([]byte, 10), client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
	})
}

// readAfterEnd ends the stream of a client whose last send was cut short. It returns how many
// bytes the peer had not read. With TLS a part of a record may be left in the client, for
// which Close would not wait.
func readAfterEnd(t *testing.T, network string, c *client.Client, peer net.Conn) int {
	t.Helper()
	end := c.Close
	if slices.Contains(tlsNetworks, network) {
		end = c.CloseWrite
	}
	result := make(chan error, 1)
	go func() { result <- end() }()
	rest, err := io.Copy(io.Discard, peer)
	require.NoError(t, err)
	require.NoError(t, <-result)
	return int(rest)
}

// DontWait returns also while another goroutine holds the I/O lock and waits.
func TestDontWait_DoesNotWaitForTheLock(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, _ = c.Recv(make([]byte, 1), 0) })
	defer peer.Close()
	inKernel(t)
	_, err := c.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
}

func TestOOB_IsASeparateByte(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	raw, err := peer.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), client.OOB)
	require.ErrorIs(t, err, unix.EINVAL, "the kernel's answer when nothing urgent was announced")
	require.NoError(t, raw.Control(func(fd uintptr) { err = unix.Send(int(fd), []byte("ab!"), unix.MSG_OOB) }))
	require.NoError(t, err)
	got := make([]byte, 8)
	n, err := c.Recv(got[:2], client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "ab", string(got[:n]))
	n, err = c.Recv(got, client.OOB)
	require.NoError(t, err)
	require.Equal(t, "!", string(got[:n]))
	_, err = c.Send([]byte("?"), client.OOB)
	require.NoError(t, err)
}

func TestFlags_UnknownOnesAreRefused(t *testing.T) {
	c, _ := stream(t, "tcp", nil)
	_, err := c.Recv(make([]byte, 1), client.Flag(unix.MSG_TRUNC))
	require.ErrorIs(t, err, unix.EINVAL, "on a stream it would throw bytes away")
	_, err = c.Send([]byte("x"), client.WaitAll)
	require.ErrorIs(t, err, unix.EINVAL)
}

// limitedCalls are all calls that wait, with peers that make them wait forever. Each returns
// the function to be timed, with the given limit.
func limitedCalls() map[string]func(t *testing.T, limit time.Duration) func() error {
	calls := make(map[string]func(*testing.T, time.Duration) func() error)
	recv := func(network string, flags client.Flag) func(*testing.T, time.Duration) func() error {
		return func(t *testing.T, limit time.Duration) func() error {
			c := connectedTo(t, network, &client.Options{RecvTimeout: limit})
			return func() error { _, err := c.Recv(make([]byte, 100), flags); return err }
		}
	}
	for _, network := range append(tlsNetworks, allNetworks...) {
		calls["recv "+network] = recv(network, 0)
		calls["read "+network] = func(t *testing.T, limit time.Duration) func() error {
			c := connectedTo(t, network, nil)
			return func() error {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(limit)))
				_, err := c.Read(make([]byte, 100))
				return err
			}
		}
	}
	for _, network := range append([]string{"unixgram", "tls", "tls12"}, streamNetworks...) {
		calls["send "+network] = func(t *testing.T, limit time.Duration) func() error {
			c := connectedTo(t, network, &client.Options{SendTimeout: limit})
			fill(c)
			return func() error { _, err := c.Send(tooMuch(network), 0); return err }
		}
		calls["sendbuffers "+network] = func(t *testing.T, limit time.Duration) func() error {
			c := connectedTo(t, network, &client.Options{SendTimeout: limit})
			fill(c)
			return func() error { _, err := c.SendBuffers(net.Buffers{{1}, tooMuch(network)}); return err }
		}
		calls["write "+network] = func(t *testing.T, limit time.Duration) func() error {
			c := connectedTo(t, network, nil)
			fill(c)
			return func() error {
				require.NoError(t, c.SetWriteDeadline(time.Now().Add(limit)))
				_, err := c.Write(tooMuch(network))
				return err
			}
		}
	}
	for _, network := range streamNetworks {
		calls["waitall "+network] = recv(network, client.WaitAll)
		calls["dial "+network] = func(t *testing.T, limit time.Duration) func() error {
			hole := blackHole(t, network, "127.0.0.1")
			return func() error {
				_, err := client.Dial(network, hole, &client.Options{ConnectTimeout: limit})
				return err
			}
		}
		calls["peek all "+network] = func(t *testing.T, limit time.Duration) func() error {
			c, peer := stream(t, network, &client.Options{RecvTimeout: limit})
			_, err := peer.Write([]byte("ab"))
			require.NoError(t, err)
			return func() error { _, err := c.Recv(make([]byte, 3), client.WaitAll|client.Peek); return err }
		}
	}
	calls["connect"] = func(t *testing.T, limit time.Duration) func() error {
		hole := blackHole(t, "tcp", "127.0.0.1")
		c, err := client.NewTCP(&client.Options{ConnectTimeout: limit})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return func() error { return c.Connect(context.Background(), hole) }
	}
	calls["dial with a context"] = func(t *testing.T, limit time.Duration) func() error {
		hole := blackHole(t, "tcp", "127.0.0.1")
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := client.DialContext(ctx, "tcp", hole, nil)
			return err
		}
	}
	calls["dial a name that nobody answers for"] = func(t *testing.T, limit time.Duration) func() error {
		silent := names(t, nil)
		return func() error {
			_, err := client.Dial("tcp", "silent.test:80", &client.Options{Timeout: limit, Resolver: silent})
			return err
		}
	}
	calls["dial a name with three addresses that do not answer"] = func(t *testing.T, limit time.Duration) func() error {
		address, resolver := threeHoles(t)
		return func() error {
			_, err := client.Dial("tcp", address, &client.Options{Timeout: limit, Resolver: resolver})
			return err
		}
	}
	calls["recvfrom"] = func(t *testing.T, limit time.Duration) func() error {
		c, err := client.NewUDP(&client.Options{RecvTimeout: limit, LocalAddr: "127.0.0.1:0"})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return func() error { _, _, err := c.RecvFrom(make([]byte, 100), 0); return err }
	}
	calls["sendto unixgram"] = func(t *testing.T, limit time.Duration) func() error {
		peer := packetPeer(t, "unixgram")
		c, err := client.NewUnixgram(&client.Options{SendTimeout: limit})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		send := func() error { _, err := c.SendTo([]byte("x"), peer.LocalAddr()); return err }
		require.Eventually(t, func() bool { return send() != nil }, testTimeout, time.Nanosecond)
		return send
	}
	return calls
}

// tooMuch is more than a socket's buffers hold, or a datagram for a full queue. After TCP's
// buffers were full there is room for a little more, when the peer's kernel has acknowledged.
func tooMuch(network string) []byte {
	if network == "unixgram" {
		return make([]byte, 1)
	}
	return make([]byte, 64<<20)
}

// fill sends until there is no more room at the peer, which does not read.
func fill(c *client.Client) {
	size := 1 << 16
	for {
		if _, err := c.Send(make([]byte, size), client.DontWait); err != nil {
			if size == 1 {
				return
			}
			size = 1
		}
	}
}

// threeHoles returns a name and its resolver. The name has three addresses, which drop what is
// sent to them, at the same port.
func threeHoles(t *testing.T) (address string, resolver *net.Resolver) {
	t.Helper()
	hole := blackHole(t, "tcp", "127.0.0.1")
	_, port, err := net.SplitHostPort(hole)
	require.NoError(t, err)
	// The same address three times is three attempts.
	return "holes.test:" + port, names(t, map[string][]string{"holes.test.": {"127.0.0.1", "127.0.0.1", "127.0.0.1"}})
}

// A limit is neither early nor, as far as a test can tell, late, whatever signals come.
func TestTimeout_EndsEveryCall(t *testing.T) {
	inParallelIfShort(t)
	for name, call := range limitedCalls() {
		t.Run(name, func(t *testing.T) {
			for _, limit := range testLimits() {
				test := func(t *testing.T) {
					f := call(t, limit)
					start := time.Now()
					err := f()
					took := time.Since(start)
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					var ne net.Error
					require.ErrorAs(t, err, &ne)
					require.True(t, ne.Timeout())
					require.True(t, ne.Temporary(), "crypto/tls is dead for ever after one that is not") //nolint:staticcheck // what crypto/tls asks for
					require.GreaterOrEqual(t, took, limit)
					require.Less(t, took, limit+testTimeout)
				}
				t.Run(limit.String(), test)
				if !testing.Short() {
					t.Run(limit.String()+" under signals", func(t *testing.T) { underSignals(t, test) })
				}
			}
		})
	}
}

// testLimits are a limit for which a receive waits inside recvfrom(2), and one that is too short.
func testLimits() []time.Duration {
	if testing.Short() {
		return []time.Duration{110 * time.Millisecond}
	}
	return []time.Duration{200 * time.Millisecond, 3 * time.Millisecond}
}

func TestTimeout_IsNotExtendedBySlowBytes(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		for _, limit := range testLimits() {
			test := func(t *testing.T) {
				c, peer := stream(t, network, &client.Options{RecvTimeout: limit})
				stop := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					for i := byte(0); ; i++ {
						_, _ = peer.Write([]byte{i})
						select {
						case <-stop:
							_ = peer.Close()
							return
						case <-time.After(time.Millisecond): // the drip is the test
						}
					}
				})
				buf := make([]byte, 1<<20)
				start := time.Now()
				n, err := c.Recv(buf, client.WaitAll)
				took := time.Since(start)
				close(stop)
				wg.Wait()
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, took, limit)
				require.Less(t, took, limit+testTimeout)
				if limit >= 100*time.Millisecond {
					require.Positive(t, n)
				}
				rest, err := io.ReadAll(c)
				require.NoError(t, err)
				for i, b := range append(buf[:n:n], rest...) {
					require.Equal(t, byte(i), b, "a byte is lost or doubled")
				}
			}
			t.Run(limit.String(), test)
			t.Run(limit.String()+" under signals", func(t *testing.T) { underSignals(t, test) })
		}
	})
}

// A peer that reads a little now and then must not extend a Send. The kernel's own limit
// (SO_SNDTIMEO) starts again after each 32 KiB on a unix stream.
func TestSend_SlowPeerEndsItWithTheTrueCount(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		for _, drip := range []bool{false, true} {
			const limit = 200 * time.Millisecond
			c, peer := stream(t, network, &client.Options{Timeout: limit})
			var wg sync.WaitGroup
			read := 0
			stop := make(chan struct{})
			if drip {
				wg.Go(func() {
					buf := make([]byte, 32<<10)
					for {
						select {
						case <-stop:
							return
						case <-time.After(20 * time.Millisecond):
						}
						n, _ := peer.Read(buf)
						read += n
					}
				})
			}
			start := time.Now()
			n, err := c.Send(make([]byte, 64<<20), 0)
			took := time.Since(start)
			close(stop)
			wg.Wait()
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.False(t, client.SafeToRetry(err))
			require.GreaterOrEqual(t, took, limit)
			require.Less(t, took, limit+testTimeout)
			require.EqualValues(t, n, read+readAfterEnd(t, network, c, peer))
		}
	})
}

func TestRecv_LateReplyIsForTheNextCall(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, &client.Options{Timeout: 150 * time.Millisecond})
		got := make([]byte, 4)
		_, err := peer.Write([]byte("la"))
		require.NoError(t, err)
		n, err := c.Recv(got, client.WaitAll)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, "la", string(got[:n]))
		_, err = peer.Write([]byte("te"))
		require.NoError(t, err)
		n, err = c.Recv(got[n:], client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, "late", string(got))
	})
}

func TestTimeout_NegativeIsNoLimit(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		inKernel(t)
		_, _ = peer.Write([]byte("x"))
	})
	n, err := c.Recv(make([]byte, 1), 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestTimeout_DefaultIsFiveSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	c, _ := stream(t, "tcp", nil)
	start := time.Now()
	_, err := c.Recv(make([]byte, 1), 0)
	took := time.Since(start)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, took, client.DefaultTimeout)
	require.Less(t, took, client.DefaultTimeout+testTimeout)
}

func TestDeadline_BoundsRecvAndSend(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		c, _ := stream(t, network, &client.Options{Timeout: -1})
		const limit = 150 * time.Millisecond
		start := time.Now()
		require.NoError(t, c.SetDeadline(start.Add(limit)))
		_, err := c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(start), limit)
		_, err = c.Send([]byte("x"), 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetDeadline(time.Time{}))
		_, err = c.Send([]byte("x"), 0)
		require.NoError(t, err)
	})
}

// Two receives at the same time must not share the bytes of one exact read, so that one waits
// for the I/O lock. That wait is a part of its limit, which must not begin again with the lock:
// a wait inside recvfrom(2) has the length that was set before.
func TestTimeout_IncludesTheWaitForTheLock(t *testing.T) {
	const limit = 400 * time.Millisecond
	c, peer := stream(t, "tcp", &client.Options{RecvTimeout: limit})
	first := make(chan error, 1)
	go func() { _, err := c.Recv(make([]byte, 1), 0); first <- err }()
	inKernel(t)
	start := time.Now()
	time.AfterFunc(limit*3/4, func() { _, _ = peer.Write([]byte("x")) }) // the first's
	_, err := c.Recv(make([]byte, 1), 0)
	took := time.Since(start)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, <-first)
	require.GreaterOrEqual(t, took, limit)
	require.Less(t, took, limit*3/2, "the lock came at three quarters of the limit, and another three of the kernel's")
}

// A deadline ends the call that receives, inside recvfrom(2), and those that wait for the
// lock. Bytes that have arrived are returned with the error; none is lost.
func TestTimeout_EndsTheWaitForTheLock(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
	var wg sync.WaitGroup
	got := make([]byte, 8)
	n := 0
	wg.Go(func() {
		var err error
		n, err = c.Recv(got, client.WaitAll)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("first got %d, %v", n, err)
		}
	})
	inKernel(t)
	_, err := peer.Write([]byte("1111"))
	require.NoError(t, err)
	const limit = 50 * time.Millisecond
	start := time.Now()
	require.NoError(t, c.SetReadDeadline(start.Add(time.Hour)))
	wg.Go(func() {
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("second got %v", err)
		}
	})
	time.AfterFunc(limit, func() { _ = c.SetReadDeadline(start) })
	wg.Wait()
	require.GreaterOrEqual(t, time.Since(start), limit)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	_, err = peer.Write([]byte("2222"))
	require.NoError(t, err)
	_, err = c.Recv(got[n:], client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "11112222", string(got))
}

func TestSend_ConcurrentCallsDoNotMix(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		const size, senders = 1 << 20, 4
		var wg sync.WaitGroup
		defer wg.Wait()
		for i := range senders {
			wg.Go(func() {
				if _, err := c.Send(bytes.Repeat([]byte{byte(i)}, size), 0); err != nil {
					t.Error(err)
				}
			})
		}
		seen := make(map[byte]bool)
		for range senders {
			got := make([]byte, size)
			_, err := io.ReadFull(peer, got)
			require.NoError(t, err)
			require.Equal(t, bytes.Repeat(got[:1], size), got)
			seen[got[0]] = true
		}
		require.Len(t, seen, senders)
	})
}

// blockedCalls are the calls that block without a limit, each with the client to close. UDP
// sends and connects of datagram clients never block.
func blockedCalls(t testing.TB, network string) map[string]func(t testing.TB) (*client.Client, func() error) {
	type maker = func(t testing.TB) (*client.Client, func() error)
	none := &client.Options{Timeout: -1}
	on := func(f func(c *client.Client) error) maker {
		return func(t testing.TB) (*client.Client, func() error) {
			c := connectedTo(t, network, none)
			return c, func() error { return f(c) }
		}
	}
	full := func(f func(c *client.Client) error) maker {
		return func(t testing.TB) (*client.Client, func() error) {
			c := connectedTo(t, network, none)
			fill(c)
			return c, func() error { return f(c) }
		}
	}
	calls := map[string]maker{
		"Recv": on(func(c *client.Client) error { _, err := c.Recv(make([]byte, 9), 0); return err }),
		"Read": on(func(c *client.Client) error { _, err := c.Read(make([]byte, 9)); return err }),
		"raw read": on(func(c *client.Client) error {
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			return raw.Read(func(uintptr) bool { return false })
		}),
		"Recv after a deadline": on(func(c *client.Client) error {
			_ = c.SetDeadline(time.Now().Add(time.Hour))
			_, err := c.Recv(make([]byte, 9), 0)
			return err
		}),
	}
	if !strings.HasPrefix(network, "udp") {
		calls["Send"] = full(func(c *client.Client) error { _, err := c.Send(tooMuch(network), 0); return err })
		calls["SendBuffers"] = full(func(c *client.Client) error {
			_, err := c.SendBuffers(net.Buffers{{1}, tooMuch(network)})
			return err
		})
		calls["Write"] = full(func(c *client.Client) error { _, err := c.Write(tooMuch(network)); return err })
	}
	switch network {
	case "udp", "udp6", "unixgram":
		calls["RecvFrom, unbound"] = func(t testing.TB) (*client.Client, func() error) {
			c, err := unconnected[network](none)
			require.NoError(t, err)
			return c, func() error { _, _, err := c.RecvFrom(make([]byte, 9), 0); return err }
		}
		calls["RecvBatch"] = on(func(c *client.Client) error { _, err := c.RecvBatch(buffers(9, 9), 0); return err })
	}
	switch network {
	case "unixgram":
		calls["SendBatch"] = full(func(c *client.Client) error { _, err := c.SendBatch(numbered(9), 0); return err })
		calls["SendSegments"] = full(func(c *client.Client) error { _, err := c.SendSegments(make([]byte, 9), 3, 0); return err })
		calls["SendTo"] = func(t testing.TB) (*client.Client, func() error) {
			peer := packetPeer(t, network)
			c, err := client.NewUnixgram(none)
			require.NoError(t, err)
			return c, func() error {
				for {
					if _, err := c.SendTo([]byte("x"), peer.LocalAddr()); err != nil {
						return err
					}
				}
			}
		}
	case "udp", "udp6":
		calls["Recv, GRO"] = func(t testing.TB) (*client.Client, func() error) {
			c, _ := datagrams(t, network, &client.Options{Timeout: -1, GRO: true})
			return c, func() error { _, err := c.Recv(make([]byte, 9), 0); return err }
		}
		calls["RecvBatch, GRO"] = func(t testing.TB) (*client.Client, func() error) {
			c, _ := datagrams(t, network, &client.Options{Timeout: -1, GRO: true})
			return c, func() error { _, err := c.RecvBatch(buffers(9, 9), 0); return err }
		}
	case "tcp", "tcp6", "unix":
		calls["WaitAll"] = on(func(c *client.Client) error { _, err := c.Recv(make([]byte, 9), client.WaitAll); return err })
		hole := sync.OnceValue(func() string { return blackHole(t, network, "127.0.0.1") })
		calls["Connect"] = func(t testing.TB) (*client.Client, func() error) {
			hole()
			c, err := unconnected[network](none)
			require.NoError(t, err)
			return c, func() error { return c.Connect(context.Background(), hole()) }
		}
	}
	return calls
}

var unconnected = map[string]func(*client.Options) (*client.Client, error){
	"tcp": client.NewTCP, "tcp6": client.NewTCP6, "udp": client.NewUDP, "udp6": client.NewUDP6,
	"unix": client.NewUnix, "unixgram": client.NewUnixgram,
}

func TestClose_EndsWaitingCalls(t *testing.T) {
	for _, network := range append(tlsNetworks, allNetworks...) {
		t.Run(network, func(t *testing.T) {
			for name, call := range blockedCalls(t, network) {
				t.Run(name, func(t *testing.T) {
					c, f := call(t)
					result := make(chan error, 1)
					go func() { result <- f() }()
					inKernel(t)
					require.NoError(t, c.Close())
					select {
					case err := <-result:
						require.ErrorIs(t, err, net.ErrClosed)
					case <-time.After(testTimeout):
						t.Fatal("still waiting")
					}
					require.ErrorIs(t, f(), net.ErrClosed, "and every later call")
					require.ErrorIs(t, c.Close(), net.ErrClosed)
				})
			}
		})
	}
}

func TestClose_EndsCallsThatWaitForTheLock(t *testing.T) {
	c, _ := stream(t, "tcp", &client.Options{Timeout: -1})
	results := make(chan error, 8)
	for range cap(results) {
		go func() { _, err := c.Recv(make([]byte, 1), 0); results <- err }()
	}
	inKernel(t)
	require.NoError(t, c.Close())
	for range cap(results) {
		require.ErrorIs(t, <-results, net.ErrClosed)
	}
}

// Close runs while other calls enter the kernel, beside a goroutine that opens descriptors and
// so gets the numbers that become free. A system call after close(2) would hit one of them.
func TestClose_NeverTouchesAnotherDescriptor(t *testing.T) {
	inParallelIfShort(t)
	rounds := 10_000
	if testing.Short() {
		rounds = 500
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := useDescriptors(); err != nil {
				t.Errorf("somebody else's descriptor: %v", err)
				return
			}
		}
	})
	ln := listen(t, "unix")
	for i := range rounds {
		c, err := client.Dial("unix", ln.Addr().String(), &client.Options{Timeout: -1})
		require.NoError(t, err)
		peer, err := ln.Accept()
		require.NoError(t, err)
		var readers sync.WaitGroup
		started := make(chan struct{}, 2)
		for _, read := range []func() error{
			func() error { _, err := c.Recv(make([]byte, 1), 0); return err },
			func() error { _, err := c.Read(make([]byte, 1)); return err },
		} {
			readers.Go(func() {
				started <- struct{}{}
				if err := read(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("round %d: %v", i, err)
				}
			})
		}
		<-started
		if i%2 == 0 {
			<-started
		}
		require.NoError(t, c.Close())
		readers.Wait()
		require.NoError(t, peer.Close())
	}
	close(stop)
	wg.Wait()
}

// useDescriptors opens a pair of sockets and a file, and checks that nothing else uses them
// until it has closed them.
func useDescriptors() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "c")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	got := make([]byte, 4)
	for range 4 {
		if _, err := unix.Write(pair[0], []byte("mine")); err != nil {
			return err
		}
		if n, err := unix.Read(pair[1], got); err != nil || string(got[:n]) != "mine" {
			return errors.Join(err, errors.New("bytes are gone"))
		}
		if _, err := file.WriteAt([]byte("mine"), 0); err != nil {
			return err
		}
	}
	return errors.Join(unix.Close(pair[0]), unix.Close(pair[1]), file.Close())
}

func TestCloseWrite_EndsOneDirection(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		require.NoError(t, c.CloseWrite())
		_, err := peer.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		_, err = peer.Write([]byte("still"))
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		_, err = c.Send([]byte("x"), 0)
		require.ErrorIs(t, err, unix.EPIPE)
		require.NoError(t, c.CloseRead())
		_, err = c.Recv(got, 0)
		require.Equal(t, io.EOF, err)
	})
	c, _ := datagrams(t, "udp", nil)
	require.ErrorIs(t, c.CloseWrite(), unix.EOPNOTSUPP)
	require.ErrorIs(t, c.CloseRead(), unix.EOPNOTSUPP)
}

func TestIsConnected_AsksTheKernel(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		require.True(t, c.IsConnected())
		_, err := peer.Write([]byte("last words"))
		require.NoError(t, err)
		require.NoError(t, peer.Close())
		require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
		got := make([]byte, 10)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err, "asking has taken nothing away")
		require.NoError(t, c.Close())
		require.False(t, c.IsConnected())
	})
	t.Run("a reset is told afterwards", func(t *testing.T) {
		c, peer := stream(t, "tcp", nil)
		require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		require.NoError(t, peer.Close())
		require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
		_, err := c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, unix.ECONNRESET)
	})
	eachDatagram(t, func(t *testing.T, network string) {
		c, _ := datagrams(t, network, nil)
		require.True(t, c.IsConnected())
		require.NoError(t, c.Close())
		require.False(t, c.IsConnected())
	})
	c, err := client.NewTCP(nil)
	require.NoError(t, err)
	require.False(t, c.IsConnected())
	require.NoError(t, c.Close())
}

func TestClient_ZeroValueReturnsErrors(t *testing.T) {
	var c client.Client
	_, err := c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, unix.ENOTCONN)
	_, err = c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, unix.ENOTCONN)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ENOTCONN)
	_, _, err = c.RecvFrom(make([]byte, 1), 0)
	require.ErrorIs(t, err, unix.ENOTCONN)
	_, err = c.SendTo(nil, &net.UDPAddr{})
	require.ErrorIs(t, err, unix.ENOTCONN)
	require.Error(t, c.Connect(context.Background(), "127.0.0.1:1"))
	require.Error(t, c.Bind("127.0.0.1:1"))
	require.Error(t, c.SetDeadline(time.Now()))
	require.Error(t, c.Close())
	require.Nil(t, c.LocalAddr())
	require.Nil(t, c.RemoteAddr())
	require.False(t, c.IsConnected())
	_, err = c.SyscallConn()
	require.Error(t, err)
}
