package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// ends waits until the server has seen a connection end, whatever comes before that.
func ends(t *testing.T, peer net.Conn) {
	t.Helper()
	_ = peer.SetReadDeadline(time.Now().Add(testTimeout)) // the server may have closed it
	_, err := io.Copy(io.Discard, peer)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// Setup runs once for each connection, before any caller gets it.
func TestPoolSetup_RunsOncePerConnection(t *testing.T) {
	s := countedEcho(t, "tcp")
	var setups atomic.Int32
	p := newPool(t, client.PoolOptions{MinIdle: 1, Setup: func(ctx context.Context, c *client.Client) error {
		setups.Add(1)
		require.False(t, c.Reused())
		limit, ok := ctx.Deadline()
		require.True(t, ok)
		require.LessOrEqual(t, time.Until(limit), testTimeout)
		return pings(c)
	}})
	opts := &client.Options{ConnectTimeout: testTimeout}
	c := s.from(t, p, opts)
	require.Zero(t, c.ReuseCount())
	require.False(t, c.Reused(), "it counts as new")
	require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
	require.EqualValues(t, 2, setups.Load())
	require.NoError(t, c.Close())
	require.Equal(t, 2, p.Stats().Idle)

	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), opts, pings))
	c, err := p.DialNew(t.Context(), "tcp", s.Addr().String(), opts)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.EqualValues(t, 3, setups.Load())
	require.EqualValues(t, setups.Load(), p.Stats().Dials)
}

// What Setup has sent without an answer, such as a PROXY header, does not count for the
// clients.
func TestPoolSetup_ConnectionCountsAsNewAfterIt(t *testing.T) {
	for name, setup := range map[string]func(c *client.Client) error{
		"no answer":  func(c *client.Client) error { _, err := c.Send([]byte("PROXY\r\n"), 0); return err },
		"a deadline": func(c *client.Client) error { return c.SetDeadline(time.Now().Add(time.Hour)) },
		"the descriptor": func(c *client.Client) error {
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			return raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 0)
			})
		},
		"a look at nothing": func(c *client.Client) error { _, _ = c.Recv(make([]byte, 1), client.DontWait); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := silentServer(t, "tcp")
			p := newPool(t, client.PoolOptions{Setup: func(_ context.Context, c *client.Client) error { return setup(c) }})
			opts := &client.Options{Framing: lines}
			for i := range 3 {
				c := s.from(t, p, opts)
				require.Equal(t, i, c.ReuseCount())
				require.NoError(t, c.Close())
				require.Equal(t, 1, p.Stats().Idle, "%+v", p.Stats())
			}
		})
	}
	t.Run("nor has it a limit", func(t *testing.T) {
		s := silentServer(t, "tcp")
		p := newPool(t, client.PoolOptions{Setup: func(context.Context, *client.Client) error { return nil }})
		const limit = 30 * time.Millisecond
		c := s.from(t, p, &client.Options{ConnectTimeout: limit, RecvTimeout: 3 * limit})
		begin := time.Now()
		_, err := c.Recv(make([]byte, 1), 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), 3*limit)
		require.NoError(t, c.Close())
	})
}

// Setup may call StartTLS. The connection is reused and has TLS for all its clients.
func TestPoolSetup_MayStartTLS(t *testing.T) {
	m := newMailServer(t)
	inside, _ := m.serve()
	trust := m.trust(t)
	p := newPool(t, client.PoolOptions{Setup: func(ctx context.Context, c *client.Client) error {
		for _, say := range []string{"", "EHLO me\r\n", "STARTTLS\r\n"} {
			if _, err := c.Send([]byte(say), 0); err != nil {
				return err
			}
			readLine(t, c)
		}
		if err := c.StartTLS(ctx, trust); err != nil {
			return err
		}
		require.Equal(t, "250 inside\r\n", readLine(t, c))
		return nil
	}})
	for i := range 3 {
		c, err := p.Dial(t.Context(), "tcp4", m.Addr().String(), nil)
		require.NoError(t, err)
		require.Equal(t, i, c.ReuseCount())
		require.True(t, c.ConnectionState().HandshakeComplete)
		require.NoError(t, c.Close())
		require.Equal(t, 1, p.Stats().Idle, "%+v", p.Stats())
	}
	require.NoError(t, p.Close())
	require.Empty(t, <-inside)
}

