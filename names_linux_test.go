package client_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of its own, after ip(8) with each of the
// given lines. The namespace ends with f.
func inNamespace(t *testing.T, f func(), lines ...string) {
	t.Helper()
	path := requireProgram(t, "ip", "iproute2")
	done := make(chan struct{})
	var denied error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if denied = unshareNetwork(); denied != nil {
			return
		}
		for _, line := range append([]string{"link set lo up"}, lines...) {
			ip(t, path, line)
		}
		f()
	}()
	<-done
	if denied != nil {
		if os.Getenv("CLIENT_REQUIRE_SERVERS") == "1" {
			t.Fatal(denied)
		}
		t.Skip("needs the right to make a network namespace: ", denied)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// ip runs ip(8). The line "await d0" waits until that interface is up, which takes the
// kernel up to a second, and until datagrams to its address stay on this machine.
func ip(t *testing.T, path, line string) {
	t.Helper()
	if name, ok := strings.CutPrefix(line, "await "); ok {
		for _, look := range []struct{ args, want string }{
			{"-br link show " + name, " UP "},
			{"-6 route show table local dev " + name, "local fe80::"},
		} {
			for end := time.Now().Add(testTimeout); ; time.Sleep(time.Millisecond) { // on this thread
				out, err := exec.Command(path, strings.Fields(look.args)...).Output()
				require.NoError(t, err)
				if strings.Contains(string(out), look.want) {
					break
				}
				require.True(t, time.Now().Before(end), "ip %s: %s", look.args, out)
			}
		}
		return
	}
	out, err := exec.Command(path, strings.Fields(line)...).CombinedOutput()
	require.NoError(t, err, "ip %s: %s", line, out)
}

// veth returns the lines that make an interface with a link-local address.
func veth(name, address string) []string {
	peer := ("x" + name)[:min(len(name)+1, unix.IFNAMSIZ-1)]
	return []string{
		"link add " + name + " type veth peer name " + peer, "link set " + peer + " up", "link set " + name + " up",
		"addr add " + address + "/64 dev " + name + " nodad", "await " + name,
	}
}

// An interface that was renamed, or removed and made again, was remembered for up to a
// minute, and so was one of another namespace with the same name.
func TestZone_IsLookedUpEachTime(t *testing.T) {
	path := requireProgram(t, "ip", "iproute2")
	inNamespace(t, func() {
		buf := make([]byte, 10)
		toItself := func(zone string) {
			t.Helper()
			c, err := client.NewUDP6(&client.Options{LocalAddr: "[fe80::71%" + zone + "]:0"})
			require.NoError(t, err)
			defer c.Close()
			self := c.LocalAddr().(*net.UDPAddr)
			require.Equal(t, zone, self.Zone)
			_, err = c.SendTo([]byte("x"), self)
			require.NoError(t, err)
			_, from, err := c.RecvFrom(buf, 0)
			require.NoError(t, err)
			require.Equal(t, self.String(), from.String())
			to := self.AddrPort()
			_, err = c.SendToAddrPort([]byte("x"), to)
			require.NoError(t, err)
			_, who, err := c.RecvFromAddrPort(buf, 0)
			require.NoError(t, err)
			require.Equal(t, to, who)
		}
		unknown := func(zone string) {
			t.Helper()
			_, err := client.Dial("udp", "[fe80::71%"+zone+"]:9", nil)
			var bad *net.AddrError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, zone, bad.Addr)
		}
		toItself("d0")
		unknown("d1")
		ip(t, path, "link set d0 down")
		ip(t, path, "link set d0 name d1")
		ip(t, path, "link set d1 up")
		ip(t, path, "addr add fe80::71/64 dev d1 nodad")
		ip(t, path, "await d1")
		unknown("d0")
		toItself("d1")
		ip(t, path, "link del d1")
		unknown("d1")
		for _, line := range append(veth("pad", "fe80::1"), veth("d1", "fe80::71")...) {
			ip(t, path, line)
		}
		toItself("d1") // the same name and another number
	}, veth("d0", "fe80::71")...)
}

