package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"weak"

	"github.com/blocksock/client/internal/sock"
)

// Watch makes the end of ctx end every call on the client, until unwatch is called.
// Waiting calls return at once, and so do later ones, with ctx's error. Watch is for calls
// without a context, such as Send and Recv, and for code that takes the client as a
// net.Conn:
//
//	defer c.Watch(ctx)()
//
// It also ends Connect, StartTLS, and a Select with the client. Counts of sent and
// received bytes are as at a time limit. After unwatch the client can be used as before,
// unless a TLS handshake was ended. Several contexts may be watched at the same time: the
// error is that of the first to end.
//
// unwatch may be called more than once. Close and Discard of a client from a Pool call
// it. Watching a ctx that never ends costs nothing.
func (c *Client) Watch(ctx context.Context) (unwatch func()) {
	if c.sock == nil || ctx.Done() == nil || !c.lease.incref() {
		return func() {}
	}
	defer c.lease.decref()
	all := c.watchers.Load()
	for all == nil {
		c.watchers.CompareAndSwap(nil, new(watchers))
		all = c.watchers.Load()
	}
	w := &watcher{c: weak.Make(c), watchers: all, ctx: ctx, over: make(chan struct{})}
	if ctx.Err() != nil {
		w.contextEnded()
	} else {
		w.cancel = context.AfterFunc(ctx, w.contextEnded)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.list = append(all.list, w)
	return w.end
}

// watchers are the watched contexts of one client.
type watchers struct {
	mu    sync.Mutex
	list  []*watcher
	ended []*watcher // those whose context has ended, in that order
	last  error      // of ended[0] before its unwatch: a call that it ended may ask later
}

// A watcher is one watched context.
type watcher struct {
	c        weak.Pointer[Client] // weak: a long-lived context must not keep the client
	watchers *watchers
	ctx      context.Context
	cancel   func() bool   // prevents contextEnded; nil: it has been called
	over     chan struct{} // closed when contextEnded has returned
	once     sync.Once
}

func (w *watcher) contextEnded() {
	defer close(w.over)
	w.watchers.mu.Lock()
	w.watchers.ended = append(w.watchers.ended, w)
	w.watchers.mu.Unlock()
	c := w.c.Value()
	if c == nil {
		return
	}
	c.sock.Stop()
	if abort := c.abort.Load(); abort != nil {
		(*abort)()
	}
}

func (w *watcher) end() {
	w.once.Do(func() {
		fired := w.cancel == nil || !w.cancel()
		if fired {
			<-w.over
			if c := w.c.Value(); c != nil {
				c.sock.Resume()
			}
		}
		w.watchers.mu.Lock()
		defer w.watchers.mu.Unlock()
		isThis := func(other *watcher) bool { return other == w }
		w.watchers.last = w.watchers.cause()
		w.watchers.list = slices.DeleteFunc(w.watchers.list, isThis)
		w.watchers.ended = slices.DeleteFunc(w.watchers.ended, isThis)
	})
}

// endWatches calls every unwatch. It reports whether a context had ended.
func (c *Client) endWatches() (ended bool) {
	all := c.watchers.Load()
	if all == nil {
		return false
	}
	all.mu.Lock()
	list := slices.Clone(all.list)
	ended = len(all.ended) > 0
	all.mu.Unlock()
	for _, w := range list {
		w.end()
	}
	return ended
}

// stopped replaces the error of a call that Watch has ended by the context's error.
func (c *Client) stopped(err error) error {
	if !errors.Is(err, sock.ErrStopped) {
		return err
	}
	all := c.watchers.Load()
	if all == nil {
		return err // by the context of a dial; the caller replaces it
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.cause()
}

func (ws *watchers) cause() error {
	if len(ws.ended) == 0 {
		return ws.last
	}
	return contextError(ws.ended[0].ctx, sock.ErrStopped)
}