func TestPoolSetup_FailureFailsTheDial(t *testing.T) {
	no := errors.New("no such user")
	send := func(c *client.Client, s string) { _, _ = c.Send([]byte(s), 0) }
	for name, test := range map[string]struct {
		setup func(c *client.Client) error
		is    error
		says  string
	}{
		"an error": {func(*client.Client) error { return no }, no, "Setup: no such user"},
		"another dial's error": {func(*client.Client) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: no}
		}, no, "Setup: dial"},
		"an end": {func(c *client.Client) error {
			send(c, "bye!")
			_, err := c.Recv(make([]byte, 4), 0)
			return err
		}, io.EOF, ""},
		"an end that it does not tell": {func(c *client.Client) error {
			send(c, "bye!")
			_, _ = c.Recv(make([]byte, 4), 0)
			return nil
		}, nil, "had failed"},
		"an end that it has not seen": {func(c *client.Client) error {
			send(c, "bye!")
			for c.IsConnected() {
				time.Sleep(time.Millisecond)
			}
			return nil
		}, nil, "has closed"},
		"Close":      {func(c *client.Client) error { return c.Close() }, nil, "the client was closed"},
		"Discard":    {func(c *client.Client) error { return c.Discard() }, nil, "the client was closed"},
		"CloseWrite": {func(c *client.Client) error { return c.CloseWrite() }, nil, "had failed"},
		"a call under way": {func(c *client.Client) error {
			go func() { _, _ = c.Recv(make([]byte, 1), 0) }()
			inKernel(t)
			return nil
		}, nil, "under way"},
		"a part of an answer": {func(c *client.Client) error {
			send(c, "ping")
			_, err := c.Recv(make([]byte, 4), client.WaitAll|client.Peek)
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 2), 0)
			return err
		}, nil, "unread"},
		"a packet": {func(c *client.Client) error {
			send(c, "one\r\ntwo\r\n")
			_, err := c.Recv(make([]byte, 10), client.WaitAll|client.Peek)
			require.NoError(t, err)
			_, err = c.RecvPacket()
			return err
		}, nil, "unread"},
	} {
		t.Run(name, func(t *testing.T) {
			s := countedServer(t, "tcp", func(conn net.Conn) {
				p := make([]byte, 16)
				for {
					n, err := conn.Read(p)
					if err != nil || string(p[:n]) == "bye!" {
						return
					}
					_, _ = conn.Write(p[:n])
				}
			})
			runs := 0
			p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1, Setup: func(_ context.Context, c *client.Client) error {
				runs++
				return test.setup(c)
			}})
			c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{Framing: lines})
			require.Error(t, err)
			require.Nil(t, c)
			require.Equal(t, 1, runs)
			require.True(t, client.SafeToRetry(err), "no request was sent")
			require.ErrorContains(t, err, test.says)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "dial", op.Op)
			require.Equal(t, s.Addr().String(), op.Addr.String())
			ends(t, <-s.new)
			stats := p.Stats()
			require.EqualValues(t, 1, stats.DialErrors)
			require.EqualValues(t, 1, stats.Discards[client.DiscardSetup])
			require.Zero(t, stats.Idle+stats.Active+stats.Dialing)
			require.Error(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, pings))
			require.Equal(t, 2, runs, "it is no reason to repeat")
		})
	}
}

// What the server sends after a Setup that has received nothing is for the first client.
func TestPoolSetup_LaterGreetingIsForTheFirstClient(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 7))
		_, _ = conn.Write([]byte("hello"))
		_, _ = conn.Read(make([]byte, 1))
	})
	p := newPool(t, client.PoolOptions{MinIdle: 1, Setup: func(_ context.Context, c *client.Client) error {
		_, err := c.Send([]byte("PROXY\r\n"), 0)
		return err
	}})
	for range 2 {
		c := s.from(t, p, nil)
		receives(t, c, []byte("hello"))
		require.NoError(t, c.Discard())
		require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
	}
}

// The limit of the dial bounds Setup, whatever limits its calls have. The connection of
// a caller that gave up is closed, and Close of the pool ends Setup.
func TestPoolSetup_EndsWithTheDial(t *testing.T) {
	inParallelIfShort(t)
	hangs := func(_ context.Context, c *client.Client) error {
		_, err := c.Recv(make([]byte, 1), 0)
		return err
	}
	for name, setup := range map[string]func(context.Context, *client.Client) error{
		"in a call":      hangs,
		"by its context": func(ctx context.Context, _ *client.Client) error { <-ctx.Done(); return ctx.Err() },
		"by no deadline": func(ctx context.Context, c *client.Client) error {
			_ = c.SetDeadline(time.Time{})
			return hangs(ctx, c)
		},
		"in a handshake":  func(ctx context.Context, c *client.Client) error { return c.StartTLS(ctx, nil) },
		"in a handshake,": func(_ context.Context, c *client.Client) error { return c.StartTLS(context.Background(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := silentServer(t, "tcp")
			const limit = 60 * time.Millisecond
			p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1, Setup: setup})
			begin := time.Now()
			_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{Timeout: testTimeout, ConnectTimeout: limit, TLS: nil})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			require.True(t, timeout.Timeout())
			require.GreaterOrEqual(t, time.Since(begin), limit)
			require.Less(t, time.Since(begin), testTimeout/2)
			ends(t, <-s.new)

			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			opts := &client.Options{Timeout: -1}
			go func() { _, err := p.Dial(ctx, "tcp", s.Addr().String(), opts); got <- err }()
			peer := <-s.new
			cancel()
			require.ErrorIs(t, <-got, context.Canceled)
			require.NoError(t, p.Close())
			ends(t, peer)
			require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
		})
	}
}

