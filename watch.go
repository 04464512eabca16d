package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"weak"

	"github.com/blocksock/client/internal/sock"
)

// Watch has the end of ctx end every call on the client: those that wait return at once,
// and those that begin later, until unwatch is called. Their error is ctx's. It is for
// calls that take no context, as Send and Recv, and for code that was given the client
// as a net.Conn:
//
//	defer c.Watch(ctx)()
//
// Connect, StartTLS and a Select that the client is in end too. What had arrived or was
// sent by then is counted as at a time limit, and after unwatch the client can be used
// as before, unless it was a TLS handshake that ended. Several contexts may be watched at
// the same time; the error is that of the first to end.
//
// unwatch may be called more than once. Close and Discard of a client from a Pool call
// it. A ctx that never ends costs nothing.
func (c *Client) Watch(ctx context.Context) (unwatch func()) {
	if c.sock == nil || ctx.Done() == nil || !c.hold() {
		return func() {}
	}
	defer c.end()
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

// watchers are those of one client, and the error of the calls that they end.
type watchers struct {
	mu    sync.Mutex
	list  []*watcher
	ended []*watcher // those whose context has ended, in that order
	last  error      // of the first of ended, while there was one: a call may ask late
}

// A watcher is one context that a client's calls end with.
type watcher struct {
	c        weak.Pointer[Client] // a context that lives long is not to keep a client
	watchers *watchers
	ctx      context.Context
	cancel   func() bool   // keeps fire from being called; nil if it has been
	over     chan struct{} // closed when fire has returned
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

// endWatches ends what the client's user has not. It reports whether a context had ended.
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

// stopped gives the error of a call that Watch has ended the context's own; others stay.
func (c *Client) stopped(err error) error {
	if !errors.Is(err, sock.ErrStopped) {
		return err
	}
	all := c.watchers.Load()
	if all == nil {
		return err // a dial's own context, which its caller knows
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.cause()
}

func (ws *watchers) cause() error {
	if len(ws.ended) == 0 {
		return ws.last
	}
	return contextual(ws.ended[0].ctx, sock.ErrStopped)
}
