package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSendTo_HostNameIsLookedUpInTheFamilyOfTheSocket(t *testing.T) {
	for network, question := range map[string]string{"udp": "ip4 some.host", "udp6": "ip6 some.host"} {
		t.Run(network, func(t *testing.T) {
			peer := packetPeer(t, network)
			r := resolvesTo("127.0.0.1", "::1")
			c, err := unconnected[network](&client.Options{Resolver: r})
			require.NoError(t, err)
			defer c.Close()
			host := client.HostPort("some.host:" + portOf(t, peer.LocalAddr().String()))
			buf := make([]byte, 10)
			for range 2 {
				n, err := c.SendTo([]byte("hello"), host)
				require.NoError(t, err)
				require.Equal(t, 5, n)
				n, _, err = peer.ReadFrom(buf)
				require.NoError(t, err)
				require.Equal(t, "hello", string(buf[:n]))
			}
			require.Equal(t, []string{question, question}, r.asked, "nothing is cached")

			_, err = c.SendTo([]byte("hello"), client.HostPort(peer.LocalAddr().String()))
			require.NoError(t, err)
			require.Len(t, r.asked, 2, "an IP address is not looked up")
		})
	}
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	peer := packetPeer(t, "udp")
	_, err = c.SendTo([]byte("x"), client.HostPort("localhost:"+portOf(t, peer.LocalAddr().String())))
	require.NoError(t, err)
	_, _, err = peer.ReadFrom(make([]byte, 1))
	require.NoError(t, err)
}

func TestSendTo_HostThatDoesNotExist(t *testing.T) {
	none := names(t, map[string][]string{"v6.test.": {"::1"}})
	c, err := client.NewUDP(&client.Options{Resolver: none})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.SendTo([]byte("x"), client.HostPort("none.test.:53"))
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.True(t, dns.IsNotFound)
	require.True(t, client.SafeToRetry(err))
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "none.test.:53", op.Addr.String())
	_, err = c.SendTo([]byte("x"), client.HostPort("v6.test.:53"))
	require.Error(t, err, "an IPv4 socket cannot send to it")
	for _, bad := range []client.HostPort{"", "host", "host:", "host:0", "host:65536", "127.0.0.1:-1", "[::1]:53"} {
		_, err = c.SendTo([]byte("x"), bad)
		require.Error(t, err, "%q", bad)
	}
}

func TestSendTo_LimitIncludesTheLookup(t *testing.T) {
	const limit = 50 * time.Millisecond
	for name, r := range map[string]client.Resolver{"silent": names(t, nil), "deaf": deafResolver{t.Context()}} {
		c, err := client.NewUDP(&client.Options{Resolver: r, SendTimeout: limit})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		began := time.Now()
		_, err = c.SendTo([]byte("x"), client.HostPort("some.host:53"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
		require.GreaterOrEqual(t, time.Since(began), limit)
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsTimeout)
	}
}

// A deafResolver does not answer, and ignores the context of a lookup.
type deafResolver struct{ until context.Context }

func (r deafResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	<-r.until.Done()
	return nil, r.until.Err()
}

func TestSendTo_LookupIsEnded(t *testing.T) {
	endsWaitingCall(t, func() (*client.Client, func() error) {
		c, err := client.NewUDP(&client.Options{Resolver: deafResolver{t.Context()}, Timeout: -1})
		require.NoError(t, err)
		return c, func() error { _, err := c.SendTo([]byte("x"), client.HostPort("some.host:53")); return err }
	}, func(testing.TB) {
		time.Sleep(10 * time.Millisecond) // the lookup is under way, or begins after the end
	}, (*client.Client).SetWriteDeadline)
}

// A datagram to an address does not wait for the lookup of another one.
func TestSendTo_LookupDoesNotKeepOthers(t *testing.T) {
	c, err := client.NewUDP(&client.Options{Resolver: deafResolver{t.Context()}, Timeout: -1})
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { _, err := c.SendTo([]byte("x"), client.HostPort("some.host:53")); result <- err }()
	time.Sleep(10 * time.Millisecond)
	_, err = c.SendTo([]byte("x"), packetPeer(t, "udp").LocalAddr())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-result, net.ErrClosed)
}