// The zones of a socket are those of the namespace in which it was made.
func TestZone_IsOfTheSocketsNamespace(t *testing.T) {
	var c *client.Client
	inNamespace(t, func() {
		var err error
		c, err = client.NewUDP6(&client.Options{LocalAddr: "[fe80::71%d0]:0"})
		require.NoError(t, err)
	}, append(veth("pad", "fe80::1"), veth("d0", "fe80::71")...)...)
	defer c.Close()
	self := c.LocalAddr()
	require.Contains(t, self.String(), "%d0]")
	_, err := c.SendTo([]byte("x"), self) // from a thread of another namespace
	require.NoError(t, err)
	_, from, err := c.RecvFrom(make([]byte, 10), 0)
	require.NoError(t, err)
	require.Equal(t, self.String(), from.String())
}

func TestZone_RecvFromLinkLocalAllocatesNothing(t *testing.T) {
	inNamespace(t, func() {
		c, err := client.NewUDP6(&client.Options{LocalAddr: "[fe80::71%d0]:0"})
		require.NoError(t, err)
		defer c.Close()
		self := c.LocalAddr().(*net.UDPAddr).AddrPort()
		buf := make([]byte, 10)
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			_, err := c.SendToAddrPort(buf, self)
			if err == nil {
				_, _, err = c.RecvFromAddrPort(buf, 0)
			}
			if err != nil {
				require.NoError(t, err) // which allocates
			}
		}))
	}, veth("d0", "fe80::71")...)
}