// A reference to the client of Setup reaches nothing afterwards, like that to a released
// client.
func TestPoolSetup_ItsClientIsClosedAfterwards(t *testing.T) {
	s := countedEcho(t, "tcp")
	var old *client.Client
	var raw syscall.RawConn
	p := newPool(t, client.PoolOptions{Setup: func(_ context.Context, c *client.Client) (err error) {
		old = c
		raw, err = c.SyscallConn()
		return err
	}})
	c := s.from(t, p, nil)
	for name, call := range map[string]func() error{
		"Send":        func() error { _, err := old.Send([]byte("x"), 0); return err },
		"Recv":        func() error { _, err := old.Recv(make([]byte, 1), 0); return err },
		"SetDeadline": func() error { return old.SetDeadline(time.Unix(1, 0)) },
		"StartTLS":    func() error { return old.StartTLS(t.Context(), nil) },
		"raw":         func() error { return raw.Control(func(uintptr) { t.Error("called") }) },
		"Close":       old.Close,
		"Discard":     old.Discard,
	} {
		require.ErrorIs(t, call(), net.ErrClosed, name)
	}
	require.False(t, old.IsConnected())
	asks(t, c, "mine")
	require.NoError(t, c.Close())
}

// A Setup that does not return loses neither its place nor its connection.
func TestPoolSetup_PanicLeaksNothing(t *testing.T) {
	for name, test := range map[string]struct{ leave func() }{
		"panic":  {func() { panic("no") }},
		"Goexit": {runtime.Goexit},
	} {
		for _, over := range []string{"plain", "TLS"} {
			t.Run(name+", "+over, func(t *testing.T) {
				secure := listenTLS(t, "tcp", nil)
				s := countedServer(t, "tcp", func(conn net.Conn) {
					if over == "TLS" {
						conn = tls.Server(conn, secure.config)
					}
					echo(conn)
				})
				opts := &client.Options{}
				if over == "TLS" {
					opts.TLS = secure.trust(t)
				}
				first := true
				p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1, Setup: func(_ context.Context, c *client.Client) error {
					if first {
						first = false
						test.leave()
					}
					return pings(c)
				}})
				dial := func() (err error) {
					defer func() {
						if v := recover(); v != nil {
							err = errors.New(v.(string))
						}
					}()
					_, err = p.Dial(t.Context(), "tcp", s.Addr().String(), opts)
					return err
				}
				require.Error(t, dial())
				ends(t, <-s.new)
				require.Zero(t, p.Stats().Dialing+p.Stats().Active)
				require.EqualValues(t, 1, p.Stats().Discards[client.DiscardSetup])
				c := s.from(t, p, opts)
				asks(t, c, "ping")
				require.NoError(t, c.Close())
			})
		}
	}
}

// AUTH and SELECT of redis: each connection is set up once and used several times.
func TestPoolSetup_LogsInToRedis(t *testing.T) {
	_, addrs := startRedis(t)
	says := func(c *client.Client, request, want string) error {
		if _, err := c.SendPacket([]byte(request)); err != nil {
			return err
		}
		reply, err := c.RecvPacket()
		if err == nil && !strings.HasPrefix(string(reply), want) {
			err = errors.New(string(reply))
		}
		return err
	}
	opts := &client.Options{Framing: lines}
	admin := newPool(t, client.PoolOptions{})
	require.NoError(t, admin.Do(t.Context(), "tcp", addrs["tcp"], opts, func(c *client.Client) error {
		return says(c, "CONFIG SET requirepass secret", "+OK")
	}))
	for password, ok := range map[string]bool{"secret": true, "wrong": false} {
		p := newPool(t, client.PoolOptions{Setup: func(_ context.Context, c *client.Client) error {
			if err := says(c, "AUTH "+password, "+OK"); err != nil {
				return err
			}
			return says(c, "SELECT 3", "+OK")
		}})
		for range 3 {
			err := p.Do(t.Context(), "tcp", addrs["tcp"], opts, func(c *client.Client) error {
				return says(c, "SET key value", "+OK")
			})
			require.Equal(t, ok, err == nil, "%v", err)
			if !ok {
				require.ErrorContains(t, err, "WRONGPASS")
			}
		}
		require.Equal(t, ok, p.Stats().Dials == 1)
	}
}