// AsyncClient.SendTo had its own words for what is no address, and left out the address.
func TestSendTo_ErrorsAreThoseOfAnAsyncClient(t *testing.T) {
	newClient := func(network string) *client.Client {
		opts := &client.Options{Resolver: &panicking{}}
		network, isConnected := strings.CutSuffix(network, " connected")
		if isConnected {
			return connectedTo(t, network, opts)
		}
		c, err := unconnected[network](opts)
		require.NoError(t, err)
		return c
	}
	told := func(err error) string {
		var op *net.OpError
		if err == nil || !errors.As(err, &op) {
			return fmt.Sprint(err)
		}
		return fmt.Sprint(op.Op, " ", op.Net, " ", op.Addr, ": ", op.Err, " ", client.SafeToRetry(err))
	}
	absent := filepath.Join(t.TempDir(), "absent")
	v4 := net.IPv4(127, 0, 0, 1)
	for _, network := range []string{"udp", "udp6", "unixgram", "udp connected", "unixgram connected", "tcp connected", "unix connected"} {
		for _, to := range []net.Addr{
			nil, (*net.UDPAddr)(nil), &net.TCPAddr{IP: v4, Port: 1 << 17}, &net.UDPAddr{IP: v4, Zone: "lo"},
			&net.UDPAddr{IP: v4, Port: 1 << 17}, &net.UDPAddr{IP: v4}, &net.UDPAddr{IP: net.IPv6loopback, Port: 9},
			(*net.UnixAddr)(nil), &net.UnixAddr{}, &net.UnixAddr{Name: absent},
			client.HostPort(""), client.HostPort("host"), client.HostPort("host:-1"), client.HostPort("host:0"), client.HostPort(":0"),
			client.HostPort("127.0.0.1:0"), client.HostPort("[::1]:9"), client.HostPort("127.0.0.1:9"),
		} {
			c := newClient(network)
			_, err := c.SendTo([]byte("x"), to)
			a, asyncErr := c.Async(newAsyncEvents(t).config())
			require.NoError(t, asyncErr)
			require.Equal(t, told(err), told(a.SendTo([]byte("x"), to)), "%s: %T %v", network, to, to)
			closeAsync(t, a)
		}
	}
}

func TestSendTo_AsyncClientTakesAHostPortWithoutAName(t *testing.T) {
	peer := packetPeer(t, "udp")
	c, err := client.NewUDP(&client.Options{Resolver: &panicking{}})
	require.NoError(t, err)
	a, err := c.Async(newAsyncEvents(t).config())
	require.NoError(t, err)
	defer closeAsync(t, a)
	port := portOf(t, peer.LocalAddr().String())
	var name *net.AddrError
	require.ErrorAs(t, a.SendTo([]byte("x"), client.HostPort("localhost:"+port)), &name)
	require.Contains(t, name.Err, "host name")
	p := make([]byte, 10)
	for _, host := range []string{"127.0.0.1", ""} {
		require.NoError(t, a.SendTo([]byte("hello"), client.HostPort(net.JoinHostPort(host, port))))
		n, _, err := peer.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, "hello", string(p[:n]))
	}
}

func TestSendTo_HostPortOfOtherClients(t *testing.T) {
	host := client.HostPort("some.host:53")
	for _, network := range []string{"tcp", "udp", "unix", "unixgram"} {
		c := connectedTo(t, network, &client.Options{Resolver: &panicking{}})
		_, err := c.SendTo([]byte("x"), host)
		switch network {
		case "udp":
			require.ErrorIs(t, err, net.ErrWriteToConnected)
		case "unix", "unixgram":
			var kind *net.AddrError
			require.ErrorAs(t, err, &kind)
		default:
			require.ErrorIs(t, err, unix.EOPNOTSUPP)
		}
	}
	var zero client.Client
	_, err := zero.SendTo([]byte("x"), host)
	require.Error(t, err)
	c, err := client.NewUDP(&client.Options{Resolver: &panicking{}})
	require.NoError(t, err)
	require.PanicsWithValue(t, "no resolver", func() { _, _ = c.SendTo([]byte("x"), host) })
	_, err = c.SendTo([]byte("x"), packetPeer(t, "udp").LocalAddr())
	require.NoError(t, err, "the client can be used after that")
	require.NoError(t, c.Close())
	_, err = c.SendTo([]byte("x"), host)
	require.ErrorIs(t, err, net.ErrClosed)
}
