package client_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestUDP_DatagramsGoBothWays(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, peer := datagrams(t, network, nil)
		n, err := c.Send([]byte("question"), 0)
		require.NoError(t, err)
		require.Equal(t, 8, n)
		buf := make([]byte, 100)
		n, from, err := peer.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "question", string(buf[:n]))
		require.Equal(t, c.LocalAddr().String(), from.String())
		_, err = peer.WriteTo([]byte("answer"), from)
		require.NoError(t, err)
		n, who, err := c.RecvFrom(buf, client.Peek)
		require.NoError(t, err)
		require.Equal(t, "answer", string(buf[:n]))
		require.Equal(t, peer.LocalAddr().String(), who.String())
		n, err = c.Recv(buf, client.WaitAll) // a datagram is whole however long
		require.NoError(t, err)
		require.Equal(t, "answer", string(buf[:n]))
	})
}

func TestUDP_EmptyDatagramIsNotTheEnd(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, peer := datagrams(t, network, nil)
		_, err := c.Send(nil, 0)
		require.NoError(t, err)
		buf := make([]byte, 10)
		n, from, err := peer.ReadFrom(buf)
		require.NoError(t, err)
		require.Zero(t, n)
		for range 2 {
			_, err = peer.WriteTo(nil, from)
			require.NoError(t, err)
		}
		n, err = c.Recv(buf, 0)
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = c.Read(buf)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestUDP_TruncatedErrorHasTheTrueSize(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, peer := datagrams(t, network, nil)
		receive := map[string]func(p []byte) (int, error){
			"Recv":     func(p []byte) (int, error) { return c.Recv(p, 0) },
			"Read":     c.Read,
			"Peek":     func(p []byte) (int, error) { return c.Recv(p, client.Peek) },
			"DontWait": func(p []byte) (int, error) { return c.Recv(p, client.DontWait) },
			"RecvFrom": func(p []byte) (int, error) {
				n, from, err := c.RecvFrom(p, 0)
				require.Equal(t, peer.LocalAddr().String(), from.String())
				return n, err
			},
		}
		for name, f := range receive {
			_, err := peer.WriteTo([]byte("0123456789"), c.LocalAddr())
			require.NoError(t, err)
			buf := make([]byte, 4)
			n, err := f(buf)
			require.Equal(t, "0123", string(buf[:n]), name)
			var cut *client.TruncatedError
			require.ErrorAs(t, err, &cut, name)
			require.Equal(t, client.TruncatedError{Size: 10, Got: 4}, *cut)
			require.ErrorIs(t, err, io.ErrShortBuffer)
			if name == "Peek" {
				n, err = c.Recv(make([]byte, 10), 0)
				require.NoError(t, err)
				require.Equal(t, 10, n)
			}
		}
	})
}

func TestUDP_LongestDatagram(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagrams(t, network, nil)
			want := bytes.Repeat([]byte{1, 2, 3}, 65507/3+1)[:65507]
			_, err := c.Send(want, 0)
			require.NoError(t, err)
			buf := make([]byte, 70_000)
			n, from, err := peer.ReadFrom(buf)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, buf[:n]))
			_, err = peer.WriteTo(want, from)
			require.NoError(t, err)
			n, err = c.Recv(buf, 0)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, buf[:n]))

			n, err = c.Send(make([]byte, 65_528), 0)
			require.ErrorIs(t, err, unix.EMSGSIZE)
			require.Zero(t, n)
		})
	}
}

func TestUDP_ConnectedClientReceivesFromItsPeerOnly(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			peer, other := packetPeer(t, network), packetPeer(t, network)
			c, err := unconnected[network](&client.Options{LocalAddr: loopbackOf(t, network)})
			require.NoError(t, err)
			defer c.Close()
			for _, p := range []net.PacketConn{other, peer, other} {
				_, err = p.WriteTo([]byte("queued before"), c.LocalAddr())
				require.NoError(t, err)
			}
			require.NoError(t, c.Connect(t.Context(), peer.LocalAddr().String()))
			_, err = other.WriteTo([]byte("not the peer"), c.LocalAddr())
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 100), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			_, err = peer.WriteTo([]byte("hello"), c.LocalAddr())
			require.NoError(t, err)
			buf := make([]byte, 100)
			n, err := c.Recv(buf, 0)
			require.NoError(t, err)
			require.Equal(t, "hello", string(buf[:n]))
			_, err = c.SendTo([]byte("x"), other.LocalAddr())
			require.ErrorIs(t, err, net.ErrWriteToConnected)
		})
	}
}

