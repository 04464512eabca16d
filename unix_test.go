package client_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestUnixgram_LargeDatagram(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems take 2 KiB by default")
	}
	c, peer := datagrams(t, "unixgram", nil)
	want := bytes.Repeat([]byte("0123456789"), 20_000)
	n, err := c.Send(want, 0)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	buf := make([]byte, len(want)+1)
	n, from, err := peer.ReadFrom(buf)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, buf[:n]))
	_, err = peer.WriteTo(want, from)
	require.NoError(t, err)
	n, err = c.Recv(buf, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, buf[:n]))
}

// On Linux the kernel picks an abstract name, so a killed process leaves no file behind.
func TestUnixgram_AutobindLeavesNothingBehind(t *testing.T) {
	c, _ := datagrams(t, "unixgram", nil)
	name := c.LocalAddr().String()
	if runtime.GOOS == "linux" {
		require.True(t, strings.HasPrefix(name, "@"), name)
		return
	}
	info, err := os.Stat(filepath.Dir(name))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, c.Close())
	_, err = os.Stat(filepath.Dir(name))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestUnixgram_KilledProcessLeavesNothingBehind(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has names that are in no directory")
	}
	peer := packetPeer(t, "unixgram")
	tmp := t.TempDir()
	cmd := helperCommand(t, "unixgram "+peer.LocalAddr().String())
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	require.NoError(t, cmd.Start())
	_, from, err := peer.ReadFrom(make([]byte, 1)) // it has dialled and waits
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = peer.WriteTo([]byte("x"), from)
	require.ErrorIs(t, err, unix.ECONNREFUSED, "nor a name")
}

// On Linux a path may fill all of sun_path. The kernel then counts a zero byte for which
// there is no room.
func TestUnixgram_PeerWithTheLongestPath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has such paths")
	}
	path := loopbackOf(t, "unixgram")
	path += strings.Repeat("x", sock.MaxPath-len(path))
	peer, err := client.NewUnixgram(&client.Options{LocalAddr: path})
	require.NoError(t, err)
	defer peer.Close()
	c, err := client.NewUnixgram(nil)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Bind(loopbackOf(t, "unixgram")))
	_, err = peer.SendTo([]byte("hi"), c.LocalAddr())
	require.NoError(t, err)
	buf := make([]byte, 10)
	n, from, err := c.RecvFrom(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "hi", string(buf[:n]))
	require.Equal(t, path, from.String())
	_, err = c.SendTo([]byte("ho"), from)
	require.NoError(t, err)
	n, err = peer.Recv(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "ho", string(buf[:n]))
}

func TestUnix_AbstractNames(t *testing.T) {
	if !sock.HasAbstractNames {
		t.Skip("this system has no abstract names")
	}
	name := "@" + filepath.Base(t.TempDir()) + t.Name()
	ln, err := net.Listen("unix", name)
	require.NoError(t, err)
	defer ln.Close()
	c, peer := accepted(t, ln, nil)
	require.Equal(t, name, c.RemoteAddr().String())
	require.NoError(t, peer.Close())

	gram, err := client.NewUnixgram(&client.Options{LocalAddr: name})
	require.NoError(t, err)
	defer gram.Close()
	require.Equal(t, name, gram.LocalAddr().String())
}

func TestUnix_CloseRemovesOnlyItsOwnPath(t *testing.T) {
	for _, network := range []string{"unix", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			path := loopbackOf(t, network)
			bound := func() *client.Client {
				c, err := unconnected[network](nil)
				require.NoError(t, err)
				require.NoError(t, c.Bind(path))
				require.Equal(t, path, c.LocalAddr().String())
				return c
			}
			c := bound()
			require.FileExists(t, path)
			require.NoError(t, c.Close())
			require.NoFileExists(t, path)

			t.Chdir(filepath.Dir(path))
			c, err := unconnected[network](&client.Options{LocalAddr: filepath.Base(path)})
			require.NoError(t, err)
			require.FileExists(t, path)
			t.Chdir("/")
			require.NoError(t, c.Close())
			require.NoFileExists(t, path)

			c = bound()
			// Moved, not removed: the new one must not get the old one's inode.
			require.NoError(t, os.Rename(path, path+"-old"))
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			require.NoError(t, c.Close())
			require.FileExists(t, path)
		})
	}
}

func TestUnix_TooLongNameIsRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "c")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	const sunPath = 107 // what package net takes, a byte less than Linux
	longest := filepath.Join(dir, strings.Repeat("x", min(sock.MaxPath, sunPath)-len(dir)-1))
	ln, err := net.Listen("unix", longest)
	require.NoError(t, err)
	defer ln.Close()
	c, err := client.Dial("unix", longest, nil)
	require.NoError(t, err)
	require.Equal(t, longest, c.RemoteAddr().String())
	require.NoError(t, c.Close())

	for _, network := range []string{"unix", "unixgram"} {
		_, err = client.Dial(network, longest+"xx", nil)
		var ae *net.AddrError
		require.ErrorAs(t, err, &ae)
		require.Contains(t, err.Error(), longest+"xx")
		c, err := unconnected[network](nil)
		require.NoError(t, err)
		require.ErrorAs(t, c.Bind(longest+"xx"), &ae)
		require.NoError(t, c.Close())
	}
}

// One system call sends or receives a datagram, however long it is.
func TestUnixgram_DatagramOverOneMebibyte(t *testing.T) {
	const size = 1<<20 + 1000
	force := func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, sndBufForce, 4*size)
		}); e != nil {
			return e
		}
		return err
	}
	peer, err := client.NewUnixgram(&client.Options{LocalAddr: loopbackOf(t, "unixgram")})
	require.NoError(t, err)
	defer peer.Close()
	c, err := client.NewUnixgram(&client.Options{Control: force})
	if errors.Is(err, unix.EPERM) || sndBufForce == 0 {
		t.Skip("takes root, on Linux")
	}
	require.NoError(t, err)
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789"), size/10)
	n, err := c.SendTo(want, peer.LocalAddr())
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	got := make([]byte, size)
	n, err = peer.Recv(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got[:n]))
}
