package client_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The peers of the tests: listeners and packet connections of package net on loopback.

var (
	streamNetworks   = []string{"tcp", "tcp6", "unix"}
	datagramNetworks = []string{"udp", "udp6", "unixgram"}
	tlsNetworks      = []string{"tls", "tls12"} // for stream: TCP with TLS 1.3, with TLS 1.2; Dial does not know them
	allNetworks      = append(append([]string{}, streamNetworks...), datagramNetworks...)
)

// inParallelIfShort lets a test that mostly waits run beside others of its kind with -short.
// Without -short each has the machine for itself, because many are about time.
func inParallelIfShort(t *testing.T) {
	if testing.Short() {
		t.Parallel()
	}
}

// testTimeout is an upper bound that no machine is too slow for.
const testTimeout = 10 * time.Second

// loopbackOf returns a loopback address for a network: a host with port 0, or a path that
// does not exist.
func loopbackOf(t testing.TB, network string) string {
	t.Helper()
	switch {
	case strings.HasPrefix(network, "unix"):
		dir, err := os.MkdirTemp("", "c") // t.TempDir can be too long for sun_path
		require.NoError(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return filepath.Join(dir, "s")
	case strings.HasSuffix(network, "6"):
		ln, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			t.Skip("this machine has no IPv6 loopback")
		}
		require.NoError(t, ln.Close())
		return "[::1]:0"
	}
	return "127.0.0.1:0"
}

func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, loopbackOf(t, network))
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// accepted dials a listener and returns both ends.
func accepted(t testing.TB, ln net.Listener, opts *client.Options) (*client.Client, net.Conn) {
	t.Helper()
	c, err := client.Dial(ln.Addr().Network(), ln.Addr().String(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	peer, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	return c, peer
}

func stream(t testing.TB, network string, opts *client.Options) (*client.Client, net.Conn) {
	t.Helper()
	if slices.Contains(tlsNetworks, network) {
		if opts == nil {
			opts = &client.Options{}
		}
		return listenTLS(t, "tcp", func(c *tls.Config) {
			if network == "tls12" {
				c.MaxVersion = tls.VersionTLS12
			}
		}).handshakes(t, *opts)
	}
	return accepted(t, listen(t, network), opts)
}

func packetPeer(t testing.TB, network string) net.PacketConn {
	t.Helper()
	peer, err := net.ListenPacket(network, loopbackOf(t, network))
	require.NoError(t, err)
	t.Cleanup(func() { _ = peer.Close() })
	return peer
}

// datagrams returns a client that is connected to a peer, and the peer.
func datagrams(t testing.TB, network string, opts *client.Options) (*client.Client, net.PacketConn) {
	t.Helper()
	peer := packetPeer(t, network)
	c, err := client.Dial(network, peer.LocalAddr().String(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c, peer
}

// connectedTo returns a client of any network whose peer sends nothing.
func connectedTo(t testing.TB, network string, opts *client.Options) *client.Client {
	t.Helper()
	if strings.HasPrefix(network, "udp") || network == "unixgram" {
		c, _ := datagrams(t, network, opts)
		return c
	}
	c, _ := stream(t, network, opts)
	return c
}

// bound returns a stream socket that is bound and does not listen.
func bound(t testing.TB, network, host string) (fd int, address string) {
	t.Helper()
	domain, where := unix.AF_INET, unix.Sockaddr(nil)
	switch network {
	case "unix":
		domain, where = unix.AF_UNIX, &unix.SockaddrUnix{Name: loopbackOf(t, network)}
	case "tcp6":
		loopbackOf(t, network) // or skip
		domain, where = unix.AF_INET6, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
	default:
		where = &unix.SockaddrInet4{Addr: netip.MustParseAddr(host).As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	unix.CloseOnExec(fd)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, where))
	where, err = unix.Getsockname(fd)
	require.NoError(t, err)
	switch a := where.(type) {
	case *unix.SockaddrInet4:
		address = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		address = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		address = a.Name
	}
	return fd, address
}

// refused returns an address that refuses connections during the whole test: its port is
// bound, so no other program can listen on it.
func refused(t testing.TB, network string) string {
	t.Helper()
	_, address := bound(t, network, "127.0.0.1")
	return address
}

// unused returns an address that was free a moment ago.
func unused(t testing.TB) string {
	t.Helper()
	ln := listen(t, "tcp")
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

// blackHole returns the address of a listener that does not answer: its backlog is full,
// so the kernel drops each SYN, and a unix connect waits.
func blackHole(t testing.TB, network, host string) string {
	t.Helper()
	fd, address := bound(t, network, host)
	require.NoError(t, unix.Listen(fd, 0))
	for range 64 {
		c, err := client.Dial(network, address, &client.Options{Timeout: 100 * time.Millisecond})
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			return address
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

// names returns a resolver with a DNS server of its own, which knows the given names only.
// With a nil map the server does not answer.
func names(t testing.TB, known map[string][]string) *net.Resolver {
	t.Helper()
	server := packetPeer(t, "udp")
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			if known == nil {
				continue
			}
			if reply := answer(buf[:n], known); reply != nil {
				_, _ = server.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() { _ = server.Close(); wg.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

func answer(question []byte, known map[string][]string) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable = true, true
	m.Additionals = nil
	addrs, ok := known[q.Name.String()]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, s := range addrs {
		ip := netip.MustParseAddr(s)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 60}
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}

// inKernel waits until a call of the library waits: parked, or in one of the system calls
// that the library sleeps in. On systems other than Linux the state of a thread is not
// visible, so inKernel sleeps, and the call may not wait yet.
func inKernel(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		time.Sleep(20 * time.Millisecond)
		return
	}
	for end := time.Now().Add(testTimeout); time.Now().Before(end); runtime.Gosched() {
		if parked()+waitingThreads() > 0 {
			return
		}
	}
	t.Fatal("no call waits")
}

// parked is the number of calls that wait without a thread.
func parked() int { return int(sock.Parked.Load()) }

// underSignals runs f while every thread of the process gets a signal each millisecond.
func underSignals(t *testing.T, f func(t *testing.T)) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			select {
			case <-stop:
				tick.Stop()
				return
			default:
				signalThreads()
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	f(t)
}
