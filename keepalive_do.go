package client

import (
	"context"
	"errors"
	"fmt"
)

// Do runs fn with a client of the pool, and returns fn's error. The client is given
// back after fn, or closed if there was an error, which is taken to be about the
// connection: what fn finds out about its request it hands out by other ways.
//
// The end of ctx ends the calls of fn on the client, with ctx's error; see Client.Watch.
//
// The server may close an idle connection at the moment when the request is sent. Do
// then runs fn once more, on a new connection. It does so if all of this holds:
//
//   - The first connection was not dialled for this call.
//   - A call of fn on it failed because the connection is dead: the stream ended or was
//     reset. A timeout, an ended context and the client's own Close are no such failures.
//   - No byte of an answer was received on it.
//   - No byte of the request was accepted by the kernel, or fn's error is marked by
//     Retryable: the request may be carried out twice.
//   - fn did not change the connection (StartTLS, CloseRead, SyscallConn), and ctx has
//     not ended.
//
// Only what happened on this client counts: what fn's error says of another
// connection does not. fn never runs a third time.
//
// The mark does not leave Do: in a Do around this one, only that one's own fn can
// permit to repeat. If the request was sent twice, SafeToRetry of the error is false.
func (p *Pool) Do(ctx context.Context, network, address string, opts *Options, fn func(*Client) error) error {
	again, sent, err := p.do(ctx, network, address, opts, fn, false)
	if !again || ctx.Err() != nil {
		return unmarked(err)
	}
	_, _, second := p.do(ctx, network, address, opts, fn, true)
	if sent && second != nil {
		return &repeatedError{err: unmarked(second), first: unmarked(err)}
	}
	return unmarked(second)
}

// do runs fn once. It reports whether fn may run again, and whether something was sent.
func (p *Pool) do(ctx context.Context, network, address string, opts *Options, fn func(*Client) error, fresh bool) (again, sent bool, err error) {
	c, err := p.dial(ctx, network, address, orDefaults(opts), fresh)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = c.Discard() }() // also if fn panics
	unwatch := c.Watch(ctx)
	err = fn(c)
	unwatch()
	if err == nil {
		_ = c.Close() // fn may have done so
		return false, false, nil
	}
	_ = c.Discard() // from here on, what the client has done does not change
	sent = c.sent.Load()
	return c.lostUnanswered() && (!sent || isRetryable(err)), sent, err
}

// lostUnanswered reports, of a client that was given back, whether its connection was
// there before, died in its hands, and gave no answer.
func (c *Client) lostUnanswered() bool {
	if t := c.tls.Load(); t != nil && t.cut.Load() {
		return false // a part of a record is a part of an answer
	}
	return c.old && c.gate.isEmpty() && c.note.has(isLost) && !c.note.has(isAnswered) && !c.note.has(isAltered)
}

// Retryable marks an error for Do: the request that it is about may be sent
// again, because to carry it out twice does no harm. It gives nil for nil.
//
// Do finds the mark through wrapping of one error (fmt.Errorf with one %w), not in
// errors that were joined.
func Retryable(err error) error {
	if err == nil {
		return nil
	}
	return &retryableError{err}
}

type retryableError struct{ error }

func (e *retryableError) Unwrap() error { return e.error }

// isRetryable reports whether an error has a mark that no Do has seen.
func isRetryable(err error) bool {
	// Not errors.As: what was joined with it may be of another connection.
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

// unmarked gives an error without its mark.
func unmarked(err error) error {
	for {
		r, ok := err.(*retryableError) //nolint:errorlint // the mark itself
		if !ok {
			break
		}
		err = r.error
	}
	if isRetryable(err) {
		return &unmarkedError{err} // within the caller's own error, which stays as it is
	}
	return err
}

// An unmarkedError hides the mark of the error in it.
type unmarkedError struct{ error }

func (e *unmarkedError) Unwrap() error   { return e.error }
func (e *unmarkedError) Timeout() bool   { return isTimeout(e.error) }
func (e *unmarkedError) Temporary() bool { return isTimeout(e.error) }

// A repeatedError is the error of a request that was sent and that could not be
// repeated: whatever the second says of itself, it is not safe to retry.
type repeatedError struct{ err, first error }

func (e *repeatedError) Error() string {
	return fmt.Sprintf("%v (repeated; the connection on which it was first sent: %v)", e.err, e.first)
}

func (e *repeatedError) Unwrap() error     { return e.err }
func (e *repeatedError) SafeToRetry() bool { return false }
func (e *repeatedError) Timeout() bool     { return isTimeout(e.err) }
func (e *repeatedError) Temporary() bool   { return isTimeout(e.err) }

// Discard closes the client's connection for good. For a client that is not from
// a pool it is Close.
func (c *Client) Discard() error {
	if c.kept == nil {
		return c.Close()
	}
	return c.closed(c.kept.giveBack(c, true))
}

// Reused reports whether another client had the connection before this one. It is
// false for the first use of a connection that the pool dialled in advance (MinIdle) or
// for a caller that has gone.
func (c *Client) Reused() bool { return c.reuses > 0 }

// ReuseCount is how many clients had the connection before this one. It is 0 for
// a client that is not from a pool.
func (c *Client) ReuseCount() int { return c.reuses }
