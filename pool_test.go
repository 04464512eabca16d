package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A counted server is an echo that knows its connections.
type counted struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	new   chan net.Conn
}

func countedEcho(t testing.TB, network string) *counted {
	t.Helper()
	return countedServer(t, network, echo)
}

func countedServer(t testing.TB, network string, serve func(net.Conn)) *counted {
	t.Helper()
	s := &counted{Listener: listen(t, network), new: make(chan net.Conn, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			select {
			case s.new <- conn:
			default: // nobody asks for so many
			}
			wg.Go(func() { serve(conn); _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = s.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *counted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func newPool(t testing.TB, opts client.PoolOptions) *client.Pool {
	t.Helper()
	p := client.NewPool(opts)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func (s *counted) from(t testing.TB, p *client.Pool, opts *client.Options) *client.Client {
	t.Helper()
	c, err := p.Dial(context.Background(), s.Addr().Network(), s.Addr().String(), opts)
	require.NoError(t, err)
	return c
}

// asks makes an echo server answer over a client.
func asks(t testing.TB, c *client.Client, question string) {
	t.Helper()
	_, err := c.Send([]byte(question), 0)
	require.NoError(t, err)
	p := make([]byte, len(question))
	_, err = c.Recv(p, client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, question, string(p))
}

// local identifies a connection.
func local(c *client.Client) string { return c.LocalAddr().String() }

func TestPool_ReusesAConnection(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			s, p := countedEcho(t, network), newPool(t, client.PoolOptions{})
			for i := range 5 {
				c := s.from(t, p, nil)
				require.Equal(t, i > 0, c.Reused())
				require.Equal(t, i, c.ReuseCount())
				asks(t, c, "hello "+strconv.Itoa(i))
				require.NoError(t, c.Close())
			}
			require.Equal(t, 1, s.count())
			stats := p.Stats()
			require.EqualValues(t, 1, stats.Dials)
			require.EqualValues(t, 4, stats.Reuses)
			require.Equal(t, 1, stats.Idle)
			require.Zero(t, stats.Active)
			require.Len(t, stats.Keys, 1)
			require.Equal(t, s.Addr().Network(), stats.Keys[0].Network)
			require.Equal(t, stats.KeyStats, stats.Keys[0].KeyStats)
		})
	}
}

func TestPool_ReusesTheMostRecentlyUsed(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
	var all [3]*client.Client
	for i := range all {
		all[i] = s.from(t, p, nil)
	}
	var order []string
	for _, c := range all {
		order = append(order, local(c))
		require.NoError(t, c.Close())
	}
	for i := range order {
		c := s.from(t, p, nil)
		require.Equal(t, order[len(order)-1-i], local(c))
		defer c.Close()
	}
}

// A released client has no access to its connection any more.
func TestPool_ReleasedClientReachesNoConnection(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
	old := s.from(t, p, nil)
	asks(t, old, "before")
	raw, err := old.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, old.Close())

	now := s.from(t, p, &client.Options{Timeout: testTimeout})
	require.True(t, now.Reused())
	require.Equal(t, local(old), local(now))
	_, err = now.Send([]byte("the other's"), 0)
	require.NoError(t, err)
	_, err = now.Recv(make([]byte, 1), client.Peek) // it is there
	require.NoError(t, err)

	p1 := make([]byte, 100)
	for name, call := range map[string]func() error{
		"Recv":             func() error { _, err := old.Recv(p1, 0); return err },
		"Peek":             func() error { _, err := old.Recv(p1, client.Peek); return err },
		"Read":             func() error { _, err := old.Read(p1); return err },
		"Send":             func() error { _, err := old.Send(p1, 0); return err },
		"Write":            func() error { _, err := old.Write(p1); return err },
		"SetDeadline":      func() error { return old.SetDeadline(time.Unix(1, 0)) },
		"SetReadDeadline":  func() error { return old.SetReadDeadline(time.Unix(1, 0)) },
		"SetWriteDeadline": func() error { return old.SetWriteDeadline(time.Unix(1, 0)) },
		"CloseRead":        old.CloseRead,
		"CloseWrite":       old.CloseWrite,
		"StartTLS":         func() error { return old.StartTLS(context.Background(), nil) },
		"SyscallConn":      func() error { _, err := old.SyscallConn(); return err },
		"raw Read":         func() error { return raw.Read(func(uintptr) bool { t.Error("called"); return true }) },
		"raw Write":        func() error { return raw.Write(func(uintptr) bool { t.Error("called"); return true }) },
		"raw Control":      func() error { return raw.Control(func(uintptr) { t.Error("called") }) },
		"Close":            old.Close,
		"Discard":          old.Discard,
	} {
		require.ErrorIs(t, call(), net.ErrClosed, name)
	}
	require.False(t, old.IsConnected())
	require.NotNil(t, old.LocalAddr())
	n, err := now.Recv(p1[:11], client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "the other's", string(p1[:n]))
	require.NoError(t, now.Close())
	require.ErrorIs(t, now.Close(), net.ErrClosed)
	require.Equal(t, 1, s.count())
}

func TestPool_UnusableConnectionsAreClosed(t *testing.T) {
	short := &client.Options{RecvTimeout: 20 * time.Millisecond, SendTimeout: 20 * time.Millisecond}
	for _, test := range []struct {
		name  string
		opts  *client.Options
		use   func(t *testing.T, c *client.Client, peer net.Conn)
		cause client.DiscardCause
	}{
		{"after a receive that timed out", short, func(t *testing.T, c *client.Client, _ net.Conn) {
			_, err := c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}, client.DiscardFailed},
		{"after a read that timed out", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}, client.DiscardFailed},
		{"after a part of an exact read", short, func(t *testing.T, c *client.Client, peer net.Conn) {
			_, err := peer.Write([]byte("half"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 8), client.WaitAll)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}, client.DiscardFailed},
		{"after a part of an exact read without waiting", nil, func(t *testing.T, c *client.Client, peer net.Conn) {
			_, err := peer.Write([]byte("half"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 4), client.WaitAll|client.Peek) // has it arrive
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 8), client.WaitAll|client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
		}, client.DiscardFailed},
		{"after a request half sent", short, func(t *testing.T, c *client.Client, _ net.Conn) {
			_, err := c.Send(make([]byte, 64<<20), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}, client.DiscardFailed},
		{"after a request half sent without waiting", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			_, err := c.Send(make([]byte, 64<<20), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
		}, client.DiscardFailed},
		{"with an answer peeked at", nil, func(t *testing.T, c *client.Client, peer net.Conn) {
			_, err := c.Send([]byte("question"), 0)
			require.NoError(t, err)
			_, err = peer.Write([]byte("answer"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 6), client.WaitAll|client.Peek)
			require.NoError(t, err)
		}, client.DiscardUnclean},
		{"with a question that has no answer yet", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			_, err := c.Send([]byte("question"), 0)
			require.NoError(t, err)
		}, client.DiscardUnclean},
		{"after the end", nil, func(t *testing.T, c *client.Client, peer net.Conn) {
			require.NoError(t, peer.Close())
			_, err := c.Recv(make([]byte, 1), 0)
			require.Equal(t, io.EOF, err)
		}, client.DiscardFailed},
		{"whose descriptor was in other hands", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(uintptr) {}))
		}, client.DiscardFailed},
		{"shut in one direction", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			require.NoError(t, c.CloseWrite())
		}, client.DiscardFailed},
		{"shut in the other direction", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			require.NoError(t, c.CloseRead())
		}, client.DiscardFailed},
		{"thrown away", nil, func(t *testing.T, c *client.Client, _ net.Conn) {
			require.NoError(t, c.Discard())
		}, client.DiscardByCaller},
	} {
		t.Run(test.name, func(t *testing.T) {
			done := make(chan struct{})
			defer close(done)
			s := countedServer(t, "tcp", func(net.Conn) { <-done })
			p := newPool(t, client.PoolOptions{})
			c := s.from(t, p, test.opts)
			peer := <-s.new
			test.use(t, c, peer)
			if err := c.Close(); err != nil {
				require.ErrorIs(t, err, net.ErrClosed)
			}
			stats := p.Stats()
			require.Zero(t, stats.Idle)
			require.Zero(t, stats.Active)
			require.EqualValues(t, 1, stats.Discards[test.cause], "%+v", stats)
			c = s.from(t, p, nil)
			require.False(t, c.Reused())
			<-s.new
			require.NoError(t, c.Close())
		})
	}
}

