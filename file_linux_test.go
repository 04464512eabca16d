package client_test

import (
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
