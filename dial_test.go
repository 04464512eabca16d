package client_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDial_EveryNetwork(t *testing.T) {
	eachPlainStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		require.Equal(t, map[string]client.Type{"tcp": client.TCP, "tcp6": client.TCP6, "unix": client.UnixStream}[network], c.Type())
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = peer.Read(make([]byte, 1))
		require.NoError(t, err)
	})
	eachDatagram(t, func(t *testing.T, network string) {
		c, _ := datagrams(t, network, nil)
		require.Equal(t, map[string]client.Type{"udp": client.UDP, "udp6": client.UDP6, "unixgram": client.UnixDgram}[network], c.Type())
	})
}

// The unspecified address is the Addr of a listener on ":0". Package net tries both
// families for it too.
func TestDial_UnspecifiedAddressTriesBothFamilies(t *testing.T) {
	ln, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	address := net.JoinHostPort("::", port)
	for _, dial := range []struct {
		network string
		opts    *client.Options
	}{{"tcp", nil}, {"tcp4", nil}, {"tcp", &client.Options{LocalAddr: "0.0.0.0:0"}}} {
		conn, err := net.Dial(dial.network, address)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		c, err := client.Dial(dial.network, address, dial.opts)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

func TestDialer_IsADialFunctionForDrivers(t *testing.T) {
	ln := listen(t, "tcp")
	d := client.Dialer{Options: &client.Options{Timeout: testTimeout}}
	conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	conn, err = new(client.Dialer).DialContext(t.Context(), "tcp", refused(t, "tcp"))
	require.Error(t, err)
	require.True(t, conn == nil, "a nil *Client in a net.Conn is not nil")
}

func TestDialer_DialTimeoutShorterLimitCounts(t *testing.T) {
	inParallelIfShort(t)
	const limit = 200 * time.Millisecond
	for _, test := range []struct{ timeout, connect time.Duration }{
		{limit, testTimeout}, {testTimeout, limit}, {0, limit}, {-1, limit},
	} {
		d := client.Dialer{Options: &client.Options{ConnectTimeout: test.connect}}
		begin := time.Now()
		conn, err := d.DialTimeout("tcp", blackHole(t, "tcp", "127.0.0.1"), test.timeout)
		took := time.Since(begin)
		require.Nil(t, conn)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout(), "%v", err)
		require.GreaterOrEqual(t, took, limit)
		require.Less(t, took, testTimeout)
	}
	ln := listen(t, "tcp")
	for _, timeout := range []time.Duration{0, testTimeout} {
		conn, err := new(client.Dialer).DialTimeout("tcp", ln.Addr().String(), timeout)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

// A driver that finds a descriptor peeks at it and takes a session ticket for an
// unexpected answer. go-redis then reads without a limit for data that never arrives.
func TestDialer_NoSyscallConnOverTLS(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	go func() {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(io.Discard, tls.Server(conn, s.config)) // until the client closes
	}()
	d := client.Dialer{Options: &client.Options{TLS: s.trust(t)}}
	conn, err := d.DialContext(t.Context(), "tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, has := conn.(syscall.Conn)
	require.False(t, has)
	require.Implements(t, (*interface{ ConnectionState() tls.ConnectionState })(nil), conn)
	c, ok := client.FromConn(conn)
	require.True(t, ok)
	require.Equal(t, conn.LocalAddr(), c.LocalAddr())

	ln := listen(t, "tcp")
	plain, err := new(client.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer plain.Close()
	require.Implements(t, (*syscall.Conn)(nil), plain)
	c, ok = client.FromConn(plain)
	require.True(t, ok)
	require.Same(t, plain, c)
	another, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer another.Close()
	_, ok = client.FromConn(another)
	require.False(t, ok)
}

func TestDial_EmptyHostIsThisMachine(t *testing.T) {
	for _, network := range []string{"tcp", "tcp4"} {
		ln := listen(t, "tcp")
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		c, err := client.Dial(network, ":"+port, nil)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

// A dial's attempts, in order, as Control sees them.
type attempts struct {
	mu         sync.Mutex
	addresses  []string
	goroutines []int
	at         []time.Time
}

func (a *attempts) record(_, address string, _ syscall.RawConn) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addresses = append(a.addresses, address)
	a.goroutines = append(a.goroutines, runtime.NumGoroutine())
	a.at = append(a.at, time.Now())
	return nil
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	return port
}

func TestDial_TriesNextAddressAfterRefusal(t *testing.T) {
	ln := listen(t, "tcp")
	port := portOf(t, ln.Addr().String())
	var tried attempts
	opts := &client.Options{Control: tried.record, Resolver: names(t, map[string][]string{
		"two.test.": {"127.0.0.2", "127.0.0.1"}, // nobody listens on .2
	})}
	start := time.Now()
	c, err := client.Dial("tcp", "two.test:"+port, opts)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{"127.0.0.2:" + port, "127.0.0.1:" + port}, tried.addresses)
	require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
	require.Less(t, time.Since(start), testTimeout)
}

func TestDial_StartsNextAddressWhileOneIsSilent(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	ln, err := net.Listen("tcp", "127.0.0.2:"+port)
	require.NoError(t, err)
	defer ln.Close()
	var tried attempts
	opts := &client.Options{Control: tried.record, Resolver: names(t, map[string][]string{
		"some.test.": {"127.0.0.1", "127.0.0.1", "127.0.0.2"},
	})}
	c, err := client.Dial("tcp", "some.test:"+port, opts)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
	for i := 1; i < len(tried.at); i++ {
		require.GreaterOrEqual(t, tried.at[i].Sub(tried.at[i-1]), 240*time.Millisecond, "RFC 8305: not all at once")
	}
	require.Equal(t, []string{hole, hole, "127.0.0.2:" + port}, tried.addresses)
}

func TestDial_AllAddressesWithinTheLimitInOneGoroutine(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	holes := []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"}
	for _, limit := range []time.Duration{300 * time.Millisecond, time.Second} {
		if testing.Short() && limit == time.Second {
			continue
		}
		var tried attempts
		start := time.Now()
		_, err := client.Dial("tcp", "holes.test:"+port, &client.Options{
			Timeout: limit, Control: tried.record, Resolver: names(t, map[string][]string{"holes.test.": holes}),
		})
		took := time.Since(start)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, took, limit)
		require.Less(t, took, limit+testTimeout)
		require.Len(t, tried.addresses, len(holes))
		last := tried.goroutines[len(tried.goroutines)-1]
		require.LessOrEqual(t, last, tried.goroutines[0], "no goroutine per address")

		var all *client.DialError
		require.ErrorAs(t, err, &all)
		require.Len(t, all.Errs, len(holes))
		for _, e := range all.Errs {
			require.Equal(t, hole, e.Addr.String())
			require.ErrorIs(t, e, os.ErrDeadlineExceeded)
		}
	}
}

func TestDialError_ListsEachAddressWithItsCause(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	_, err := client.Dial("tcp", "mixed.test:"+port, &client.Options{
		Timeout:  300 * time.Millisecond,
		Resolver: names(t, map[string][]string{"mixed.test.": {"127.0.0.1", "127.0.0.2", "::1"}}),
	})
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "dial", op.Op)
	require.Equal(t, "mixed.test:"+port, op.Addr.String())
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.True(t, op.Timeout())
	require.True(t, client.SafeToRetry(err))
	var all *client.DialError
	require.ErrorAs(t, err, &all)
	causes := make(map[string]string)
	for _, e := range all.Errs {
		causes[e.Addr.String()] = e.Err.Error()
	}
	require.Equal(t, "i/o timeout", causes[hole])
	require.Equal(t, "connect: connection refused", causes["127.0.0.2:"+port])
	require.Contains(t, causes, "[::1]:"+port)
	require.Contains(t, err.Error(), "127.0.0.2:"+port+": connect: connection refused")
	require.Contains(t, err.Error(), hole+": i/o timeout")
}

func TestDialContext_ContextEndsItAtOnce(t *testing.T) {
	eachPlainStream(t, func(t *testing.T, network string) {
		hole := blackHole(t, network, "127.0.0.1")
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := client.DialContext(ctx, network, hole, &client.Options{Timeout: -1})
			result <- err
		}()
		inKernel(t)
		cancel()
		err := <-result
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, client.SafeToRetry(err))
	})
	t.Run("looking a name up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		silent := names(t, nil)
		dial := silent.Dial
		asked := make(chan struct{}, 9)
		silent.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			asked <- struct{}{}
			return dial(ctx, network, address)
		}
		result := make(chan error, 1)
		go func() {
			_, err := client.DialContext(ctx, "tcp", "silent.test:1", &client.Options{Resolver: silent, Timeout: -1})
			result <- err
		}()
		<-asked
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
	})
	t.Run("before it starts", func(t *testing.T) {
		ln := listen(t, "tcp")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := client.DialContext(ctx, "tcp", ln.Addr().String(), nil)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("its deadline", func(t *testing.T) {
		hole := blackHole(t, "tcp", "127.0.0.1")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := client.DialContext(ctx, "tcp", hole, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

// net.Resolver would keep the query, a goroutine and a descriptor for 5 s.
func TestDialContext_CanceledLookupLeaksNothing(t *testing.T) {
	silent := names(t, nil)
	before := runtime.NumGoroutine()
	for range 10 {
		_, err := client.Dial("tcp", "silent.test:1", &client.Options{Resolver: silent, Timeout: 5 * time.Millisecond})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 2*time.Second, time.Millisecond, "Eventually has one of its own")
}

func TestConnect_CloseEndsALookup(t *testing.T) {
	silent := names(t, nil)
	dial := silent.Dial
	asked := make(chan struct{}, 9)
	silent.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		asked <- struct{}{}
		return dial(ctx, network, address)
	}
	c, err := client.NewTCP(&client.Options{Timeout: -1, Resolver: silent})
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { result <- c.Connect(context.Background(), "silent.test:1") }()
	<-asked
	start := time.Now()
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-result, net.ErrClosed)
	require.Less(t, time.Since(start), 4*time.Second, "the resolver by itself takes 5 s and more")
}

func TestDial_FamiliesAlternate(t *testing.T) {
	loopbackOf(t, "tcp6") // or skip
	port := portOf(t, refused(t, "tcp"))
	var tried attempts
	_, err := client.Dial("tcp", "many.test:"+port, &client.Options{Control: tried.record, Resolver: names(t, map[string][]string{
		"many.test.": {"127.0.0.1", "127.0.0.2", "::1", "::1"},
	})})
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Len(t, tried.addresses, 4)
	for i := range 3 { // RFC 6724 says who is first, RFC 8305 who comes then
		require.NotEqual(t, tried.addresses[i][0] == '[', tried.addresses[i+1][0] == '[', "%v", tried.addresses)
	}
}

func TestDial_FailureStartsNextAddressAtOnce(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	ln, err := net.Listen("tcp", "127.0.0.3:"+portOf(t, hole))
	require.NoError(t, err)
	defer ln.Close()
	var tried attempts
	c, err := client.Dial("tcp", "some.test:"+portOf(t, hole), &client.Options{Control: tried.record, Resolver: names(t, map[string][]string{
		"some.test.": {"127.0.0.1", "127.0.0.2", "127.0.0.3"}, // silent, refuses, answers
	})})
	require.NoError(t, err)
	defer c.Close()
	require.Len(t, tried.at, 3)
	require.GreaterOrEqual(t, tried.at[1].Sub(tried.at[0]), 240*time.Millisecond)
	require.Less(t, tried.at[2].Sub(tried.at[1]), 240*time.Millisecond, "it waits for nobody's quarter of a second")
}

func TestDialContext_CanceledWithManyAddresses(t *testing.T) {
	address, resolver := threeHoles(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := client.DialContext(ctx, "tcp", address, &client.Options{Resolver: resolver})
		result <- err
	}()
	inKernel(t)
	cancel()
	err := <-result
	require.ErrorIs(t, err, context.Canceled)
	var all *client.DialError
	require.NotErrorAs(t, err, &all)
}

// The end of one address's share must not extend the limit of the call.
func TestConnect_OneLimitForAllAddresses(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	holes := slices.Repeat([]string{"127.0.0.1"}, 10)
	resolver := names(t, map[string][]string{"holes.test.": holes})
	for _, limit := range []time.Duration{2 * time.Millisecond, 50 * time.Millisecond} {
		for range 5 {
			c, err := client.NewTCP(&client.Options{ConnectTimeout: limit, Resolver: resolver})
			require.NoError(t, err)
			start := time.Now()
			require.ErrorIs(t, c.Connect(t.Context(), "holes.test:"+portOf(t, hole)), os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(start), limit)
			require.Less(t, time.Since(start), limit+testTimeout)
			require.NoError(t, c.Close())
		}
	}
	c, err := client.NewTCP(&client.Options{ConnectTimeout: -1})
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Connect(ctx, hole), context.DeadlineExceeded)
}

// A peer that resets the connection at once still has an address.
func TestDial_RemoteAddrKnownDespiteReset(t *testing.T) {
	ln := listen(t, "tcp")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.(*net.TCPConn).SetLinger(0), conn.Close()
		}
	}()
	for range 500 {
		c, err := client.Dial("tcp", ln.Addr().String(), nil)
		if err != nil {
			continue // reset before it was connected
		}
		require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
		require.NoError(t, c.Close())
	}
}

