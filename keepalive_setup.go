package client

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/blocksock/client/internal/sock"
)

// setUp has PoolOptions.Setup make of a new connection what the pool's clients expect.
// If it fails, or does not return, the connection is closed.
func (k *kept) setUp(ctx context.Context, dialled *Client, opts *Options, until sock.Instant) (err error) {
	limited := ctx
	if until != sock.Never {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, until.Left())
		defer cancel()
	}
	c := &Client{
		sock: k.sock, typ: k.typ, network: k.network, addressing: k.addressing,
		limits: opts.limits(), packets: dialled.packets, kept: k,
	}
	if k.tls != nil {
		c.tls.Store(k.tls)
	}
	c.state.Store(connected)
	done := false
	defer func() {
		if !done { // also if Setup has panicked
			c.gate.shut()
			c.endWatches()
			k.close()
		}
	}()
	c.Watch(limited)
	err = k.pool.opts.Setup(limited, c)
	first, inUse := c.gate.shut()
	stopped := c.endWatches() // else the end of a context would stop the connection's later users
	k.tls = c.tls.Load()      // StartTLS may have made it
	switch {
	case ctx.Err() != nil:
		return contextual(ctx, sock.ErrStopped)
	case limited.Err() != nil || until.Left() <= 0: // a deadline of Setup's own may be sooner than the context's timer
		return os.ErrDeadlineExceeded
	case err != nil:
		return err
	case !first:
		return errSetupClosed
	case inUse:
		return errSetupInUse
	case stopped:
		return errSetupStopped
	case c.note.has(isBroken):
		return errSetupBroken
	}
	k.begun = c.note.has(isAnswered)
	if c.packets.buffered() > 0 {
		return errSetupUnread
	}
	if !k.pool.opts.ReuseUnanswered && (c.packets.unanswered() || k.begun && c.note.has(isAsked)) {
		return errSetupUnanswered // a peer that has said nothing may have been sent a header, as PROXY's
	}
	k.sock.ResetDeadlines()
	switch k.pending(true) {
	case sock.Closed:
		return errSetupGone
	case sock.Readable:
		if k.begun { // else it is a greeting, for the first who comes
			return errSetupUnread
		}
	}
	done = true
	return nil
}

var (
	errSetupClosed     = errors.New("it closed the client: return an error instead")
	errSetupInUse      = errors.New("it returned while another goroutine had a call of the client under way")
	errSetupBroken     = errors.New("it returned no error, and a call on the client had failed")
	errSetupStopped    = errors.New("it returned no error, and a context that it watched had ended: call unwatch, or return an error")
	errSetupUnread     = errors.New("it left a part of an answer unread: receive all of it")
	errSetupUnanswered = errors.New("it left an answer unread that is still to come: receive it, or set PoolOptions.ReuseUnanswered if there is none")
	errSetupGone       = errors.New("the peer has closed the connection")
)

// A setupError is the error of a dial whose Setup has failed.
type setupError struct{ error }

func (e *setupError) Error() string   { return "PoolOptions.Setup: " + e.error.Error() }
func (e *setupError) Unwrap() error   { return e.error }
func (e *setupError) Timeout() bool   { return isTimeout(e.error) }
func (e *setupError) Temporary() bool { return isTimeout(e.error) }

var _ net.Error = (*setupError)(nil)
