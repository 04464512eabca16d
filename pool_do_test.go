package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// staleEcho is an echo server that closes its first connection when it receives the
// second request: the pool cannot detect that in advance.
func staleEcho(t *testing.T) *counted {
	t.Helper()
	first := make(chan struct{}, 1)
	first <- struct{}{}
	return countedServer(t, "tcp", func(conn net.Conn) {
		select {
		case <-first:
			_, _ = io.CopyN(conn, conn, 4)
			_, _ = io.ReadFull(conn, make([]byte, 4))
		default:
			echo(conn)
		}
	})
}

func TestPoolDo_RetriesOnceOnANewConnectionIfSafe(t *testing.T) {
	ask := func(c *client.Client) error {
		if _, err := c.Send([]byte("ping"), 0); err != nil {
			return err
		}
		_, err := c.Recv(make([]byte, 4), client.WaitAll)
		return err
	}
	repeatable := func(c *client.Client) error { return client.Retryable(ask(c)) }
	for _, test := range []struct {
		name string
		fn   func(c *client.Client) error
		runs int
		ok   bool
	}{
		{"repeatable", repeatable, 2, true},
		{"not repeatable", ask, 1, false},
		{"nothing sent", func(c *client.Client) error {
			if c.Reused() {
				require.NoError(t, c.CloseWrite()) // as when the kernel knows of the end
			}
			return ask(c)
		}, 2, true},
		{"an error that is not the connection's", func(*client.Client) error {
			return client.Retryable(errors.New("no such key"))
		}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, p := staleEcho(t), newPool(t, client.PoolOptions{})
			require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, ask))
			runs := 0
			err := p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
				runs++
				require.Equal(t, runs == 1, c.Reused())
				return test.fn(c)
			})
			require.Equal(t, test.runs, runs)
			require.Equal(t, test.ok, err == nil, "%v", err)
			require.Zero(t, p.Stats().Active)
		})
	}
}

func TestPoolDo_NoRetryAfterPartOfAnAnswer(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = io.CopyN(conn, conn, 4)
		_, _ = io.ReadFull(conn, make([]byte, 4))
		_, _ = conn.Write([]byte("po"))
	})
	p := newPool(t, client.PoolOptions{})
	runs := 0
	for range 2 {
		err := p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
			runs++
			_, err := c.Send([]byte("ping"), 0)
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 4), client.WaitAll)
			return client.Retryable(err)
		})
		require.Equal(t, runs == 2, errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
	}
	require.Equal(t, 2, runs)
}

// Do does not retry even if it would be safe: a server that fails each time must not be
// flooded.
func TestPoolDo_NoRetryForANewConnection(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) { _, _ = conn.Read(make([]byte, 4)) })
	p := newPool(t, client.PoolOptions{})
	runs := 0
	err := p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		runs++
		_, err := c.Send([]byte("ping"), 0)
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 4), client.WaitAll)
		return client.Retryable(err)
	})
	require.Error(t, err)
	require.Equal(t, 1, runs)
	require.EqualValues(t, 1, p.Stats().Dials)
}

// The second run gets a new connection even if others are idle: they may be as stale as
// the first.
func TestPoolDo_SecondRunGetsANewConnection(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = io.CopyN(conn, conn, 4)
		_, _ = io.ReadFull(conn, make([]byte, 4))
	})
	p := newPool(t, client.PoolOptions{MaxConnsPerKey: 3})
	var all []*client.Client
	for range 3 {
		c := s.from(t, p, nil)
		asks(t, c, "ping")
		all = append(all, c)
	}
	for _, c := range all {
		require.NoError(t, c.Close())
	}
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		if _, err := c.Send([]byte("ping"), 0); err != nil {
			return err
		}
		_, err := c.Recv(make([]byte, 4), client.WaitAll)
		return client.Retryable(err)
	}))
	require.EqualValues(t, 4, p.Stats().Dials)
	require.Equal(t, 3, p.Stats().Idle)
}

func TestPoolDo_PanicLeaksNothing(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
	require.Panics(t, func() {
		_ = p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(*client.Client) error { panic("no") })
	})
	require.Zero(t, p.Stats().Active)
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		asks(t, c, "ping")
		return nil
	}))
}

// A late reply must not reach another caller, whatever made it late.
func TestPoolDo_LateReplyReachesNoOtherCaller(t *testing.T) {
	release := make(chan struct{})
	s := countedServer(t, "tcp", func(conn net.Conn) {
		p := make([]byte, 4)
		for {
			if _, err := io.ReadFull(conn, p); err != nil {
				return
			}
			if string(p) == "slow" {
				<-release
			}
			_, _ = conn.Write(p)
		}
	})
	p := newPool(t, client.PoolOptions{})
	for name, use := range map[string]func(c *client.Client){
		"timed out": func(c *client.Client) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err := c.Recv(make([]byte, 4), 0)
			require.Error(t, err)
		},
		"not waited for":      func(*client.Client) {},
		"looked for and gone": func(c *client.Client) { _, _ = c.Recv(make([]byte, 4), client.DontWait) },
	} {
		t.Run(name, func(t *testing.T) {
			c := s.from(t, p, nil)
			_, err := c.Send([]byte("slow"), 0)
			require.NoError(t, err)
			use(c)
			require.NoError(t, c.Close())
			next := s.from(t, p, &client.Options{Timeout: testTimeout})
			_, err = next.Send([]byte("mine"), 0)
			require.NoError(t, err)
			release <- struct{}{}
			got := make([]byte, 4)
			_, err = next.Recv(got, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "mine", string(got))
			require.NoError(t, next.Close())
		})
	}
}

func TestDialer_UsesItsPool(t *testing.T) {
	s, p := countedEcho(t, "tcp"), newPool(t, client.PoolOptions{})
	d := &client.Dialer{Pool: p}
	for range 3 {
		conn, err := d.DialContext(context.Background(), "tcp", s.Addr().String())
		require.NoError(t, err)
		_, err = conn.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, 5))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	require.EqualValues(t, 1, p.Stats().Dials)
}

func TestClient_WithoutPoolIsNotReused(t *testing.T) {
	c, _ := stream(t, "tcp", nil)
	require.False(t, c.Reused())
	require.Zero(t, c.ReuseCount())
	require.NoError(t, c.Discard())
	require.ErrorIs(t, c.Discard(), net.ErrClosed)
	require.NoError(t, client.Retryable(nil))
}
