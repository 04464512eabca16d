package client_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fileOfConn returns a file with a connection or socket of package net.
func fileOfConn(t testing.TB, conn any) *os.File {
	t.Helper()
	f, err := conn.(interface{ File() (*os.File, error) }).File()
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func fromFile(t testing.TB, f *os.File, opts *client.Options) *client.Client {
	t.Helper()
	c, err := client.FromFile(f, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestFromFile_ConnectedStreams(t *testing.T) {
	types := map[string]client.Type{"tcp": client.TCP, "tcp6": client.TCP6, "unix": client.UnixStream}
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			ln := listen(t, network)
			conn, err := net.Dial(network, ln.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			peer, err := ln.Accept()
			require.NoError(t, err)
			defer peer.Close()
			f := fileOfConn(t, conn)
			c := fromFile(t, f, nil)
			require.Equal(t, types[network], c.Type())
			require.True(t, c.IsConnected())
			require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
			require.NoError(t, f.Close())

			writes(t, peer, "to the client")
			p := make([]byte, len("to the client"))
			_, err = c.Recv(p, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "to the client", string(p))
			_, err = c.Send(p, 0)
			require.NoError(t, err)
			_, err = io.ReadFull(peer, p)
			require.NoError(t, err)

			require.NoError(t, c.Close())
			_, err = conn.Write([]byte("x"))
			require.NoError(t, err, "the other descriptor is open")
			_, err = io.ReadFull(peer, p[:1])
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			_, err = peer.Read(p)
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestFromFile_Datagrams(t *testing.T) {
	eachDatagram(t, func(t *testing.T, network string) {
		own, peer := packetPeer(t, network), packetPeer(t, network)
		c := fromFile(t, fileOfConn(t, own), nil)
		require.False(t, c.IsConnected())
		require.Nil(t, c.RemoteAddr())
		require.Equal(t, own.LocalAddr().String(), c.LocalAddr().String())
		require.ErrorIs(t, c.Bind(loopbackOf(t, network)), unix.EINVAL, "it is bound")
		_, err := c.SendTo([]byte("hello"), peer.LocalAddr())
		require.NoError(t, err)
		p := make([]byte, 10)
		_, from, err := peer.ReadFrom(p)
		require.NoError(t, err)
		require.Equal(t, own.LocalAddr().String(), from.String())
		_, err = peer.WriteTo([]byte("answer"), from)
		require.NoError(t, err)
		n, from, err := c.RecvFrom(p, 0)
		require.NoError(t, err)
		require.Equal(t, "answer", string(p[:n]))
		require.Equal(t, peer.LocalAddr().String(), from.String())

		require.NoError(t, c.Connect(context.Background(), peer.LocalAddr().String()))
		connected := fromFile(t, fileOfConn(t, own), nil)
		require.Equal(t, peer.LocalAddr().String(), connected.RemoteAddr().String())
		_, err = connected.Send([]byte("x"), 0)
		require.NoError(t, err)
	})
}

// A socket of both families, as systemd and package net make them.
func TestFromFile_SocketOfBothFamilies(t *testing.T) {
	loopbackOf(t, "udp6") // or skip
	own, err := net.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer own.Close()
	c := fromFile(t, fileOfConn(t, own), nil)
	require.Equal(t, client.UDP6, c.Type())
	for _, network := range []string{"udp4", "udp6"} {
		peer := packetPeer(t, network)
		_, err = c.SendTo([]byte("hello"), peer.LocalAddr())
		require.NoError(t, err)
		p := make([]byte, 10)
		_, from, err := peer.ReadFrom(p)
		require.NoError(t, err)
		_, err = peer.WriteTo([]byte("answer"), from)
		require.NoError(t, err)
		_, sender, err := c.RecvFromAddrPort(p, 0)
		require.NoError(t, err)
		_, err = c.SendToAddrPort([]byte("again"), sender)
		require.NoError(t, err)
		_, _, err = peer.ReadFrom(p)
		require.NoError(t, err)
	}
}

func TestFromFile_LimitsAndClose(t *testing.T) {
	const limit = 60 * time.Millisecond
	conn, _ := pipeOfSockets(t, 0)
	c := fromFile(t, conn, &client.Options{Timeout: limit})
	began := time.Now()
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(began), limit)

	c.SetLimits(client.Limits{RecvTimeout: -1})
	result := make(chan error, 1)
	go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
	inKernel(t)
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-result, net.ErrClosed)
}

// pipeOfSockets returns the ends of a unix stream without names.
func pipeOfSockets(t testing.TB, flags int) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|flags, 0)
	require.NoError(t, err)
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestFromFile_WhatIsNoSocketOfTheseKindsIsRefused(t *testing.T) {
	regular, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer regular.Close()
	closed, err := os.Open(os.DevNull)
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	packets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		packets = [2]int{-1, -1} // macOS has none
	}
	seqpacket := os.NewFile(uintptr(packets[0]), "seqpacket")
	other := os.NewFile(uintptr(packets[1]), "seqpacket")
	defer seqpacket.Close()
	defer other.Close()
	listening := fileOfConn(t, listen(t, "tcp"))

	for name, test := range map[string]struct {
		f    *os.File
		is   error
		text string
	}{
		"regular file": {regular, unix.ENOTSOCK, "not a socket"},
		"closed file":  {closed, os.ErrClosed, ""},
		"nil":          {nil, os.ErrInvalid, ""},
		"listener":     {listening, nil, "net.FileListener"},
		"seqpacket":    {seqpacket, nil, "its type is"},
	} {
		if test.f == nil && name != "nil" {
			continue
		}
		_, err := client.FromFile(test.f, nil)
		require.Error(t, err, name)
		if test.is != nil {
			require.ErrorIs(t, err, test.is, name)
		}
		require.ErrorContains(t, err, test.text, name)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "file", op.Op)
	}
	_, err = client.FromFile(regular, nil)
	require.ErrorContains(t, err, regular.Name())
}

