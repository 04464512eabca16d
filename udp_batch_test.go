package client_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// buffers gives n datagrams to receive into, with buffers of a size.
func buffers(n, size int) []client.Datagram {
	ds := make([]client.Datagram, n)
	for i := range ds {
		ds[i].Buf = make([]byte, size)
	}
	return ds
}

// numbered makes n datagrams that tell their number and have different lengths.
func numbered(n int) []client.Datagram {
	ds := make([]client.Datagram, n)
	for i := range ds {
		ds[i].Buf = fmt.Appendf(nil, "%d %s", i, bytes.Repeat([]byte("x"), i%7*100))
	}
	return ds
}

// datagramPair gives two clients, the first connected to the second, which is not connected.
func datagramPair(t testing.TB, network string, opts client.Options) (c, peer *client.Client) {
	t.Helper()
	opts.LocalAddr = loopbackOf(t, network)
	peer, err := unconnected[network](&opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	opts.LocalAddr = ""
	c, err = client.Dial(network, peer.LocalAddr().String(), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c, peer
}

// receiveAll receives n datagrams in batches and checks who sent them.
func receiveAll(t testing.TB, c *client.Client, n int, from net.Addr) (all [][]byte) {
	t.Helper()
	for ds := buffers(20, 2000); len(all) < n; {
		got, err := c.RecvBatch(ds, 0)
		require.NoError(t, err)
		require.Positive(t, got)
		for _, d := range ds[:got] {
			require.Equal(t, d.Size, d.N)
			require.Equal(t, from.String(), senderOf(d))
			all = append(all, slices.Clone(d.Buf[:d.N]))
		}
	}
	return all
}

func senderOf(d client.Datagram) string {
	if d.UnixName != "" {
		return d.UnixName
	}
	return d.Addr.String()
}

func TestBatch_DatagramsArriveWholeAndInOrder(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, peer := datagramPair(t, network, client.Options{})
		sent := numbered(70)
		sent[3].Buf = nil // an empty datagram is one too
		result := make(chan error, 1)
		go func() {
			n, err := c.SendBatch(sent, 0)
			if err == nil && n != len(sent) {
				err = fmt.Errorf("%d sent", n)
			}
			result <- err
		}()
		got := receiveAll(t, peer, len(sent), c.LocalAddr())
		require.NoError(t, <-result)
		for i, p := range got {
			require.Equal(t, string(sent[i].Buf), string(p))
		}

		// And back, by address.
		back := numbered(40)
		for i := range back {
			if network == "unixgram" {
				back[i].UnixName = c.LocalAddr().String()
			} else {
				back[i].Addr = netip.MustParseAddrPort(c.LocalAddr().String())
			}
		}
		go func() {
			_, err := peer.SendBatch(back, 0)
			result <- err
		}()
		got = receiveAll(t, c, len(back), peer.LocalAddr())
		require.NoError(t, <-result)
		for i, p := range got {
			require.Equal(t, string(back[i].Buf), string(p))
		}
	})
}

func TestSendBatch_EachDatagramHasItsOwnReceiver(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, err := unconnected[network](&client.Options{LocalAddr: loopbackOf(t, network)})
		require.NoError(t, err)
		defer c.Close()
		peers := []net.PacketConn{packetPeer(t, network), packetPeer(t, network), packetPeer(t, network)}
		ds := numbered(6)
		for i := range ds {
			address := peers[i%3].LocalAddr().String()
			if network == "unixgram" {
				ds[i].UnixName = address
			} else {
				ds[i].Addr = netip.MustParseAddrPort(address)
			}
		}
		n, err := c.SendBatch(ds, 0)
		require.NoError(t, err)
		require.Equal(t, 6, n)
		buf := make([]byte, 2000)
		for i := range ds {
			n, from, err := peers[i%3].ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, string(ds[i].Buf), string(buf[:n]))
			require.Equal(t, c.LocalAddr().String(), from.String(), "it can be answered")
		}
	})
}