// A context that Setup watches, and does not unwatch, ends no call of later clients.
func TestPoolSetup_EndsItsWatches(t *testing.T) {
	for name, of := range map[string]func(ctx context.Context) context.Context{
		"of Setup's context": func(ctx context.Context) context.Context { return ctx },
		"of another": func(ctx context.Context) context.Context {
			other, cancel := context.WithCancel(context.Background())
			context.AfterFunc(ctx, cancel) // when the dial is done
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := countedEcho(t, "tcp")
			var watched context.Context
			p := newPool(t, client.PoolOptions{Setup: func(ctx context.Context, c *client.Client) error {
				watched = of(ctx)
				c.Watch(watched)
				return pings(c)
			}})
			for range 3 {
				c := s.from(t, p, &client.Options{ConnectTimeout: testTimeout})
				<-watched.Done()
				require.NoError(t, pings(c))
				require.NoError(t, c.Close())
			}
			require.EqualValues(t, 1, p.Stats().Dials)
		})
	}
}

// A context that has ended may have ended a call.
func TestPoolSetup_FailsIfAWatchedContextEnded(t *testing.T) {
	s := countedEcho(t, "tcp")
	p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1, Setup: func(_ context.Context, c *client.Client) error {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		c.Watch(over)
		return nil
	}})
	_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), nil)
	require.ErrorContains(t, err, "a watched context had ended")
	ends(t, <-s.new)
	require.Zero(t, p.Stats().Dialing+p.Stats().Active+p.Stats().Idle)
}

// At the limit the error of the dial is a timeout, whatever Setup does with the error of
// its call.
func TestPoolSetup_ErrorAtTheLimitIsATimeout(t *testing.T) {
	inParallelIfShort(t)
	for name, prepare := range map[string]func(ctx context.Context, c *client.Client){
		"the dial's limit": func(context.Context, *client.Client) {},
		"a deadline that Setup sets": func(ctx context.Context, c *client.Client) {
			limit, _ := ctx.Deadline()
			_ = c.SetDeadline(limit)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := silentServer(t, "tcp")
			p := newPool(t, client.PoolOptions{Setup: func(ctx context.Context, c *client.Client) error {
				prepare(ctx, c)
				if _, err := c.Recv(make([]byte, 1), 0); err != nil {
					return errors.New("login failed")
				}
				return nil
			}})
			for range 20 {
				_, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{ConnectTimeout: 10 * time.Millisecond})
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout(), "%v", err)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
		})
	}
}

// The first client would receive an answer that is outstanding when Setup returns. Only
// a Setup that has received nothing and sent no packet may have sent something without
// an answer.
func TestPoolSetup_FailsIfAnAnswerIsOutstanding(t *testing.T) {
	const answer = "ok\r\n"
	calls := map[string]func(c *client.Client) error{
		"Send":       func(c *client.Client) error { _, err := c.Send([]byte("auth\r\n"), 0); return err },
		"Recv":       func(c *client.Client) error { _, err := c.Recv(make([]byte, len(answer)), client.WaitAll); return err },
		"SendPacket": func(c *client.Client) error { _, err := c.SendPacket([]byte("auth")); return err },
		"RecvPacket": func(c *client.Client) error { _, err := c.RecvPacket(); return err },
	}
	for setup, fails := range map[string]bool{
		"Recv Send":                        true,
		"SendPacket":                       true,
		"SendPacket SendPacket RecvPacket": true,
		"RecvPacket SendPacket SendPacket RecvPacket": true,
		"Send Recv Send":                   true,
		"Recv Send Recv":                   false,
		"RecvPacket SendPacket RecvPacket": false,
		"Send":                             false, // a PROXY header
		"Send RecvPacket":                  false,
	} {
		for _, unanswered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ReuseUnanswered %v", setup, unanswered), func(t *testing.T) {
				s := countedServer(t, "tcp", func(conn net.Conn) {
					_, _ = conn.Write([]byte(strings.Repeat(answer, strings.Count(setup, "Recv"))))
					_, _ = io.Copy(io.Discard, conn)
				})
				p := newPool(t, client.PoolOptions{ReuseUnanswered: unanswered, Setup: func(_ context.Context, c *client.Client) error {
					for call := range strings.FieldsSeq(setup) {
						if err := calls[call](c); err != nil {
							return err
						}
					}
					return nil
				}})
				c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{Framing: lines})
				if fails && !unanswered {
					require.ErrorContains(t, err, "had not arrived")
					return
				}
				require.NoError(t, err)
				require.NoError(t, c.Close())
			})
		}
	}
}
