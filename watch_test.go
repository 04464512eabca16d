package client_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestWatch_ContextEndsEveryWaitingCall(t *testing.T) {
	for _, network := range append(tlsNetworks, allNetworks...) {
		for name, call := range blockedCalls(t, network) {
			t.Run(network+", "+name, func(t *testing.T) {
				c, f := call(t)
				defer c.Close()
				ctx, cancel := context.WithCancel(context.Background())
				unwatch := c.Watch(ctx)
				result := make(chan error, 1)
				go func() { result <- f() }()
				inKernel(t)
				cancel()
				err := <-result
				require.ErrorIs(t, err, context.Canceled)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				require.ErrorIs(t, f(), context.Canceled, "and every later one")
				unwatch()
				unwatch()
			})
		}
	}
}

func TestWatch_EndsRecvPacketSelectAndStartTLS(t *testing.T) {
	for name, call := range map[string]func(c *client.Client) error{
		"RecvPacket": func(c *client.Client) error { _, err := c.RecvPacket(); return err },
		"Packets": func(c *client.Client) (err error) {
			for _, err = range c.Packets() {
			}
			return err
		},
		"Select": func(c *client.Client) error {
			other, _ := stream(t, "tcp", nil)
			_, err := client.Select([]*client.Client{other, c}, nil, nil, -1)
			var failed *client.SelectError
			if errors.As(err, &failed) && failed.Index != 1 {
				t.Errorf("about client %d", failed.Index)
			}
			return err
		},
		"StartTLS": func(c *client.Client) error { return c.StartTLS(context.Background(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := stream(t, "tcp", &client.Options{Timeout: -1, Framing: client.Delimiter{Delim: []byte("\n")}})
			ctx, cancel := context.WithCancel(context.Background())
			defer c.Watch(ctx)()
			result := make(chan error, 1)
			go func() { result <- call(c) }()
			inKernel(t)
			cancel()
			require.ErrorIs(t, <-result, context.Canceled)
		})
	}
}

// The deadline of a context is a timeout for every way to test for one.
func TestWatch_ContextDeadlineIsATimeout(t *testing.T) {
	inParallelIfShort(t)
	for _, network := range append(tlsNetworks, allNetworks...) {
		const limit = 30 * time.Millisecond
		c := connectedTo(t, network, &client.Options{Timeout: -1})
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		unwatch := c.Watch(ctx)
		_, err := c.Recv(make([]byte, 1), 0)
		require.GreaterOrEqual(t, time.Since(begin), limit)
		require.Less(t, time.Since(begin), testTimeout)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, timedOut(err))
		unwatch()
		cancel()
	}
}

// A context that has ended also ends calls that would not have to wait.
func TestWatch_CanceledContextEndsCallsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, network := range append(tlsNetworks, streamNetworks...) {
		c, peer := stream(t, network, nil)
		_, err := peer.Write([]byte("there"))
		require.NoError(t, err)
		unwatch := c.Watch(ctx)
		_, err = c.Recv(make([]byte, 5), 0)
		require.ErrorIs(t, err, context.Canceled)
		_, err = c.Send([]byte("x"), 0)
		require.ErrorIs(t, err, context.Canceled)
		unwatch()
		got := make([]byte, 5)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "there", string(got))
	}
}

// Neither does it let calls through that need no system call: a framing and TLS have data of
// their own, and TLS sends a record that it has made later.
func TestWatch_CanceledContextEndsCallsThatDoNotWait(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, network := range append(tlsNetworks, streamNetworks...) {
		for _, framing := range []client.Framing{nil, client.Delimiter{Delim: []byte("\n")}} {
			c, peer := stream(t, network, &client.Options{Framing: framing})
			_, err := peer.Write([]byte("there"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 5), client.Peek|client.WaitAll)
			require.NoError(t, err)
			unwatch := c.Watch(ctx)
			n, err := c.Recv(make([]byte, 5), client.DontWait)
			require.ErrorIs(t, err, context.Canceled, network)
			require.Zero(t, n)
			n, err = c.Send([]byte("lost"), client.DontWait)
			require.ErrorIs(t, err, context.Canceled, network)
			require.Zero(t, n)
			unwatch()
			_, err = c.Send([]byte("sent"), 0)
			require.NoError(t, err)
			got := make([]byte, 5)
			_, err = io.ReadFull(peer, got[:4])
			require.NoError(t, err)
			require.Equal(t, "sent", string(got[:4]))
			_, err = c.Recv(got, client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, "there", string(got))
		}
	}
}

// After unwatch no received data is lost, not in the middle of an exact receive, of a
// packet or of a TLS record.
func TestWatch_ClientIsUsableAfterUnwatch(t *testing.T) {
	for _, network := range append(tlsNetworks, streamNetworks...) {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{Timeout: -1, Framing: client.Delimiter{Delim: []byte("\n")}})
			for range 3 {
				ctx, cancel := context.WithCancel(context.Background())
				unwatch := c.Watch(ctx)
				result := make(chan error, 1)
				go func() { _, err := c.RecvPacket(); result <- err }()
				_, err := peer.Write([]byte("half a "))
				require.NoError(t, err)
				inKernel(t)
				cancel()
				require.ErrorIs(t, <-result, context.Canceled)
				unwatch()
				_, err = peer.Write([]byte("packet\n"))
				require.NoError(t, err)
				p, err := c.RecvPacket()
				require.NoError(t, err)
				require.Equal(t, "half a packet\n", string(p))
				_, err = c.Send([]byte("x"), 0)
				require.NoError(t, err)
			}
		})
	}
}