// A context that ends after or during a successful connect must not affect the client.
func TestDialContext_ContextHasNoEffectAfterwards(t *testing.T) {
	ln := listen(t, "tcp")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { echo(conn); _ = conn.Close() }()
		}
	}()
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i)*time.Microsecond, cancel)
		c, err := client.DialContext(ctx, "tcp", ln.Addr().String(), nil)
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
			continue
		}
		cancel()
		require.NoError(t, roundTrip(c, make([]byte, 8)))
		require.NoError(t, c.Close())
		timer.Stop()
	}
}

func TestConnect_AfterAFailedConnect(t *testing.T) {
	inParallelIfShort(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can use a socket again after a failed connect")
	}
	for _, network := range []string{"tcp", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			ln := listen(t, network)
			c, err := unconnected[network](&client.Options{ConnectTimeout: 50 * time.Millisecond})
			require.NoError(t, err)
			defer c.Close()
			require.Error(t, c.Connect(t.Context(), refused(t, network)))
			require.ErrorIs(t, c.Connect(t.Context(), blackHole(t, network, "127.0.0.1")), os.ErrDeadlineExceeded)
			require.False(t, c.IsConnected())
			_, err = c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, unix.ENOTCONN)
			require.NoError(t, c.Connect(t.Context(), ln.Addr().String()))
			peer, err := ln.Accept()
			require.NoError(t, err)
			defer peer.Close()
			_, err = peer.Write([]byte("x"))
			require.NoError(t, err)
			n, err := c.Recv(make([]byte, 1), 0)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
		})
	}
}

