package client_test

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sockopt reads an option back.
func sockopt(t testing.TB, raw syscall.RawConn, level, number int) int {
	t.Helper()
	var value int
	var err error
	require.NoError(t, raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, number) }))
	require.NoError(t, err)
	return value
}

// seen runs f on the descriptor before the connect and after it.
func seen(t *testing.T, network string, opts client.Options, f func(raw syscall.RawConn)) {
	t.Helper()
	before := false
	opts.Control = func(_, _ string, raw syscall.RawConn) error {
		before = true
		f(raw)
		return nil
	}
	c := connectedTo(t, network, &opts)
	require.True(t, before)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	f(raw)
}

// Options that only Linux has are in options_socket_linux_test.go.
func TestOptions_SocketOptionsAreSetBeforeConnect(t *testing.T) {
	on := &net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second, Interval: 2500 * time.Millisecond, Count: 4}
	for name, test := range map[string]struct {
		networks      string
		opts          client.Options
		level, number int
		want          func(int) bool
	}{
		"no delay":            {"tcp tcp6", client.Options{}, unix.IPPROTO_TCP, unix.TCP_NODELAY, isnt(0)},
		"delay":               {"tcp tcp6", client.Options{NoDelay: client.SwitchOff}, unix.IPPROTO_TCP, unix.TCP_NODELAY, is(0)},
		"keepalive, default":  {"tcp tcp6", client.Options{}, unix.SOL_SOCKET, unix.SO_KEEPALIVE, isnt(0)},
		"interval, default":   {"tcp tcp6", client.Options{}, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, is(15)},
		"count, default":      {"tcp tcp6", client.Options{}, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, is(9)},
		"keepalive":           {"tcp tcp6", client.Options{KeepAlive: on}, unix.SOL_SOCKET, unix.SO_KEEPALIVE, isnt(0)},
		"interval":            {"tcp tcp6", client.Options{KeepAlive: on}, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, is(3)},
		"count":               {"tcp tcp6", client.Options{KeepAlive: on}, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, is(4)},
		"keepalive, off":      {"tcp tcp6", client.Options{KeepAlive: &net.KeepAliveConfig{}}, unix.SOL_SOCKET, unix.SO_KEEPALIVE, is(0)},
		"receive buffer":      {"tcp tcp6 udp unix unixgram", client.Options{RecvBuffer: 40_000}, unix.SOL_SOCKET, unix.SO_RCVBUF, atLeast(40_000)},
		"send buffer":         {"tcp tcp6 udp unix unixgram", client.Options{SendBuffer: 41_000}, unix.SOL_SOCKET, unix.SO_SNDBUF, atLeast(41_000)},
		"TOS":                 {"tcp udp", client.Options{TOS: 0xb8}, unix.IPPROTO_IP, unix.IP_TOS, is(0xb8)},
		"traffic class":       {"tcp6 udp6", client.Options{TOS: 0xb8}, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, is(0xb8)},
		"TTL":                 {"tcp udp", client.Options{TTL: 33}, unix.IPPROTO_IP, unix.IP_TTL, is(33)},
		"hops":                {"tcp6 udp6", client.Options{TTL: 33}, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, is(33)},
		"reuse":               {"tcp udp", client.Options{ReuseAddr: client.SwitchOn}, unix.SOL_SOCKET, unix.SO_REUSEADDR, isnt(0)},
		"no reuse":            {"tcp udp", client.Options{ReuseAddr: client.SwitchOff}, unix.SOL_SOCKET, unix.SO_REUSEADDR, is(0)},
		"broadcast":           {"udp", client.Options{Broadcast: true}, unix.SOL_SOCKET, unix.SO_BROADCAST, isnt(0)},
		"no broadcast":        {"udp", client.Options{}, unix.SOL_SOCKET, unix.SO_BROADCAST, is(0)},
		"multicast TTL":       {"udp", client.Options{Multicast: &client.Multicast{TTL: 5}}, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, is(5)},
		"multicast loop":      {"udp", client.Options{Multicast: &client.Multicast{Loopback: client.SwitchOff}}, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, is(0)},
		"multicast hops":      {"udp6", client.Options{Multicast: &client.Multicast{TTL: 5}}, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, is(5)},
		"multicast loop, on":  {"udp", client.Options{Multicast: &client.Multicast{Loopback: client.SwitchOn}}, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, isnt(0)},
		"multicast, IPv6 off": {"udp6", client.Options{Multicast: &client.Multicast{Loopback: client.SwitchOff}}, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, is(0)},
	} {
		for network := range strings.FieldsSeq(test.networks) {
			t.Run(name+" "+network, func(t *testing.T) {
				seen(t, network, test.opts, func(raw syscall.RawConn) {
					got := sockopt(t, raw, test.level, test.number)
					require.True(t, test.want(got), "%d", got)
				})
			})
		}
	}
}