func TestFromFile_OptionsAreChecked(t *testing.T) {
	f, _ := pipeOfSockets(t, 0)
	for name, opts := range map[string]*client.Options{
		"LocalAddr":   {LocalAddr: "@x"},
		"Proxy":       {Proxy: "socks5://127.0.0.1:1"},
		"TLS":         {TLS: &client.TLSOptions{CAFile: "/missing"}},
		"FastOpen":    {FastOpen: true},
		"MPTCP":       {MPTCP: true},
		"Unconnected": {Unconnected: true},
		"NoDelay":     {NoDelay: client.SwitchOn}, // not for unix
		"RecvBuffer":  {RecvBuffer: -1},
	} {
		_, err := client.FromFile(f, opts)
		var option *client.OptionError
		require.ErrorAs(t, err, &option, name)
		require.Equal(t, name, option.Option)
	}
}

// The descriptor of the parent is a stream that the child uses after exec.
func TestFromFile_InheritedByAChild(t *testing.T) {
	child, parent := pipeOfSockets(t, 0)
	cmd := helperCommand(t, "inherited")
	cmd.ExtraFiles = []*os.File{child}
	require.NoError(t, cmd.Start())
	require.NoError(t, child.Close())
	c := fromFile(t, parent, &client.Options{Timeout: testTimeout})
	require.NoError(t, parent.Close())
	_, err := c.Send([]byte("hello\n"), 0)
	require.NoError(t, err)
	answer := make([]byte, len("child: hello\n"))
	_, err = c.Recv(answer, client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "child: hello\n", string(answer))
	_, err = c.Recv(answer, 0)
	require.Equal(t, io.EOF, err)
	require.NoError(t, cmd.Wait())
}

func TestFromFile_StartTLS(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	f := fileOfConn(t, conn)
	require.NoError(t, conn.Close())
	c := fromFile(t, f, nil)
	require.NoError(t, f.Close())
	peer := make(chan error, 1)
	go func() {
		conn, err := s.Accept()
		if err == nil {
			defer conn.Close()
			_, err = io.ReadFull(tls.Server(conn, s.config), make([]byte, 1))
		}
		peer <- err
	}()
	require.NoError(t, c.StartTLS(context.Background(), s.trust(t)))
	_, err = c.Send([]byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, <-peer)
}
