package client_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// drains drains a client without waiting until n bytes were discarded: they may arrive in
// pieces.
func drains(t testing.TB, c *client.Client, n int) {
	t.Helper()
	total := int64(0)
	require.Eventually(t, func() bool {
		m, err := c.Drain(client.DontWait)
		total += m
		return err != nil || total >= int64(n)
	}, testTimeout, time.Millisecond)
	require.EqualValues(t, n, total)
}

func TestDrain_DontWaitDiscardsWhatHasArrived(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			n, err := c.Drain(client.DontWait)
			require.NoError(t, err)
			require.Zero(t, n)

			writes(t, peer, string(make([]byte, 100_000)))
			drains(t, c, 100_000)
			_, err = c.Recv(make([]byte, 1), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)

			writes(t, peer, "next")
			p := make([]byte, 4)
			_, err = c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "next", string(p))

			require.NoError(t, peer.Close())
			require.Eventually(t, func() bool { _, err = c.Drain(client.DontWait); return err != nil }, testTimeout, time.Millisecond)
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestDrain_PeekedBytesAreDiscarded(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		c, peer := stream(t, network, nil)
		writes(t, peer, "abc")
		_, err := c.Recv(make([]byte, 3), client.Peek|client.WaitAll)
		require.NoError(t, err)
		n, err := c.Drain(client.DontWait)
		require.NoError(t, err)
		require.EqualValues(t, 3, n, network)
	}
}

func TestDrain_UntilThePeerEndsTheStream(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			done := make(chan error, 1)
			go func() {
				_, err := peer.Write(make([]byte, 3<<20))
				_ = peer.Close()
				done <- err
			}()
			n, err := c.Drain(0)
			require.NoError(t, err)
			require.EqualValues(t, 3<<20, n)
			require.NoError(t, <-done)
			n, err = c.Drain(0)
			require.NoError(t, err, "the end is still the end")
			require.Zero(t, n)
		})
	}
}

func TestDrain_LimitEndsItWithTheCount(t *testing.T) {
	const limit = 60 * time.Millisecond
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{RecvTimeout: limit})
			writes(t, peer, "abc")
			began := time.Now()
			n, err := c.Drain(0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(began), limit)
			require.EqualValues(t, 3, n)
		})
	}
}

// A peer that sends as fast as Drain receives would otherwise keep it forever.
func TestDrain_LimitEndsItWhileThereIsMore(t *testing.T) {
	for _, flags := range []client.Flag{0, client.DontWait} {
		c, peer := stream(t, "tcp", nil)
		writes(t, peer, string(make([]byte, 100_000)))
		_, err := c.Recv(make([]byte, 100_000), client.Peek|client.WaitAll) // all of it is there
		require.NoError(t, err)
		c.SetLimits(client.Limits{RecvTimeout: time.Microsecond})
		n, err := c.Drain(flags)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Less(t, n, int64(100_000))
	}
}

func TestDrain_CloseDeadlineAndContextEndIt(t *testing.T) {
	for _, network := range []string{"unix", "tls"} {
		endsWaitingCall(t, func() (*client.Client, func() error) {
			c := connectedTo(t, network, &client.Options{Timeout: -1})
			return c, func() error { _, err := c.Drain(0); return err }
		}, inKernel, (*client.Client).SetReadDeadline)
	}
	var zero client.Client
	_, err := zero.Drain(0)
	require.ErrorIs(t, err, unix.ENOTCONN)
}

func TestDrain_FailedConnectionIsNoEnd(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
	require.NoError(t, peer.Close())
	_, err := c.Drain(0)
	require.ErrorIs(t, err, unix.ECONNRESET)

	c, peer = stream(t, "tls", nil)
	require.NoError(t, peer.(interface{ NetConn() net.Conn }).NetConn().Close()) // without close_notify
	_, err = c.Drain(0)
	require.Equal(t, io.ErrUnexpectedEOF, err)
}

func TestDrain_DoesNotWaitForTheLock(t *testing.T) {
	c := connectedTo(t, "unix", nil)
	go func() { _, _ = c.Recv(make([]byte, 1), 0) }()
	inKernel(t)
	_, err := c.Drain(client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN, "another call receives")
}

func TestDrain_FlagsAreChecked(t *testing.T) {
	c := connectedTo(t, "unix", nil)
	for _, flags := range []client.Flag{client.Peek, client.WaitAll, client.OOB, client.DontWait | client.Peek} {
		_, err := c.Drain(flags)
		require.ErrorIs(t, err, unix.EINVAL)
	}
}