func TestConnect_TriesEachAddressOfAName(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	ln, err := net.Listen("tcp", "127.0.0.3:"+port)
	require.NoError(t, err)
	defer ln.Close()
	c, err := client.NewTCP(&client.Options{Timeout: 600 * time.Millisecond, Resolver: names(t, map[string][]string{
		"some.test.": {"127.0.0.2", "127.0.0.1", "127.0.0.3"}, "none.test.": {"127.0.0.4", "127.0.0.5"},
	})})
	require.NoError(t, err)
	defer c.Close()
	err = c.Connect(t.Context(), "none.test:"+port)
	var all *client.DialError
	require.ErrorAs(t, err, &all)
	require.Len(t, all.Errs, 2)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.NoError(t, c.Connect(t.Context(), "some.test:"+port))
	require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
}

func TestConnect_EndsWithItsContext(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	c, err := client.NewTCP(&client.Options{Timeout: -1})
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Connect(ctx, hole) }()
	inKernel(t)
	require.ErrorIs(t, c.Connect(ctx, hole), unix.EALREADY)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
}

// TCP can connect a socket to itself if it chooses the destination port as its local
// port. There is no server then.
func TestDial_SelfConnectIsRefused(t *testing.T) {
	address := unused(t)
	_, err := client.Dial("tcp", address, &client.Options{LocalAddr: address})
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

func TestControl_RunsBeforeConnect(t *testing.T) {
	ln := listen(t, "tcp")
	c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{Control: func(network, address string, raw syscall.RawConn) error {
		require.Equal(t, "tcp4", network)
		require.Equal(t, ln.Addr().String(), address)
		var err error
		require.NoError(t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		}))
		return err
	}})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = client.Dial("tcp", ln.Addr().String(), &client.Options{Control: func(string, string, syscall.RawConn) error { return unix.EPERM }})
	require.ErrorIs(t, err, unix.EPERM)
	_, err = client.NewUDP(&client.Options{Control: func(_, address string, _ syscall.RawConn) error {
		require.Empty(t, address)
		return unix.EPERM
	}})
	require.ErrorIs(t, err, unix.EPERM)
}
