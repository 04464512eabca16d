package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A refusal is a system call that fails, or where option is not 0, setsockopt(2) or
// getsockopt(2) for that option of SOL_UDP.
type refusal struct {
	call, option uint32
	errno        unix.Errno
}

// refusing runs f on a thread for which the kernel refuses system calls (seccomp(2)).
func refusing(t *testing.T, f func(), refusals ...refusal) {
	t.Helper()
	const number, level, option = 0, 16 + 8, 16 + 16 // of struct seccomp_data, where the lower half comes first
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	skipUnless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	result := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	var filter []unix.SockFilter
	for _, r := range refusals {
		refuse := result(unix.SECCOMP_RET_ERRNO | uint32(r.errno))
		switch {
		case r.option == 0:
			filter = append(filter, load(number), skipUnless(r.call, 1), refuse)
		case runtime.GOARCH == "386": // x/sys/unix makes all of these by socketcall(2), whose arguments no filter sees
			const socketcall, first = 102, 16
			which := map[uint32]uint32{unix.SYS_SETSOCKOPT: 14, unix.SYS_GETSOCKOPT: 15}[r.call]
			filter = append(filter, load(number), skipUnless(socketcall, 3), load(first), skipUnless(which, 1), refuse)
		default:
			filter = append(filter, load(number), skipUnless(r.call, 5),
				load(level), skipUnless(unix.SOL_UDP, 3), load(option), skipUnless(r.option, 1), refuse)
		}
	}
	filter = append(filter, result(unix.SECCOMP_RET_ALLOW))
	done := make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if failed = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); failed != nil {
			return
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		failed = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
		if failed == nil {
			f()
		}
	}()
	<-done
	require.NoError(t, failed)
	if t.Failed() {
		t.FailNow()
	}
}

func TestBatch_GoesOneByOneWhereTheKernelRefuses(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		for name, call := range map[string]uint32{"sendmmsg": unix.SYS_SENDMMSG, "recvmmsg": unix.SYS_RECVMMSG} {
			t.Run(fmt.Sprint(name, " ", errno), func(t *testing.T) {
				refusing(t, func() {
					c, peer := datagramPair(t, "udp", client.Options{})
					for range 2 {
						ds := numbered(50)
						n, err := c.SendBatch(ds, 0)
						require.NoError(t, err)
						require.Equal(t, len(ds), n)
						for i, p := range receiveAll(t, peer, len(ds), c.LocalAddr()) {
							require.Equal(t, string(ds[i].Buf), string(p))
						}
					}
					ds := numbered(5)
					ds[3].Buf = make([]byte, 1<<16)
					n, err := c.SendBatch(ds, 0)
					require.ErrorIs(t, err, unix.EMSGSIZE)
					require.Equal(t, 3, n)
				}, refusal{call: call, errno: errno})
			})
		}
	}
}

// EIO is what a network device without checksums says (quic-go#3911, quinn#1128), EMSGSIZE and
// EINVAL a path whose MTU is too small, EPERM a filter of system calls.
func TestSendSegments_GoesOneByOneWhereTheKernelRefuses(t *testing.T) {
	for name, refusals := range map[string][]refusal{
		"EIO":      {{call: unix.SYS_SENDMSG, errno: unix.EIO}},
		"EMSGSIZE": {{call: unix.SYS_SENDMSG, errno: unix.EMSGSIZE}},
		"EINVAL":   {{call: unix.SYS_SENDMSG, errno: unix.EINVAL}},
		"EPERM":    {{call: unix.SYS_SENDMSG, errno: unix.EPERM}},
		// It would send all of them as one datagram: sendmsg(2) is not to be called.
		"a kernel without UDP_SEGMENT": {
			{call: unix.SYS_GETSOCKOPT, option: unix.UDP_SEGMENT, errno: unix.ENOPROTOOPT},
			{call: unix.SYS_SENDMSG, errno: unix.ENOMEM},
		},
	} {
		t.Run(name, func(t *testing.T) {
			refusing(t, func() {
				c, peer := datagramPair(t, "udp", client.Options{})
				for range 2 {
					n, err := c.SendSegments(bytes.Repeat([]byte("12345678"), 10), 8, 0)
					require.NoError(t, err)
					require.Equal(t, 80, n)
					for _, p := range receiveAll(t, peer, 10, c.LocalAddr()) {
						require.Equal(t, "12345678", string(p))
					}
				}
			}, refusals...)
		})
	}
}