// The check of the next Dial finds what was in the socket at the release, also for a caller
// that waits already.
func TestPool_CheckFindsWhatCameBeforeTheRelease(t *testing.T) {
	for name, test := range map[string]struct {
		use   func(t *testing.T, c *client.Client, peer net.Conn)
		cause client.DiscardCause
	}{
		"an answer half read": {func(t *testing.T, c *client.Client, peer net.Conn) {
			_, err := peer.Write([]byte("answer"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 3), client.WaitAll)
			require.NoError(t, err)
		}, client.DiscardUnclean},
		"an end that nobody has read": {func(t *testing.T, c *client.Client, peer net.Conn) {
			require.NoError(t, peer.Close())
			require.Eventually(t, func() bool { return !c.IsConnected() }, testTimeout, time.Millisecond)
		}, client.DiscardDead},
	} {
		for _, waiting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, waiting %t", name, waiting), func(t *testing.T) {
				s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
				c := s.from(t, p, nil)
				test.use(t, c, <-s.new)
				if waiting {
					next := waits(t, p, s, nil, context.Background())[0]
					require.NoError(t, c.Close())
					r := <-next
					require.NoError(t, r.err)
					c = r.c
				} else {
					require.NoError(t, c.Close())
					require.Equal(t, 1, p.Stats().Idle)
					c = s.from(t, p, nil)
				}
				require.False(t, c.Reused())
				require.NoError(t, c.Close())
				stats := p.Stats()
				require.EqualValues(t, 1, stats.Discards[test.cause], "%+v", stats)
				require.EqualValues(t, 2, stats.Dials)
				require.Zero(t, stats.Reuses)
			})
		}
	}
}

