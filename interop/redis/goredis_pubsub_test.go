package redis

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// subscribe returns a subscription that the server has confirmed.
func subscribe(t *testing.T, c *goredis.Client, channel string) *goredis.PubSub {
	t.Helper()
	sub := c.Subscribe(t.Context(), channel)
	t.Cleanup(func() { _ = sub.Close() })
	got, err := sub.ReceiveTimeout(t.Context(), wire.TestTimeout)
	require.NoError(t, err)
	require.Equal(t, &goredis.Subscription{Kind: "subscribe", Channel: channel, Count: 1}, got)
	return sub
}

// receives checks the next message.
func receives(t *testing.T, sub *goredis.PubSub, want string) {
	t.Helper()
	got, err := sub.ReceiveTimeout(t.Context(), wire.TestTimeout)
	require.NoError(t, err)
	message, ok := got.(*goredis.Message)
	require.True(t, ok, "%T in place of a message", got)
	require.NoError(t, same([]byte(want), []byte(message.Payload)))
}

func TestGoRedis_SubscriberReceivesAllMessagesInOrder(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const n = 200
		c := r.goRedis(t, &goredis.Options{})
		sub := subscribe(t, c, "news")
		message := func(i int) string {
			if i == n/2 {
				return string(value(i, 1<<20))
			}
			return string(value(i, i*10))
		}
		published := make(chan error, 1)
		go func() {
			published <- func() error {
				for i := range n {
					if err := c.Publish(t.Context(), "news", message(i)).Err(); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
		for i := range n {
			receives(t, sub, message(i))
		}
		require.NoError(t, returns(t, published))
	})
}

// After a receive timeout, go-redis loses no message and keeps the connection.
func TestGoRedis_SubscriptionSurvivesAReceiveTimeout(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 50 * time.Millisecond
		c := r.goRedis(t, &goredis.Options{})
		sub := subscribe(t, c, "news")
		require.NoError(t, c.Ping(t.Context()).Err())
		dials := r.Dials()
		for i := range 3 {
			start := time.Now()
			_, err := sub.ReceiveTimeout(t.Context(), limit)
			isTimeout(t, err, start, limit)
			require.Less(t, time.Since(start), wire.TestTimeout)

			news := fmt.Sprint("news ", i)
			heard, err := c.Publish(t.Context(), "news", news).Result()
			require.NoError(t, err)
			require.EqualValues(t, 1, heard)
			receives(t, sub, news)
		}
		require.Equal(t, dials, r.Dials())
	})
}

func TestGoRedis_CloseEndsAWaitingReceive(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{})
		sub := subscribe(t, c, "news")
		returned := make(chan error, 1)
		go func() { _, err := sub.Receive(t.Context()); returned <- err }()
		awaitReceiving(t, "(*PubSub).Receive(")
		require.NoError(t, within(t, sub.Close))
		require.Error(t, returns(t, returned))
	})
}

func TestGoRedis_SubscriptionReturnsAfterServerRestart(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.goRedis(t, &goredis.Options{})
		sub := subscribe(t, c, "news")
		messages := sub.Channel()
		require.NoError(t, c.Publish(t.Context(), "news", "before").Err())
		require.Equal(t, "before", awaitMessage(t, messages))

		r.server.Kill()
		require.NoError(t, r.server.Restart())
		eventually(t, func() bool {
			heard, err := c.Publish(t.Context(), "news", "after").Result()
			return err == nil && heard == 1
		}, "no subscription after the restart")
		require.Equal(t, "after", awaitMessage(t, messages))
	})
}

func awaitMessage(t *testing.T, messages <-chan *goredis.Message) (payload string) {
	t.Helper()
	require.NoError(t, within(t, func() error {
		m, ok := <-messages
		if !ok {
			return errors.New("the subscription has ended")
		}
		payload = m.Payload
		return nil
	}))
	return payload
}
