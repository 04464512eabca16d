package services

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// A natsDialer is a dial function as nats.go takes one: without a context, so that the
// limit of a dial is the dialer's own and not nats.Timeout, which begins when there is a
// connection.
type natsDialer struct{ dial dialFunc }

func (d natsDialer) Dial(network, address string) (net.Conn, error) {
	return d.dial(context.Background(), network, address)
}

// connectNATS connects, and closes at the test's end.
func connectNATS(t *testing.T, dial dialFunc, s *testserver.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	opts = append([]nats.Option{
		nats.SetCustomDialer(natsDialer{dial}),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
	}, opts...)
	nc, err := nats.Connect("nats://"+s.Addr, opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// within gives a context whose end nothing but what hangs sees.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return ctx
}

func TestNATS_DeliversMessagesInOrder(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		publishAndReceive(t, connectNATS(t, dial, s), connectNATS(t, dial, s))
	})
}

// publishAndReceive sends messages of all sizes from one connection to another.
func publishAndReceive(t *testing.T, from, to *nats.Conn) {
	t.Helper()
	sub, err := to.SubscribeSync("sizes.*")
	require.NoError(t, err)
	require.NoError(t, to.Flush())
	require.EqualValues(t, maxPayload, from.MaxPayload())
	var bodies [][]byte
	for _, size := range []int{0, 1, 4095, 4096, 32 << 10, 1<<20 - 1, 4 << 20} {
		bodies = append(bodies, randomBytes(size))
	}
	for i, body := range bodies {
		m := nats.NewMsg(fmt.Sprint("sizes.", i))
		m.Data = body
		m.Header.Set("Size", fmt.Sprint(len(body)))
		require.NoError(t, from.PublishMsg(m))
	}
	for i, body := range bodies {
		m, err := sub.NextMsgWithContext(within(t))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("sizes.", i), m.Subject)
		sameBytes(t, body, m.Data)
		require.Equal(t, fmt.Sprint(len(body)), m.Header.Get("Size"))
	}
	require.ErrorIs(t, from.Publish("sizes.more", make([]byte, maxPayload+1)), nats.ErrMaxPayload)
	require.NoError(t, from.FlushWithContext(within(t)))
}

func TestNATS_AnswersConcurrentRequests(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		server, nc := connectNATS(t, dial, s), connectNATS(t, dial, s)
		_, err := server.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
		require.NoError(t, err)
		require.NoError(t, server.Flush())
		all(t, 16, func(int) error {
			for round := range 20 {
				if err := echoes(within(t), nc, randomBytes(1<<(round%18))); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// echoes asks for what it says to be said back.
func echoes(ctx context.Context, nc *nats.Conn, body []byte) error {
	m, err := nc.RequestWithContext(ctx, "echo", body)
	if err != nil {
		return err
	}
	if string(m.Data) != string(body) {
		return errors.New("the answer is not what was said")
	}
	return nil
}

func TestNATS_QueueGroupReceivesEachMessageOnce(t *testing.T) {
	const members, messages = 3, 3000
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		var got [messages]atomic.Int32
		var left atomic.Int32
		left.Store(messages)
		done := make(chan error, 1)
		for range members {
			nc := connectNATS(t, dial, s)
			_, err := nc.QueueSubscribe("work", "workers", func(m *nats.Msg) {
				got[binary.BigEndian.Uint32(m.Data)].Add(1)
				if left.Add(-1) == 0 {
					done <- nil
				}
			})
			require.NoError(t, err)
			require.NoError(t, nc.Flush())
		}
		nc := connectNATS(t, dial, s)
		for i := range messages {
			require.NoError(t, nc.Publish("work", binary.BigEndian.AppendUint32(nil, uint32(i))))
		}
		require.NoError(t, result(t, done))
		for i := range got {
			require.EqualValues(t, 1, got[i].Load(), "message %d", i)
		}
	})
}

// What a subscriber is too slow for is dropped here, and the connection goes on.
func TestNATS_OnlyTheSlowConsumerHasAnError(t *testing.T) {
	const room, messages = 10, 100
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		slow := make(chan error, messages)
		nc := connectNATS(t, dial, s, nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub != nil && sub.Subject == "slow" {
				slow <- err
			}
		}))
		release, delivered := make(chan struct{}), make(chan struct{}, messages)
		sub, err := nc.Subscribe("slow", func(*nats.Msg) {
			<-release
			delivered <- struct{}{}
		})
		require.NoError(t, err)
		require.NoError(t, sub.SetPendingLimits(room, -1))
		fast, err := nc.SubscribeSync("fast")
		require.NoError(t, err)
		for range messages {
			require.NoError(t, nc.Publish("slow", randomBytes(10_000)))
		}
		body := randomBytes(100_000)
		require.NoError(t, nc.Publish("fast", body))
		m, err := fast.NextMsgWithContext(within(t)) // which is behind all of the others
		require.NoError(t, err)
		sameBytes(t, body, m.Data)
		require.ErrorIs(t, result(t, slow), nats.ErrSlowConsumer)
		dropped, err := sub.Dropped()
		require.NoError(t, err)
		require.Positive(t, dropped)
		close(release)
		for range messages - dropped {
			select {
			case <-delivered:
			case <-within(t).Done():
				t.Fatal("what was not dropped is not delivered")
			}
		}
	})
}

