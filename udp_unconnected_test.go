package client_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// toPeer are the ways to a client with Options.Unconnected.
var toPeer = map[string]func(network, address string, opts *client.Options) (*client.Client, error){
	"dial": client.Dial,
	"connect": func(network, address string, opts *client.Options) (*client.Client, error) {
		c, err := unconnected[network](opts)
		if err != nil {
			return nil, err
		}
		return c, c.Connect(context.Background(), address)
	},
}

func TestUnconnected_SendsToOneAndReceivesFromAnybody(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		for way, dial := range toPeer {
			peer, other := packetPeer(t, network), packetPeer(t, network)
			c, err := dial(network, peer.LocalAddr().String(), &client.Options{Unconnected: true})
			require.NoError(t, err, way)
			t.Cleanup(func() { _ = c.Close() })
			require.True(t, c.IsConnected())
			require.Equal(t, peer.LocalAddr().String(), c.RemoteAddr().String())

			buf := make([]byte, 10)
			for name, send := range map[string]func(p []byte) error{
				"Send":  func(p []byte) error { _, err := c.Send(p, 0); return err },
				"Write": func(p []byte) error { _, err := c.Write(p); return err },
				"SendBatch": func(p []byte) error {
					n, err := c.SendBatch([]client.Datagram{{Buf: p}, {Buf: p}}, 0)
					require.Equal(t, 2, n)
					_, _, _ = peer.ReadFrom(buf)
					return err
				},
				"SendSegments": func(p []byte) error { _, err := c.SendSegments(p, 4, 0); return err },
				"SendTo":       func(p []byte) error { _, err := c.SendTo(p, peer.LocalAddr()); return err },
			} {
				require.NoError(t, send([]byte("who?")), name)
				n, from, err := peer.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, "who?", string(buf[:n]), name)
				if network != "unixgram" {
					require.Equal(t, portOf(t, c.LocalAddr().String()), portOf(t, from.String()), "the port is known after the first datagram")
				}
				_, err = other.WriteTo([]byte("I"), from)
				require.NoError(t, err)
				n, who, err := c.RecvFrom(buf, 0)
				require.NoError(t, err)
				require.Equal(t, "I", string(buf[:n]))
				require.Equal(t, other.LocalAddr().String(), who.String())
			}

			_, err = c.SendTo([]byte("and you"), other.LocalAddr())
			require.NoError(t, err)
			n, _, err := other.ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, "and you", string(buf[:n]))
			require.ErrorIs(t, c.Connect(context.Background(), peer.LocalAddr().String()), unix.EISCONN)
		}
	})
}

// Datagrams that were queued before are not those of somebody else: anybody may send.
func TestUnconnected_ConnectKeepsWhatIsQueued(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.NewUDP(&client.Options{Unconnected: true, LocalAddr: "127.0.0.1:0"})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, unix.ENOTCONN, "there is no destination yet")
	_, err = peer.WriteTo([]byte("early"), c.LocalAddr())
	require.NoError(t, err)
	require.NoError(t, c.Connect(context.Background(), peer.LocalAddr().String()))
	p := make([]byte, 10)
	n, err := c.Recv(p, 0)
	require.NoError(t, err)
	require.Equal(t, "early", string(p[:n]))
}