func TestRecvBatch_TellsWhichDatagramsWereCut(t *testing.T) {
	for _, gro := range []bool{false, true} {
		eachDatagram(t, func(t *testing.T, network string) {
			if gro && network == "unixgram" {
				t.Skip("GRO is for UDP")
			}
			c, peer := datagrams(t, network, &client.Options{GRO: gro})
			for _, p := range []string{"short", "longer than a buffer", "", "too long as well"} {
				_, err := peer.WriteTo([]byte(p), c.LocalAddr())
				require.NoError(t, err)
			}
			ds := buffers(4, 10)
			n, err := c.RecvBatch(ds, 0)
			require.Equal(t, 4, n)
			var cut *client.TruncatedError
			require.ErrorAs(t, err, &cut)
			require.Equal(t, client.TruncatedError{Size: 20, Got: 10}, *cut)
			require.ErrorIs(t, err, io.ErrShortBuffer)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, peer.LocalAddr().String(), op.Addr.String())
			require.Equal(t, []int{5, 10, 0, 10}, []int{ds[0].N, ds[1].N, ds[2].N, ds[3].N})
			require.Equal(t, []int{5, 20, 0, 16}, []int{ds[0].Size, ds[1].Size, ds[2].Size, ds[3].Size})
			require.Equal(t, "longer tha", string(ds[1].Buf))
		})
	}
}

// sendmmsg(2) gives a short count, and drops the error that ended it.
func TestSendBatch_TellsWhichDatagramWasRefused(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagramPair(t, network, client.Options{})
			ds := numbered(6)
			ds[2].Buf = make([]byte, 65_536)
			n, err := c.SendBatch(ds, 0)
			require.ErrorIs(t, err, unix.EMSGSIZE)
			require.Equal(t, 2, n)
			n, err = c.SendBatch(ds[n:], 0)
			require.ErrorIs(t, err, unix.EMSGSIZE, "as the first one too")
			require.Zero(t, n)
			n, err = c.SendBatch(ds[3:], 0)
			require.NoError(t, err)
			require.Equal(t, 3, n)
			for i, p := range receiveAll(t, peer, 5, c.LocalAddr()) {
				require.Equal(t, string(slices.Concat(ds[:2], ds[3:])[i].Buf), string(p))
			}
		})
	}
}

func TestSendBatch_SendsThoseBeforeAnAddressThatCannotBeUsed(t *testing.T) {
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	peer := packetPeer(t, "udp")
	good := netip.MustParseAddrPort(peer.LocalAddr().String())
	for name, bad := range map[string]client.Datagram{
		"none":           {},
		"IPv6":           {Addr: netip.MustParseAddrPort("[::1]:9")},
		"a useless zone": {Addr: netip.MustParseAddrPort("[2001:db8::1%lo]:9")},
		"a unix name":    {UnixName: "/x"},
		"two":            {Addr: good, UnixName: "/x"},
	} {
		n, err := c.SendBatch([]client.Datagram{{Addr: good}, {Addr: good}, bad, {Addr: good}}, 0)
		require.Equal(t, 2, n, name)
		var op *net.OpError
		require.ErrorAs(t, err, &op, name)
		require.False(t, client.SafeToRetry(err), name)
	}
	_, err = c.SendBatch([]client.Datagram{{}}, 0)
	require.ErrorIs(t, err, unix.ENOTCONN)

	connected, _ := datagrams(t, "udp", nil)
	n, err := connected.SendBatch([]client.Datagram{{}, {Addr: good}}, 0)
	require.ErrorIs(t, err, net.ErrWriteToConnected)
	require.Equal(t, 1, n)
}

func TestBatch_AClosedPortIsTold(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagrams(t, network, nil)
			require.NoError(t, peer.Close())
			_, err := c.Send([]byte("x"), 0)
			require.NoError(t, err)
			n, err := c.RecvBatch(buffers(2, 10), 0)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
			require.Zero(t, n)

			_, err = c.Send([]byte("x"), 0)
			require.NoError(t, err)
			n, err = c.SendBatch(numbered(5), 0)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
			require.Zero(t, n)

			n, err = c.SendBatch(numbered(5), 0)
			require.ErrorIs(t, err, unix.ECONNREFUSED, "by the next datagram, or the one after")
			require.Positive(t, n)
		})
	}
}

