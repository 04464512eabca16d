package services

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// forgetful gives a dial function for a driver that forgets connections: nats.go dials
// again after a handshake that has failed, and nobody closes what it failed on (v1.55.0,
// doReconnect). A server that is killed can be in the middle of one. They are closed at
// the test's end, when the driver is closed.
func forgetful(t *testing.T, dial dialFunc) dialFunc {
	t.Helper()
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			_ = conn.Close() // most are closed
		}
	})
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, conn)
		}
		return conn, err
	}
}

// silent subscribes, with a connection of its own, to requests that are never answered,
// and tells of each that has come.
func silent(t *testing.T, nc *nats.Conn) (asked <-chan error) {
	t.Helper()
	requests := make(chan error, 10)
	_, err := nc.Subscribe("silent", func(*nats.Msg) { requests <- nil })
	require.NoError(t, err)
	_, err = nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	require.NoError(t, err)
	require.NoError(t, nc.FlushWithContext(within(t)))
	return requests
}

func TestNATS_DeadlineEndsARequestAndTheNextIsAnswered(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		nc := connectNATS(t, dial, s)
		silent(t, connectNATS(t, dial, s))
		_, err := timed(t, limit, func() (*nats.Msg, error) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			return nc.RequestWithContext(ctx, "silent", nil)
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, echoes(within(t), nc, randomBytes(100_000)))
	})
}

func TestNATS_CancelEndsARequest(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		nc := connectNATS(t, dial, s)
		asked := silent(t, connectNATS(t, dial, s))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		answered := inBackground(func() error {
			_, err := nc.RequestWithContext(ctx, "silent", nil)
			return err
		})
		require.NoError(t, result(t, asked))
		cancel()
		require.ErrorIs(t, result(t, answered), context.Canceled)
		require.NoError(t, echoes(within(t), nc, randomBytes(100_000)))
	})
}

func TestNATS_CloseEndsARequest(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		nc := connectNATS(t, dial, s)
		asked := silent(t, connectNATS(t, dial, s))
		answered := inBackground(func() error {
			_, err := nc.RequestWithContext(within(t), "silent", nil)
			return err
		})
		require.NoError(t, result(t, asked))
		nc.Close()
		require.ErrorIs(t, result(t, answered), nats.ErrConnectionClosed)
	})
}

// The driver waits for the server's greeting with a deadline on the connection.
func TestNATS_ConnectToSilentServerTimesOut(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		thaw := freeze(t, s)
		_, err := timed(t, limit, func() (*nats.Conn, error) {
			return nats.Connect("nats://"+s.Addr, nats.SetCustomDialer(natsDialer{dial}), nats.Timeout(limit))
		})
		require.Error(t, err)
		require.True(t, errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, nats.ErrTimeout), "%v", err)
		thaw()
		require.NoError(t, connectNATS(t, dial, s).FlushWithContext(within(t)))
	})
}

// A server that answers no ping is given up while the driver's reader waits for it: the
// driver closes the connection under a Read.
func TestNATS_ReconnectsAfterLostPings(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		dial = forgetful(t, dial)
		lost, back := make(chan error, 100), make(chan error, 100)
		nc := connectNATS(t, dial, s, nats.PingInterval(100*time.Millisecond), nats.MaxPingsOutstanding(2),
			nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1), nats.Timeout(soon),
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
			nats.ReconnectHandler(func(*nats.Conn) { back <- nil }))
		sub, err := nc.SubscribeSync("subject")
		require.NoError(t, err)
		require.NoError(t, nc.FlushWithContext(within(t)))
		thaw := freeze(t, s)
		require.ErrorIs(t, result(t, lost), nats.ErrStaleConnection)
		thaw()
		require.NoError(t, result(t, back))
		body := randomBytes(1 << 20)
		require.Eventually(t, func() bool { // on a busy machine a pong can be late once more, and what is under way is lost
			if err := nc.Publish("subject", body); err != nil {
				return false
			}
			m, err := sub.NextMsg(time.Second)
			return err == nil && string(m.Data) == string(body)
		}, soon, time.Millisecond)
	})
}

// Publishing goes out under a write deadline. What it ends in the middle of a message
// ends the connection too, and the driver makes another.
func TestNATS_FlusherTimeoutEndsABlockedWrite(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		dial = forgetful(t, dial)
		lost, back := make(chan error, 100), make(chan error, 100)
		nc := connectNATS(t, dial, s, nats.FlusherTimeout(limit), nats.Timeout(soon),
			nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1),
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
			nats.ReconnectHandler(func(*nats.Conn) { back <- nil }))
		thaw := freeze(t, s)
		_, err := timed(t, limit, func() (struct{}, error) {
			return struct{}{}, nc.Publish("subject", make([]byte, maxPayload))
		})
		requireTimeout(t, err)
		require.ErrorIs(t, result(t, lost), os.ErrDeadlineExceeded)
		thaw()
		require.NoError(t, result(t, back))
		sub, err := nc.SubscribeSync("subject")
		require.NoError(t, err)
		body := randomBytes(100_000)
		require.NoError(t, nc.Publish("subject", body))
		m, err := sub.NextMsgWithContext(within(t)) // and not what was given up
		require.NoError(t, err)
		sameBytes(t, body, m.Data)
	})
}

func TestNATS_ReconnectsAfterServerRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		dial = forgetful(t, dial)
		s := startNATS(t)
		lost, back := make(chan error, 100), make(chan error, 100)
		reconnect := []nats.Option{nats.ReconnectWait(10 * time.Millisecond), nats.MaxReconnects(-1)}
		nc := connectNATS(t, dial, s, append(reconnect,
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
			nats.ReconnectHandler(func(*nats.Conn) { back <- nil }))...)
		asked := silent(t, connectNATS(t, dial, s, reconnect...))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		answered := inBackground(func() error {
			_, err := nc.RequestWithContext(ctx, "silent", nil)
			return err
		})
		require.NoError(t, result(t, asked))
		kill(t, s)
		require.Error(t, result(t, lost))
		cancel() // the driver leaves a request whose connection was lost to its context
		require.ErrorIs(t, result(t, answered), context.Canceled)
		require.NoError(t, s.Restart())
		require.NoError(t, result(t, back))
		require.Eventually(t, func() bool { // the other one may be a moment later
			return echoes(within(t), nc, randomBytes(1<<20)) == nil
		}, soon, time.Millisecond)
		require.EqualValues(t, 1, nc.Stats().Reconnects)
	})
}

func TestNATS_GoroutinesOutliveServerRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		dial = forgetful(t, dial)
		s := startNATS(t)
		reconnect := []nats.Option{nats.ReconnectWait(10 * time.Millisecond), nats.MaxReconnects(-1)}
		nc := connectNATS(t, dial, s, reconnect...)
		silent(t, connectNATS(t, dial, s, reconnect...))
		throughRestart(t, s, 4, func(int) error {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			return echoes(ctx, nc, randomBytes(10_000))
		})
	})
}