func TestNATS_DrainDeliversPendingMessagesAndCloses(t *testing.T) {
	const messages = 500
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		var delivered atomic.Int32
		closed, first, goOn := make(chan error, 1), make(chan error, messages), make(chan struct{})
		nc, err := nats.Connect("nats://"+s.Addr, nats.SetCustomDialer(natsDialer{dial}),
			nats.ClosedHandler(func(*nats.Conn) { closed <- nil }))
		require.NoError(t, err)
		defer nc.Close()
		_, err = nc.Subscribe("work", func(*nats.Msg) {
			first <- nil
			<-goOn
			delivered.Add(1)
		})
		require.NoError(t, err)
		for range messages {
			require.NoError(t, nc.Publish("work", randomBytes(1000)))
		}
		require.NoError(t, nc.FlushWithContext(within(t))) // the server has sent them before the pong
		require.NoError(t, result(t, first))
		require.NoError(t, nc.Drain())
		close(goOn)
		require.NoError(t, result(t, closed))
		require.EqualValues(t, messages, delivered.Load())
		require.ErrorIs(t, nc.Publish("work", nil), nats.ErrConnectionClosed)
	})
}

// The driver begins TLS on a connection that the server has spoken on already.
func TestNATS_OverTLSOfTheDriver(t *testing.T) {
	id, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	s := startNATS(t, natsTLS(id, false))
	onBoth(t, func(t *testing.T, dial dialFunc) {
		secure := nats.Secure(&tls.Config{RootCAs: id.Roots})
		nc := connectNATS(t, dial, s, secure)
		publishAndReceive(t, nc, connectNATS(t, dial, s, secure))
		state, err := nc.TLSConnectionState()
		require.NoError(t, err)
		require.True(t, state.HandshakeComplete)
	})
}

func TestNATS_UnknownAuthorityIsRefused(t *testing.T) {
	id, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	s := startNATS(t, natsTLS(id, false))
	onBoth(t, func(t *testing.T, dial dialFunc) {
		_, err := nats.Connect("nats://"+s.Addr, nats.SetCustomDialer(natsDialer{dial}), nats.Secure(&tls.Config{}))
		var unknown *tls.CertificateVerificationError
		require.ErrorAs(t, err, &unknown)
	})
}

func natsTLS(id *testserver.Identity, first bool) string {
	return fmt.Sprintf("tls { cert_file: %s, key_file: %s, handshake_first: %t }", id.CertFile, id.KeyFile, first)
}

// A tlsDialer tells the driver that what it dials is TLS already.
type tlsDialer struct{ natsDialer }

func (tlsDialer) SkipTLSHandshake() bool { return true }

func TestNATS_OverTLSOfTheDialer(t *testing.T) {
	id, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	s := startNATS(t, natsTLS(id, true))
	scenario := func(t *testing.T, dial dialFunc) {
		opts := []nats.Option{nats.SetCustomDialer(tlsDialer{natsDialer{dial}}), nats.Secure(), nats.TLSHandshakeFirst()}
		publishAndReceive(t, connectNATS(t, dial, s, opts...), connectNATS(t, dial, s, opts...))
	}
	t.Run("net", func(t *testing.T) {
		scenario(t, (&tls.Dialer{Config: &tls.Config{RootCAs: id.Roots}}).DialContext)
	})
	t.Run("client", func(t *testing.T) {
		w := wire.New(t)
		w.Options = &client.Options{TLS: &client.TLSOptions{CAFile: id.CAFile}}
		scenario(t, w.DialContext)
	})
}
