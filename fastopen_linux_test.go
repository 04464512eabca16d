package client_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// With TCP_FASTOPEN_CONNECT connect(2) sends nothing: the SYN waits for the first send. A
// client of a server that speaks first (MySQL, SMTP, FTP) waited for ever, since it never
// had connected.

// fastOpen defers the connect without the cookie of an earlier connection.
func fastOpen(opts client.Options) *client.Options {
	opts.FastOpen = true
	opts.Control = func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1)
		}); e != nil {
			return e
		}
		return err
	}
	return &opts
}

const greeting = "220 ready\r\n"

// greets serves a listener: it sends a greeting and then echoes until the end.
func greets(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.WriteString(conn, greeting)
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func TestFastOpen_ServerThatSpeaksFirst(t *testing.T) {
	recv := func(c *client.Client, flags client.Flag) error {
		got := make([]byte, len(greeting))
		_, err := c.Recv(got, flags)
		if err == nil && string(got) != greeting {
			err = errors.New(string(got))
		}
		return err
	}
	for name, first := range map[string]func(c *client.Client) error{
		"Recv":             func(c *client.Client) error { return recv(c, client.WaitAll) },
		"WaitAll and Peek": func(c *client.Client) error { return errors.Join(recv(c, client.WaitAll|client.Peek), recv(c, 0)) },
		"Read": func(c *client.Client) error {
			_, err := io.ReadFull(c, make([]byte, len(greeting)))
			return err
		},
		"RecvPacket": func(c *client.Client) error { _, err := c.RecvPacket(); return err },
		"Select": func(c *client.Client) error {
			_, err := client.Select([]*client.Client{c}, nil, nil, testTimeout)
			return errors.Join(err, recv(c, client.WaitAll))
		},
		"a raw read": func(c *client.Client) error {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			n := 0
			got := make([]byte, len(greeting))
			return errors.Join(err, raw.Read(func(fd uintptr) bool {
				var m int
				if m, err = unix.Read(int(fd), got[n:]); m > 0 {
					n += m
				}
				return n == len(got)
			}))
		},
	} {
		for _, network := range []string{"tcp", "tcp6"} {
			t.Run(network+", "+name, func(t *testing.T) {
				ln := listen(t, network)
				go greets(ln)
				c, err := client.Dial(network, ln.Addr().String(), fastOpen(client.Options{Timeout: testTimeout, Framing: client.Delimiter{Delim: []byte("\n")}}))
				require.NoError(t, err)
				defer c.Close()
				info, err := c.TCPInfo()
				require.NoError(t, err)
				require.NotEqual(t, client.Established, info.State, "the connect is to be put off, or this tests nothing")
				require.NoError(t, first(c))
				require.NoError(t, roundTrip(c, make([]byte, 64)))
			})
		}
	}
}

// shutdown(2) would cancel a SYN that has not been answered, so it follows the
// handshake.
func TestFastOpen_CloseOneDirectionFirst(t *testing.T) {
	ln := listen(t, "tcp")
	go greets(ln)
	c, err := client.Dial("tcp", ln.Addr().String(), fastOpen(client.Options{Timeout: testTimeout}))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, greeting, string(got))

	silent := listen(t, "tcp")
	c, err = client.Dial("tcp", silent.Addr().String(), fastOpen(client.Options{Timeout: testTimeout}))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.CloseRead())
	_, err = c.Send([]byte("x"), 0)
	require.NoError(t, err)
	peer, err := silent.Accept()
	require.NoError(t, err)
	defer peer.Close()
	_, err = io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), 0)
	require.Equal(t, io.EOF, err)
}

func TestFastOpen_SendFileFirst(t *testing.T) {
	ln := listen(t, "tcp")
	go greets(ln)
	c, err := client.Dial("tcp", ln.Addr().String(), fastOpen(client.Options{Timeout: testTimeout}))
	require.NoError(t, err)
	defer c.Close()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte("a file"), 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	_, err = c.SendFile(f, 0, 0)
	require.NoError(t, err)
	got := make([]byte, len(greeting)+6)
	_, err = c.Recv(got, client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, greeting+"a file", string(got))
}

// The call that connects returns the error of the connect, and so does each later
// receive.
func TestFastOpen_Refused(t *testing.T) {
	for name, first := range map[string]func(c *client.Client) error{
		"Recv":       func(c *client.Client) error { _, err := c.Recv(make([]byte, 1), 0); return err },
		"CloseWrite": func(c *client.Client) error { return c.CloseWrite() },
		"CloseRead":  func(c *client.Client) error { return c.CloseRead() },
		"Select": func(c *client.Client) error {
			_, err := client.Select([]*client.Client{c}, nil, nil, testTimeout)
			return errors.Join(err, unix.ECONNREFUSED)
		},
		"a big Send": func(c *client.Client) error { _, err := c.Send(make([]byte, 1<<20), 0); return err },
		"Send": func(c *client.Client) error {
			_, err := c.Send([]byte("x"), 0) // goes out with the SYN
			return errors.Join(err, unix.ECONNREFUSED)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := client.Dial("tcp", refused(t, "tcp"), fastOpen(client.Options{Timeout: testTimeout}))
			require.NoError(t, err)
			defer c.Close()
			require.ErrorIs(t, first(c), unix.ECONNREFUSED)
			for range 3 {
				_, err = c.Recv(make([]byte, 1), 0)
				require.ErrorIs(t, err, unix.ECONNREFUSED)
			}
		})
	}
}

func TestFastOpen_LimitIsThatOfTheConnectingCall(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	const limit = 200 * time.Millisecond
	for name, first := range map[string]func(c *client.Client) error{
		"Recv":       func(c *client.Client) error { _, err := c.Recv(make([]byte, 1), 0); return err },
		"CloseWrite": func(c *client.Client) error { return c.CloseWrite() },
		"Select": func(c *client.Client) error {
			_, err := client.Select([]*client.Client{c}, []*client.Client{c}, nil, limit)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := client.Dial("tcp", hole, fastOpen(client.Options{Timeout: limit}))
			require.NoError(t, err)
			defer c.Close()
			begin := time.Now()
			require.ErrorIs(t, first(c), os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(begin), limit)
			require.Less(t, time.Since(begin), testTimeout)
		})
	}
}

// Once connected, the client is like any other: one direction is closed at once, even
// while a send waits for room.
func TestFastOpen_CloseOneDirectionDuringSend(t *testing.T) {
	ln := listen(t, "tcp")
	c, err := client.Dial("tcp", ln.Addr().String(), fastOpen(client.Options{Timeout: -1}))
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { _, err := c.Send(tooMuch("tcp"), 0); result <- err }()
	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	inKernel(t)
	done := make(chan error, 2)
	go func() { done <- c.CloseRead(); done <- c.CloseWrite() }()
	for range 2 {
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(testTimeout):
			t.Fatal("it waits for the send")
		}
	}
	require.NoError(t, c.Close())
	require.Error(t, <-result)
}