// The race detector checks it: calls with an address, and receives, need no Connect, and go on
// during it.
func TestUnconnected_CallsThatNeedNoPeerGoOnDuringConnect(t *testing.T) {
	peer := packetPeer(t, "udp4")
	to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	p := []byte("hello")
	for range 20 {
		c, err := client.NewUDP(&client.Options{Unconnected: true})
		require.NoError(t, err)
		var calls, begun sync.WaitGroup
		for _, call := range []func() (int, error){
			func() (int, error) { return c.SendToAddrPort(p, to) },
			func() (int, error) { return c.SendSegmentsToAddrPort(p, 1, to, 0) },
			func() (int, error) { return c.SendBatch([]client.Datagram{{Buf: p, Addr: to}, {Buf: p, Addr: to}}, 0) },
			func() (int, error) { // receives nothing
				n, err := c.RecvBatch(make([]client.Datagram, 2), client.DontWait)
				if errors.Is(err, unix.EAGAIN) {
					err = nil
				}
				return n, err
			},
		} {
			begun.Add(1)
			calls.Go(func() {
				for i := range 50 {
					if i == 1 {
						begun.Done()
					}
					if _, err := call(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		begun.Wait()
		require.NoError(t, c.Connect(context.Background(), to.String()))
		calls.Wait()
		require.NoError(t, c.Close())
	}
}

func TestUnconnected_ClosedPortIsNotReported(t *testing.T) {
	peer := packetPeer(t, "udp")
	require.NoError(t, peer.Close())
	c, err := client.Dial("udp", peer.LocalAddr().String(), &client.Options{Unconnected: true, RecvTimeout: 30 * time.Millisecond})
	require.NoError(t, err)
	defer c.Close()
	for range 2 {
		_, err = c.Send([]byte("x"), 0)
		require.NoError(t, err)
	}
	_, err = c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	c, err = client.Dial("unixgram", loopbackOf(t, "unixgram"), &client.Options{Unconnected: true})
	require.NoError(t, err, "nothing is at this path yet")
	defer c.Close()
	_, err = c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, unix.ENOENT)
}

func TestUnconnected_ErrorsNameTheirAddress(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.Dial("udp", peer.LocalAddr().String(), &client.Options{Unconnected: true})
	require.NoError(t, err)
	defer c.Close()
	var op *net.OpError
	_, err = c.SendToAddrPort(make([]byte, 70_000), netip.MustParseAddrPort("127.0.0.1:9"))
	require.ErrorIs(t, err, unix.EMSGSIZE)
	require.True(t, errors.As(err, &op))
	require.Equal(t, "127.0.0.1:9", op.Addr.String())
	_, err = c.Send(make([]byte, 70_000), 0)
	require.ErrorIs(t, err, unix.EMSGSIZE)
	require.True(t, errors.As(err, &op))
	require.Equal(t, peer.LocalAddr().String(), op.Addr.String())
}

func TestUnconnected_DialLooksTheNameUp(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.Dial("udp", "some.host:"+portOf(t, peer.LocalAddr().String()), &client.Options{
		Unconnected: true, Resolver: resolvesTo("127.0.0.1", "127.0.0.2"),
	})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, peer.LocalAddr().String(), c.RemoteAddr().String())
	_, err = client.Dial("udp", "127.0.0.1:0", &client.Options{Unconnected: true})
	require.Error(t, err)
	_, err = client.Dial("udp", "some.host:9", &client.Options{Unconnected: true, Resolver: resolvesTo()})
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
}

func TestUnconnected_DialerReturnsTheSender(t *testing.T) {
	peer, other := packetPeer(t, "udp"), packetPeer(t, "udp")
	dialer := &client.Dialer{Options: &client.Options{Unconnected: true}}
	conn, err := dialer.DialContext(t.Context(), "udp", peer.LocalAddr().String())
	require.NoError(t, err)
	defer conn.Close()
	pc := conn.(net.PacketConn)
	_, err = pc.WriteTo([]byte("x"), other.LocalAddr())
	require.NoError(t, err)
	buf := make([]byte, 10)
	_, from, err := other.ReadFrom(buf)
	require.NoError(t, err)
	_, err = other.WriteTo([]byte("y"), from)
	require.NoError(t, err)
	_, from, err = pc.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, other.LocalAddr().String(), from.String())
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, _, err = pc.ReadFrom(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestUnconnected_StreamsHaveNoSuchOption(t *testing.T) {
	for _, network := range streamNetworks {
		_, err := client.Dial(network, "x:1", &client.Options{Unconnected: true})
		var option *client.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, "Unconnected", option.Option)
	}
}

// What was sent to an address is a request, too: its answer must not reach the next caller.
func TestUnconnected_PoolClosesAnUnansweredClient(t *testing.T) {
	peer := packetPeer(t, "udp4")
	to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	for name, send := range map[string]func(c *client.Client) error{
		"SendTo": func(c *client.Client) error { _, err := c.SendTo([]byte("?"), peer.LocalAddr()); return err },
		"SendTo a name": func(c *client.Client) error {
			_, err := c.SendTo([]byte("?"), client.HostPort(to.String()))
			return err
		},
		"SendToAddrPort": func(c *client.Client) error { _, err := c.SendToAddrPort([]byte("?"), to); return err },
		"SendBatch": func(c *client.Client) error {
			_, err := c.SendBatch([]client.Datagram{{Buf: []byte("?"), Addr: to}}, 0)
			return err
		},
		"SendSegments":    func(c *client.Client) error { _, err := c.SendSegmentsToAddrPort([]byte("?"), 1, to, 0); return err },
		"SendTo of Async": func(c *client.Client) error { return asyncSendTo(c, []byte("?"), peer.LocalAddr()) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, client.PoolOptions{})
			c, err := p.Dial(t.Context(), "udp4", to.String(), &client.Options{Unconnected: true})
			require.NoError(t, err)
			require.NoError(t, send(c))
			require.NoError(t, c.Close())
			stats := p.Stats()
			require.Zero(t, stats.Idle)
			require.EqualValues(t, 1, stats.Discards[client.DiscardUnclean], "%+v", stats)
		})
	}
}

// asyncSendTo sends a datagram through an AsyncClient, and makes c a blocking one again.
func asyncSendTo(c *client.Client, p []byte, to net.Addr) error {
	a, err := c.Async(client.AsyncConfig{OnReceive: func(*client.AsyncClient, []byte) {}})
	if err != nil {
		return err
	}
	if err := a.SendTo(p, to); err != nil {
		return err
	}
	detached := make(chan struct{})
	if err := a.Detach(func(*client.Client) { close(detached) }); err != nil {
		return err
	}
	<-detached
	return nil
}