func TestPool_HarmlessCallsKeepTheConnection(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	s := countedServer(t, "tcp", func(net.Conn) { <-done })
	p := newPool(t, client.PoolOptions{ReuseUnanswered: true})
	for name, use := range map[string]func(c *client.Client){
		"nothing": func(*client.Client) {},
		"a look at nothing": func(c *client.Client) {
			_, err := c.Recv(make([]byte, 1), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
		},
		"a message without an answer, where that is usual": func(c *client.Client) {
			_, err := c.Send([]byte("log this"), 0)
			require.NoError(t, err)
		},
		"a deadline": func(c *client.Client) { require.NoError(t, c.SetDeadline(time.Unix(1, 0))) },
	} {
		c := s.from(t, p, nil)
		use(c)
		require.NoError(t, c.Close())
		require.Equal(t, 1, p.Stats().Idle, "%s: %+v", name, p.Stats())
	}
	require.EqualValues(t, 1, p.Stats().Dials)

	// And the deadline is not the next one's.
	c := s.from(t, p, nil)
	_, err := c.Send([]byte("x"), 0)
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	require.NoError(t, c.Close())
}

func TestPool_CloseDuringACallClosesTheConnection(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	s := countedServer(t, "tcp", func(net.Conn) { <-done })
	p := newPool(t, client.PoolOptions{})
	c := s.from(t, p, &client.Options{Timeout: -1})
	result := make(chan error, 1)
	go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
	inKernel(t)
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-result, net.ErrClosed)
	require.EqualValues(t, 1, p.Stats().Discards[client.DiscardFailed])
}

