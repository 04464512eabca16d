package client_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// shapes are buffers of all sizes and numbers.
func shapes() map[string]net.Buffers {
	cut := func(total int, sizes ...int) (bufs net.Buffers) {
		rest := randomBytes(total)
		for i := 0; len(rest) > 0; i++ {
			n := min(sizes[i%len(sizes)], len(rest))
			bufs, rest = append(bufs, rest[:n]), rest[n:]
		}
		return bufs
	}
	return map[string]net.Buffers{
		"one":              cut(100, 100),
		"header and body":  cut(1020, 20, 1000),
		"empty ones":       {nil, []byte("a"), {}, []byte("b"), nil},
		"only empty ones":  {nil, {}, nil},
		"none":             nil,
		"1,024":            cut(1024, 1),
		"1,025":            cut(1025, 1),
		"many, some empty": cut(10_000, 0, 1, 0, 2, 7),
		"long ones":        cut(5<<20, 1<<20, 3, 2<<20),
		"one long":         cut(5<<20, 5<<20),
		"16 KiB":           cut(64<<10, 16<<10),
		"not 16 KiB":       cut(100_000, 10_000),
	}
}

func TestSendBuffers_SendsAllInOrder(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			for name, bufs := range shapes() {
				c, peer := stream(t, network, nil)
				all := collects(peer)
				before := slices.Clone(bufs)
				want := bytes.Join(bufs, nil)
				n, err := c.SendBuffers(bufs)
				require.NoError(t, err, name)
				require.EqualValues(t, len(want), n, name)
				require.NoError(t, c.CloseWrite())
				require.True(t, bytes.Equal(want, <-all), name)
				require.Equal(t, before, bufs, "the caller's buffers are as they were: %s", name)
			}
		})
	}
}

// The peer's Read returns one record.
func TestSendBuffers_OneRecordOverTLS(t *testing.T) {
	for _, network := range tlsNetworks {
		c, peer := stream(t, network, nil)
		p := make([]byte, 64<<10)
		for _, bufs := range []net.Buffers{{[]byte("header"), nil, make([]byte, 1000), []byte("end")}, {make([]byte, 16<<10-1), {1}}} {
			n, err := c.SendBuffers(bufs)
			require.NoError(t, err)
			m, err := peer.Read(p)
			require.NoError(t, err)
			require.EqualValues(t, n, m)
		}
	}
}

func TestSendBuffers_FramingAddsNothing(t *testing.T) {
	c, peer := framed(t, "unix", client.LengthPrefix{})
	_, err := c.SendBuffers(net.Buffers{{0, 2}, []byte("ab")})
	require.NoError(t, err)
	p := make([]byte, 10)
	n, err := peer.Read(p)
	require.NoError(t, err)
	require.Equal(t, "\x00\x02ab", string(p[:n]))
}

func TestSendBuffers_OneDatagram(t *testing.T) {
	for _, network := range datagramNetworks {
		for _, opts := range []*client.Options{nil, {Unconnected: true}} {
			t.Run(network, func(t *testing.T) {
				c, peer := datagrams(t, network, opts)
				for name, bufs := range shapes() {
					want := bytes.Join(bufs, nil)
					n, err := c.SendBuffers(bufs)
					if len(want) > 1<<20 || network != "unixgram" && len(want) > 65_507 {
						require.ErrorIs(t, err, unix.EMSGSIZE, name)
						require.Zero(t, n)
						continue
					}
					require.NoError(t, err, name)
					require.EqualValues(t, len(want), n)
					p := make([]byte, 1<<18)
					m, _, err := peer.ReadFrom(p)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, p[:m]), name)
				}
			})
		}
	}
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.SendBuffers(net.Buffers{{1}})
	require.ErrorIs(t, err, unix.ENOTCONN)
	var zero client.Client
	_, err = zero.SendBuffers(nil)
	require.ErrorIs(t, err, unix.ENOTCONN)
}

// A peer that receives slowly makes the kernel take parts, which end within a buffer.
func TestSendBuffers_SlowPeerAndSignals(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{SendBuffer: 4 << 10, Timeout: testTimeout})
			var bufs net.Buffers
			for rest := randomBytes(1 << 20); len(rest) > 0; {
				n := min(len(rest), 1+len(bufs)%3000)
				bufs, rest = append(bufs, rest[:n]), rest[n:]
			}
			got := make(chan []byte, 1)
			go func() {
				var all []byte
				for p := make([]byte, 30_011); ; time.Sleep(100 * time.Microsecond) {
					n, err := peer.Read(p)
					all = append(all, p[:n]...)
					if err != nil {
						got <- all
						return
					}
				}
			}()
			underSignals(t, func(t *testing.T) {
				n, err := c.SendBuffers(bufs)
				require.NoError(t, err)
				require.EqualValues(t, 1<<20, n)
			})
			require.NoError(t, c.CloseWrite())
			require.True(t, bytes.Equal(bytes.Join(bufs, nil), <-got))
		})
	}
}

