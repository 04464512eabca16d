package client

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"

	"github.com/blocksock/client/internal/sock"
)

// setUp runs PoolOptions.Setup on a new connection. If Setup fails or does not return,
// the connection is closed.
func (k *pooledConn) setUp(ctx context.Context, dialled *Client, opts *Options, until sock.Instant) (err error) {
	limited := ctx
	if until != sock.Never {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, until.Left())
		defer cancel()
	}
	c := &Client{
		typ: k.typ, network: k.network, addressing: k.addressing,
		initialLimits: opts.limits(), lease: &lease{conn: k},
	}
	c.share(&k.stream)
	c.frames = dialled.frames
	if opts.Trace != nil { // for StartTLS; what Setup receives is no answer to a caller
		c.setTrace(new(Trace), opts.Trace, k.bucket.key.address)
	}
	c.state.Store(connected)
	done := false
	defer func() {
		if !done { // Setup has failed or panicked
			k.endedBy = cmp.Or(err, errNoReturn)
			c.lease.end()
			c.endWatches()
			defer k.close(DiscardSetup)
			k.pool.mu.Lock()
			defer k.pool.mu.Unlock()
			k.bucket.stats.Discards[DiscardSetup]++
		}
	}()
	c.Watch(limited)
	err = k.pool.opts.Setup(limited, c)
	first, inUse := c.lease.end()
	stopped := c.endWatches() // a context that ends later must not end calls of later clients
	k.share(&c.stream)        // Setup may have called StartTLS
	switch {
	case ctx.Err() != nil:
		return contextError(ctx, sock.ErrStopped)
	case limited.Err() != nil || until.Left() <= 0: // a deadline set by Setup can pass before the timer of limited fires
		return os.ErrDeadlineExceeded
	case err != nil:
		return err
	case !first:
		return errSetupClosed
	case inUse:
		return errSetupInUse
	case stopped:
		return errSetupStopped
	case c.lease.usage.has(usageFailed):
		return errSetupBroken
	}
	k.setupAnswered = c.lease.usage.has(usageResponseSeen)
	if c.buffered() > 0 {
		return errSetupUnread
	}
	if !k.pool.opts.ReuseUnanswered && (c.isUnanswered() || k.setupAnswered && c.lease.usage.has(usageRequestSent)) {
		return errSetupUnanswered // without an answer it may have sent a header, such as the PROXY protocol's
	}
	k.sock.ResetDeadlines()
	switch k.probe(true) {
	case sock.Closed:
		return errSetupGone
	case sock.Readable:
		if k.setupAnswered { // otherwise they are a greeting, for the first client
			return errSetupUnread
		}
	}
	done = true
	return nil
}

var (
	errSetupClosed     = errors.New("the client was closed: return an error instead")
	errSetupInUse      = errors.New("a call on the client was still under way: wait for it before returning")
	errSetupBroken     = errors.New("a call on the client had failed, but the result was nil: return the error")
	errSetupStopped    = errors.New("a watched context had ended, but the result was nil: call unwatch or return an error")
	errSetupUnread     = errors.New("part of an answer was left unread: receive all of it")
	errSetupUnanswered = errors.New("the answer to a request had not arrived: receive it, or set PoolOptions.ReuseUnanswered if there is none")
	errSetupGone       = errors.New("the peer has closed the connection")
)

// A setupError is the error of a dial whose Setup has failed.
type setupError struct{ error }

func (e *setupError) Error() string   { return "PoolOptions.Setup: " + e.error.Error() }
func (e *setupError) Unwrap() error   { return e.error }
func (e *setupError) Timeout() bool   { return isTimeout(e.error) }
func (e *setupError) Temporary() bool { return isTimeout(e.error) }

var _ net.Error = (*setupError)(nil)