func TestPoolKey_DifferentOptionsShareNoConnection(t *testing.T) {
	s := countedEcho(t, "tcp")
	tlsEcho := listenTLS(t, "tcp", nil)
	go func() {
		for {
			conn, err := tlsEcho.Accept()
			if err != nil {
				return
			}
			go func() { peer := tls.Server(conn, tlsEcho.config); echo(peer); _ = peer.Close() }()
		}
	}()
	trust := tlsEcho.trust(t)
	other := *trust
	other.CAFile = tempFile(t, "same.pem", tlsEcho.cert.Root.CertPEM())
	own := testcert.NewRoot(t, "me").Issue(t, "me", nil)
	certFile, keyFile, _ := own.Files(t)
	crl := tempFile(t, "crl", tlsEcho.cert.Root.Revoke(t, nil))
	with := func(change func(o *client.TLSOptions)) *client.Options {
		o := *trust
		change(&o)
		return &client.Options{TLS: &o}
	}
	control := func(mark int) func(string, string, syscall.RawConn) error {
		return func(string, string, syscall.RawConn) error { _ = mark; return nil }
	}
	one, two := control(1), control(2)
	for name, test := range map[string]struct {
		address string
		opts    []*client.Options
	}{
		"plain": {s.Addr().String(), []*client.Options{
			nil, {PoolKey: "a"}, {PoolKey: "b"}, {LocalAddr: "127.0.0.1:0"}, {LocalAddr: "127.0.0.2:0"},
			{NoDelay: client.SwitchOff}, {NoDelay: client.SwitchOn}, {Resolver: &net.Resolver{}}, {Resolver: &net.Resolver{PreferGo: true}},
			{Control: one}, {Control: two},
		}},
		"TLS": {tlsEcho.Addr().String(), []*client.Options{
			{TLS: trust}, {TLS: &other},
			with(func(o *client.TLSOptions) { o.ServerName = "127.0.0.1" }),
			with(func(o *client.TLSOptions) { o.AllowSelfSigned = true }),
			with(func(o *client.TLSOptions) { o.InsecureSkipVerify = true }),
			with(func(o *client.TLSOptions) { o.VerifyDepth = 5 }),
			with(func(o *client.TLSOptions) { o.NextProtos = []string{"a"} }),
			with(func(o *client.TLSOptions) { o.NextProtos = []string{"a", "b"} }),
			with(func(o *client.TLSOptions) { o.MinVersion = tls.VersionTLS13 }),
			with(func(o *client.TLSOptions) { o.MaxVersion = tls.VersionTLS12 }),
			with(func(o *client.TLSOptions) { o.CertFile, o.KeyFile = certFile, keyFile }),
			with(func(o *client.TLSOptions) { o.CertFile, o.KeyFile, o.Passphrase = certFile, keyFile, "x" }),
			with(func(o *client.TLSOptions) { o.CRLFile = crl }),
			with(func(o *client.TLSOptions) { o.CAPath = "/etc/ssl/certs" }),
			with(func(o *client.TLSOptions) { o.Config = &tls.Config{} }),
			with(func(o *client.TLSOptions) { o.Config = &tls.Config{} }),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, client.PoolOptions{})
			seen := make(map[string]int)
			for round := range 2 {
				for i, opts := range test.opts {
					c, err := p.Dial(t.Context(), "tcp", test.address, opts)
					require.NoError(t, err, "%d", i)
					if before, ok := seen[local(c)]; ok {
						require.Equal(t, before, i, "shared")
					}
					require.Equal(t, round > 0, c.Reused(), "%d", i)
					seen[local(c)] = i
					asks(t, c, "hello")
					require.NoError(t, c.Close())
				}
			}
			require.Len(t, p.Stats().Keys, len(test.opts))
		})
	}
	t.Run("network", func(t *testing.T) {
		p := newPool(t, client.PoolOptions{})
		for _, network := range []string{"tcp", "tcp4"} {
			c, err := p.Dial(t.Context(), network, s.Addr().String(), nil)
			require.NoError(t, err)
			require.False(t, c.Reused())
			require.NoError(t, c.Close())
		}
	})
	t.Run("proxy", func(t *testing.T) {
		p := newPool(t, client.PoolOptions{})
		for _, user := range []string{"a", "b"} {
			fake := &fakeProxy{reply: socksGranted}
			address, _ := fake.serve(t, fake.socks5)
			c, err := p.Dial(t.Context(), "tcp", "name.test:1", &client.Options{Proxy: "socks5://" + user + ":x@" + address})
			require.NoError(t, err)
			require.False(t, c.Reused())
			require.NoError(t, c.Close())
		}
		require.Equal(t, 2, p.Stats().Idle)
		require.NoError(t, p.Close()) // before the proxies wait for their connections to end
	})
}