func TestSendBuffers_LimitEndsItWithTheTrueCount(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			const limit = 60 * time.Millisecond
			c, peer := stream(t, network, &client.Options{SendTimeout: limit})
			bufs := make(net.Buffers, 3000)
			for i := range bufs {
				bufs[i] = randomBytes(10_000)
			}
			began := time.Now()
			n, err := c.SendBuffers(bufs)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(began), limit)
			require.False(t, client.SafeToRetry(err))
			require.NoError(t, c.Close())
			got, err := io.ReadAll(peer)
			require.NoError(t, err)
			require.EqualValues(t, len(got), n)
			require.True(t, bytes.Equal(bytes.Join(bufs, nil)[:n], got))
		})
	}
}

// The limit is one for all system calls.
func TestSendBuffers_LimitHoldsWhileThePeerReceives(t *testing.T) {
	for _, network := range []string{"unix", "tls"} {
		c, peer := stream(t, network, nil)
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		p := make([]byte, 1<<20)
		bufs := make(net.Buffers, 1000)
		for i := range bufs {
			bufs[i] = p
		}
		c.SetLimits(client.Limits{SendTimeout: time.Millisecond})
		n, err := c.SendBuffers(bufs)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, network)
		require.Less(t, n, int64(1000<<20))
	}
}

func TestSendBuffers_PeerHasGone(t *testing.T) {
	c, peer := stream(t, "unix", nil)
	require.NoError(t, peer.Close())
	n, err := c.SendBuffers(net.Buffers{{1}, {2}})
	require.ErrorIs(t, err, unix.EPIPE)
	require.Zero(t, n)
	require.True(t, client.SafeToRetry(err))
	require.NoError(t, c.Close())
	_, err = c.SendBuffers(nil)
	require.ErrorIs(t, err, net.ErrClosed)

	c, _ = stream(t, "tcp", nil)
	require.NoError(t, c.CloseWrite())
	_, err = c.SendBuffers(net.Buffers{{1}})
	require.ErrorIs(t, err, unix.EPIPE)

	// A peer that closes with unread data resets; the next receive says so, too.
	c, peer = stream(t, "tcp", nil)
	_, err = c.Send([]byte("x"), 0)
	require.NoError(t, err)
	_, err = peer.Read(make([]byte, 0))
	require.NoError(t, err)
	require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
	require.NoError(t, peer.Close())
	require.Eventually(t, func() bool { _, err = c.SendBuffers(net.Buffers{{1}, {2}}); return err != nil }, testTimeout, time.Millisecond)
	_, err = c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, unix.ECONNRESET)
}

func TestSendBuffers_ConcurrentCallsDoNotMix(t *testing.T) {
	c, peer := stream(t, "unix", nil)
	all := collects(peer)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			bufs := make(net.Buffers, 2000) // more than one system call takes
			for k := range bufs {
				bufs[k] = bytes.Repeat([]byte{byte(i)}, 5)
			}
			_, err := c.SendBuffers(bufs)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.CloseWrite())
	for got := <-all; len(got) > 0; got = got[10_000:] {
		require.Equal(t, 10_000, bytes.Count(got[:10_000], got[:1]))
	}
}

// Package net's own way works as well: a Write for each buffer.
func TestSendBuffers_WriteToOfPackageNet(t *testing.T) {
	for _, network := range []string{"unix", "tls"} {
		c, peer := stream(t, network, nil)
		all := collects(peer)
		bufs := net.Buffers{[]byte("one"), nil, []byte("two")}
		n, err := bufs.WriteTo(c)
		require.NoError(t, err)
		require.EqualValues(t, 6, n)
		require.Empty(t, bufs)
		require.NoError(t, c.CloseWrite())
		require.Equal(t, "onetwo", string(<-all))
	}
}

func TestSendBuffers_IsARequestToThePool(t *testing.T) {
	server := countedEcho(t, "unix")
	pool := newPool(t, client.PoolOptions{})
	for _, answered := range []bool{true, false} {
		c := server.from(t, pool, nil)
		_, err := c.SendBuffers(net.Buffers{{1}, {2}})
		require.NoError(t, err)
		if answered {
			_, err = c.Recv(make([]byte, 2), client.WaitAll)
			require.NoError(t, err)
		}
		require.NoError(t, c.Close())
		c, err = pool.Dial(context.Background(), "unix", server.Addr().String(), nil)
		require.NoError(t, err)
		require.Equal(t, answered, c.Reused())
		require.NoError(t, c.Close())
	}
}
