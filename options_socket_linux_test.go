package client_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOptions_LinuxSocketOptionsAreSet(t *testing.T) {
	inParallelIfShort(t)
	on := &net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second}
	for name, test := range map[string]struct {
		networks      string
		opts          client.Options
		level, number int
		want          func(int) bool
	}{
		"keepalive after, default": {"tcp tcp6", client.Options{}, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, is(15)},
		"keepalive after":          {"tcp tcp6", client.Options{KeepAlive: on}, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, is(7)},
		"keepalive, the system's": {
			"tcp", client.Options{KeepAlive: &net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}},
			unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, isnt(15),
		},
		"user timeout": {"tcp tcp6", client.Options{UserTimeout: 1500*time.Millisecond + 1}, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, is(1501)},
		"fast open":    {"tcp tcp6", client.Options{FastOpen: true}, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, is(1)},
		"quick":        {"tcp", client.Options{QuickAck: client.SwitchOn}, unix.IPPROTO_TCP, unix.TCP_QUICKACK, is(1)},
		"mark":         {"tcp udp6", client.Options{Mark: 0x80000001}, unix.SOL_SOCKET, unix.SO_MARK, func(n int) bool { return uint32(n) == 0x80000001 }},
		"busy poll":    {"tcp udp", client.Options{BusyPoll: 20 * time.Microsecond}, unix.SOL_SOCKET, unix.SO_BUSY_POLL, is(20)},
		"MPTCP":        {"tcp tcp6", client.Options{MPTCP: true}, unix.SOL_SOCKET, unix.SO_PROTOCOL, is(unix.IPPROTO_MPTCP)},
		"ICMP":         {"udp", client.Options{ICMPErrors: true}, unix.IPPROTO_IP, unix.IP_RECVERR, is(1)},
		"ICMPv6":       {"udp6", client.Options{ICMPErrors: true}, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, is(1)},
	} {
		for network := range strings.FieldsSeq(test.networks) {
			t.Run(name+" "+network, func(t *testing.T) {
				if why := lacking(t, network, test.opts); why != "" {
					t.Skip(why)
				}
				seen(t, network, test.opts, func(raw syscall.RawConn) {
					got := sockopt(t, raw, test.level, test.number)
					require.True(t, test.want(got), "%d", got)
				})
			})
		}
	}
	// The kernel changes it as the connection goes on.
	delayed := -1
	connectedTo(t, "tcp", &client.Options{QuickAck: client.SwitchOff, Control: func(_, _ string, raw syscall.RawConn) error {
		delayed = sockopt(t, raw, unix.IPPROTO_TCP, unix.TCP_QUICKACK)
		return nil
	}})
	require.Zero(t, delayed)
	if why := lacking(t, "tcp", client.Options{Device: "lo"}); why == "" {
		seen(t, "tcp", client.Options{Device: "lo"}, func(raw syscall.RawConn) {
			var name string
			var err error
			require.NoError(t, raw.Control(func(fd uintptr) {
				name, err = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
			}))
			require.NoError(t, err)
			require.Equal(t, "lo", strings.TrimRight(name, "\x00"))
		})
	}
	_, err := client.NewUDP(&client.Options{Device: "nowhere0"})
	var bad *client.OptionError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "Device", bad.Option)
}

// lacking returns what this process is not permitted to do or this kernel does not have.
// That must then be an error that names the option.
func lacking(t *testing.T, network string, opts client.Options) string {
	t.Helper()
	open := client.NewTCP
	if strings.HasPrefix(network, "udp") {
		open = client.NewUDP
	}
	c, err := open(&opts)
	if err == nil {
		require.NoError(t, c.Close())
		return ""
	}
	var bad *client.OptionError
	require.ErrorAs(t, err, &bad)
	for _, known := range []error{unix.EPERM, unix.EPROTONOSUPPORT, unix.ENOPROTOOPT, unix.EINVAL} {
		if errors.Is(err, known) {
			return err.Error()
		}
	}
	t.Fatal(err)
	return ""
}

// With FastOpen a client is connected before the server has answered. The first call
// returns the error, within its limit.
func TestFastOpen_IsAConnectionLikeAnyOther(t *testing.T) {
	ln := listen(t, "tcp")
	for range 3 { // the first gets the cookie, if the server gives any
		c, peer := accepted(t, ln, &client.Options{FastOpen: true})
		_, err := c.Send([]byte("hello"), 0)
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(peer, got)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, c.Close())
	}
	c, err := client.Dial("tcp", refused(t, "tcp"), &client.Options{FastOpen: true})
	if err == nil {
		_, err = c.Send([]byte("x"), 0)
		require.NoError(t, c.Close())
	}
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

