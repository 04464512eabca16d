package redis

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/stretchr/testify/require"
)

// A timeout of a call closes its connection. No call receives the late reply.
func TestRedigo_ReadTimeoutEndsACallAndDropsItsLateReply(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: 1, MaxActive: 1, Wait: true}, redigo.DialReadTimeout(limit))
		c := pool.Get()
		for i := range 10 {
			require.NoError(t, storesAndGets(c, fmt.Sprint(i), value(i, 4<<10)))
		}
		r.stop(t)
		start := time.Now()
		err := within(t, func() error { _, err := c.Do("GET", 0); return err })
		isTimeout(t, err, start, limit)
		require.ErrorIs(t, c.Err(), err)
		require.NoError(t, c.Close())
		r.resume(t)

		c = pool.Get()
		defer c.Close()
		for i := 9; i >= 0; i-- {
			got, err := redigo.Bytes(c.Do("GET", i))
			require.NoError(t, err)
			require.NoError(t, same(value(i, 4<<10), got))
		}
		require.Equal(t, 2, r.Dials())
	})
}

// crypto/tls may take 5 s longer to close such a connection: it waits to send close_notify.
func TestRedigo_WriteTimeoutEndsABlockedCall(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: 1}, redigo.DialWriteTimeout(limit))
		c := pool.Get()
		require.NoError(t, storesAndGets(c, "small", value(1, 100)))
		r.stop(t)
		start := time.Now()
		err := within(t, func() error { _, err := c.Do("SET", "large", make([]byte, 32<<20)); return err })
		isTimeout(t, err, start, limit)
		require.NoError(t, c.Close())
		r.resume(t)

		c = pool.Get()
		defer c.Close()
		got, err := redigo.Bytes(c.Do("GET", "small"))
		require.NoError(t, err)
		require.NoError(t, same(value(1, 100), got))
		_, err = redigo.Bytes(c.Do("GET", "large"))
		require.ErrorIs(t, err, redigo.ErrNil)
	})
}

func TestRedigo_CancelEndsABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		pool := r.redigoPool(t, &redigo.Pool{MaxIdle: 1})
		c := pool.Get()
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() {
			_, err := redigo.DoContext(c, ctx, "BLPOP", "list", 0)
			returned <- err
		}()
		r.awaitBlocked(t, 1)
		cancel()
		require.ErrorIs(t, returns(t, returned), context.Canceled)
		require.ErrorIs(t, c.Err(), context.Canceled)
		_ = c.Close()
		// The connection is closed, which ends the read.
		r.awaitBlocked(t, 0)

		c = pool.Get()
		defer c.Close()
		_, err := c.Do("RPUSH", "list", "something")
		require.NoError(t, err)
		got, err := redigo.Strings(c.Do("BLPOP", "list", 0))
		require.NoError(t, err)
		require.Equal(t, []string{"list", "something"}, got)
		require.Equal(t, 2, r.Dials())
	})
}

func TestRedigo_ContextDeadlineEndsABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		const limit = 150 * time.Millisecond
		c := r.redigo(t)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		err := within(t, func() error { _, err := redigo.DoContext(c, ctx, "BLPOP", "list", 0); return err })
		isTimeout(t, err, start, limit) // of the context or of the connection
		r.awaitBlocked(t, 0)
	})
}

func TestRedigo_CloseEndsABLPop(t *testing.T) {
	onEveryRoad(t, func(t *testing.T, r *road) {
		c := r.redigo(t)
		returned := make(chan error, 1)
		go func() { _, err := c.Do("BLPOP", "nothing", 0); returned <- err }()
		r.awaitBlocked(t, 1)
		require.NoError(t, c.Close())
		require.Error(t, returns(t, returned))
		r.awaitBlocked(t, 0)
	})
}

// The handshake is client's, which ends with the context. The peer has received the ClientHello and
// does not answer.
func TestRedigo_CancelEndsADialDuringTheHandshake(t *testing.T) {
	onRoads(t, func(way route) bool { return way.secure == theDialer }, func(t *testing.T, r *road) {
		require.NoError(t, r.redigo(t).Close())
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		r.address = ln.Addr().String()
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { _, err := r.dialRedigo(ctx); returned <- err }()
		peer, err := ln.Accept()
		require.NoError(t, err)
		defer peer.Close()
		_, err = peer.Read(make([]byte, 1))
		require.NoError(t, err)
		cancel()
		require.ErrorIs(t, returns(t, returned), context.Canceled)
	})
}

// redigo does the handshake without the context and closes the connection at its timeout. The kernel
// accepts connections to a stopped Redis server.
func TestRedigo_HandshakeTimeoutEndsADial(t *testing.T) {
	onRoads(t, func(way route) bool { return way.secure == theDriver }, func(t *testing.T, r *road) {
		const limit = 100 * time.Millisecond
		require.NoError(t, r.redigo(t).Close())
		r.stop(t)
		start := time.Now()
		err := within(t, func() error {
			_, err := r.dialRedigo(t.Context(), redigo.DialTLSHandshakeTimeout(limit))
			return err
		})
		isTimeout(t, err, start, limit)
		require.Less(t, time.Since(start), wire.TestTimeout)
	})
}
