package services

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// newStream makes a stream that is stored in files, and a consumer of it.
func newStream(t *testing.T, nc *nats.Conn, name string) (jetstream.JetStream, jetstream.Consumer) {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.CreateStream(within(t), jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".*"}, Storage: jetstream.FileStorage,
	})
	require.NoError(t, err)
	consumer, err := stream.CreateConsumer(within(t), jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	return js, consumer
}

// receive takes messages that have to be these.
func receive(t *testing.T, consumer jetstream.Consumer, bodies [][]byte) {
	t.Helper()
	for i := range bodies {
		m, err := consumer.Next(jetstream.FetchContext(within(t)))
		require.NoError(t, err)
		sameBytes(t, bodies[i], m.Data())
		require.NoError(t, m.DoubleAck(within(t)))
	}
}

func TestJetStream_DeliversPublishedMessages(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		nc := connectNATS(t, dial, s)
		js, consumer := newStream(t, nc, "sizes")
		defer func() { require.NoError(t, js.DeleteStream(within(t), "sizes")) }()
		var bodies [][]byte
		for _, size := range []int{0, 1, 4096, 1 << 20, 3 << 20} {
			bodies = append(bodies, randomBytes(size))
			ack, err := js.Publish(within(t), "sizes.one", bodies[len(bodies)-1])
			require.NoError(t, err)
			require.EqualValues(t, len(bodies), ack.Sequence)
		}
		receive(t, consumer, bodies)
	})
}

func TestJetStream_StoresConcurrentPublishes(t *testing.T) {
	const workers, each = 8, 25
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		js, consumer := newStream(t, connectNATS(t, dial, s), "many")
		defer func() { require.NoError(t, js.DeleteStream(within(t), "many")) }()
		all(t, workers, func(worker int) error {
			for i := range each {
				if _, err := js.Publish(within(t), "many.one", fmt.Appendf(nil, "%d %d", worker, i)); err != nil {
					return err
				}
			}
			return nil
		})
		next := make([]int, workers) // of each goroutine's, in its order
		batch, err := consumer.Fetch(workers*each, jetstream.FetchMaxWait(soon))
		require.NoError(t, err)
		for m := range batch.Messages() {
			var worker, i int
			_, err := fmt.Sscanf(string(m.Data()), "%d %d", &worker, &i)
			require.NoError(t, err)
			require.Equal(t, next[worker], i)
			next[worker]++
		}
		require.NoError(t, batch.Error())
		for worker := range next {
			require.Equal(t, each, next[worker], "goroutine %d", worker)
		}
	})
}

func TestJetStream_EmptyFetchEnds(t *testing.T) {
	s := startNATS(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		js, consumer := newStream(t, connectNATS(t, dial, s), "empty")
		defer func() { require.NoError(t, js.DeleteStream(within(t), "empty")) }()
		t.Run("by its deadline", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			// The driver has the server say so a tenth of the time before.
			_, err := timed(t, limit/2, func() (jetstream.Msg, error) { return consumer.Next(jetstream.FetchContext(ctx)) })
			require.True(t, errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded), "%v", err)
		})
		t.Run("by its cancel", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			got := inBackground(func() error {
				_, err := consumer.Next(jetstream.FetchContext(ctx))
				return err
			})
			require.Eventually(t, func() bool { // until the server has the request
				info, err := consumer.Info(within(t))
				return err == nil && info.NumWaiting > 0
			}, soon, time.Millisecond)
			cancel()
			require.ErrorIs(t, result(t, got), context.Canceled)
		})
		body := randomBytes(100_000)
		_, err := js.Publish(within(t), "empty.one", body)
		require.NoError(t, err)
		receive(t, consumer, [][]byte{body})
	})
}

func TestJetStream_KilledServerHasAcknowledgedMessages(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		dial = forgetful(t, dial)
		s := startNATS(t)
		nc := connectNATS(t, dial, s, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
		js, consumer := newStream(t, nc, "stored")
		bodies := [][]byte{randomBytes(1000), randomBytes(1 << 20)}
		for _, body := range bodies {
			_, err := js.Publish(within(t), "stored.one", body)
			require.NoError(t, err)
		}
		require.NoError(t, s.Restart()) // which kills it first
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := consumer.Info(ctx)
			return err == nil
		}, soon, time.Millisecond)
		more := randomBytes(10_000)
		_, err := js.Publish(within(t), "stored.one", more)
		require.NoError(t, err)
		receive(t, consumer, append(bodies, more))
	})
}