// A socket bound to the wildcard address received from every group that any socket of
// the machine had joined: ip(7), IP_MULTICAST_ALL.
func TestMulticast_OnlyJoinedGroupsAreReceived(t *testing.T) {
	inNamespace(t, func() {
		for _, test := range []struct {
			open        func(*client.Options) (*client.Client, error)
			joined, not string
		}{{client.NewUDP, "239.1.2.3", "239.1.2.4"}, {client.NewUDP6, "ff02::1:3", "ff02::1:4"}} {
			joined, not := netip.MustParseAddr(test.joined), netip.MustParseAddr(test.not)
			member := func(local string, groups ...netip.Addr) *client.Client {
				m := &client.Multicast{Groups: groups, Interface: "d0"}
				if len(groups) == 0 {
					m = nil
				}
				c, err := test.open(&client.Options{Timeout: testTimeout, LocalAddr: local, ReuseAddr: client.SwitchOn, Multicast: m})
				require.NoError(t, err)
				return c
			}
			other := member(":0", not)
			defer other.Close()
			port := other.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			same := fmt.Sprintf(":%d", port)
			c, none := member(same, joined), member(same)
			defer c.Close()
			defer none.Close()
			sender := member(":0", joined) // by way of d0
			defer sender.Close()

			buf := make([]byte, 100)
			for _, to := range []netip.Addr{not, joined} {
				_, err := sender.SendToAddrPort([]byte(to.String()), netip.AddrPortFrom(to, port))
				require.NoError(t, err)
			}
			n, _, err := other.RecvFrom(buf, 0)
			require.NoError(t, err)
			require.Equal(t, test.not, string(buf[:n]), "it was sent")
			n, _, err = c.RecvFrom(buf, 0)
			require.NoError(t, err)
			require.Equal(t, test.joined, string(buf[:n]), "the first that a member of this group gets")
			_, err = c.Recv(buf, client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			// Both are through, and who is a member of none has got neither.
			n, from, err := none.RecvFrom(buf, client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN, "%s from %v", buf[:n], from)
		}
	}, append(veth("d0", "fe80::71"), "addr add 10.77.0.1/24 dev d0", "route add 239.0.0.0/8 dev d0")...)
}

// The zone of a group names the interface to join it on. It was ignored.
func TestMulticast_ZoneIsTheInterfaceToJoinOn(t *testing.T) {
	inNamespace(t, func() {
		group := netip.MustParseAddr("ff02::1:5")
		for _, on := range []string{"d0", "e0"} {
			c, err := client.NewUDP6(&client.Options{Timeout: testTimeout, LocalAddr: ":0", Multicast: &client.Multicast{
				Groups: []netip.Addr{group.WithZone(on)}, Interface: "d0",
			}})
			require.NoError(t, err)
			to := netip.AddrPortFrom(group, c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
			for _, by := range []string{"d0", "e0"} {
				sender, err := client.NewUDP6(&client.Options{Multicast: &client.Multicast{Interface: by}})
				require.NoError(t, err)
				_, err = sender.SendToAddrPort([]byte(by), to)
				require.NoError(t, err)
				// A zone says by which interface, too.
				_, err = sender.SendToAddrPort([]byte(by), netip.AddrPortFrom(group.WithZone(by), to.Port()))
				require.NoError(t, err)
				require.NoError(t, sender.Close())
			}
			buf := make([]byte, 10)
			for range 2 {
				n, _, err := c.RecvFrom(buf, 0)
				require.NoError(t, err)
				require.Equal(t, on, string(buf[:n]))
			}
			_, err = c.Recv(buf, client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
			require.NoError(t, c.Close())
		}
		_, err := client.NewUDP6(&client.Options{Multicast: &client.Multicast{Groups: []netip.Addr{group.WithZone("nowhere")}}})
		var bad *client.OptionError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, "Multicast", bad.Option)
		require.ErrorContains(t, err, "nowhere")
	}, append(veth("d0", "fe80::71"), veth("e0", "fe80::72")...)...)
}

// A truncated name is that of another interface: with 16 bytes, SO_BINDTODEVICE took the
// interface with the first 15.
func TestDevice_NameIsNeverTruncated(t *testing.T) {
	const name = "abcdefghijklmno" // as long as they get
	inNamespace(t, func() {
		if c, err := client.NewUDP(&client.Options{Device: name}); err == nil { // or not allowed to
			require.NoError(t, c.Close())
		}
		c, err := client.NewUDP6(&client.Options{Multicast: &client.Multicast{Interface: name}, LocalAddr: "[fe80::71%" + name + "]:0"})
		require.NoError(t, err)
		defer c.Close()
		for _, wrong := range []string{name + "p", name + strings.Repeat("p", 100), name + "\x00", "lo\x00p", "\x00"} {
			for option, opts := range map[string]client.Options{
				"Device":    {Device: wrong},
				"Multicast": {Multicast: &client.Multicast{Interface: wrong}},
			} {
				_, err := client.NewUDP6(&opts)
				var bad *client.OptionError
				require.ErrorAs(t, err, &bad, "%q", wrong)
				require.Equal(t, option, bad.Option)
				require.ErrorContains(t, err, "is not an interface name")
			}
			_, err := c.SendToAddrPort(nil, netip.AddrPortFrom(netip.MustParseAddr("fe80::71").WithZone(wrong), 9))
			var unknown *net.AddrError
			require.ErrorAs(t, err, &unknown, "%q", wrong)
		}
	}, veth(name, "fe80::71")...)
}

// Connections to several peers can share a local port. bind(2) reserves one for all of
// them. ip(7), IP_BIND_ADDRESS_NO_PORT.
func TestLocalAddr_PortZeroIsSharedBetweenPeers(t *testing.T) {
	inNamespace(t, func() {
		const ports, peers = 4, 3
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40003"), 0))
		listeners := make([]net.Listener, peers)
		for i := range listeners {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:4100%d", i+1, i))
			require.NoError(t, err)
			defer ln.Close()
			listeners[i] = ln
		}
		dials := []func(address string) (*client.Client, error){
			func(address string) (*client.Client, error) {
				return client.Dial("tcp", address, &client.Options{LocalAddr: "127.0.0.9:0"})
			},
			func(address string) (*client.Client, error) {
				c, err := client.NewTCP(&client.Options{LocalAddr: "127.0.0.9:0"})
				require.NoError(t, err)
				return c, c.Connect(t.Context(), address)
			},
		}
		for i := range ports * peers {
			c, err := dials[i%len(dials)](listeners[i%peers].Addr().String())
			require.NoError(t, err, "connection %d", i)
			defer c.Close()
			peer, err := listeners[i%peers].Accept()
			require.NoError(t, err)
			defer peer.Close()
			require.Equal(t, peer.RemoteAddr().String(), c.LocalAddr().String(), "once it is connected it has one")
			require.Contains(t, c.LocalAddr().String(), "127.0.0.9:4000")
		}
	})
	// Bind is asked for a port, and LocalAddr tells which.
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6"} {
		c, err := unconnected[network](nil)
		require.NoError(t, err)
		require.NoError(t, c.Bind(loopbackOf(t, network)))
		require.NotEqual(t, "0", portOf(t, c.LocalAddr().String()))
		require.NoError(t, c.Close())
	}
}

// Bind fails with EADDRINUSE for an address in use. With SO_REUSEADDR it succeeded
// beside a live connection.
func TestBind_PortOfALiveConnectionIsInUse(t *testing.T) {
	inParallelIfShort(t)
	for _, network := range []string{"tcp", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			host, family := "127.0.0.1", "tcp4"
			if network == "tcp6" {
				host, family = "::1", "tcp6"
			}
			taken := func(address string, is bool) {
				t.Helper()
				for _, local := range []string{address, ":" + portOf(t, address)} {
					c, err := unconnected[network](nil)
					require.NoError(t, err)
					err = c.Bind(local)
					require.Equal(t, is, err != nil, "%s: %v", local, err)
					if is {
						require.ErrorIs(t, err, unix.EADDRINUSE)
						require.ErrorIs(t, c.Bind(local), unix.EADDRINUSE, "and again")
						require.NoError(t, c.Bind(net.JoinHostPort(host, "0")), "and the socket is as before")
					}
					require.NoError(t, c.Close())
				}
				_, err := client.Dial(family, address, &client.Options{LocalAddr: address})
				require.Error(t, err)
				require.Equal(t, is, !strings.Contains(err.Error(), "refused"), "%v", err)
			}
			ln := listen(t, network)
			taken(ln.Addr().String(), true)

			dialled, peer := accepted(t, ln, &client.Options{LocalAddr: unusedOn(t, network)})
			taken(dialled.LocalAddr().String(), true)
			require.NoError(t, dialled.CloseWrite()) // FIN_WAIT is not over yet
			taken(dialled.LocalAddr().String(), true)
			require.NoError(t, dialled.Close()) // TIME_WAIT is on this side
			require.NoError(t, peer.Close())
			taken(dialled.LocalAddr().String(), false)

			// A connection that a server has accepted, and that outlives the listener.
			c, peer := accepted(t, ln, nil)
			require.NoError(t, ln.Close())
			taken(peer.LocalAddr().String(), true)
			require.NoError(t, peer.Close())
			require.NoError(t, c.Close())
			taken(peer.LocalAddr().String(), false)

			// One that is bound and does nothing yet, and connects later.
			ln = listen(t, network)
			local := unusedOn(t, network)
			for range 3 { // TIME_WAIT each time
				c, err := unconnected[network](nil)
				require.NoError(t, err)
				require.NoError(t, c.Bind(local))
				taken(local, true)
				require.NoError(t, c.Connect(t.Context(), ln.Addr().String()))
				peer, err := ln.Accept()
				require.NoError(t, err)
				require.Equal(t, local, peer.RemoteAddr().String())
				taken(local, true)
				require.NoError(t, c.Close())
				require.NoError(t, peer.Close())
			}
		})
	}
}

