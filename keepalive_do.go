package client

import (
	"context"
	"errors"
)

// Do runs fn with a client of the pool, and gives its error. The client is given
// back after fn, or closed if there was an error, which is taken to be about the
// connection: what fn finds out about its request it hands out by other ways.
//
// A connection that was there may have been closed by the server at the moment
// when the request went out. If it was such a one, a call on it failed before one
// byte of the answer was received, and either nothing of the request had been sent
// (SafeToRetry) or fn says by Repeatable that the request may be carried out
// twice, fn runs once more, on a connection that is new. It never runs a third
// time, nor a second after it had a new connection.
func (p *Pool) Do(ctx context.Context, network, address string, opts *Options, fn func(*Client) error) error {
	again, err := p.do(ctx, network, address, opts, fn, false)
	if again {
		_, err = p.do(ctx, network, address, opts, fn, true)
	}
	return err
}

func (p *Pool) do(ctx context.Context, network, address string, opts *Options, fn func(*Client) error, fresh bool) (again bool, err error) {
	c, err := p.dial(ctx, network, address, orDefaults(opts), fresh)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.Discard() }() // also if fn panics
	if err = fn(c); err == nil {
		_ = c.Close() // fn may have done so
		return false, nil
	}
	return c.reused && c.note.has(isBroken) && !c.note.has(isAnswered) && (SafeToRetry(err) || isRepeatable(err)), err
}

// Repeatable marks an error for Do: the request that it is about may be sent
// again, because to carry it out twice does no harm. It gives nil for nil.
func Repeatable(err error) error {
	if err == nil {
		return nil
	}
	return &repeatableError{err}
}

type repeatableError struct{ error }

func (e *repeatableError) Unwrap() error { return e.error }

func isRepeatable(err error) bool {
	var r *repeatableError
	return errors.As(err, &r)
}

// Discard closes the client's connection for good. For a client that is not from
// a pool it is Close.
func (c *Client) Discard() error {
	if c.kept == nil {
		return c.Close()
	}
	return c.closed(c.kept.giveBack(c, true))
}

// Reused reports whether the client was given a connection of a pool that was
// there before it was asked for.
func (c *Client) Reused() bool { return c.reused }

// ReuseCount is how many clients had the connection before this one. It is 0 for
// a client that is not from a pool.
func (c *Client) ReuseCount() int { return c.reuses }