// A read deadline must not affect Connect either.
func TestUDP_ConnectDoesNotWaitForAReceiver(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0", RecvTimeout: -1})
	require.NoError(t, err)
	defer c.Close()
	type result struct {
		n   int
		err error
	}
	received := make(chan result, 1)
	go func() {
		n, err := c.Recv(make([]byte, 10), 0)
		received <- result{n, err}
	}()
	inKernel(t)
	require.NoError(t, c.Connect(t.Context(), peer.LocalAddr().String()))
	_, err = peer.WriteTo([]byte("hello"), c.LocalAddr())
	require.NoError(t, err)
	require.Equal(t, result{5, nil}, <-received)
}

func TestUDP_ClosedPortFailsTheNextCall(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			c, peer := datagrams(t, network, nil)
			require.NoError(t, peer.Close())
			_, err := c.Send([]byte("x"), 0)
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
			_, err = c.Send([]byte("x"), 0)
			require.NoError(t, err)
			_, err = c.Send([]byte("x"), 0)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
		})
	}
}

func TestUDP_UnconnectedClientSendsToAnyAddress(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		c, err := unconnected[network](nil)
		require.NoError(t, err)
		defer c.Close()
		require.Nil(t, c.RemoteAddr())
		buf := make([]byte, 10)
		for _, name := range []string{"a", "b"} {
			peer := packetPeer(t, network)
			_, err := c.SendTo([]byte("who?"), peer.LocalAddr())
			require.NoError(t, err)
			_, from, err := peer.ReadFrom(buf)
			require.NoError(t, err)
			require.NotNil(t, from, "it can be answered")
			_, err = peer.WriteTo([]byte(name), from)
			require.NoError(t, err)
			n, who, err := c.RecvFrom(buf, 0)
			require.NoError(t, err)
			require.Equal(t, name, string(buf[:n]))
			require.Equal(t, peer.LocalAddr().String(), who.String())
		}
		_, err = c.Send([]byte("x"), 0)
		require.ErrorIs(t, err, unix.ENOTCONN)
	})
}

func TestUDP_AddrPortMethods(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			peer := packetPeer(t, network)
			c, err := unconnected[network](nil)
			require.NoError(t, err)
			defer c.Close()
			to := netip.MustParseAddrPort(peer.LocalAddr().String())
			_, err = c.SendToAddrPort([]byte("hi"), to)
			require.NoError(t, err)
			buf := make([]byte, 10)
			_, from, err := peer.ReadFrom(buf)
			require.NoError(t, err)
			_, err = peer.WriteTo([]byte("ho"), from)
			require.NoError(t, err)
			n, who, err := c.RecvFromAddrPort(buf, 0)
			require.NoError(t, err)
			require.Equal(t, "ho", string(buf[:n]))
			require.Equal(t, to, who)
		})
	}
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	peer := packetPeer(t, "udp")
	mapped := netip.MustParseAddrPort(peer.LocalAddr().String())
	mapped = netip.AddrPortFrom(netip.AddrFrom16(mapped.Addr().As16()), mapped.Port())
	require.True(t, mapped.Addr().Is4In6())
	_, err = c.SendToAddrPort([]byte("hi"), mapped)
	require.NoError(t, err, "an IPv4 address is one however it is written")
}

// The first receive on a socket that was never connected has a time limit too.
func TestUDP_ReceiveAfterSendToHasATimeLimit(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.NewUDP(&client.Options{Timeout: 20 * time.Millisecond})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.SendTo([]byte("x"), peer.LocalAddr())
	require.NoError(t, err)
	_, _, err = c.RecvFrom(make([]byte, 1), 0)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
}

