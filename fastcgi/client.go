package fastcgi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/blocksock/client"
)

// A Role is what an application is asked to be.
type Role uint16

// The roles of the specification.
const (
	Responder  Role = 1 + iota // makes a response
	Authorizer                 // says whether there may be one
	Filter                     // makes one of a file; it would need a second stream, which nobody serves
)

// The defaults of a Client.
const (
	DefaultMaxConns    = 4
	DefaultIdleTimeout = 2 * time.Second
	DefaultMaxHeader   = 64 << 10
	DefaultMaxSpool    = 64 << 20
)

const (
	maxStderr = 64 << 10
	shortBody = 16 << 10 // goes with the request, in one piece
)

// A Client sends requests to one application. Its fields are not to be changed once it
// is in use. It may be used by any number of goroutines.
//
// A worker of php-fpm, and of most that speak FastCGI, serves one connection until it
// is closed, and nobody else meanwhile, whether there is a request on it or not. So
// the connections of all clients together have to be fewer than the workers
// (pm.max_children): MaxConns is the part of this one, and those who come when all are
// busy wait their turn here, instead of in the server's backlog behind a worker that
// waits for us. And so IdleTimeout is short: a connection that is kept keeps a worker.
type Client struct {
	Network string // "unix" or "tcp", and all that client.Dial knows
	Address string

	// Options are of the connections: Options.RecvTimeout, say, is how long the
	// application may be silent in the middle of a response, and SendTimeout how long
	// it may take none of the body. Framing is not to be set.
	Options *client.Options

	// MaxConns is how many connections there are at most; negative is no limit.
	// IdleTimeout is how long one is kept that nobody uses. Defaults: 4 and 2 s.
	MaxConns    int
	IdleTimeout time.Duration

	// Pool, if not nil, has the connections, and MaxConns and IdleTimeout mean nothing.
	Pool *client.Pool

	// MaxHeader is how long a response's header may be. Default: 64 KiB.
	MaxHeader int

	// MaxSpool is how much of a body of unknown length is kept in a temporary file to
	// know its length, without which there is no CONTENT_LENGTH. Longer ones are
	// ErrBodyTooLong; negative has them all fail with ErrLengthRequired. Default:
	// 64 MiB.
	MaxSpool int64

	once sync.Once
	own  *client.Pool
	opts *client.Options
}

// A Request is what an application is asked.
type Request struct {
	// Params are the meta-variables of RFC 3875, and what else the application wants.
	// CONTENT_LENGTH is set to what is sent, and absent without a body.
	Params map[string]string

	// Body is what the application reads, ContentLength bytes of it, or all there is
	// if that is negative. A nil Body is none.
	Body          io.Reader
	ContentLength int64

	// Role is Responder if zero.
	Role Role

	// Repeatable says that the request may be carried out twice. If a connection that
	// was kept turns out to be dead before anything has been answered, and the
	// application may have had the request, only such a one is sent again; and only if
	// its Body, if any, is short (16 KiB).
	Repeatable bool

	// Stderr is called with what the application says there, as it comes, while the
	// response is read. The bytes are its own for the time of the call alone.
	Stderr func(p []byte)

	// interrupt, if not nil, ends a read of Body, which is then not read any more once
	// there is an error or the response has ended.
	interrupt func()
}

func (cl *Client) begin() {
	cl.once.Do(func() {
		if cl.Options != nil {
			o := *cl.Options
			cl.opts = &o
		} else {
			cl.opts = &client.Options{}
		}
		cl.opts.Framing = framing
		if cl.own = cl.Pool; cl.own == nil {
			conns, idle := cl.MaxConns, cl.IdleTimeout
			if conns == 0 {
				conns = DefaultMaxConns
			}
			if idle == 0 {
				idle = DefaultIdleTimeout
			}
			cl.own = client.NewPool(client.PoolOptions{
				MaxConnsPerKey: max(conns, 0), MaxIdlePerKey: max(conns, 0), IdleTimeout: idle,
			})
		}
	})
}

// Close closes the connections that nobody uses; those in use are when their response
// has been read. It leaves a Pool of the caller's alone.
func (cl *Client) Close() error {
	cl.begin()
	if cl.own == cl.Pool {
		return nil
	}
	return cl.own.Close()
}

// Stats counts what the connections have been used for.
func (cl *Client) Stats() client.KeyStats {
	cl.begin()
	for _, k := range cl.own.Stats().Keys {
		if k.Network == cl.Network && k.Address == cl.Address {
			return k.KeyStats
		}
	}
	return client.KeyStats{}
}

// Do sends a request and returns the response when its header has come. The body is
// to be read to its end, or closed. ctx bounds all of it, the body too: when it ends,
// so does the connection, and with it the request.
//
// A request that could not be sent on a connection that was kept is sent once more, on
// a new one, if the application has had no byte of it, or if it is Repeatable and
// nothing of an answer has come.
//
// Errors are those of Pool.Dial and of the connection, a *ProtocolError, a Refusal, a
// *HeaderError, and io.ErrUnexpectedEOF for an answer that has no end, here or where
// the body is read.
func (cl *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	cl.begin()
	body, length, done, err := cl.lengthOf(r)
	if err != nil {
		return nil, err
	}
	head, err := appendHead(nil, r, length)
	if err != nil {
		done()
		return nil, err
	}
	if body == nil || length <= shortBody {
		if head, err = appendBody(head, body, length); err != nil {
			done()
			return nil, err
		}
		body = nil
	}
	resp, again, err := cl.do(ctx, r, head, body, length, done, cl.own.Dial)
	if again {
		resp, _, err = cl.do(ctx, r, head, body, length, done, cl.own.DialNew)
	}
	if err != nil {
		done()
		return nil, err
	}
	return resp, nil
}

