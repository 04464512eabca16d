package client_test

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOptions_BadValuesAreRefusedBeforeTheSocketIsMade(t *testing.T) {
	made := func(string, string, syscall.RawConn) error {
		t.Error("a socket was made")
		return nil
	}
	for _, test := range []struct {
		network, address string
		opts             client.Options
		option           string
	}{
		{"tcp", "127.0.0.1:1", client.Options{NoDelay: 3}, "NoDelay"},
		{"tcp", "127.0.0.1:1", client.Options{NoDelay: -1}, "NoDelay"},
		{"udp", "127.0.0.1:1", client.Options{NoDelay: client.SwitchOn}, "NoDelay"},
		{"unix", "/x", client.Options{NoDelay: client.SwitchOff}, "NoDelay"},
		{"tcp", "127.0.0.1:1", client.Options{LocalAddr: "nonsense"}, "LocalAddr"},
		{"tcp", "127.0.0.1:1", client.Options{LocalAddr: "127.0.0.1:70000"}, "LocalAddr"},
		{"tcp", "127.0.0.1:1", client.Options{LocalAddr: "example.com:0"}, "LocalAddr"},
		{"tcp4", "127.0.0.1:1", client.Options{LocalAddr: "[::1]:0"}, "LocalAddr"},
		{"tcp", "127.0.0.1:1", client.Options{LocalAddr: "[::1]:0"}, "LocalAddr"},
		{"unixgram", "/x", client.Options{LocalAddr: "/with\x00zero"}, "LocalAddr"},
	} {
		test.opts.Control = made
		_, err := client.Dial(test.network, test.address, &test.opts)
		var bad *client.OptionError
		require.ErrorAs(t, err, &bad, "%+v", test)
		require.Equal(t, test.option, bad.Option)
	}
	_, err := client.NewUDP(&client.Options{NoDelay: client.SwitchOn, Control: made})
	var bad *client.OptionError
	require.ErrorAs(t, err, &bad)
	_, err = client.NewTCP(&client.Options{LocalAddr: "192.0.2.1:0"})
	require.ErrorIs(t, err, unix.EADDRNOTAVAIL)
}

func TestNoDelay_IsOnByDefault(t *testing.T) {
	for set, want := range map[client.Switch]int{client.SwitchDefault: 1, client.SwitchOn: 1, client.SwitchOff: 0} {
		for _, network := range []string{"tcp", "tcp6"} {
			t.Run(network, func(t *testing.T) {
				c, _ := stream(t, network, &client.Options{NoDelay: set})
				raw, err := c.SyscallConn()
				require.NoError(t, err)
				var got int
				require.NoError(t, raw.Control(func(fd uintptr) {
					got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
				}))
				require.NoError(t, err)
				require.Equal(t, want == 1, got != 0)
			})
		}
	}
}

func TestLocalAddr_IsTheSourceAddress(t *testing.T) {
	ln := listen(t, "tcp")
	c, peer := accepted(t, ln, &client.Options{LocalAddr: "127.0.0.1:0"})
	require.Equal(t, c.LocalAddr().String(), peer.RemoteAddr().String())
	gram := loopbackOf(t, "unixgram")
	d, _ := datagrams(t, "unixgram", &client.Options{LocalAddr: gram})
	require.Equal(t, gram, d.LocalAddr().String())
	require.NoError(t, d.Close())
	require.NoFileExists(t, gram)
	// With an address of one family only that family is tried.
	port := portOf(t, ln.Addr().String())
	e, err := client.Dial("tcp", "both.test:"+port, &client.Options{
		LocalAddr: "127.0.0.1:0",
		Resolver:  names(t, map[string][]string{"both.test.": {"::1", "127.0.0.1"}}),
	})
	require.NoError(t, err)
	require.Equal(t, ln.Addr().String(), e.RemoteAddr().String())
	require.NoError(t, e.Close())
}

func TestOptions_MayBeSharedAndChanged(t *testing.T) {
	opts := &client.Options{RecvTimeout: 20 * time.Millisecond}
	ln := listen(t, "tcp")
	c, _ := accepted(t, ln, opts)
	opts.RecvTimeout = -1
	_, err := c.Recv(make([]byte, 1), 0)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
}

// The wildcard is of the family of the peer's address.
func TestLocalAddr_EmptyHostIsAnyAddress(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6"} {
		ln := listen(t, network)
		c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{LocalAddr: ":0"})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

// A fixed local port is not blocked for a minute after each connection, and does not
// keep several addresses of a name from being tried at once.
func TestLocalAddr_PortCanBeUsedAgainAtOnce(t *testing.T) {
	ln := listen(t, "tcp")
	hole := blackHole(t, "tcp", "127.0.0.1")
	local := unused(t)
	for range 3 {
		c, peer := accepted(t, ln, &client.Options{LocalAddr: local})
		require.Equal(t, local, c.LocalAddr().String())
		require.NoError(t, c.Close()) // first: TIME_WAIT is on this side
		require.NoError(t, peer.Close())
	}
	second, err := net.Listen("tcp", "127.0.0.2:"+portOf(t, hole))
	require.NoError(t, err)
	defer second.Close()
	c, err := client.Dial("tcp", "two.test:"+portOf(t, hole), &client.Options{
		LocalAddr: ":" + portOf(t, local),
		Resolver:  names(t, map[string][]string{"two.test.": {"127.0.0.1", "127.0.0.2"}}),
	})
	require.NoError(t, err)
	require.Equal(t, second.Addr().String(), c.RemoteAddr().String())
	require.NoError(t, c.Close())
}

func TestSocket_IsOfOneFamilyAndCloseOnExec(t *testing.T) {
	for network, open := range unconnected {
		c, err := open(nil)
		require.NoError(t, err)
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.FD_CLOEXEC, network)
			if network == "tcp6" || network == "udp6" {
				only, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
				require.NoError(t, err)
				require.NotZero(t, only, network)
			}
		}))
		require.NoError(t, c.Close())
	}
}

func TestControl_PanicLeaksNoSocket(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	dial := func(panicAt int) {
		defer func() { require.Equal(t, "control", recover()) }()
		attempt := 0
		_, _ = client.Dial("tcp", "two.test:"+portOf(t, hole), &client.Options{
			Timeout:  200 * time.Millisecond,
			Resolver: names(t, map[string][]string{"two.test.": {"127.0.0.1", "127.0.0.1"}}),
			Control: func(string, string, syscall.RawConn) error {
				if attempt++; attempt == panicAt {
					panic("control")
				}
				return nil
			},
		})
	}
	dial(1)
	dial(2) // TestMain sees what is left
}

func TestOptions_TimeoutsPerKindOfCall(t *testing.T) {
	c, _ := stream(t, "tcp", &client.Options{Timeout: -1, RecvTimeout: time.Millisecond, SendTimeout: 2 * time.Millisecond})
	_, err := c.Recv(make([]byte, 1), 0)
	require.True(t, timedOut(err))
	_, err = c.Send(make([]byte, 64<<20), 0)
	require.True(t, timedOut(err))
	start := time.Now()
	_, err = client.Dial("tcp", blackHole(t, "tcp", "127.0.0.1"), &client.Options{Timeout: -1, ConnectTimeout: time.Millisecond})
	require.True(t, timedOut(err))
	require.Less(t, time.Since(start), testTimeout)
}

func TestOptions_SharedByConcurrentDials(t *testing.T) {
	ln := listen(t, "tcp")
	opts := &client.Options{Timeout: testTimeout}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c, err := client.Dial("tcp", ln.Addr().String(), opts)
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
		})
	}
	wg.Wait()
}
