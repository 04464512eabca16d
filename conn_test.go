package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

func TestConn_NetConnContract(t *testing.T) {
	inParallelIfShort(t)
	eachPlainStream(t, func(t *testing.T, network string) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			c, peer := stream(t, network, nil)
			return c, peer, func() { _, _ = c.Close(), peer.Close() }, nil
		})
	})
}

// After a deadline was set once, Read waits in ppoll(2), which SetDeadline can wake.
func TestSetDeadline_EndsAWaitingRead(t *testing.T) {
	for _, network := range allNetworks {
		t.Run(network, func(t *testing.T) {
			c := connectedTo(t, network, nil)
			for range 3 { // the waker works more than once
				result := make(chan error, 1)
				go func() { _, err := c.Read(make([]byte, 1)); result <- err }()
				inKernel(t)
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour))) // not yet
				require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
				require.ErrorIs(t, <-result, os.ErrDeadlineExceeded)
				require.NoError(t, c.SetReadDeadline(time.Time{}))
			}
		})
	}
}

func TestSetDeadline_EndsAWaitingWrite(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		type result struct {
			n   int
			err error
		}
		results := make(chan result, 1)
		go func() { n, err := c.Write(make([]byte, 64<<20)); results <- result{n, err} }()
		inKernel(t)
		require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
		r := <-results
		require.ErrorIs(t, r.err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		require.Equal(t, r.n, readAfterEnd(t, network, c, peer))
	})
}

func TestDeadline_InThePastEndsCallsThatNeedNotWait(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), client.Peek)
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(-time.Second)))
	for range 2 {
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Zero(t, n)
	}
	require.NoError(t, c.SetDeadline(time.Time{}))
	n, err := c.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// Options.Timeout is for Send and Recv; a Read that it ended would break every
// driver that waits for the server to speak.
func TestRead_HasNoLimitWithoutADeadline(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{RecvTimeout: time.Millisecond})
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	result := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); result <- err }()
	select {
	case err := <-result:
		t.Fatalf("Read ended: %v", err)
	case <-time.After(50 * time.Millisecond): // an absence can only be waited for
	}
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, <-result)
}

func TestSetDeadline_WhileOthersReadAndWrite(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		const total = 4 << 20
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(peer, peer) })
		stop := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = c.SetReadDeadline(time.Now().Add(50 * time.Microsecond))
					_ = c.SetWriteDeadline(time.Now().Add(50 * time.Microsecond))
				}
			}
		})
		var sender sync.WaitGroup
		sender.Go(func() {
			for sent := 0; sent < total; {
				chunk := make([]byte, min(10_000, total-sent))
				for i := range chunk {
					chunk[i] = byte((sent + i) * 7)
				}
				n, err := c.Write(chunk)
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
					return
				}
				sent += n
			}
		})
		buf := make([]byte, 10_000)
		for got := 0; got < total; {
			n, err := c.Read(buf)
			if err != nil {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			for i, b := range buf[:n] {
				if b != byte((got+i)*7) {
					t.Fatalf("byte %d is wrong", got+i)
				}
			}
			got += n
		}
		close(stop)
		sender.Wait()
		require.NoError(t, c.Close())
		wg.Wait()
	})
}

func TestLocalAddr_IsKnownAfterClose(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		require.Equal(t, peer.LocalAddr(), c.RemoteAddr())
		if network != "unix" {
			require.Equal(t, peer.RemoteAddr(), c.LocalAddr())
		}
		require.NoError(t, c.Close())
		require.Equal(t, peer.LocalAddr(), c.RemoteAddr())
		require.NotNil(t, c.LocalAddr())
	})
}

// Drivers check like this whether a connection is alive. They expect EAGAIN from read(2),
// which would hang on a blocking descriptor.
func TestSyscallConn_ReadFindsANonblockingDescriptor(t *testing.T) {
	eachPlainStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		buf := make([]byte, 1)
		var readErr error
		require.NoError(t, raw.Read(func(fd uintptr) bool {
			_, readErr = unix.Read(int(fd), buf)
			return true
		}))
		require.Equal(t, unix.EAGAIN, readErr)

		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			inKernel(t)
			_, _ = peer.Write([]byte("x"))
		})
		calls, n := 0, 0
		require.NoError(t, raw.Read(func(fd uintptr) bool {
			calls++
			n, readErr = unix.Read(int(fd), buf)
			return !errors.Is(readErr, unix.EAGAIN)
		}))
		require.NoError(t, readErr)
		require.Equal(t, 1, n)
		require.Greater(t, calls, 1)

		// And our own calls go on as before.
		_, err = peer.Write([]byte("abc"))
		require.NoError(t, err)
		got := make([]byte, 3)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.NoError(t, raw.Write(func(fd uintptr) bool {
			_, err = unix.Write(int(fd), []byte("y"))
			return !errors.Is(err, unix.EAGAIN)
		}))
		_, err = io.ReadFull(peer, buf)
		require.NoError(t, err)
		require.Equal(t, "y", string(buf))
	})
}

func TestSyscallConn_ObeysDeadlinesAndClose(t *testing.T) {
	c, _ := stream(t, "tcp", nil)
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
	never := func(uintptr) bool { return false }
	require.ErrorIs(t, raw.Read(never), os.ErrDeadlineExceeded)
	require.NoError(t, raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		require.NoError(t, err)
	}))
	require.NoError(t, c.Close())
	require.ErrorIs(t, raw.Read(never), net.ErrClosed)
	require.ErrorIs(t, raw.Write(never), net.ErrClosed)
	require.ErrorIs(t, raw.Control(func(uintptr) { t.Error("called") }), net.ErrClosed)
	require.ErrorIs(t, c.SetDeadline(time.Now()), net.ErrClosed)
}

// Some drivers do not close connections: nats.go dials again after a failed handshake and
// closes nothing. The garbage collector closes those of package net, and these.
func TestClient_UnreachableOneIsClosed(t *testing.T) {
	ln := listen(t, "tcp")
	const n = 10
	ended := make(chan struct{}, n)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1))
				ended <- struct{}{}
			}()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range n {
		conn, err := new(client.Dialer).Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		if i%2 == 0 {
			c, ok := client.FromConn(conn)
			require.True(t, ok)
			c.Watch(ctx)                                        // which outlives it
			defer client.SetMaxThreads(client.SetMaxThreads(0)) // and the Read parks
		}
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err = conn.Read(make([]byte, 1)) // which makes a waker too
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	for range n {
		require.Eventually(t, func() bool { runtime.GC(); return len(ended) > 0 }, testTimeout, time.Millisecond)
		<-ended
	}
	require.Eventually(t, func() bool { return sock.Finalized.Load() >= n }, testTimeout, time.Millisecond)
	sock.Finalized.Add(-n) // these are meant to be
}
