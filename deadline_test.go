package client_test

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A deadline that no clock of ours can represent is none: programs say "never" with the
// year 9999, or with the longest Duration, and found their calls to fail at once.
func TestDeadline_FarAwayIsNone(t *testing.T) {
	year9999 := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, far := range []time.Time{
		year9999, year9999.Local(), time.Unix(math.MaxInt64>>2, 0),
		time.Now().Add(math.MaxInt64), time.Now().Add(math.MaxInt64 - time.Hour), time.Now().Add(290 * 365 * 24 * time.Hour),
	} {
		for _, network := range append(tlsNetworks, streamNetworks...) {
			c, peer := stream(t, network, nil)
			require.NoError(t, c.SetDeadline(far))
			go echo(peer)
			require.NoError(t, roundTrip(c, make([]byte, 64)))
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.NoError(t, err)
		}
		ctx, cancel := context.WithDeadline(context.Background(), far)
		defer cancel()
		ln := listen(t, "tcp")
		opts := &client.Options{Resolver: names(t, map[string][]string{"far.example.": {"127.0.0.1"}})}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		c, err := client.DialContext(ctx, "tcp", "far.example.:"+port, opts)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		server := listenTLS(t, "tcp", nil)
		go func() {
			if conn, err := server.Accept(); err == nil {
				echo(tls.Server(conn, server.config))
			}
		}()
		c, err = client.DialContext(ctx, "tcp", server.Addr().String(), &client.Options{TLS: server.trust(t)})
		require.NoError(t, err)
		require.NoError(t, roundTrip(c, make([]byte, 64)))
		require.NoError(t, c.Close())
		pool := client.NewPool(client.PoolOptions{IdleTimeout: math.MaxInt64, MaxLifetime: math.MaxInt64})
		for range 2 {
			c, err = pool.Dial(ctx, "tcp", ln.Addr().String(), nil)
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
		require.EqualValues(t, 1, pool.Stats().Reuses)
		require.NoError(t, pool.Close())
	}
}

func TestTimeout_FarAwayIsNone(t *testing.T) {
	for _, far := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - time.Hour, math.MinInt64} {
		ln := listen(t, "tcp")
		c, peer := accepted(t, ln, &client.Options{Timeout: far})
		go echo(peer)
		require.NoError(t, roundTrip(c, make([]byte, 64)))
		ready, err := client.Select(nil, []*client.Client{c}, nil, far)
		require.NoError(t, err)
		require.Len(t, ready.Write, 1)
		conn, err := (&client.Dialer{}).DialTimeout("tcp", ln.Addr().String(), far)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

// And one in the past is past, however far.
func TestDeadline_LongOver(t *testing.T) {
	for _, past := range []time.Time{time.Time{}.Add(1), time.Unix(math.MinInt64>>2, 0), time.Unix(1, 0), time.Now().Add(math.MinInt64), time.Now()} {
		c, peer := stream(t, "tcp", nil)
		_, err := peer.Write([]byte("there"))
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(past))
		_, err = c.Recv(make([]byte, 5), 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		ctx, cancel := context.WithDeadline(context.Background(), past)
		_, err = client.DialContext(ctx, "tcp", listen(t, "tcp").Addr().String(), nil)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// The first deadline ever set ends a call that waits inside recvfrom(2), as any later one
// does, and as net's: a program that stops its readers by SetReadDeadline of now would
// else hang with Timeout -1 for ever.
func TestDeadline_FirstOneEndsAWaitingReceive(t *testing.T) {
	calls := map[string]func(c *client.Client) error{
		"Recv":     func(c *client.Client) error { _, err := c.Recv(make([]byte, 9), 0); return err },
		"WaitAll":  func(c *client.Client) error { _, err := c.Recv(make([]byte, 9), client.WaitAll); return err },
		"Peek":     func(c *client.Client) error { _, err := c.Recv(make([]byte, 9), client.Peek); return err },
		"Read":     func(c *client.Client) error { _, err := c.Read(make([]byte, 9)); return err },
		"RecvFrom": func(c *client.Client) error { _, _, err := c.RecvFrom(make([]byte, 9), 0); return err },
		"RecvPacket": func(c *client.Client) error {
			_, err := c.RecvPacket()
			return err
		},
	}
	for _, network := range append(tlsNetworks, allNetworks...) {
		for name, call := range calls {
			isDatagram := network == "udp" || network == "udp6" || network == "unixgram"
			if isDatagram && name == "RecvPacket" || !isDatagram && name == "RecvFrom" {
				continue
			}
			t.Run(network+", "+name, func(t *testing.T) {
				for _, timeout := range []time.Duration{-1, 0, 10 * testTimeout} {
					opts := &client.Options{Timeout: timeout}
					if !isDatagram {
						opts.Framing = client.Delimiter{Delim: []byte("\n")}
					}
					c := connectedTo(t, network, opts)
					result := make(chan error, 1)
					go func() { result <- call(c) }()
					inKernel(t)
					begin := time.Now()
					require.NoError(t, c.SetReadDeadline(begin))
					require.ErrorIs(t, <-result, os.ErrDeadlineExceeded)
					require.Less(t, time.Since(begin), client.DefaultTimeout/2, "not the limit of the call")
					require.NoError(t, c.Close())
				}
			})
		}
	}
}

// The first deadline of a connection, set while a receive waits, is exact too.
func TestDeadline_FirstOneInTheFutureEndsAReceive(t *testing.T) {
	for _, network := range append(tlsNetworks, allNetworks...) {
		t.Run(network, func(t *testing.T) {
			const wait = 50 * time.Millisecond
			c := connectedTo(t, network, &client.Options{Timeout: -1})
			result := make(chan error, 1)
			go func() { _, err := c.Recv(make([]byte, 9), 0); result <- err }()
			inKernel(t)
			begin := time.Now()
			require.NoError(t, c.SetReadDeadline(begin.Add(wait)))
			require.ErrorIs(t, <-result, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(begin), wait)
			require.Less(t, time.Since(begin), testTimeout)
		})
	}
}
