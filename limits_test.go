package client_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

func TestSetLimits_BoundTheCallsThatFollow(t *testing.T) {
	const limit = 60 * time.Millisecond
	for _, network := range append(tlsNetworks, allNetworks...) {
		t.Run(network, func(t *testing.T) {
			c := connectedTo(t, network, &client.Options{Timeout: -1})
			c.SetLimits(client.Limits{RecvTimeout: limit})
			began := time.Now()
			_, err := c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(began), limit)
		})
	}
	for _, network := range []string{"tcp", "unix", "tls", "unixgram"} {
		t.Run("send "+network, func(t *testing.T) {
			c := connectedTo(t, network, &client.Options{Timeout: -1})
			fill(c)
			c.SetLimits(client.Limits{SendTimeout: limit})
			began := time.Now()
			_, err := c.Send(tooMuch(network), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(began), limit)
		})
	}
	t.Run("connect", func(t *testing.T) {
		hole := blackHole(t, "tcp", "127.0.0.1")
		c, err := client.NewTCP(&client.Options{Timeout: -1})
		require.NoError(t, err)
		defer c.Close()
		c.SetLimits(client.Limits{ConnectTimeout: limit})
		began := time.Now()
		require.ErrorIs(t, c.Connect(context.Background(), hole), os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(began), limit)
	})
}

func TestSetLimits_ReturnsThePreviousOnes(t *testing.T) {
	c := connectedTo(t, "unix", &client.Options{SendTimeout: -1})
	first := client.Limits{ConnectTimeout: client.DefaultTimeout, RecvTimeout: client.DefaultTimeout, SendTimeout: -1}
	require.Equal(t, first, c.SetLimits(client.Limits{}))
	require.Equal(t, first, c.SetLimits(client.Limits{RecvTimeout: time.Hour}), "zero has changed nothing")
	second := first
	second.RecvTimeout = time.Hour
	require.Equal(t, second, c.SetLimits(first))
	require.Equal(t, first, c.SetLimits(client.Limits{}))

	var zero client.Client
	require.Zero(t, zero.SetLimits(first))
	require.NoError(t, c.Close())
	require.Equal(t, first, c.SetLimits(second), "a closed client has limits, too")
}

// A call that waits is ended by a deadline, not by a new limit.
func TestSetLimits_CallsUnderWayKeepTheirLimit(t *testing.T) {
	c, peer := stream(t, "unix", nil)
	result := make(chan error, 1)
	go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
	inKernel(t)
	c.SetLimits(client.Limits{RecvTimeout: time.Nanosecond})
	time.Sleep(30 * time.Millisecond)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, <-result)
}

func TestSetLimits_ConcurrentChangesAreNotLost(t *testing.T) {
	c := connectedTo(t, "unix", nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 1000 {
			c.SetLimits(client.Limits{RecvTimeout: time.Hour + time.Duration(i)})
		}
	})
	wg.Go(func() {
		for i := range 1000 {
			c.SetLimits(client.Limits{SendTimeout: time.Minute + time.Duration(i)})
		}
	})
	wg.Go(func() {
		for range 100 {
			_, _ = c.Recv(make([]byte, 1), client.DontWait)
		}
	})
	wg.Wait()
	require.Equal(t, client.Limits{
		ConnectTimeout: client.DefaultTimeout, RecvTimeout: time.Hour + 999, SendTimeout: time.Minute + 999,
	}, c.SetLimits(client.Limits{}))
}

func TestSetLimits_PooledClientReturnsToTheOptions(t *testing.T) {
	server := countedEcho(t, "unix")
	pool := newPool(t, client.PoolOptions{})
	opts := &client.Options{RecvTimeout: time.Hour}
	c := server.from(t, pool, opts)
	asks(t, c, "one")
	c.SetLimits(client.Limits{RecvTimeout: time.Nanosecond, SendTimeout: time.Nanosecond})
	require.NoError(t, c.Close())

	c = server.from(t, pool, opts)
	require.True(t, c.Reused())
	asks(t, c, "two")
	require.Equal(t, client.Limits{
		ConnectTimeout: client.DefaultTimeout, RecvTimeout: time.Hour, SendTimeout: client.DefaultTimeout,
	}, c.SetLimits(client.Limits{}))
	require.NoError(t, c.Close())
}
