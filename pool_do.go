package client

import (
	"context"
	"errors"
	"fmt"
)

// Do runs fn with a client of the pool and returns fn's error. If fn returns nil, the
// connection goes back to the pool. If fn returns an error, the connection is closed: an
// error means that the connection failed. fn should report failures of its request, such
// as a key that was not found, by other means, for example a variable.
//
// The end of ctx ends the calls on the client, with ctx's error; see Client.Watch.
//
// The server may close an idle connection at the moment when the request is sent. Do
// then runs fn once more, on a new connection, if all of these hold:
//
//   - The first connection was not dialled for this call.
//   - A call on it failed because the connection is dead: the stream ended or was reset.
//     A timeout, an ended context and the client's own Close do not count.
//   - No byte of an answer was received on it.
//   - The kernel accepted no byte of the request, or fn's error is marked by Retryable:
//     the request may be carried out twice.
//   - fn did not change the connection (StartTLS, CloseRead, SyscallConn), and ctx has
//     not ended.
//
// Only what happened on this client counts: errors of other connections in fn's error
// do not. fn never runs a third time.
//
// Do removes the mark from the error that it returns: with nested calls of Do, each one
// repeats only if its own fn permits it. If the request was sent twice, SafeToRetry of
// the error is false.
func (p *Pool) Do(ctx context.Context, network, address string, opts *Options, fn func(*Client) error) error {
	again, sent, err := p.doOnce(ctx, network, address, opts, fn, reuseOrDial)
	if !again || ctx.Err() != nil {
		return unmarked(err)
	}
	opts = orDefaults(opts)
	if t := ContextTrace(ctx).before(opts.Trace); t != nil {
		notify(t.Retried, RetriedInfo{opts.PoolKey, network, address, unmarked(err)})
	}
	_, _, second := p.doOnce(ctx, network, address, opts, fn, newOnly)
	if sent && second != nil {
		return &repeatedError{err: unmarked(second), first: unmarked(err)}
	}
	return unmarked(second)
}

// doOnce runs fn once. It reports whether fn may run again, and whether fn sent
// something.
func (p *Pool) doOnce(ctx context.Context, network, address string, opts *Options, fn func(*Client) error, mode acquireMode) (again, sent bool, err error) {
	c, err := p.acquire(ctx, network, address, orDefaults(opts), mode)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = c.lease.conn.release(c, true) }() // if fn panics; without the error of Discard, which allocates
	unwatch := c.Watch(ctx)
	err = fn(c)
	unwatch()
	if err == nil {
		_ = c.Close() // fn may have closed it
		return false, false, nil
	}
	_ = c.Discard() // from here on the client's usage does not change
	sent = c.sent.Load()
	return c.lostUnanswered() && (!sent || isRetryable(err)), sent, err
}

// lostUnanswered reports, of a released client, whether its connection existed before
// its checkout, died in use, and received no part of an answer.
func (c *Client) lostUnanswered() bool {
	if c.truncated() {
		return false // part of a record is part of an answer
	}
	return c.lease.wasPooled && c.lease.refs.Unused() && c.lease.usage.has(usageConnLost) && !c.lease.usage.has(usageResponseSeen) && !c.lease.usage.has(usageAltered)
}

// Retryable marks an error for Do: carrying out the request twice does no harm, so Do
// may send it again. Retryable(nil) is nil.
//
// Do finds the mark in an error that wraps one error (fmt.Errorf with one %w), and not
// in joined errors.
func Retryable(err error) error {
	if err == nil {
		return nil
	}
	return &retryableError{err}
}

type retryableError struct{ error }

func (e *retryableError) Unwrap() error { return e.error }

// isRetryable reports whether an error has a mark that no inner Do has removed.
func isRetryable(err error) bool {
	// Not errors.As: a joined error may be about another connection.
	for ; err != nil; err = errors.Unwrap(err) {
		switch err.(type) { //nolint:errorlint // the loop unwraps
		case *retryableError:
			return true
		case *unmarkedError:
			return false
		}
	}
	return false
}

// unmarked returns an error without its mark.
func unmarked(err error) error {
	for {
		r, ok := err.(*retryableError) //nolint:errorlint // the mark itself
		if !ok {
			break
		}
		err = r.error
	}
	if isRetryable(err) {
		return &unmarkedError{err} // the mark is inside the caller's error, which must not change
	}
	return err
}

// An unmarkedError hides the mark of the error in it.
type unmarkedError struct{ error }

func (e *unmarkedError) Unwrap() error   { return e.error }
func (e *unmarkedError) Timeout() bool   { return isTimeout(e.error) }
func (e *unmarkedError) Temporary() bool { return isTimeout(e.error) }

// A repeatedError is the error of a second attempt after a first one that sent
// something. It is never safe to retry, whatever the second error says.
type repeatedError struct{ err, first error }

func (e *repeatedError) Error() string {
	return fmt.Sprintf("%v (second attempt; first attempt: %v)", e.err, e.first)
}

func (e *repeatedError) Unwrap() error     { return e.err }
func (e *repeatedError) SafeToRetry() bool { return false }
func (e *repeatedError) Timeout() bool     { return isTimeout(e.err) }
func (e *repeatedError) Temporary() bool   { return isTimeout(e.err) }

// Discard closes the client's connection instead of returning it to the pool. For a
// client that is not from a pool it is Close.
func (c *Client) Discard() error {
	if c.lease == nil {
		return c.Close()
	}
	return c.closeError(c.lease.conn.release(c, true))
}

// Reused reports whether another client has used the connection before. It is false for
// the first use of a connection that the pool dialled in advance (MinIdle) or for a
// caller that gave up.
func (c *Client) Reused() bool { return c.ReuseCount() > 0 }

// ReuseCount is the number of clients that have used the connection before. It is 0 for
// a client that is not from a pool.
func (c *Client) ReuseCount() int {
	if c.lease == nil {
		return 0
	}
	return c.lease.reuseCount
}
