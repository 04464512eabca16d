package redis

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
)

// subscribeRedigo subscribes on a connection and checks the confirmation.
func subscribeRedigo(t *testing.T, c redigo.Conn, channel string) redigo.PubSubConn {
	t.Helper()
	sub := redigo.PubSubConn{Conn: c}
	require.NoError(t, sub.Subscribe(channel))
	require.Equal(t, redigo.Subscription{Kind: "subscribe", Channel: channel, Count: 1}, sub.ReceiveWithTimeout(wire.TestTimeout))
	return sub
}

func TestRedigo_SubscriberReceivesAllMessagesInOrder(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const n = 200
		sub, c := subscribeRedigo(t, r.redigo(t), "news"), r.redigo(t)
		message := func(i int) []byte {
			if i == n/2 {
				return value(i, 1<<20)
			}
			return value(i, i*10)
		}
		published := make(chan error, 1)
		go func() {
			published <- func() error {
				for i := range n {
					if _, err := c.Do("PUBLISH", "news", message(i)); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
		for i := range n {
			got, ok := sub.ReceiveWithTimeout(wire.TestTimeout).(redigo.Message)
			require.True(t, ok)
			require.NoError(t, same(message(i), got.Data))
		}
		require.NoError(t, returns(t, published))
	})
}

// A subscriber receives in one goroutine and subscribes in another.
func TestRedigo_SubscribesAndPingsDuringAReceive(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		sub := subscribeRedigo(t, r.redigo(t), "news")
		received := make(chan any)
		go func() {
			defer close(received)
			for {
				got := sub.ReceiveWithTimeout(0)
				received <- got
				if s, ok := got.(redigo.Subscription); ok && s.Count == 0 {
					return
				}
				if _, failed := got.(error); failed {
					return
				}
			}
		}()
		next := func() (got any) {
			t.Helper()
			require.NoError(t, within(t, func() error { got = <-received; return nil }))
			return got
		}
		for i := range 20 {
			channel := fmt.Sprint("more", i)
			require.NoError(t, sub.Subscribe(channel))
			require.Equal(t, redigo.Subscription{Kind: "subscribe", Channel: channel, Count: i + 2}, next())
			require.NoError(t, sub.Ping(channel))
			require.Equal(t, redigo.Pong{Data: channel}, next())
			r.tell(t, "PUBLISH "+channel+" hello", ":1")
			require.Equal(t, redigo.Message{Channel: channel, Data: []byte("hello")}, next())
		}
		require.NoError(t, sub.Unsubscribe())
		for left := 20; left >= 0; left-- {
			require.Equal(t, left, next().(redigo.Subscription).Count)
		}
	})
}

func TestRedigo_CancelEndsAWaitingReceive(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		sub := subscribeRedigo(t, r.redigo(t), "news")
		r.tell(t, "PUBLISH news first", ":1")
		require.Equal(t, redigo.Message{Channel: "news", Data: []byte("first")}, sub.ReceiveContext(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { err, _ := sub.ReceiveContext(ctx).(error); returned <- err }()
		awaitReceiving(t, "ReceiveWithTimeout(")
		cancel()
		require.ErrorIs(t, returns(t, returned), context.Canceled)
		// The connection was closed during the receive: the server has no subscriber.
		r.awaitAnswer(t, "PUBSUB NUMSUB news", "*2\r\n$4\r\nnews\r\n:0\r\n")
		require.ErrorIs(t, sub.Conn.Err(), context.Canceled)
	})
}

// A pool reuses a subscriber's connection after all its pending messages were received.
func TestRedigo_PoolReusesASubscriber(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: 1})
		for i := range 5 {
			sub := subscribeRedigo(t, pool.Get(), "news")
			for range 50 {
				r.tell(t, fmt.Sprint("PUBLISH news ", i), ":1")
			}
			require.NoError(t, within(t, sub.Close))

			c := pool.Get()
			require.NoError(t, storesAndGets(c, "key", value(i, 4<<10)))
			require.NoError(t, c.Close())
		}
		require.Equal(t, 1, r.Dials())
	})
}

func TestRedigo_ReceiveTimeoutEndsAReceive(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 100 * time.Millisecond
		sub := subscribeRedigo(t, r.redigo(t), "news")
		start := time.Now()
		var got any
		require.NoError(t, within(t, func() error { got = sub.ReceiveWithTimeout(limit); return nil }))
		err, failed := got.(error)
		require.True(t, failed)
		isTimeout(t, err, start, limit)
		require.ErrorIs(t, sub.Conn.Err(), err, "redigo has no use for a connection after that")
	})
}