func TestSendTo_WrongKindOfAddressIsRefused(t *testing.T) {
	udp, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer udp.Close()
	gram, err := client.NewUnixgram(nil)
	require.NoError(t, err)
	defer gram.Close()
	tcp, _ := stream(t, "tcp", nil)
	for name, f := range map[string]func() error{
		"IPv6 from an IPv4 socket": func() error {
			_, err := udp.SendTo([]byte("x"), &net.UDPAddr{IP: net.IPv6loopback, Port: 9})
			return err
		},
		"unix from UDP": func() error { _, err := udp.SendTo([]byte("x"), &net.UnixAddr{Name: "/x"}); return err },
		"UDP from unix": func() error { _, err := gram.SendTo([]byte("x"), &net.UDPAddr{Port: 9}); return err },
		"AddrPort from unix": func() error {
			_, err := gram.SendToAddrPort([]byte("x"), netip.MustParseAddrPort("127.0.0.1:9"))
			return err
		},
		"no AddrPort": func() error { _, err := udp.SendToAddrPort([]byte("x"), netip.AddrPort{}); return err },
		"nil":         func() error { _, err := udp.SendTo([]byte("x"), nil); return err },
		"nil UDPAddr": func() error { _, err := udp.SendTo([]byte("x"), (*net.UDPAddr)(nil)); return err },
		"a stream":    func() error { _, err := tcp.SendTo([]byte("x"), &net.UDPAddr{}); return err },
		"from a stream": func() error {
			_, _, err := tcp.RecvFrom(make([]byte, 1), 0)
			return err
		},
	} {
		var op *net.OpError
		require.ErrorAs(t, f(), &op, name)
	}
	require.ErrorIs(t, func() error { _, err := tcp.SendTo(nil, &net.UDPAddr{}); return err }(), unix.EOPNOTSUPP)
}

// The port of a *net.UDPAddr is an int: datagrams went to its lower 16 bits. A zone
// without a meaning was dropped.
func TestSendTo_AddressIsNeverTruncated(t *testing.T) {
	peer, peer6 := packetPeer(t, "udp"), packetPeer(t, "udp6")
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	c6, err := client.NewUDP6(nil)
	require.NoError(t, err)
	defer c6.Close()
	at, at6 := *peer.LocalAddr().(*net.UDPAddr), *peer6.LocalAddr().(*net.UDPAddr)
	v4, v6 := net.IPv4(127, 0, 0, 1), net.IPv6loopback
	for _, test := range []struct {
		c  *client.Client
		to net.Addr
	}{
		{c, &net.UDPAddr{IP: v4, Port: at.Port + 65536}},
		{c, &net.UDPAddr{IP: v4, Port: at.Port - 65536}},
		{c, &net.UDPAddr{IP: v4, Port: at.Port - 2*65536}},
		{c, &net.UDPAddr{Port: at.Port + 65536}},
		{c6, &net.UDPAddr{IP: v6, Port: at6.Port + 65536}},
		{c6, &net.UDPAddr{IP: v6, Port: at6.Port - 65536}},
		{c, &net.TCPAddr{IP: v4, Port: at.Port + 65536}},
		{c6, &net.TCPAddr{IP: v6, Port: at6.Port - 65536}},
		{c, &net.UDPAddr{IP: v4, Port: at.Port, Zone: "lo"}},
		{c, &net.UDPAddr{IP: v4.To4(), Port: at.Port, Zone: "lo"}},
		{c, &net.UDPAddr{Port: at.Port, Zone: "lo"}},
		{c, &net.UDPAddr{IP: v4[:5], Port: at.Port}},
		{c6, &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9, Zone: "lo"}},
		{c6, &net.UDPAddr{IP: net.ParseIP("ff05::1"), Port: 9, Zone: "lo"}},
		{c6, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9, Zone: "lo"}},
		{c6, &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 9, Zone: "4294967297"}},
		{c6, &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 9, Zone: "lo\x00"}},
	} {
		_, err := test.c.SendTo([]byte("x"), test.to)
		var bad *net.AddrError
		require.ErrorAs(t, err, &bad, "%v", test.to)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, test.to.String(), op.Addr.String())
	}
	for _, to := range []netip.Addr{
		netip.AddrFrom16(netip.MustParseAddr("127.0.0.1").As16()).WithZone("lo"),
		netip.MustParseAddr("2001:db8::1%lo"), netip.MustParseAddr("::%lo"),
	} {
		_, err := c.SendToAddrPort([]byte("x"), netip.AddrPortFrom(to, at.AddrPort().Port()))
		var bad *net.AddrError
		require.ErrorAs(t, err, &bad, "%v", to)
		for _, address := range []string{netip.AddrPortFrom(to, 9).String()} {
			_, err = client.Dial("udp", address, nil)
			require.Error(t, err, address)
			require.Error(t, c6.Bind(address), address)
		}
	}
	// Nothing of this has gone anywhere.
	for _, p := range []struct {
		c    *client.Client
		peer net.PacketConn
		at   net.UDPAddr
	}{{c, peer, at}, {c6, peer6, at6}} {
		_, err := p.c.SendTo([]byte("the first"), &p.at)
		require.NoError(t, err)
		buf := make([]byte, 20)
		n, _, err := p.peer.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "the first", string(buf[:n]))
	}
}