// An error that is none of segmentation's is the call's.
func TestSendSegments_TellsOtherErrors(t *testing.T) {
	refusing(t, func() {
		c, peer := datagramPair(t, "udp", client.Options{})
		n, err := c.SendSegments(make([]byte, 80), 8, 0)
		require.ErrorIs(t, err, unix.ENETDOWN)
		require.Zero(t, n)
		require.True(t, client.SafeToRetry(err))
		_, err = peer.Recv(make([]byte, 8), client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
	}, refusal{call: unix.SYS_SENDMSG, errno: unix.ENETDOWN})
}

func TestGRO_MakesNoDifferenceWhereTheKernelHasNone(t *testing.T) {
	refusing(t, func() {
		c, peer := datagramPair(t, "udp", client.Options{GRO: true})
		_, err := c.SendSegments(bytes.Repeat([]byte("12345678"), 10), 8, 0)
		require.NoError(t, err)
		for _, p := range receiveAll(t, peer, 10, c.LocalAddr()) {
			require.Equal(t, "12345678", string(p))
		}
	}, refusal{call: unix.SYS_SETSOCKOPT, option: unix.UDP_GRO, errno: unix.ENOPROTOOPT})
}

// The other tests would pass without recvmmsg(2) and sendmmsg(2).
func TestBatch_OneCallTransfersManyDatagrams(t *testing.T) {
	c, peer := datagramPair(t, "udp", client.Options{})
	refusing(t, func() {
		n, err := c.SendBatch(numbered(32), 0)
		require.NoError(t, err)
		require.Equal(t, 32, n)
		n, err = peer.RecvBatch(buffers(40, 2000), 0)
		require.NoError(t, err)
		require.Equal(t, 32, n)
	}, refusal{call: unix.SYS_SENDTO, errno: unix.ENETDOWN}, refusal{call: unix.SYS_RECVFROM, errno: unix.ENETDOWN})
}

// The other tests of segments and of GRO would pass without either.
func TestSendSegments_OneCallSendsThemAll(t *testing.T) {
	c, peer := datagrams(t, "udp", nil)
	raw, err := peer.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	}))
	require.NoError(t, err)
	_, err = c.SendSegments(make([]byte, 40*1200), 1200, 0)
	require.NoError(t, err)
	n, _, err := peer.ReadFrom(make([]byte, 1<<16))
	require.NoError(t, err)
	require.Equal(t, 40*1200, n, "coalesced")

	// A single segment is a plain datagram.
	refusing(t, func() {
		_, err := c.SendSegments(make([]byte, 1200), 1200, 0)
		require.NoError(t, err)
	}, refusal{call: unix.SYS_SENDMSG, errno: unix.ENETDOWN})
}

func TestGRO_OneCallReceivesManyDatagrams(t *testing.T) {
	c, peer := datagramPair(t, "udp", client.Options{GRO: true})
	raw, err := peer.SyscallConn()
	require.NoError(t, err)
	_, err = c.SendSegments(make([]byte, 40*1200), 1200, 0)
	require.NoError(t, err)
	_, err = peer.Recv(make([]byte, 1200), 0)
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		_, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_DONTWAIT)
	}))
	require.ErrorIs(t, err, unix.EAGAIN, "the kernel has no more of it")
	require.Len(t, receiveAll(t, peer, 39, c.LocalAddr()), 39)
}

// An ICMP error on a client with Options.ICMPErrors is told with whom it is about.
func TestRecvBatch_TellsICMPErrors(t *testing.T) {
	for _, gro := range []bool{false, true} {
		gone := packetPeer(t, "udp")
		to := netip.MustParseAddrPort(gone.LocalAddr().String())
		require.NoError(t, gone.Close())
		c, err := client.NewUDP(&client.Options{ICMPErrors: true, GRO: gro})
		require.NoError(t, err)
		defer c.Close()
		n, err := c.SendBatch([]client.Datagram{{Addr: to}, {Addr: to}}, 0)
		require.NoError(t, err, "the errors are for a receive")
		require.Equal(t, 2, n)
		for range 2 {
			_, err = c.RecvBatch(buffers(4, 10), 0)
			var icmp *client.ICMPError
			require.ErrorAs(t, err, &icmp)
			require.Equal(t, to, icmp.To)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
		}
		_, err = c.RecvBatch(buffers(4, 10), client.DontWait)
		require.ErrorIs(t, err, unix.EAGAIN)
	}
}

// A datagram that is longer than the MTU has to be fragmented, which UDP_SEGMENT does not do.
func TestSendSegments_LongerThanTheMTUArrive(t *testing.T) {
	path := requireProgram(t, "ip", "iproute2")
	inNamespace(t, func() {
		thread, moved, peers := make(chan int), make(chan struct{}), make(chan []net.PacketConn, 1)
		go func() { // another namespace, at the device's other end
			defer close(peers)
			runtime.LockOSThread()
			if unshareNetwork() != nil {
				return
			}
			thread <- unix.Gettid()
			<-moved
			for line := range strings.SplitSeq("link set lo up,link set d1 up,addr add 192.0.2.2/24 dev d1,addr add 2001:db8::2/64 dev d1 nodad", ",") {
				ip(t, path, line)
			}
			var all []net.PacketConn
			for _, address := range []string{"192.0.2.2:0", "[2001:db8::2]:0"} {
				peer, err := net.ListenPacket("udp", address)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = peer.Close() })
				all = append(all, peer)
			}
			peers <- all
		}()
		ip(t, path, "link set d1 netns "+strconv.Itoa(<-thread))
		close(moved)
		for _, peer := range <-peers {
			network := "udp6"
			if strings.HasPrefix(peer.LocalAddr().String(), "192") {
				network = "udp4"
			}
			c, err := client.Dial(network, peer.LocalAddr().String(), nil)
			require.NoError(t, err)
			defer c.Close()
			p := make([]byte, 20*1400+7)
			for i := range p {
				p[i] = byte(i)
			}
			for _, size := range []int{1000, 1400, 1000} { // before it is refused, and afterwards
				_, err = c.SendSegments(p, size, 0)
				require.NoError(t, err)
				buf := make([]byte, 2000)
				require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
				for want := range slices.Chunk(p, size) {
					n, from, err := peer.ReadFrom(buf)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, buf[:n]))
					require.Equal(t, c.LocalAddr().String(), from.String())
				}
			}
			// One that must not be fragmented is refused by itself, and tells so.
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(fd uintptr) {
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
				if network == "udp6" {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
				}
			}))
			require.NoError(t, err)
			n, err := c.SendSegments(p, 1400, 0)
			require.ErrorIs(t, err, unix.EMSGSIZE)
			require.Zero(t, n)
		}
	}, "link add d0 mtu 1300 type veth peer name d1 mtu 1300", "link set d0 up",
		"addr add 192.0.2.1/24 dev d0", "addr add 2001:db8::1/64 dev d0 nodad")
}