// Of two simultaneous dials one gets the port, whoever their peers are. Between bind(2)
// and connect(2) neither saw the other, and both got it.
func TestLocalAddr_TwoDialsDoNotGetOnePort(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6"} {
		peers := []string{listen(t, network).Addr().String(), listen(t, network).Addr().String()}
		local := unusedOn(t, network)
		rounds := 150
		if testing.Short() {
			rounds = 15
		}
		for range rounds {
			clients := make([]*client.Client, len(peers))
			begin := make(chan struct{})
			var wg sync.WaitGroup
			for i, peer := range peers {
				wg.Go(func() {
					<-begin
					clients[i], _ = client.Dial(network, peer, &client.Options{LocalAddr: local, Linger: -1})
				})
			}
			close(begin)
			wg.Wait()
			both := clients[0] != nil && clients[1] != nil
			for _, c := range clients {
				if c != nil {
					require.NoError(t, c.Close())
				}
			}
			require.False(t, both)
		}
	}
}

func unusedOn(t *testing.T, network string) string {
	t.Helper()
	ln := listen(t, network)
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

// Package net tells Control the address family, on which socket options depend.
func TestControl_NetworkHasTheFamily(t *testing.T) {
	told := func(use func(opts *client.Options)) (network string) {
		use(&client.Options{Control: func(n, _ string, _ syscall.RawConn) error {
			network = n
			return unix.EPERM // that is all
		}})
		return network
	}
	for network, address := range map[string]string{
		"tcp4": "127.0.0.1:1", "tcp6": "[::1]:1", "udp4": "127.0.0.1:1", "udp6": "[::1]:1", "unix": "/x", "unixgram": "/x",
	} {
		general := strings.TrimRight(network, "46")
		for _, dialled := range []string{network, general} {
			require.Equal(t, network, told(func(opts *client.Options) { _, _ = client.Dial(dialled, address, opts) }))
		}
		open := unconnected[strings.TrimSuffix(network, "4")]
		require.Equal(t, network, told(func(opts *client.Options) { _, _ = open(opts) }))
	}
	require.Equal(t, "tcp6", told(func(opts *client.Options) {
		opts.Proxy = "socks5://[::1]:1"
		_, _ = client.Dial("tcp4", "127.0.0.1:1", opts)
	}), "the proxy's")
}

// A socket connected to the unspecified address is connected to this machine, which is
// its peer.
func TestDial_RemoteAddrOfUnspecifiedAddress(t *testing.T) {
	for _, network := range []string{"udp", "udp6", "tcp", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			var address string
			if strings.HasPrefix(network, "udp") {
				address = packetPeer(t, network).LocalAddr().String()
			} else {
				address = listen(t, network).Addr().String()
			}
			anywhere := "0.0.0.0"
			if strings.HasSuffix(network, "6") {
				anywhere = "::"
			}
			where := net.JoinHostPort(anywhere, portOf(t, address))
			c, err := client.Dial(network, where, nil)
			require.NoError(t, err)
			defer c.Close()
			require.Equal(t, address, c.RemoteAddr().String())
			d, err := unconnected[network](nil)
			require.NoError(t, err)
			defer d.Close()
			require.NoError(t, d.Connect(t.Context(), where))
			require.Equal(t, address, d.RemoteAddr().String())
		})
	}
}