// Time limits and deadlines are those of the current client, not of the one that
// dialled.
func TestPool_TimeoutsAreThoseOfTheCurrentCaller(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	s, p := countedServer(t, "tcp", func(net.Conn) { <-done }), newPool(t, client.PoolOptions{})
	require.NoError(t, s.from(t, p, &client.Options{Timeout: -1}).Close())
	const limit = 30 * time.Millisecond
	c := s.from(t, p, &client.Options{RecvTimeout: limit})
	require.True(t, c.Reused())
	begin := time.Now()
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	require.NoError(t, c.Close())
}

func TestPool_ChecksIdleConnections(t *testing.T) {
	for name, test := range map[string]struct {
		do    func(t *testing.T, peer net.Conn)
		cause client.DiscardCause
	}{
		"closed":     {func(_ *testing.T, peer net.Conn) { _ = peer.Close() }, client.DiscardDead},
		"half open":  {func(_ *testing.T, peer net.Conn) { _ = peer.(interface{ CloseWrite() error }).CloseWrite() }, client.DiscardDead},
		"late reply": {func(_ *testing.T, peer net.Conn) { _, _ = peer.Write([]byte("somebody else's")) }, client.DiscardUnclean},
	} {
		for _, network := range streamNetworks {
			t.Run(name+" "+network, func(t *testing.T) {
				done := make(chan struct{})
				defer close(done)
				s := countedServer(t, network, func(conn net.Conn) {
					_, _ = io.CopyN(conn, conn, 1)
					<-done
				})
				p := newPool(t, client.PoolOptions{})
				// Three that are not fit and one below that is: it is the one to get.
				var all [4]*client.Client
				var peers [4]net.Conn
				for i := range all {
					all[i] = s.from(t, p, nil)
					peers[i] = <-s.new
					asks(t, all[i], "x")
				}
				good := local(all[0])
				for _, c := range all {
					require.NoError(t, c.Close())
				}
				for _, peer := range peers[1:] {
					test.do(t, peer)
				}
				time.Sleep(10 * time.Millisecond) // on loopback it has arrived; elsewhere nothing could tell
				c := s.from(t, p, nil)
				if network != "unix" {
					require.Equal(t, good, local(c))
				}
				require.True(t, c.Reused())
				stats := p.Stats()
				require.EqualValues(t, 3, stats.Discards[test.cause], "%+v", stats)
				require.EqualValues(t, 1, stats.Reuses)
				require.NoError(t, c.Close())
				require.Equal(t, 4, s.count())
			})
		}
	}
	t.Run("reset", func(t *testing.T) {
		s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
		c := s.from(t, p, nil)
		peer := <-s.new
		require.NoError(t, c.Close())
		require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		require.NoError(t, peer.Close())
		require.Eventually(t, func() bool {
			c := s.from(t, p, nil)
			defer func() { _ = c.Discard() }()
			return !c.Reused()
		}, testTimeout, time.Millisecond)
	})
}