// An unconnected client learns which of its destinations cannot be reached. No send
// fails because of another datagram.
func TestICMPErrors_NameTheDestination(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			host, open := "127.0.0.1", client.NewUDP
			if network == "udp6" {
				loopbackOf(t, network) // or skip
				host, open = "::1", client.NewUDP6
			}
			nobody := packetPeer(t, network)
			gone := netip.MustParseAddrPort(nobody.LocalAddr().String())
			require.NoError(t, nobody.Close())
			peer := packetPeer(t, network)
			there := netip.MustParseAddrPort(peer.LocalAddr().String())

			silent, err := open(&client.Options{Timeout: 30 * time.Millisecond})
			require.NoError(t, err)
			defer silent.Close()
			_, err = silent.SendToAddrPort([]byte("x"), gone)
			require.NoError(t, err)
			_, _, err = silent.RecvFrom(make([]byte, 1), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "without the option nobody learns")

			for _, how := range []client.Flag{0, client.DontWait} {
				c, err := open(&client.Options{Timeout: 10 * testTimeout, ICMPErrors: true})
				require.NoError(t, err)
				defer c.Close()
				begin := time.Now()
				for range 2 {
					_, err = c.SendToAddrPort([]byte("x"), gone)
					require.NoError(t, err, "the one before is not this one's error")
				}
				_, err = c.SendToAddrPort([]byte("x"), there)
				require.NoError(t, err)
				n, from, err := peer.ReadFrom(make([]byte, 10))
				require.NoError(t, err)
				require.Equal(t, 1, n)
				for range 2 {
					n, who, err := c.RecvFrom(make([]byte, 1), how)
					require.Zero(t, n)
					require.Nil(t, who)
					var icmp *client.ICMPError
					require.ErrorAs(t, err, &icmp)
					require.ErrorIs(t, err, unix.ECONNREFUSED)
					require.Equal(t, gone, icmp.To)
					require.Equal(t, host, icmp.By.String())
					require.NotZero(t, icmp.Type)
					require.ErrorContains(t, err, gone.String())
					require.False(t, client.SafeToRetry(err))
				}
				_, _, err = c.RecvFrom(make([]byte, 1), client.DontWait)
				require.ErrorIs(t, err, unix.EAGAIN)
				_, err = peer.WriteTo([]byte("answer"), from)
				require.NoError(t, err)
				_, addr, err := c.RecvFromAddrPort(make([]byte, 10), 0)
				require.NoError(t, err)
				require.Equal(t, there, addr)
				require.Less(t, time.Since(begin), testTimeout)
			}
		})
	}
}

// A receive that waits in the kernel is woken.
func TestICMPErrors_EndAWaitingReceive(t *testing.T) {
	for _, limit := range []time.Duration{-1, testTimeout, 90 * time.Millisecond} {
		nobody := packetPeer(t, "udp")
		gone := netip.MustParseAddrPort(nobody.LocalAddr().String())
		require.NoError(t, nobody.Close())
		c, err := client.NewUDP(&client.Options{Timeout: limit, ICMPErrors: true})
		require.NoError(t, err)
		result := make(chan error, 1)
		go func() {
			_, _, err := c.RecvFrom(make([]byte, 1), 0)
			result <- err
		}()
		inKernel(t)
		_, err = c.SendToAddrPort([]byte("x"), gone)
		require.NoError(t, err)
		err = <-result
		if limit == 90*time.Millisecond && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Log("too slow a machine to say")
		} else {
			var icmp *client.ICMPError
			require.ErrorAs(t, err, &icmp)
			require.Equal(t, gone, icmp.To)
		}
		require.NoError(t, c.Close())
	}
}

func TestTCPInfo_DescribesTheConnection(t *testing.T) {
	for _, network := range []string{"tcp", "tcp6", "tls"} {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			const size = 100_000
			got := make(chan error, 1)
			go func() {
				_, err := io.ReadFull(peer, make([]byte, size))
				if err == nil {
					_, err = peer.Write(make([]byte, 77))
				}
				got <- err
			}()
			_, err := c.Send(make([]byte, size), 0)
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 77), client.WaitAll)
			require.NoError(t, err)
			require.NoError(t, <-got)
			info, err := c.TCPInfo()
			require.NoError(t, err)
			require.Equal(t, client.Established, info.State)
			require.Equal(t, "ESTABLISHED", info.State.String())
			require.GreaterOrEqual(t, info.BytesSent, uint64(size))
			require.GreaterOrEqual(t, info.BytesAcked, uint64(size))
			require.GreaterOrEqual(t, info.BytesReceived, uint64(77))
			require.Positive(t, info.SegmentsSent)
			require.Positive(t, info.SegmentsReceived)
			require.Positive(t, info.RTT)
			require.Positive(t, info.MinRTT)
			require.Less(t, info.RTT, testTimeout)
			require.Positive(t, info.RTO)
			require.Positive(t, info.SendMSS)
			require.Positive(t, info.PathMTU)
			require.Positive(t, info.CongestionWindow)
			require.Less(t, info.LastReceived, testTimeout)
			require.NoError(t, peer.Close())
			_, err = io.Copy(io.Discard, c)
			if network != "tls" {
				require.NoError(t, err)
				info, err = c.TCPInfo()
				require.NoError(t, err)
				require.Equal(t, client.CloseWait, info.State)
			}
			require.NoError(t, c.Close())
			_, err = c.TCPInfo()
			require.ErrorIs(t, err, net.ErrClosed)
		})
	}
	_, err := connectedTo(t, "unix", nil).TCPInfo()
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	_, err = connectedTo(t, "udp", nil).TCPInfo()
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	idle, err := client.NewTCP(nil)
	require.NoError(t, err)
	defer idle.Close()
	info, err := idle.TCPInfo()
	require.NoError(t, err)
	require.Equal(t, client.Closed, info.State)
	_, err = new(client.Client).TCPInfo()
	require.ErrorIs(t, err, unix.ENOTCONN)
}