func is(want int) func(int) bool      { return func(n int) bool { return n == want } }
func isnt(other int) func(int) bool   { return func(n int) bool { return n != other } }
func atLeast(want int) func(int) bool { return func(n int) bool { return n >= want } }

func TestOptions_UnavailableAreRefusedByName(t *testing.T) {
	group := netip.MustParseAddr("239.1.2.3")
	for name, test := range map[string]struct {
		networks string
		opts     client.Options
		says     string
	}{
		"NoDelay":     {"udp unix unixgram", client.Options{NoDelay: client.SwitchOn}, "only for tcp"},
		"KeepAlive":   {"udp unix unixgram", client.Options{KeepAlive: &net.KeepAliveConfig{}}, "only for tcp"},
		"UserTimeout": {"udp unix unixgram", client.Options{UserTimeout: 1}, "only for tcp"},
		"FastOpen":    {"udp unix unixgram", client.Options{FastOpen: true}, "only for tcp"},
		"QuickAck":    {"udp unix unixgram", client.Options{QuickAck: client.SwitchOff}, "only for tcp"},
		"MPTCP":       {"udp unix unixgram", client.Options{MPTCP: true}, "only for tcp"},
		"Linger":      {"udp unix unixgram", client.Options{Linger: -1}, "only for tcp"},
		"ReuseAddr":   {"unix unixgram", client.Options{ReuseAddr: client.SwitchOn}, "only for tcp and udp"},
		"TOS":         {"unix unixgram", client.Options{TOS: 1}, "only for tcp and udp"},
		"TTL":         {"unix unixgram", client.Options{TTL: 1}, "only for tcp and udp"},
		"Mark":        {"unix unixgram", client.Options{Mark: 1}, "only for tcp and udp"},
		"Device":      {"unix unixgram", client.Options{Device: "lo"}, "only for tcp and udp"},
		"BusyPoll":    {"unix unixgram", client.Options{BusyPoll: 1}, "only for tcp and udp"},
		"Broadcast":   {"tcp udp6 unix unixgram", client.Options{Broadcast: true}, "only for udp over IPv4"},
		"Multicast":   {"tcp unix unixgram", client.Options{Multicast: &client.Multicast{}}, "only for udp"},
		"ICMPErrors":  {"tcp unix unixgram", client.Options{ICMPErrors: true}, "only for udp"},

		"NoDelay ":     {"tcp", client.Options{NoDelay: 3}, "3 is not a Switch"},
		"QuickAck ":    {"tcp", client.Options{QuickAck: -1}, "-1 is not a Switch"},
		"ReuseAddr ":   {"tcp", client.Options{ReuseAddr: 9}, "9 is not a Switch"},
		"RecvBuffer ":  {"tcp unix", client.Options{RecvBuffer: -1}, "-1 is negative"},
		"SendBuffer ":  {"tcp unix", client.Options{SendBuffer: -1}, "-1 is negative"},
		"UserTimeout ": {"tcp", client.Options{UserTimeout: -1}, "-1 is negative"},
		"BusyPoll ":    {"tcp", client.Options{BusyPoll: -1}, "-1 is negative"},

		"Multicast ":   {"udp", client.Options{Multicast: &client.Multicast{Groups: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}, "127.0.0.1 is not a multicast address"},
		"Multicast  ":  {"udp", client.Options{Multicast: &client.Multicast{Interface: "nowhere"}}, "nowhere"},
		"Multicast   ": {"udp6", client.Options{Multicast: &client.Multicast{Groups: []netip.Addr{group}}}, "not of the socket's address family"},
		"Multicast -":  {"udp", client.Options{Multicast: &client.Multicast{Loopback: 7}}, "7 is not a Switch"},
	} {
		option := strings.Trim(name, " -")
		for network := range strings.FieldsSeq(test.networks) {
			t.Run(name+network, func(t *testing.T) {
				address := "127.0.0.1:1"
				switch {
				case strings.HasPrefix(network, "unix"):
					address = "/x"
				case strings.HasSuffix(network, "6"):
					address = "[::1]:1"
				}
				_, err := client.Dial(network, address, &test.opts)
				var bad *client.OptionError
				require.ErrorAs(t, err, &bad)
				require.Equal(t, option, bad.Option)
				require.ErrorContains(t, err, "option "+option+": ")
				if runtime.GOOS == "linux" {
					require.ErrorContains(t, err, test.says)
				}
			})
		}
	}
}

// The kernel takes an int. The excess bits were dropped silently: a buffer of 2^32+5
// bytes had 5, and a keepalive count too.
func TestOptions_TooLargeNumbersAreRefusedByName(t *testing.T) {
	const far = math.MaxInt64
	on := func(k net.KeepAliveConfig) client.Options { k.Enable = true; return client.Options{KeepAlive: &k} }
	tests := []struct {
		option string
		opts   client.Options
		linux  bool
	}{
		{"Linger", client.Options{Linger: far}, false},
		{"Linger", client.Options{Linger: (1<<32 + 1) * time.Second}, false},
		{"KeepAlive", on(net.KeepAliveConfig{Idle: far}), false},
		{"KeepAlive", on(net.KeepAliveConfig{Interval: far}), false},
		{"UserTimeout", client.Options{UserTimeout: far}, true},
		{"UserTimeout", client.Options{UserTimeout: (1<<32 + 1) * time.Millisecond}, true},
		{"BusyPoll", client.Options{BusyPoll: far}, true},
		{"KeepAlive", on(net.KeepAliveConfig{Idle: 32768 * time.Second}), true},
		{"KeepAlive", on(net.KeepAliveConfig{Interval: 32767*time.Second + 1}), true},
		{"KeepAlive", on(net.KeepAliveConfig{Count: 128}), true},
	}
	for shift := 31; shift < strconv.IntSize-1; shift++ { // no int is as large on 386
		big := 1<<shift + 5
		tests = append(tests, []struct {
			option string
			opts   client.Options
			linux  bool
		}{
			{"RecvBuffer", client.Options{RecvBuffer: big}, false},
			{"SendBuffer", client.Options{SendBuffer: big}, false},
			{"KeepAlive", on(net.KeepAliveConfig{Count: big}), false},
		}...)
	}
	for _, test := range tests {
		if test.linux && runtime.GOOS != "linux" {
			continue
		}
		for _, open := range []func(*client.Options) (*client.Client, error){client.NewTCP, client.NewTCP6} {
			_, err := open(&test.opts)
			var bad *client.OptionError
			require.ErrorAs(t, err, &bad, "%+v", test.opts)
			require.Equal(t, test.option, bad.Option)
			require.ErrorContains(t, err, "the maximum is")
		}
	}
	// What fits is taken.
	c, err := client.NewTCP(&client.Options{
		RecvBuffer: math.MaxInt32, SendBuffer: math.MaxInt32, Linger: math.MaxInt32 * time.Second,
		KeepAlive: &net.KeepAliveConfig{Enable: true, Idle: 32767 * time.Second, Interval: 32767 * time.Second, Count: 127},
	})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A reset discards what was sent. A positive time waits for it.
func TestLinger_DecidesHowCloseEnds(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Linger: -1})
	_, err := c.Send([]byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = peer.Read(make([]byte, 2))
	if err == nil {
		_, err = peer.Read(make([]byte, 2))
	}
	require.ErrorIs(t, err, unix.ECONNRESET)

	c, _ = stream(t, "tcp", &client.Options{Linger: 300 * time.Millisecond})
	for err = nil; err == nil; {
		_, err = c.Send(make([]byte, 1<<20), client.DontWait)
	}
	begin := time.Now()
	require.NoError(t, c.Close())
	require.GreaterOrEqual(t, time.Since(begin), time.Second, "rounded up")
}

// Members of a group receive what is sent to it.
func TestMulticast_ReachesTheGroup(t *testing.T) {
	loopback, err := net.InterfaceByIndex(1)
	require.NoError(t, err)
	group := netip.MustParseAddr("239.255.77.7")
	on := client.Multicast{Groups: []netip.Addr{group}, Interface: loopback.Name}
	member, err := client.NewUDP(&client.Options{Timeout: testTimeout, LocalAddr: ":0", ReuseAddr: client.SwitchOn, Multicast: &on})
	require.NoError(t, err)
	defer member.Close()
	port := member.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	sender, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0", Multicast: &client.Multicast{Interface: loopback.Name}})
	require.NoError(t, err)
	defer sender.Close()
	_, err = sender.SendToAddrPort([]byte("all of you"), netip.AddrPortFrom(group, port))
	require.NoError(t, err)
	p := make([]byte, 20)
	n, from, err := member.RecvFrom(p, 0)
	require.NoError(t, err)
	require.Equal(t, "all of you", string(p[:n]))
	require.Equal(t, sender.LocalAddr().String(), from.String())
}

func TestBroadcast_NeedsTheOption(t *testing.T) {
	where := netip.MustParseAddrPort("255.255.255.255:9")
	c, err := client.NewUDP(nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.SendToAddrPort([]byte("x"), where)
	require.True(t, errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENETUNREACH), "%v", err)
	c2, err := client.NewUDP(&client.Options{Broadcast: true})
	require.NoError(t, err)
	defer c2.Close()
	_, err = c2.SendToAddrPort([]byte("x"), where)
	require.NotErrorIs(t, err, unix.EACCES)
}

// Connections dialled through a pool have their options, and the pool distinguishes
// them.
func TestPool_ConnectionsHaveTheirOptions(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
	for range 2 {
		for _, ttl := range []uint8{11, 12} {
			c, err := p.Dial(context.Background(), "tcp", s.Addr().String(), &client.Options{TTL: ttl})
			require.NoError(t, err)
			asks(t, c, "x")
			require.NoError(t, c.Close())
		}
	}
	require.Equal(t, 2, s.count())
}