func TestDrain_Datagrams(t *testing.T) {
	for _, network := range datagramNetworks {
		t.Run(network, func(t *testing.T) {
			c, peer := datagrams(t, network, nil)
			for _, size := range []int{0, 1, 1000} {
				_, err := peer.WriteTo(make([]byte, size), c.LocalAddr())
				require.NoError(t, err)
			}
			drains(t, c, 1001)
			_, err := c.Recv(make([]byte, 1), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			_, err = c.Drain(0)
			require.ErrorIs(t, err, unix.EOPNOTSUPP)
		})
	}
	c, peer := datagrams(t, "udp", &client.Options{GRO: true})
	for range 3 {
		_, err := peer.WriteTo(make([]byte, 100), c.LocalAddr())
		require.NoError(t, err)
	}
	drains(t, c, 300)
}

func TestDrain_FramingDiscardsWholePackets(t *testing.T) {
	for _, network := range []string{"unix", "tls"} {
		c, peer := framed(t, network, client.Delimiter{Delim: []byte("\n")})
		writes(t, peer, "one\ntwo\nthr")
		drains(t, c, len("one\ntwo\n"))
		writes(t, peer, "ee\nfour\n")
		wantPacket(t, c, "three\n")
		wantPacket(t, c, "four\n")

		writes(t, peer, "five\nsix")
		require.NoError(t, peer.Close())
		n, err := c.Drain(0)
		require.NoError(t, err)
		require.EqualValues(t, len("five\nsix"), n, "the end is not one of packets")
	}

	c, peer := framed(t, "unix", client.Delimiter{Delim: []byte("\n"), Max: 4})
	writes(t, peer, "too long\n")
	var err error
	require.Eventually(t, func() bool { _, err = c.Drain(client.DontWait); return err != nil }, testTimeout, time.Millisecond)
	var malformed *client.PacketError
	require.ErrorAs(t, err, &malformed)
}

func TestDrain_LargePacketInPieces(t *testing.T) {
	c, peer := framed(t, "unix", client.Delimiter{Delim: []byte("\n")})
	packet := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
	go func() { _, _ = peer.Write(packet) }()
	drains(t, c, len(packet))
}

// A drained connection is as good as what its client has received itself.
func TestDrain_PooledConnection(t *testing.T) {
	line := client.Delimiter{Delim: []byte("\n")}
	for name, test := range map[string]struct {
		opts   client.PoolOptions
		framed client.Framing
		use    func(t *testing.T, c *client.Client)
		reused bool
	}{
		"unread data is gone": {
			opts: client.PoolOptions{ReuseUnanswered: true}, reused: true,
			use: func(t *testing.T, c *client.Client) {
				_, err := c.Send([]byte("hello"), 0)
				require.NoError(t, err)
				drains(t, c, 5)
			},
		},
		"what was drained is no answer": {
			use: func(t *testing.T, c *client.Client) {
				_, err := c.Send([]byte("hello"), 0)
				require.NoError(t, err)
				drains(t, c, 5)
			},
		},
		"the rest of an answer": {
			reused: true,
			use: func(t *testing.T, c *client.Client) {
				_, err := c.Send([]byte("hello"), 0)
				require.NoError(t, err)
				_, err = c.Recv(make([]byte, 1), 0)
				require.NoError(t, err)
				drains(t, c, 4)
			},
		},
		"a whole packet is an answer": {
			framed: line, reused: true,
			use: func(t *testing.T, c *client.Client) {
				_, err := c.SendPacket([]byte("hello"))
				require.NoError(t, err)
				drains(t, c, 6)
			},
		},
		"after a timeout": {
			opts: client.PoolOptions{ReuseUnanswered: true},
			use: func(t *testing.T, c *client.Client) {
				c.SetLimits(client.Limits{RecvTimeout: time.Millisecond})
				_, err := c.Recv(make([]byte, 1), 0)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				_, err = c.Drain(client.DontWait)
				require.NoError(t, err)
			},
		},
		"until the end": {
			use: func(t *testing.T, c *client.Client) {
				_, err := c.Send([]byte("hello"), 0)
				require.NoError(t, err)
				require.NoError(t, c.CloseWrite())
				n, err := c.Drain(0)
				require.NoError(t, err)
				require.EqualValues(t, 5, n)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := countedEcho(t, "unix")
			pool := newPool(t, test.opts)
			opts := &client.Options{Framing: test.framed}
			c := server.from(t, pool, opts)
			test.use(t, c)
			require.NoError(t, c.Close())
			c = server.from(t, pool, opts)
			require.Equal(t, test.reused, c.Reused())
			require.NoError(t, c.Close())
		})
	}
}