// However many errors of other datagrams are queued, and whichever call takes them, a
// send fails only for its own reason: several goroutines share one client, as in a
// resolver or a prober.
func TestICMPErrors_SendReturnsOnlyItsOwnError(t *testing.T) {
	for _, network := range []string{"udp", "udp6"} {
		t.Run(network, func(t *testing.T) {
			open := client.NewUDP
			if network == "udp6" {
				loopbackOf(t, network) // or skip
				open = client.NewUDP6
			}
			nobody := packetPeer(t, network)
			gone := netip.MustParseAddrPort(nobody.LocalAddr().String())
			require.NoError(t, nobody.Close())
			peer := packetPeer(t, network)
			there := netip.MustParseAddrPort(peer.LocalAddr().String())
			c, err := open(&client.Options{Timeout: -1, ICMPErrors: true})
			require.NoError(t, err)
			const senders, each = 4, 2000
			var sending, receiving sync.WaitGroup
			for range 2 {
				receiving.Go(func() {
					for {
						_, _, err := c.RecvFromAddrPort(make([]byte, 1), 0)
						var icmp *client.ICMPError
						switch {
						case errors.Is(err, net.ErrClosed):
							return
						case !errors.As(err, &icmp) || icmp.To != gone:
							t.Errorf("received %v", err)
							return
						}
					}
				})
			}
			for i := range senders {
				sending.Go(func() {
					to := []netip.AddrPort{gone, there}[i%2]
					for range each {
						if _, err := c.SendToAddrPort([]byte("x"), to); err != nil {
							t.Errorf("to %v: %v", to, err)
							return
						}
					}
				})
			}
			sending.Wait()
			require.NoError(t, c.Close())
			receiving.Wait()
		})
	}
}

// An error of the datagram itself is returned at once.
func TestICMPErrors_SendReturnsItsOwnError(t *testing.T) {
	c, err := client.NewUDP(&client.Options{ICMPErrors: true})
	require.NoError(t, err)
	defer c.Close()
	peer := packetPeer(t, "udp")
	_, err = c.SendTo(make([]byte, 66_000), peer.LocalAddr())
	require.ErrorIs(t, err, unix.EMSGSIZE)
	_, err = c.SendToAddrPort([]byte("x"), netip.MustParseAddrPort("255.255.255.255:9"))
	require.ErrorIs(t, err, unix.EACCES, "no Broadcast")
	_, err = c.SendTo([]byte("x"), peer.LocalAddr())
	require.NoError(t, err)
}

// The error queue has time stamps too, if Control has asked for them. They are no errors.
func TestICMPErrors_TimeStampsAreNone(t *testing.T) {
	c, peer := datagrams(t, "udp", &client.Options{ICMPErrors: true, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_TX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE)
		}); e != nil {
			return e
		}
		return err
	}})
	for range 3 {
		_, err := c.Send([]byte("ping"), 0)
		require.NoError(t, err)
		time.AfterFunc(10*time.Millisecond, func() { _, _ = peer.WriteTo([]byte("pong"), c.LocalAddr()) })
		p := make([]byte, 10)
		n, err := c.Recv(p, 0)
		require.NoError(t, err)
		require.Equal(t, "pong", string(p[:n]))
	}
}

// The error of a datagram that the send refuses is returned by the send only.
func TestICMPErrors_TooLongDatagramIsReportedOnce(t *testing.T) {
	inANetworkOfItsOwn(t, func(func()) error {
		if err := onLoopback(func(request *unix.Ifreq) uint {
			request.SetUint32(1500)
			return unix.SIOCSIFMTU
		}); err != nil {
			return err
		}
		c, err := client.NewUDP(&client.Options{ICMPErrors: true, Control: func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			}); e != nil {
				return e
			}
			return err
		}})
		if err != nil {
			return err
		}
		defer c.Close()
		to := netip.MustParseAddrPort("127.0.0.1:9")
		if _, err = c.SendToAddrPort(make([]byte, 1473), to); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("a byte too long: %v", err)
		}
		if _, _, err = c.RecvFrom(make([]byte, 1), client.DontWait); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("received %v", err)
		}
		_, err = c.SendToAddrPort(make([]byte, 1472), to)
		return err
	})
}