type dialFunc = func(ctx context.Context, network, address string, opts *client.Options) (*client.Client, error)

// do is one try.
func (cl *Client) do(ctx context.Context, r *Request, head []byte, body io.Reader, length int64, done func(), dial dialFunc) (resp *Response, again bool, err error) {
	c, err := dial(ctx, cl.Network, cl.Address, cl.opts)
	if err != nil {
		return nil, false, err
	}
	x := &exchange{ctx: ctx, c: c, stderrTo: r.Stderr, interrupt: r.interrupt, done: done}
	x.uncancel = context.AfterFunc(ctx, func() { _ = c.Discard() })
	if _, err := c.Send(head, 0); err != nil {
		again = c.Reused() && (client.SafeToRetry(err) || r.Repeatable && body == nil)
		return nil, again && ctx.Err() == nil, x.abandon(err)
	}
	if body != nil {
		x.sending = make(chan error, 1)
		go func() {
			err := send(c, body, length)
			x.sending <- err
			if ofBody(err) != nil {
				_ = c.Discard() // a part of a body has no end that the application could be told
			}
		}()
	}
	limit := cl.MaxHeader
	if limit <= 0 {
		limit = DefaultMaxHeader
	}
	resp, err = x.header(limit)
	if err != nil {
		again = c.Reused() && r.Repeatable && body == nil && !x.answered
		return nil, again && ctx.Err() == nil, x.abandon(err)
	}
	return resp, false, nil
}

// A bodyError is what is wrong with a body, as opposed to the connection.
type bodyError struct{ error }

func ofBody(err error) error {
	if b, ok := err.(bodyError); ok { //nolint:errorlint // nobody wraps it
		return b.error
	}
	return nil
}

// appendHead appends what a request begins with.
func appendHead(p []byte, r *Request, length int64) ([]byte, error) {
	role := r.Role
	if role == 0 {
		role = Responder
	}
	begin := binary.BigEndian.AppendUint16(nil, uint16(role))
	p = appendRecord(p, beginRequest, requestID, append(begin, keepConn, 0, 0, 0, 0, 0))
	// A stream may be divided anywhere, but php-fpm reads each record of parameters by
	// itself: a pair that fits into one goes into one.
	var pairs, pair []byte
	add := func(name, value string) {
		pair = appendPair(pair[:0], name, value)
		if len(pairs)+len(pair) > maxPiece {
			p = appendStream(p, params, pairs)
			pairs = pairs[:0]
		}
		pairs = append(pairs, pair...)
	}
	for name, value := range r.Params {
		switch {
		case name == "CONTENT_LENGTH":
		case len(name) > longestParam || len(value) > longestParam:
			return nil, fmt.Errorf("fastcgi: a parameter of %d bytes: %.40q", len(name)+len(value), name)
		default:
			add(name, value)
		}
	}
	if r.Body != nil {
		add("CONTENT_LENGTH", strconv.FormatInt(length, 10))
	}
	p = appendStream(p, params, pairs)
	return appendRecord(p, params, requestID, nil), nil
}

const longestParam = 16 << 20 // more is no parameter

// appendBody appends a body that is short, and its end.
func appendBody(p []byte, body io.Reader, length int64) ([]byte, error) {
	if body != nil {
		content := make([]byte, length)
		if err := readExactly(body, content, length); err != nil {
			return nil, err
		}
		p = appendStream(p, stdin, content)
	}
	return appendRecord(p, stdin, requestID, nil), nil
}

// readExactly fills p, with which a body of a known length has to end if all that is
// left of it is as long.
func readExactly(body io.Reader, p []byte, left int64) error {
	if _, err := io.ReadFull(body, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return ErrBodyTooShort
		}
		return err
	}
	if left > int64(len(p)) {
		return nil
	}
	var more [1]byte
	switch n, err := io.ReadFull(body, more[:]); {
	case n > 0:
		return ErrBodyTooLong
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// send sends a body as the application takes it.
func send(c *client.Client, body io.Reader, length int64) error {
	p := make([]byte, headerLen+min(maxPiece, length)+headerLen) // with room for the end
	for left := length; left > 0; {
		n := int(min(left, maxPiece))
		if err := readExactly(body, p[headerLen:headerLen+n], left); err != nil {
			return bodyError{err}
		}
		left -= int64(n)
		record := appendHeader(p[:0], stdin, requestID, n, 0)[:headerLen+n]
		if left == 0 {
			record = appendRecord(record, stdin, requestID, nil)
		}
		if _, err := c.Send(record, 0); err != nil {
			return err
		}
	}
	return nil
}
