package client_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Another process that has the socket finds O_NONBLOCK and SO_RCVTIMEO as they were.
func TestFromFile_LeavesTheSharedFlags(t *testing.T) {
	for _, flag := range []int{0, unix.SOCK_NONBLOCK} {
		f, peer := pipeOfSockets(t, flag)
		raw, err := f.SyscallConn()
		require.NoError(t, err)
		state := func() (nonblocking bool, timeout unix.Timeval) {
			require.NoError(t, raw.Control(func(fd uintptr) {
				flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
				require.NoError(t, err)
				nonblocking = flags&unix.O_NONBLOCK != 0
				tv, err := unix.GetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO)
				require.NoError(t, err)
				timeout = *tv
			}))
			return nonblocking, timeout
		}
		c := fromFile(t, f, &client.Options{RecvTimeout: 600 * time.Millisecond})
		_, err = c.Recv(make([]byte, 1), 0) // parks after half a second
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		own, err := c.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, own.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.FD_CLOEXEC)
		}))
		nonblocking, timeout := state()
		require.Equal(t, flag != 0, nonblocking)
		require.Zero(t, timeout)
		require.NoError(t, c.Close())
		_, err = peer.Write([]byte("x"))
		require.NoError(t, err)
	}
}

func TestFromFile_OtherProtocolsAreRefused(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
	if err != nil {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "other")
	defer f.Close()
	_, err = client.FromFile(f, nil)
	require.ErrorContains(t, err, "none of TCP, UDP")
	netlink, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	g := os.NewFile(uintptr(netlink), "netlink")
	defer g.Close()
	_, err = client.FromFile(g, nil)
	require.ErrorContains(t, err, "none of TCP, UDP")
}

// getpeername(2) of a connection that has ended fails as that of a new socket.
func TestFromFile_ConnectionThatHasEndedKeepsWhatArrived(t *testing.T) {
	for name, end := range map[string]struct {
		err     error
		request func(conn *net.TCPConn, peer net.Conn)
	}{
		"in order": {io.EOF, func(conn *net.TCPConn, peer net.Conn) {
			require.NoError(t, conn.CloseWrite())
			_, err := io.ReadAll(peer)
			require.NoError(t, err)
		}},
		"by a reset": {unix.ECONNRESET, func(conn *net.TCPConn, _ net.Conn) {
			writes(t, conn, "which the peer does not receive")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t, "tcp")
			conn, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			peer, err := ln.Accept()
			require.NoError(t, err)
			end.request(conn.(*net.TCPConn), peer)
			writes(t, peer, "answer")
			require.NoError(t, peer.Close())
			f := fileOfConn(t, conn)
			require.Eventually(t, func() bool {
				_, err := unix.Getpeername(int(f.Fd()))
				return err == unix.ENOTCONN //nolint:errorlint // a bare errno
			}, testTimeout, time.Millisecond)

			c := fromFile(t, f, nil)
			require.Nil(t, c.RemoteAddr())
			require.Equal(t, conn.LocalAddr().String(), c.LocalAddr().String())
			require.False(t, c.IsConnected())
			answer := make([]byte, len("answer"))
			_, err = c.Recv(answer, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "answer", string(answer))
			_, err = c.Recv(answer, 0)
			require.ErrorIs(t, err, end.err)
		})
	}
}

// wireguard-go, for one, has the kernel coalesce datagrams.
func TestFromFile_DatagramsThatTheKernelCoalescesAreReceivedOneByOne(t *testing.T) {
	own := packetPeer(t, "udp4")
	f := fileOfConn(t, own)
	if unix.SetsockoptInt(int(f.Fd()), unix.SOL_UDP, unix.UDP_GRO, 1) != nil {
		t.Skip("the kernel coalesces none")
	}
	if _, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_UDP, unix.UDP_GRO); err != nil {
		t.Skip("the kernel does not tell whether it does")
	}
	c := fromFile(t, f, nil)
	sender, err := client.Dial("udp4", own.LocalAddr().String(), nil)
	require.NoError(t, err)
	defer sender.Close()
	_, err = sender.SendSegments(make([]byte, 1000), 100, 0)
	require.NoError(t, err)
	for range 10 {
		n, err := c.Recv(make([]byte, 2000), 0)
		require.NoError(t, err)
		require.Equal(t, 100, n)
	}
}

func TestFromFile_SocketOfBothFamiliesTellsICMPErrorsOfBoth(t *testing.T) {
	loopbackOf(t, "udp6") // or skip
	own, err := net.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer own.Close()
	c := fromFile(t, fileOfConn(t, own), &client.Options{ICMPErrors: true, Timeout: testTimeout})
	for _, network := range []string{"udp4", "udp6"} {
		closed := packetPeer(t, network)
		require.NoError(t, closed.Close())
		_, err := c.SendTo([]byte("hello"), closed.LocalAddr())
		require.NoError(t, err)
		_, _, err = c.RecvFrom(make([]byte, 1), 0)
		var icmp *client.ICMPError
		require.ErrorAs(t, err, &icmp, network)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		require.Equal(t, closed.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), icmp.To.Addr().Unmap())
	}
}

// sendfile(2) waits in the kernel if another owner of the socket has made it blocking meanwhile.
func TestFromFile_LimitEndsSendFileWhateverOtherOwnersDo(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer f.Close()
	const size = 64 << 20
	require.NoError(t, f.Truncate(size))
	shared, peer := pipeOfSockets(t, 0)
	c := fromFile(t, shared, &client.Options{Timeout: 500 * time.Millisecond})
	other := fromFile(t, shared, &client.Options{Timeout: 50 * time.Millisecond})
	result := make(chan error, 1)
	go func() { _, err := c.SendFile(f, 0, size); result <- err }()
	time.Sleep(100 * time.Millisecond) // so that it waits
	_, err = other.SendFile(f, 0, size)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = io.ReadFull(peer, make([]byte, 300<<10)) // there is room for a while
	require.NoError(t, err)
	select {
	case err := <-result:
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	case <-time.After(testTimeout):
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		t.Error("SendFile goes on after its limit")
	}
}