// canceledSend lets a context end a waiting Send and returns how much was sent.
func canceledSend(t *testing.T, c *client.Client, network string) (n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer c.Watch(ctx)()
	result := make(chan error, 1)
	go func() {
		var err error
		n, err = c.Send(tooMuch(network), 0)
		result <- err
	}()
	inKernel(t)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	return n
}

// A Send that a context ends returns its count. Over TLS the next Send first sends the
// rest of the record.
func TestWatch_EndedSendReturnsItsCount(t *testing.T) {
	for _, network := range append(tlsNetworks, "tcp", "unix") {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{Timeout: -1})
			n := canceledSend(t, c, network)
			require.Equal(t, n, readAfterEnd(t, network, c, peer))
		})
	}
}

func TestWatch_SeveralContexts(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
	one, cancelOne := context.WithCancelCause(context.Background())
	two, cancelTwo := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancelTwo()
	unwatchOne, unwatchTwo := c.Watch(one), c.Watch(two)
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancelOne(nil)
	unwatchTwo()
	require.Eventually(t, func() bool {
		_, err = c.Recv(make([]byte, 1), client.DontWait)
		return errors.Is(err, context.Canceled)
	}, testTimeout, time.Millisecond)
	unwatchOne()
	_, err = peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 1), 0)
	require.NoError(t, err)
}

// unwatch at the moment when the context ends leaves no trace.
func TestWatch_UnwatchWhileTheContextEnds(t *testing.T) {
	c, peer := stream(t, "tcp", &client.Options{Timeout: -1})
	go echo(peer)
	for range 2000 {
		ctx, cancel := context.WithCancel(context.Background())
		unwatch := c.Watch(ctx)
		go cancel()
		unwatch()
		require.NoError(t, roundTrip(c, make([]byte, 8)))
	}
}

func TestWatch_BackgroundContextCostsNothing(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	go echo(peer)
	buf := make([]byte, 8)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		unwatch := c.Watch(context.Background())
		if err := roundTrip(c, buf); err != nil {
			t.Error(err)
		}
		unwatch()
	}))
	new(client.Client).Watch(context.Background())()
	require.NoError(t, c.Close())
	ctx, cancel := context.WithCancel(context.Background())
	unwatch := c.Watch(ctx)
	cancel()
	_, err := c.Recv(make([]byte, 1), 0)
	require.True(t, strings.Contains(err.Error(), "closed"), err)
	unwatch()
}

// The end of Do's context ends the calls of its function, and the connection is closed.
func TestWatch_PoolDoEndsWithItsContext(t *testing.T) {
	ln := listen(t, "tcp")
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	for _, limited := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		want := context.Canceled
		if limited {
			ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
			want = context.DeadlineExceeded
		}
		runs := 0
		err := pool.Do(ctx, "tcp", ln.Addr().String(), &client.Options{Timeout: -1}, func(c *client.Client) error {
			runs++
			if !limited {
				go func() { inKernel(t); cancel() }()
			}
			if _, err := c.Send([]byte("x"), 0); err != nil {
				return err
			}
			_, err := c.Recv(make([]byte, 1), 0)
			return client.Retryable(err)
		})
		require.ErrorIs(t, err, want)
		require.Equal(t, 1, runs)
		require.Zero(t, pool.Stats().Idle)
		cancel()
	}
}

// A forgotten watch ends with the lease and does not affect the next client.
func TestWatch_EndsWithTheLeaseOfAPooledClient(t *testing.T) {
	ln := listen(t, "tcp")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := pool.Dial(ctx, "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	unwatch := c.Watch(ctx)
	require.NoError(t, roundTrip(c, make([]byte, 8)))
	require.NoError(t, c.Close())
	next, err := pool.Dial(context.Background(), "tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	require.True(t, next.Reused())
	cancel()
	unwatch()
	for range 100 {
		require.NoError(t, roundTrip(next, make([]byte, 8)))
	}
	require.NoError(t, next.Close())
}

// If a call is under way when a client is released, the connection is closed before
// another is dialled in its place.
func TestPool_CallUnderWayHoldsNoPlaceAfterClose(t *testing.T) {
	ln := listen(t, "tcp")
	var open atomic.Int64
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				_, _ = conn.Read(make([]byte, 1))
				open.Add(-1)
				_ = conn.Close()
			}()
		}
	}()
	pool := client.NewPool(client.PoolOptions{MaxConnsPerKey: 1})
	defer pool.Close()
	for range 20 {
		c, err := pool.Dial(context.Background(), "tcp", ln.Addr().String(), &client.Options{Timeout: -1, Linger: -1})
		require.NoError(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _, _ = c.Recv(make([]byte, 1), 0) }()
		inKernel(t)
		require.NoError(t, c.Close())
		<-done
		require.Eventually(t, func() bool { return open.Load() == 0 }, testTimeout, time.Millisecond, "it is closed, so the server knows")
	}
}

// A TLS record that a Send has begun is sent to its end, as after a timeout: the
// receiver may wait for the answer to it, and nothing else can be sent before.
func TestWatch_RestOfATLSRecordIsSent(t *testing.T) {
	for _, network := range tlsNetworks {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{Timeout: -1})
			n := canceledSend(t, c, network)
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(testTimeout)))
			_, err := io.CopyN(io.Discard, peer, int64(n))
			require.NoError(t, err, "all that was counted, and the client does nothing more for it")
			go func() { _, _ = peer.Write([]byte("answer")) }()
			_, err = c.Recv(make([]byte, 6), client.WaitAll)
			require.NoError(t, err)
		})
	}
}