func TestBind_SetsTheLocalAddress(t *testing.T) {
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Bind("127.0.0.1:0"))
	require.True(t, strings.HasPrefix(c.LocalAddr().String(), "127.0.0.1:"))
	second, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer second.Close()
	require.ErrorIs(t, second.Bind(c.LocalAddr().String()), unix.EADDRINUSE)
	require.NoError(t, second.Bind(":0"))
	require.NoError(t, second.Close())
	require.Regexp(t, `^0\.0\.0\.0:[1-9]`, second.LocalAddr().String(), "remembered")
	third, err := client.NewUDP6(nil)
	require.NoError(t, err)
	defer third.Close()
	require.Error(t, third.Bind("127.0.0.1:0"))
	connected, _ := datagrams(t, "udp", nil)
	require.Error(t, connected.Bind("127.0.0.1:0"))
}

// Answers go to the autobound port. A connect to AF_UNSPEC would remove it.
func TestUDP_FailedConnectKeepsThePort(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.SendTo([]byte("question"), peer.LocalAddr())
	require.NoError(t, err)
	before := c.LocalAddr()
	require.ErrorIs(t, c.Connect(t.Context(), "255.255.255.255:9"), unix.EACCES)
	require.Equal(t, before, c.LocalAddr())
	buf := make([]byte, 10)
	_, from, err := peer.ReadFrom(buf)
	require.NoError(t, err)
	_, err = peer.WriteTo([]byte("answer"), from)
	require.NoError(t, err)
	n, err := c.Recv(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "answer", string(buf[:n]))
}

func TestUnixgram_ConnectedClientHasANameAndNoOldDatagrams(t *testing.T) {
	peer, other := packetPeer(t, "unixgram"), packetPeer(t, "unixgram")
	c, err := client.NewUnixgram(&client.Options{LocalAddr: loopbackOf(t, "unixgram")})
	require.NoError(t, err)
	defer c.Close()
	_, err = other.WriteTo([]byte("queued before"), c.LocalAddr())
	require.NoError(t, err)
	require.NoError(t, c.Connect(t.Context(), peer.LocalAddr().String()))
	_, err = c.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)

	d, err := client.NewUnixgram(nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Connect(t.Context(), peer.LocalAddr().String()))
	_, err = d.Send([]byte("hi"), 0)
	require.NoError(t, err)
	buf := make([]byte, 10)
	_, from, err := peer.ReadFrom(buf)
	require.NoError(t, err)
	_, err = peer.WriteTo([]byte("ho"), from)
	require.NoError(t, err)
	n, err := d.Recv(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "ho", string(buf[:n]))
}

// Code that tests for net.PacketConn must get the right answer: package net's resolver
// would otherwise add the length prefix for a stream.
func TestDialer_ServesAResolver(t *testing.T) {
	r := names(t, map[string][]string{"known.test.": {"192.0.2.1"}})
	server := r.Dial
	r.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := server(ctx, "", "")
		require.NoError(t, err)
		defer conn.Close()
		return new(client.Dialer).DialContext(ctx, "udp", conn.RemoteAddr().String())
	}
	got, err := r.LookupHost(t.Context(), "known.test")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.1"}, got)

	conn, err := new(client.Dialer).DialContext(t.Context(), "udp", packetPeer(t, "udp").LocalAddr().String())
	require.NoError(t, err)
	defer conn.Close()
	pc, ok := conn.(net.PacketConn)
	require.True(t, ok)
	_, err = pc.WriteTo([]byte("x"), conn.RemoteAddr())
	require.ErrorIs(t, err, net.ErrWriteToConnected)
	require.NoError(t, pc.SetReadDeadline(time.Now()))
	_, _, err = pc.ReadFrom(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}
