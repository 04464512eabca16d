package client_test

import (
	"context"
	"testing"
	"unsafe"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// echoPool is a pool with one idle connection to an echo.
func echoPool(b testing.TB, network string) (*client.Pool, string) {
	b.Helper()
	ln := listen(b, network)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { echo(conn); conn.Close() }()
		}
	}()
	p := client.NewPool(client.PoolOptions{})
	b.Cleanup(func() { _ = p.Close() })
	c, err := p.Dial(context.Background(), network, ln.Addr().String(), nil)
	require.NoError(b, err)
	require.NoError(b, c.Close())
	return p, ln.Addr().String()
}

// What a checkout and a return cost beside the system calls in them, which are
// two: one look before the connection is given out, one when it comes back.
func BenchmarkPoolCheckout(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) {
			p, address := echoPool(b, network)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				c, err := p.Dial(ctx, network, address, nil)
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(network+" two bare recv", func(b *testing.B) {
			c := connectedTo(b, network, nil)
			raw, err := c.SyscallConn()
			require.NoError(b, err)
			require.NoError(b, raw.Control(func(fd uintptr) {
				p := make([]byte, 1)
				for b.Loop() {
					for range 2 {
						barePeek(fd, p)
					}
				}
			}))
		})
	}
}

// barePeek is the system call that a pool looks at a connection with.
func barePeek(fd uintptr, p []byte) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
}
