package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Every failure as a caller sees it: the type, what errors.Is finds, whether it is a
// timeout, whether the request may be sent again, and a text that names the operation,
// the network and the address.
func TestErrors_TextAndCause(t *testing.T) {
	const brief = 20 * time.Millisecond
	short := &client.Options{RecvTimeout: brief, SendTimeout: brief}
	dial := func(network, address string, opts *client.Options) error {
		_, err := client.Dial(network, address, opts)
		return err
	}
	unheard := refused(t, "tcp")
	missing := filepath.Join(filepath.Dir(loopbackOf(t, "unix")), "missing")
	hole := blackHole(t, "tcp", "127.0.0.1")
	none := names(t, map[string][]string{})
	sysCall, addr, dns, option := new(os.SyscallError), new(net.AddrError), new(net.DNSError), new(client.OptionError)

	for _, test := range []struct {
		name    string
		fail    func(t *testing.T) error
		is      error // errors.Is
		as      any   // errors.As
		timeout bool
		safe    bool
		bare    bool
		text    string // a pattern: * is anything
	}{
		{
			name: "refused", fail: func(*testing.T) error { return dial("tcp", unheard, nil) },
			is: unix.ECONNREFUSED, as: &sysCall, safe: true,
			text: "dial tcp " + unheard + ": connect: connection refused",
		},
		{
			name: "unreachable", fail: unreachable,
			is: unix.ENETUNREACH, as: &sysCall, safe: true,
			text: "dial tcp 127.0.0.1:9: connect: network is unreachable",
		},
		{
			name: "timeout of dial", fail: func(*testing.T) error { return dial("tcp", hole, &client.Options{Timeout: brief}) },
			is: os.ErrDeadlineExceeded, timeout: true, safe: true,
			text: "dial tcp " + hole + ": i/o timeout",
		},
		{
			name: "timeout of connect", fail: func(t *testing.T) error {
				c, err := client.NewTCP(&client.Options{ConnectTimeout: brief})
				require.NoError(t, err)
				defer c.Close()
				return c.Connect(t.Context(), hole)
			},
			is: os.ErrDeadlineExceeded, timeout: true, safe: true,
			text: "connect tcp4 *->" + hole + ": i/o timeout",
		},
		{
			name: "timeout of recv", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", short)
				_, err := c.Recv(make([]byte, 1), 0)
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true,
			text: "recv tcp 127.0.0.1:*->127.0.0.1:*: i/o timeout",
		},
		{
			name: "timeout of send, some sent", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", short)
				n, err := c.Send(make([]byte, 64<<20), 0)
				require.Positive(t, n)
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true,
			text: "send tcp 127.0.0.1:*->127.0.0.1:*: i/o timeout",
		},
		{
			name: "timeout of send, none sent", fail: func(t *testing.T) error {
				// A peer whose queue somebody else has filled.
				other, peer := datagrams(t, "unixgram", nil)
				for full := false; !full; {
					_, err := other.Send(nil, client.DontWait)
					full = err != nil
				}
				c, err := client.Dial("unixgram", peer.LocalAddr().String(), short)
				require.NoError(t, err)
				defer c.Close()
				n, err := c.Send(make([]byte, 1), 0)
				require.Zero(t, n)
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true, safe: true,
			text: "send unixgram @*->*: i/o timeout",
		},
		{
			name: "timeout of read", fail: func(t *testing.T) error {
				c, _ := stream(t, "unix", nil)
				require.NoError(t, c.SetDeadline(time.Now()))
				_, err := c.Read(make([]byte, 1))
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true,
			text: "read unix @->*: i/o timeout",
		},
		{
			name: "timeout of write", fail: func(t *testing.T) error {
				c, _ := stream(t, "unix", nil)
				require.NoError(t, c.SetDeadline(time.Now()))
				_, err := c.Write(make([]byte, 1))
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true, safe: true,
			text: "write unix @->*: i/o timeout",
		},
		{
			name: "timeout of recvfrom", fail: func(t *testing.T) error {
				c, err := client.NewUDP(short)
				require.NoError(t, err)
				defer c.Close()
				_, _, err = c.RecvFrom(make([]byte, 1), 0)
				return err
			},
			is: os.ErrDeadlineExceeded, timeout: true,
			text: "recvfrom udp4 0.0.0.0:*: i/o timeout",
		},
		{
			name: "context over", fail: func(t *testing.T) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, err := client.DialContext(ctx, "tcp", hole, nil)
				return err
			},
			is: context.DeadlineExceeded, timeout: true, safe: true,
			text: "dial tcp " + hole + ": context deadline exceeded",
		},
		{
			name: "name not found", fail: func(*testing.T) error {
				return dial("tcp", "none.test:80", &client.Options{Resolver: none})
			},
			as: &dns, safe: true, text: "dial tcp none.test:80: lookup none.test*: no such host",
		},
		{
			name: "name without answer", fail: func(t *testing.T) error {
				return dial("tcp", "none.test:80", &client.Options{Resolver: names(t, nil), Timeout: 20 * time.Millisecond})
			},
			is: os.ErrDeadlineExceeded, as: &dns, timeout: true, safe: true,
			text: "dial tcp none.test:80: lookup none.test*: i/o timeout",
		},
		{
			name: "bad address", fail: func(*testing.T) error { return dial("tcp", "127.0.0.1", nil) },
			as: &addr, safe: true, text: "dial tcp 127.0.0.1: address 127.0.0.1: missing port in address",
		},
		{
			name: "port too big", fail: func(*testing.T) error { return dial("tcp", "127.0.0.1:70000", nil) },
			as: &addr, safe: true, text: "dial tcp 127.0.0.1:70000: address 127.0.0.1:70000: port is not a number from 0 to 65535",
		},
		{
			name: "port negative", fail: func(*testing.T) error { return dial("udp", "127.0.0.1:-1", nil) },
			as: &addr, safe: true, text: "dial udp 127.0.0.1:-1: *port is not a number*",
		},
		{
			name: "no such service", fail: func(*testing.T) error { return dial("tcp", "127.0.0.1:no-such", nil) },
			as: &dns, safe: true, text: "dial tcp 127.0.0.1:no-such: lookup tcp/no-such: unknown port",
		},
		{
			name: "port zero", fail: func(*testing.T) error { return dial("tcp", "127.0.0.1:0", nil) },
			as: &addr, safe: true, text: "dial tcp 127.0.0.1:0: *port 0 cannot be connected to",
		},
		{
			name: "wrong family", fail: func(*testing.T) error { return dial("tcp4", "[::1]:80", nil) },
			as: &addr, safe: true, text: "dial tcp4 [::1]:80: address ::1: wrong address family for tcp4",
		},
		{
			name: "wrong family of a socket that is there", fail: func(t *testing.T) error {
				c, err := client.NewTCP6(nil)
				require.NoError(t, err)
				defer c.Close()
				return c.Connect(t.Context(), "127.0.0.1:80")
			},
			as: &addr, safe: true, text: "connect tcp6 *->127.0.0.1:80: address 127.0.0.1: wrong address family for tcp6",
		},
		{
			name: "unknown network", fail: func(*testing.T) error { return dial("sctp", "127.0.0.1:80", nil) },
			is: net.UnknownNetworkError("sctp"), safe: true, text: "dial sctp 127.0.0.1:80: unknown network sctp",
		},
		{
			name: "closed by us", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				require.NoError(t, c.Close())
				_, err := c.Recv(make([]byte, 1), 0)
				return err
			},
			is: net.ErrClosed, text: "recv tcp 127.0.0.1:*->127.0.0.1:*: use of closed network connection",
		},
		{
			name: "send after close", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				require.NoError(t, c.Close())
				_, err := c.Send(make([]byte, 1), 0)
				return err
			},
			is: net.ErrClosed, safe: true, text: "send tcp *: use of closed network connection",
		},
		{
			name: "closed twice", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				require.NoError(t, c.Close())
				return c.Close()
			},
			is: net.ErrClosed, text: "close tcp *: use of closed network connection",
		},
		{
			name: "closed by peer", fail: func(t *testing.T) error {
				c, peer := stream(t, "tcp", nil)
				require.NoError(t, peer.Close())
				_, err := c.Recv(make([]byte, 1), 0)
				require.Equal(t, io.EOF, err)
				return err
			},
			is: io.EOF, text: "EOF",
		},
		{
			name: "reset by peer", fail: func(t *testing.T) error {
				c, peer := stream(t, "tcp", nil)
				require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
				require.NoError(t, peer.Close())
				_, err := c.Recv(make([]byte, 1), 0)
				return err
			},
			is: unix.ECONNRESET, as: &sysCall, text: "recv tcp *: recvfrom: connection reset by peer",
		},
		{
			name: "broken pipe", fail: func(t *testing.T) error {
				c, peer := stream(t, "unix", nil)
				require.NoError(t, peer.Close())
				_, err := c.Send([]byte("x"), 0)
				return err
			},
			is: unix.EPIPE, as: &sysCall, safe: true, text: "send unix *: sendto: broken pipe",
		},
		{
			name: "broken pipe after a part of the request", fail: func(t *testing.T) error {
				c, peer := stream(t, "unix", nil)
				_, err := c.Send([]byte("first part"), 0)
				require.NoError(t, err)
				require.NoError(t, peer.Close())
				_, err = c.Write([]byte("second part"))
				return err
			},
			is: unix.EPIPE, text: "write unix *: sendto: broken pipe",
		},
		{
			name: "broken pipe of a later request", fail: func(t *testing.T) error {
				c, peer := stream(t, "unix", nil)
				_, err := c.Send([]byte("one"), 0)
				require.NoError(t, err)
				_, err = peer.Write([]byte("an answer, or not"))
				require.NoError(t, err)
				_, err = c.Recv(make([]byte, 1), 0)
				require.NoError(t, err)
				require.NoError(t, peer.Close())
				n, err := c.Send([]byte("two"), 0)
				require.Zero(t, n)
				return err
			},
			is: unix.EPIPE, text: "send unix *: sendto: broken pipe",
		},
		{
			name: "sendto after something was sent", fail: func(t *testing.T) error {
				c, err := client.NewUDP(nil)
				require.NoError(t, err)
				defer c.Close()
				_, err = c.SendTo([]byte("x"), packetPeer(t, "udp").LocalAddr())
				require.NoError(t, err)
				_, err = c.SendTo(make([]byte, 70_000), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
				return err
			},
			is: unix.EMSGSIZE, as: &sysCall, text: "sendto udp4 0.0.0.0:*->127.0.0.1:9: sendto: message too long",
		},
		{
			name: "bad flags after something was sent", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				_, err := c.Send([]byte("x"), 0)
				require.NoError(t, err)
				_, err = c.Send([]byte("y"), client.WaitAll)
				return err
			},
			is: unix.EINVAL, text: "send tcp *: invalid argument",
		},
		{
			name: "would have to wait", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				_, err := c.Recv(make([]byte, 1), client.DontWait)
				var ne net.Error
				require.ErrorAs(t, err, &ne)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				require.True(t, ne.Timeout(), "as any EAGAIN's")
				return fmt.Errorf("%w", errors.Unwrap(err))
			},
			is: unix.EAGAIN, as: &sysCall, bare: true, timeout: true, text: "recvfrom: resource temporarily unavailable",
		},
		{
			name: "truncated", fail: func(t *testing.T) error {
				peer := packetPeer(t, "udp")
				c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
				require.NoError(t, err)
				defer c.Close()
				_, err = peer.WriteTo([]byte("long"), c.LocalAddr())
				require.NoError(t, err)
				_, _, err = c.RecvFrom(make([]byte, 1), 0)
				require.ErrorContains(t, err, peer.LocalAddr().String(), "who sent it")
				return err
			},
			is: io.ErrShortBuffer, text: "recvfrom udp4 127.0.0.1:*->127.0.0.1:*: datagram of 4 bytes truncated to 1: use a larger buffer",
		},
		{
			name: "urgent datagram", fail: func(t *testing.T) error {
				c, _ := datagrams(t, "udp", nil)
				_, err := c.Recv(make([]byte, 1), client.OOB)
				return err
			},
			is: unix.EOPNOTSUPP, text: "recv udp *: operation not supported",
		},
		{
			name: "connecting already", fail: func(t *testing.T) error {
				c, err := client.NewTCP(nil)
				require.NoError(t, err)
				done := make(chan struct{})
				go func() { _ = c.Connect(context.Background(), hole); close(done) }()
				inKernel(t)
				err = c.Connect(t.Context(), hole)
				require.ErrorIs(t, c.Bind("127.0.0.1:0"), unix.EALREADY)
				require.NoError(t, c.Close())
				<-done
				return err
			},
			is: unix.EALREADY, as: &sysCall, safe: true, text: "connect tcp4 *->" + hole + ": connect: *already in progress",
		},
		{
			name: "bound twice", fail: func(t *testing.T) error {
				c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
				require.NoError(t, err)
				defer c.Close()
				return c.Bind("127.0.0.1:0")
			},
			is: unix.EINVAL, as: &sysCall, safe: true, text: "bind udp4 *->127.0.0.1:0: bind: invalid argument",
		},
		{
			name: "bind when connected", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				return c.Bind("127.0.0.1:0")
			},
			is: unix.EISCONN, as: &sysCall, safe: true, text: "bind tcp *->127.0.0.1:*: bind: *connected*",
		},
		{
			name: "connect after close", fail: func(t *testing.T) error {
				c, err := client.NewTCP(nil)
				require.NoError(t, err)
				require.NoError(t, c.Close())
				require.ErrorIs(t, c.Bind("nonsense"), net.ErrClosed)
				return c.Connect(t.Context(), "nonsense")
			},
			is: net.ErrClosed, safe: true, text: "connect tcp4 *->nonsense: use of closed network connection",
		},
		{
			name: "not connected, recv", fail: func(t *testing.T) error {
				c, err := client.NewTCP(nil)
				require.NoError(t, err)
				defer c.Close()
				_, err = c.Recv(make([]byte, 1), 0)
				return err
			},
			is: unix.ENOTCONN, text: "recv tcp4 *: *not connected",
		},
		{
			name: "not connected, send", fail: func(t *testing.T) error {
				c, err := client.NewTCP(nil)
				require.NoError(t, err)
				defer c.Close()
				_, err = c.Send(make([]byte, 1), 0)
				return err
			},
			is: unix.ENOTCONN, safe: true, text: "send tcp4 *: *not connected",
		},
		{
			name: "already connected", fail: func(t *testing.T) error {
				c, _ := stream(t, "tcp", nil)
				return c.Connect(t.Context(), unheard)
			},
			is: unix.EISCONN, as: &sysCall, safe: true, text: "connect tcp *->" + unheard + ": connect: *already*connected*",
		},
		{
			name: "path missing", fail: func(*testing.T) error { return dial("unix", missing, nil) },
			is: os.ErrNotExist, as: &sysCall, safe: true, text: "dial unix " + missing + ": connect: no such file or directory",
		},
		{
			name: "path missing, unixgram", fail: func(*testing.T) error { return dial("unixgram", missing, nil) },
			is: unix.ENOENT, as: &sysCall, safe: true, text: "dial unixgram " + missing + ": connect: no such file or directory",
		},
		{
			name: "address in use", fail: func(t *testing.T) error {
				ln := listen(t, "tcp")
				c, err := client.NewTCP(nil)
				require.NoError(t, err)
				defer c.Close()
				return c.Bind(ln.Addr().String())
			},
			is: unix.EADDRINUSE, as: &sysCall, safe: true, text: "bind tcp4 *->127.0.0.1:*: bind: address already in use",
		},
		{
			name: "local address in use", fail: func(t *testing.T) error {
				ln := listen(t, "tcp")
				return dial("tcp", unheard, &client.Options{LocalAddr: ln.Addr().String()})
			},
			is: unix.EADDRINUSE, as: &sysCall, safe: true, text: "dial tcp " + unheard + ": bind: address already in use",
		},
		{
			name: "bad option", fail: func(*testing.T) error {
				return dial("tcp", unheard, &client.Options{LocalAddr: "localhost:0"})
			},
			as: &option, safe: true, text: "dial tcp " + unheard + ": option LocalAddr: address localhost: not an IP address",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.fail(t)
			require.Error(t, err)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			if test.as != nil {
				require.ErrorAs(t, err, test.as)
			}
			if err != io.EOF && !test.bare { //nolint:errorlint // bare is what it has to be
				op, ok := err.(*net.OpError) //nolint:errorlint // and this is
				require.True(t, ok, "%T", err)
				require.NotEmpty(t, op.Net)
			}
			require.Equal(t, test.timeout, timedOut(err))
			require.Equal(t, test.timeout && !test.bare, errors.Is(err, os.ErrDeadlineExceeded))
			require.Equal(t, test.safe, client.SafeToRetry(err))
			matched, matchErr := filepath.Match(escape(test.text), escape(err.Error()))
			require.NoError(t, matchErr)
			require.True(t, matched, "%q is not like %q", err, test.text)
		})
	}
}