func TestRecvBatch_WaitsForOneDatagramAlone(t *testing.T) {
	for _, gro := range []bool{false, true} {
		c, peer := datagramPair(t, "udp", client.Options{GRO: gro, Timeout: -1})
		type result struct {
			n   int
			err error
		}
		received := make(chan result, 1)
		ds := buffers(10, 100)
		go func() {
			n, err := peer.RecvBatch(ds, 0)
			received <- result{n, err}
		}()
		inKernel(t)
		_, err := c.Send([]byte("the one"), 0)
		require.NoError(t, err)
		require.Equal(t, result{1, nil}, <-received)
		require.Equal(t, "the one", string(ds[0].Buf[:ds[0].N]))
		require.Equal(t, c.LocalAddr().String(), ds[0].Addr.String())
	}
}

func TestBatch_LimitsAndDeadlines(t *testing.T) {
	for _, opts := range []client.Options{{}, {GRO: true}} {
		opts.RecvTimeout = 30 * time.Millisecond
		c, _ := datagrams(t, "udp", &opts)
		ds := buffers(2, 10)
		begin := time.Now()
		n, err := c.RecvBatch(ds, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Zero(t, n)
		require.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)
		_, err = c.RecvBatch(ds, client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
		require.NoError(t, c.SetDeadline(time.Now()))
		_, err = c.RecvBatch(ds, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = c.SendBatch(numbered(1), 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = c.SendSegments(make([]byte, 10), 5, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetDeadline(time.Time{}))
		_, err = c.SendBatch(numbered(1), 0)
		require.NoError(t, err)
	}
}

// Of datagram sockets only those of unix wait for a receiver that does not keep up.
func TestSendBatch_WaitsForRoomAndTellsHowManyWent(t *testing.T) {
	inParallelIfShort(t)
	send := map[string]func(c *client.Client, flags client.Flag) (int, error){
		"SendBatch": func(c *client.Client, flags client.Flag) (int, error) { return c.SendBatch(numbered(2000), flags) },
		"SendSegments": func(c *client.Client, flags client.Flag) (int, error) {
			n, err := c.SendSegments(make([]byte, 2000*10), 10, flags)
			return n / 10, err
		},
	}
	for name, f := range send {
		c, peer := datagrams(t, "unixgram", &client.Options{SendTimeout: 30 * time.Millisecond})
		n, err := f(c, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
		require.Positive(t, n, name)
		require.Less(t, n, 2000, name)
		m, err := f(c, client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN, name)
		require.Zero(t, m, name)

		// What was counted is there, and no more.
		buf := make([]byte, 2000)
		require.NoError(t, peer.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		for range n {
			_, _, err := peer.ReadFrom(buf)
			require.NoError(t, err, name)
		}
		_, _, err = peer.ReadFrom(buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
	}
}

func TestRecvBatch_PeekGivesTheFirstDatagramAndLeavesIt(t *testing.T) {
	for _, gro := range []bool{false, true} {
		c, peer := datagramPair(t, "udp", client.Options{GRO: gro})
		_, err := c.SendSegments([]byte("aaaabbbbcccc"), 4, 0)
		require.NoError(t, err)
		ds := buffers(5, 10)
		for range 2 {
			n, err := peer.RecvBatch(ds, client.Peek)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, "aaaa", string(ds[0].Buf[:ds[0].N]))
		}
		got := receiveAll(t, peer, 3, c.LocalAddr())
		require.Equal(t, "aaaabbbbcccc", string(slices.Concat(got...)))
	}
}

func TestBatch_IsNotForStreamsNorForAClosedClient(t *testing.T) {
	c, _ := stream(t, "tcp", nil)
	for _, err := range batchErrors(c, 0) {
		require.ErrorIs(t, err, unix.EOPNOTSUPP)
	}
	d, _ := datagrams(t, "udp", nil)
	for _, err := range batchErrors(d, client.OOB) {
		require.ErrorIs(t, err, unix.EOPNOTSUPP)
	}
	for _, err := range batchErrors(d, 1<<30) {
		require.ErrorIs(t, err, unix.EINVAL)
	}
	require.NoError(t, d.Close())
	for _, err := range append(batchErrors(d, 0), batchErrors(new(client.Client), 0)...) {
		require.Error(t, err)
	}
	for _, err := range batchErrors(d, 0) {
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func batchErrors(c *client.Client, flags client.Flag) []error {
	_, recv := c.RecvBatch(buffers(2, 10), flags)
	_, send := c.SendBatch(numbered(2), flags)
	_, segments := c.SendSegments(make([]byte, 10), 5, flags)
	return []error{recv, send, segments}
}

func TestBatch_OfNothingIsNothing(t *testing.T) {
	c, peer := datagramPair(t, "udp", client.Options{})
	n, err := c.SendBatch(nil, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = c.SendSegments(nil, 10, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = c.RecvBatch(nil, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = peer.RecvBatch(buffers(1, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
}

func TestSendSegments_EachArrivesAsADatagram(t *testing.T) {
	for _, network := range datagramNetworks {
		for _, test := range []struct{ bytes, size int }{
			{1, 1}, {1, 10}, {10, 10}, {11, 10}, {64 * 10, 10}, {64*10 + 1, 10}, {200*100 + 50, 100},
			{10 * 1200, 1200}, {65_507, 1400}, {100_001, 1400}, {3 * 40_000, 40_000}, {1 << 17, 1 << 16 >> 1},
		} {
			t.Run(fmt.Sprintf("%s, %d by %d", network, test.bytes, test.size), func(t *testing.T) {
				c, peer := datagramPair(t, network, client.Options{RecvBuffer: 1 << 20, SendBuffer: 1 << 20})
				p := make([]byte, test.bytes)
				for i := range p {
					p[i] = byte(i * 7 >> 3)
				}
				result := make(chan error, 1)
				go func() {
					n, err := c.SendSegments(p, test.size, 0)
					if err == nil && n != len(p) {
						err = fmt.Errorf("%d sent", n)
					}
					result <- err
				}()
				buf := make([]byte, 1<<16)
				for want := range slices.Chunk(p, test.size) {
					n, err := peer.Recv(buf, 0)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, buf[:n]))
				}
				require.NoError(t, <-result)
				_, err := peer.Recv(buf, client.DontWait)
				require.ErrorIs(t, err, unix.EAGAIN)
			})
		}
	}
}

func TestSendSegments_ToAnAddress(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, err := unconnected[network](&client.Options{LocalAddr: loopbackOf(t, network)})
			require.NoError(t, err)
			defer c.Close()
			peer := packetPeer(t, network)
			n, err := c.SendSegmentsToAddrPort([]byte("aabbc"), 2, netip.MustParseAddrPort(peer.LocalAddr().String()), 0)
			require.NoError(t, err)
			require.Equal(t, 5, n)
			buf := make([]byte, 10)
			for _, want := range []string{"aa", "bb", "c"} {
				n, from, err := peer.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, want, string(buf[:n]))
				require.Equal(t, c.LocalAddr().String(), from.String())
			}
			_, err = c.SendSegments([]byte("aabb"), 2, 0)
			require.ErrorIs(t, err, unix.ENOTCONN)
			connected, _ := datagrams(t, network, nil)
			_, err = connected.SendSegmentsToAddrPort([]byte("aabb"), 2, netip.MustParseAddrPort(peer.LocalAddr().String()), 0)
			require.ErrorIs(t, err, net.ErrWriteToConnected)
		})
	}
}

func TestSendSegments_RefusesWhatIsNoDatagram(t *testing.T) {
	c, peer := datagramPair(t, "udp", client.Options{})
	for _, size := range []int{0, -1} {
		n, err := c.SendSegments([]byte("x"), size, 0)
		require.ErrorIs(t, err, unix.EINVAL)
		require.Zero(t, n)
	}
	for _, size := range []int{65_508, 65_536, 1 << 20} {
		n, err := c.SendSegments(make([]byte, 2<<20), size, 0)
		require.ErrorIs(t, err, unix.EMSGSIZE)
		require.Zero(t, n)
	}
	_, err := peer.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
}

// Every call gives one datagram, however the kernel has received them.
func TestGRO_BoundariesAndSendersStay(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagramPair(t, network, client.Options{GRO: true, RecvBuffer: 1 << 20})
			buf := make([]byte, 100)
			receive := map[string]func() (int, error){
				"Recv":     func() (int, error) { return peer.Recv(buf, 0) },
				"WaitAll":  func() (int, error) { return peer.Recv(buf, client.WaitAll) },
				"DontWait": func() (int, error) { return peer.Recv(buf, client.DontWait) },
				"RecvFrom": func() (int, error) {
					n, from, err := peer.RecvFrom(buf, 0)
					require.Equal(t, c.LocalAddr().String(), from.String())
					return n, err
				},
				"RecvFromAddrPort": func() (int, error) {
					n, from, err := peer.RecvFromAddrPort(buf, 0)
					require.Equal(t, c.LocalAddr().String(), from.String())
					return n, err
				},
				"RecvBatch": func() (int, error) {
					d := []client.Datagram{{Buf: buf}}
					_, err := peer.RecvBatch(d, 0)
					require.Equal(t, c.LocalAddr().String(), d[0].Addr.String())
					return d[0].N, err
				},
			}
			for name, f := range receive {
				_, err := c.SendSegments([]byte("aaaabbbbcc"), 4, 0)
				require.NoError(t, err)
				_, err = c.Send(nil, 0)
				require.NoError(t, err)
				for _, want := range []string{"aaaa", "bbbb", "cc", ""} {
					ready, err := client.Select([]*client.Client{peer}, nil, nil, 0)
					require.NoError(t, err, name)
					require.Len(t, ready.Read, 1, name)
					n, err := f()
					require.NoError(t, err, name)
					require.Equal(t, want, string(buf[:n]), name)
				}
				_, err = client.Select([]*client.Client{peer}, nil, nil, 0)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
			}
		})
	}
}

// A client that is connected hears its peer alone, whatever was received before.
func TestGRO_ConnectDropsDatagramsOfOthers(t *testing.T) {
	stranger, c := datagramPair(t, "udp", client.Options{GRO: true})
	peer := packetPeer(t, "udp")
	for range 3 {
		_, err := stranger.SendSegments(make([]byte, 100), 10, 0)
		require.NoError(t, err)
	}
	_, err := c.Recv(make([]byte, 10), 0) // the client holds the others that were coalesced with it
	require.NoError(t, err)
	require.NoError(t, c.Connect(t.Context(), peer.LocalAddr().String()))
	_, err = c.Recv(make([]byte, 10), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	_, err = peer.WriteTo([]byte("hello"), c.LocalAddr())
	require.NoError(t, err)
	buf := make([]byte, 10)
	n, err := c.Recv(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf[:n]))
}

func TestGRO_IsForUDP(t *testing.T) {
	for _, network := range []string{"tcp", "unix", "unixgram"} {
		_, err := unconnected[network](&client.Options{GRO: true})
		var bad *client.OptionError
		require.ErrorAs(t, err, &bad, network)
		require.Equal(t, "GRO", bad.Option)
	}
}

func TestBatch_AllocatesNothing(t *testing.T) {
	for _, opts := range []client.Options{{}, {GRO: true}} {
		c, peer := datagramPair(t, "udp", opts)
		in, out := buffers(8, 1200), numbered(8)
		p := make([]byte, 8*1200)
		to := netip.MustParseAddrPort(c.LocalAddr().String())
		receive := func(n int) {
			for n > 0 {
				got, err := peer.RecvBatch(in, 0)
				if err != nil {
					t.Error(err)
					return
				}
				n -= got
			}
		}
		for name, f := range map[string]func(){
			"batches": func() {
				if n, err := c.SendBatch(out, 0); n != len(out) || err != nil {
					t.Error(n, err)
				}
				receive(len(out))
			},
			"segments": func() {
				if n, err := c.SendSegments(p, 1200, 0); n != len(p) || err != nil {
					t.Error(n, err)
				}
				receive(8)
			},
			"to an address, and one that waits": func() {
				if _, err := peer.SendSegmentsToAddrPort(p[:20], 10, to, 0); err != nil {
					t.Error(err)
				}
				for n := 0; n < 2; {
					got, err := c.RecvBatch(in[:1], 0)
					if err != nil {
						t.Error(err)
						return
					}
					n += got
				}
			},
		} {
			require.Zero(t, testing.AllocsPerRun(1000, f), name)
		}
	}
}
