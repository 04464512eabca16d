package client_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asyncEvents records the callbacks of one AsyncClient, and checks their order: they do not
// overlap, the first is OnConnect or OnError, and nothing follows OnError and OnClose.
type asyncEvents struct {
	t      testing.TB
	inside atomic.Int32
	isOver atomic.Bool
	began  atomic.Bool

	connected chan *client.AsyncClient // OnConnect sends
	ended     chan error               // OnError and OnClose send

	// Called in the callbacks, if not nil.
	onConnect func(a *client.AsyncClient)
	onReceive func(a *client.AsyncClient, p []byte)
	onEnd     func(a *client.AsyncClient, err error)

	mu      sync.Mutex
	log     []string // names of callbacks, without OnReceive
	packets []string
	bytes   bytes.Buffer
}

func newAsyncEvents(t testing.TB) *asyncEvents {
	return &asyncEvents{t: t, connected: make(chan *client.AsyncClient, 1), ended: make(chan error, 1)}
}

// callback checks and records a callback, and calls f.
func (e *asyncEvents) callback(name string, f func()) {
	assert.Equal(e.t, int32(1), e.inside.Add(1), "%s overlaps", name)
	defer e.inside.Add(-1)
	assert.False(e.t, e.isOver.Load(), "%s after the end", name)
	if first := !e.began.Swap(true); first {
		assert.Contains(e.t, []string{"connect", "error"}, name)
	} else {
		assert.NotContains(e.t, []string{"connect", "error"}, name)
	}
	if name == "error" || name == "close" {
		e.isOver.Store(true)
	}
	if name != "receive" {
		e.mu.Lock()
		e.log = append(e.log, name)
		e.mu.Unlock()
	}
	f()
}

func (e *asyncEvents) config() client.AsyncConfig {
	return client.AsyncConfig{
		OnConnect: func(a *client.AsyncClient) {
			e.callback("connect", func() {
				e.connected <- a
				if e.onConnect != nil {
					e.onConnect(a)
				}
			})
		},
		OnReceive: func(a *client.AsyncClient, p []byte) {
			e.callback("receive", func() {
				e.mu.Lock()
				e.packets = append(e.packets, string(p))
				e.bytes.Write(p)
				e.mu.Unlock()
				if e.onReceive != nil {
					e.onReceive(a, p)
				}
			})
		},
		OnError: func(a *client.AsyncClient, err error) { e.end("error", a, err) },
		OnClose: func(a *client.AsyncClient, err error) { e.end("close", a, err) },
		OnBufferFull: func(*client.AsyncClient) {
			e.callback("full", func() {})
		},
		OnBufferEmpty: func(*client.AsyncClient) {
			e.callback("empty", func() {})
		},
	}
}

func (e *asyncEvents) end(name string, a *client.AsyncClient, err error) {
	e.callback(name, func() {
		if e.onEnd != nil {
			e.onEnd(a, err)
		}
		e.ended <- err
	})
}

func (e *asyncEvents) received() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bytes.String()
}

func (e *asyncEvents) names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.log...)
}

// receives waits until all of it was received.
func (e *asyncEvents) receives(want string) {
	e.t.Helper()
	require.Eventually(e.t, func() bool { return len(e.received()) >= len(want) }, testTimeout, time.Millisecond)
	require.Equal(e.t, want, e.received())
}

// result waits for the end.
func (e *asyncEvents) result() error {
	e.t.Helper()
	select {
	case err := <-e.ended:
		return err
	case <-time.After(testTimeout):
		require.Fail(e.t, "no OnError and no OnClose")
		return nil
	}
}

func (e *asyncEvents) client() *client.AsyncClient {
	e.t.Helper()
	select {
	case a := <-e.connected:
		return a
	case err := <-e.ended:
		require.NoError(e.t, err)
	case <-time.After(testTimeout):
	}
	require.Fail(e.t, "not connected")
	return nil
}

// dial makes a client, which is closed with the test.
func (e *asyncEvents) dial(network, address string, opts *client.Options, change func(*client.AsyncConfig)) *client.AsyncClient {
	e.t.Helper()
	cfg := e.config()
	if change != nil {
		change(&cfg)
	}
	a, err := client.DialAsync(context.Background(), network, address, opts, cfg)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { closeAsync(e.t, a) })
	return a
}

// closeAsync closes a client and waits for the end of its last callback.
func closeAsync(t testing.TB, a *client.AsyncClient) {
	t.Helper()
	_ = a.Close()
	select {
	case <-a.Done():
	case <-time.After(testTimeout):
		assert.Fail(t, "the client does not end")
	}
}

// asyncStream returns a connected client, its events, and the peer.
func asyncStream(t testing.TB, network string, opts *client.Options, change func(*client.AsyncConfig)) (*client.AsyncClient, *asyncEvents, net.Conn) {
	t.Helper()
	c, peer := stream(t, network, opts)
	e := newAsyncEvents(t)
	cfg := e.config()
	if change != nil {
		change(&cfg)
	}
	a, err := c.Async(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { closeAsync(t, a) })
	require.Same(t, a, e.client())
	return a, e, peer
}