// A port may be a service name wherever an address is parsed, as in package net.
func TestDial_ServiceName(t *testing.T) {
	inNamespace(t, func() {
		ln, err := net.Listen("tcp", "127.0.0.1:http")
		require.NoError(t, err)
		defer ln.Close()
		pc, err := net.ListenPacket("udp", "127.0.0.1:domain")
		require.NoError(t, err)
		defer pc.Close()
		for _, test := range []struct{ network, address, is string }{
			{"tcp", "127.0.0.1:http", "127.0.0.1:80"}, {"tcp", ":http", "127.0.0.1:80"}, {"tcp4", "localhost:http", "127.0.0.1:80"},
			{"udp", "127.0.0.1:domain", "127.0.0.1:53"},
		} {
			c, err := client.Dial(test.network, test.address, nil)
			require.NoError(t, err, test.address)
			require.Equal(t, test.is, c.RemoteAddr().String())
			require.NoError(t, c.Close())
		}
		c, err := client.NewTCP(&client.Options{LocalAddr: "127.0.0.1:https"})
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, "127.0.0.1:443", c.LocalAddr().String())
		require.NoError(t, c.Connect(t.Context(), "127.0.0.1:http"))
		d, err := client.NewUDP(nil)
		require.NoError(t, err)
		defer d.Close()
		require.NoError(t, d.Bind("127.0.0.1:ntp"))
		require.Equal(t, "127.0.0.1:123", d.LocalAddr().String())
	})
	_, ours := client.Dial("tcp", "127.0.0.1:no-such-service", nil)
	_, theirs := net.Dial("tcp", "127.0.0.1:no-such-service")
	var dns, theirDNS *net.DNSError
	require.ErrorAs(t, ours, &dns)
	require.ErrorAs(t, theirs, &theirDNS)
	require.Equal(t, theirDNS.Error(), dns.Error())
}