// escape keeps filepath.Match from interpreting path separators and ranges.
func escape(s string) string {
	out := []rune(s)
	for i, r := range out {
		switch r {
		case '/':
			out[i] = '|'
		case '[', ']':
			out[i] = '\''
		}
	}
	return string(out)
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// unreachable dials in a network namespace of its own whose loopback is down, on a
// locked thread. This also shows that a dial stays on the thread that calls it.
func unreachable(t *testing.T) error {
	if runtime.GOOS != "linux" {
		t.Skip("needs a network namespace")
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unshareNetwork(); err != nil {
			result <- err
			return
		}
		_, err := client.Dial("tcp", "127.0.0.1:9", nil)
		result <- err
	}()
	err := <-result
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a network namespace")
	}
	return err
}

func TestSafeToRetry_IsSureOrFalse(t *testing.T) {
	refusedErr := func() error { _, err := client.Dial("tcp", refused(t, "tcp"), nil); return err }()
	for _, err := range []error{
		nil, io.EOF, errors.New("x"), os.ErrDeadlineExceeded,
		&net.OpError{Op: "read", Err: unix.ECONNRESET},
		errors.Join(io.ErrUnexpectedEOF, refusedErr), // the redial of a request that was sent
	} {
		require.False(t, client.SafeToRetry(err), "%v", err)
	}
	require.True(t, client.SafeToRetry(refusedErr))
	require.True(t, client.SafeToRetry(fmt.Errorf("asking: %w", refusedErr)))
}

// A program that handles SIGPIPE gets it from its pipes, not from this package.
func TestSend_RaisesNoSIGPIPE(t *testing.T) {
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, unix.SIGPIPE)
	defer signal.Stop(pipes)
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		require.NoError(t, peer.Close())
		require.Eventually(t, func() bool {
			_, err := c.Send([]byte("x"), 0)
			return errors.Is(err, unix.EPIPE)
		}, testTimeout, time.Millisecond)
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, unix.EPIPE)
	})
	// A signal of our own comes after any that the writes have raised.
	marker := make(chan os.Signal, 1)
	signal.Notify(marker, unix.SIGUSR2)
	defer signal.Stop(marker)
	require.NoError(t, unix.Kill(os.Getpid(), unix.SIGUSR2))
	<-marker
	select {
	case <-pipes:
		t.Fatal("SIGPIPE")
	default:
	}
}
