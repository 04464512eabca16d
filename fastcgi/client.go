package fastcgi

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/blocksock/client"
)

// A Role is what an application is asked to be.
type Role uint16

// The roles of the specification.
const (
	RoleResponder  Role = 1 + iota // makes a response
	RoleAuthorizer                 // says whether there may be one
	RoleFilter                     // makes one of a file; it would need a second stream, which nobody serves
)

// The defaults of a Client.
const (
	DefaultMaxConns               = 4
	DefaultIdleTimeout            = 2 * time.Second
	DefaultMaxResponseHeaderBytes = 64 << 10
	DefaultMaxBufferedBody        = 64 << 20

	DefaultRecvTimeout = 60 * time.Second // as nginx's fastcgi_read_timeout
	DefaultSendTimeout = 60 * time.Second // as nginx's fastcgi_send_timeout
	DefaultBodyTimeout = 60 * time.Second // as nginx's client_body_timeout
)

const (
	maxStderr         = 64 << 10
	maxInlineBody     = 16 << 10 // goes with the request, in one piece
	maxReusedConnHead = 64 << 10 // fits into a socket, with a short body
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

	// Options are the options of the connections. Framing must not be set. A Timeout is
	// the default of the three limits below.
	//
	// RecvTimeout is how long the application may take from the end of the request to
	// the first record of the answer, and between two records. Records of other requests
	// do not count. Default: 60 s. Negative: no limit.
	//
	// SendTimeout is how long the application may take to read one piece of a request:
	// the parameters with a short body, or up to 64 KiB of a longer body. Default: 60 s.
	// Negative: no limit.
	//
	// ConnectTimeout is how long a request waits for a connection: for its turn, if
	// MaxConns connections are in use, and for the dial. Default: 5 s. Negative: no
	// limit.
	Options *client.Options

	// BodyTimeout is how long one Read of a Request's Body may take. If a Read takes
	// longer, the request fails with ErrBodyTimeout. Default: 60 s. Negative: no limit.
	BodyTimeout time.Duration

	// MaxConns is how many connections there are at most; negative is no limit.
	// IdleTimeout is how long one is kept that nobody uses. Defaults: 4 and 2 s.
	MaxConns    int
	IdleTimeout time.Duration

	// Pool, if not nil, has the connections, and MaxConns and IdleTimeout mean nothing.
	Pool *client.Pool

	// ReuseForNonIdempotent sends requests that are not idempotent on idle connections too,
	// which saves a dial for each. Such a request fails if the application closes the
	// connection at that moment, as a worker of php-fpm does after its last request
	// (pm.max_requests) and at a reload: the Client cannot know whether the worker has
	// read the request, and so does not send it again. Default: each gets a new
	// connection, which no worker has yet.
	ReuseForNonIdempotent bool

	// MaxResponseHeaderBytes is how long a response's header may be. Default: 64 KiB.
	MaxResponseHeaderBytes int

	// MaxBufferedBody is how many bytes of a body are kept in a temporary file: of one of
	// unknown length, to know the CONTENT_LENGTH, and of every body that Handler keeps
	// before it asks the application (see Handler.StreamBody). A longer body is
	// ErrBodyTooLong. Default: 64 MiB. Negative: bodies of unknown length fail with
	// ErrLengthRequired.
	MaxBufferedBody int64

	once          sync.Once
	pool          *client.Pool
	options       *client.Options
	uploadOptions *client.Options // opts without RecvTimeout, which an upload keeps by deadlines
	recvTimeout   time.Duration   // opts.RecvTimeout; negative: no limit

	baseCtx    context.Context // of requests that go on after their responses
	cancelBase context.CancelFunc
}

// A Request is what an application is asked.
type Request struct {
	// Params are the meta-variables of RFC 3875, and what else the application wants.
	// CONTENT_LENGTH is set to what is sent, and absent without a body.
	Params map[string]string

	// Body is what the application reads, ContentLength bytes of it, or all there is
	// if that is negative. A nil Body is none. Do does not wait for a Read of Body that is
	// in progress when the request ends early, by ctx or by an error.
	Body          io.Reader
	ContentLength int64

	// Role is RoleResponder if zero.
	Role Role

	// Idempotent says that the request may be carried out twice. Such a request is sent
	// once more, on a new connection, if an idle connection turns out to be closed by the
	// application before any byte of the answer came, and if its Body, if any, is short
	// (16 KiB). A request that ran into a limit is never sent again.
	//
	// Idempotent requests and those whose REQUEST_METHOD is GET, HEAD, OPTIONS or TRACE
	// go out on an idle connection, if there is one. Others, and those with a longer
	// Body or with Params of more than 64 KiB, get a new connection; see
	// Client.ReuseForNonIdempotent.
	Idempotent bool

	// Stderr is called with what the application says there, as it comes, while the
	// response is read; Response.Stderr has what comes later too. The bytes are its own for
	// the time of the call alone.
	Stderr func(p []byte)

	// interrupt, if not nil, ends a Read of Body. Do then waits for a Read in progress:
	// Body is not read any more after an error or after the end of the response.
	interrupt func()

	// closeBody, if not nil, is called once: when Body has been read, or to end a Read
	// in progress. Do does not wait for it.
	closeBody func()
}

func (cl *Client) init() {
	cl.once.Do(func() {
		cl.baseCtx, cl.cancelBase = context.WithCancel(context.Background())
		if cl.Options != nil {
			o := *cl.Options
			cl.options = &o
		} else {
			cl.options = &client.Options{}
		}
		cl.options.Framing = recordFraming
		cl.options.RecvTimeout = cmp.Or(cl.options.RecvTimeout, cl.options.Timeout, DefaultRecvTimeout)
		cl.options.SendTimeout = cmp.Or(cl.options.SendTimeout, cl.options.Timeout, DefaultSendTimeout)
		cl.recvTimeout = cl.options.RecvTimeout
		whileSending := *cl.options
		whileSending.RecvTimeout = -1
		cl.uploadOptions = &whileSending
		if cl.pool = cl.Pool; cl.pool == nil {
			conns, idle := cl.MaxConns, cl.IdleTimeout
			if conns == 0 {
				conns = DefaultMaxConns
			}
			if idle == 0 {
				idle = DefaultIdleTimeout
			}
			cl.pool = client.NewPool(client.PoolOptions{
				MaxConnsPerKey: max(conns, 0), MaxIdlePerKey: max(conns, 0), IdleTimeout: idle,
			})
		}
	})
}

// Close closes the connections that nobody uses, also those whose script goes on after a
// response that has come whole; those in use are when their response has been read. It
// leaves a Pool of the caller's alone.
func (cl *Client) Close() error {
	cl.init()
	cl.cancelBase()
	if cl.pool == cl.Pool {
		return nil
	}
	return cl.pool.Close()
}

// Stats counts what the connections have been used for.
func (cl *Client) Stats() client.KeyStats {
	cl.init()
	for _, k := range cl.pool.Stats().Keys {
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
// Errors are those of Pool.Dial and of the connection, a *BusyError, a *BodyError, a
// *TempFileError, a *ProtocolError, a ProtocolStatus, a *HeaderError, a *ParamError, and
// io.ErrUnexpectedEOF for an answer that has no end, here or where the body is read.
func (cl *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	cl.init()
	body, err := cl.openBody(ctx, r)
	if err != nil {
		return nil, err
	}
	head, err := appendBeginAndParams(make([]byte, 0, initialBufferSize), r, body.length)
	if err != nil {
		body.close()
		return nil, err
	}
	if body.stream == nil {
		head = appendRecord(appendStream(head, typeStdin, body.inline), typeStdin, firstRequestID, nil)
	}
	opts, dial := cl.options, cl.pool.Dial
	if body.stream != nil {
		opts = cl.uploadOptions
	}
	// Before it reads the head, a worker may have to write what its last script has left:
	// it would wait for us while we wait for it, if the head does not fit into the socket.
	if body.stream != nil || len(head) > maxReusedConnHead || !r.isIdempotent() && !cl.ReuseForNonIdempotent {
		dial = cl.pool.DialNew
	}
	resp, again, err := cl.roundTrip(ctx, r, head, body, opts, dial)
	if again {
		resp, _, err = cl.roundTrip(ctx, r, head, body, opts, cl.pool.DialNew)
	}
	if err != nil && len(head) > maxUnpaddedLen && isConnClosed(err) {
		err = asParamError(err, r.Params)
	}
	return resp, err
}

// withParam makes a *ParamError of the end of a connection if there is a parameter that
// does not fit into a record.
func asParamError(err error, all map[string]string) error {
	for name, value := range all {
		if len(appendPair(nil, name, value)) > maxUnpaddedLen {
			return &ParamError{Name: name, Length: len(value), Err: err}
		}
	}
	return err
}

// isIdempotent reports whether a request may go out on an idle connection, which the
// application may be closing (RFC 9110, 9.2.1).
func (r *Request) isIdempotent() bool {
	switch r.Params["REQUEST_METHOD"] {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Idempotent
}

type dialFunc = func(ctx context.Context, network, address string, opts *client.Options) (*client.Client, error)

// try sends a request on one connection. again reports whether it may be sent once more.
func (cl *Client) roundTrip(ctx context.Context, r *Request, head []byte, body requestBody, opts *client.Options, dial dialFunc) (resp *Response, again bool, err error) {
	c, err := dial(ctx, cl.Network, cl.Address, opts)
	if err != nil {
		body.close()
		return nil, false, cl.asBusyError(ctx, err)
	}
	x := &exchange{ctx: ctx, conn: c, id: requestIDAfter(c.ReuseCount()), recvTimeout: cl.recvTimeout, baseCtx: cl.baseCtx, onStderr: r.Stderr, remaining: -1}
	x.detachCtx = context.AfterFunc(ctx, func() { _ = c.Discard() })
	setRequestID(head, x.id)
	if _, err = c.Send(head, 0); err != nil {
		again = isConnClosed(err) && client.SafeToRetry(err)
		body.close()
	} else {
		if body.stream != nil {
			x.startUpload(body)
		}
		resp, err = x.readHeader(cl.maxHeaderBytes(), r.Params["REQUEST_METHOD"] == http.MethodHead)
	}
	if err == nil {
		return resp, false, nil
	}
	// If an idle connection ends before any byte of the answer, the application was
	// closing it. After a timeout the application may be working on the request.
	again = again || r.Idempotent && body.stream == nil && isConnClosed(err) && !x.hasResponseBytes()
	again = again && c.Reused() && ctx.Err() == nil
	return nil, again, x.abort(err)
}

// isEnd reports whether an error is the end of a connection.
func isConnClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// dialError makes a *BusyError of a timeout that means that the application is busy: all
// connections are in use, or its backlog is full, which is all that a connect to a unix
// socket waits for.
func (cl *Client) asBusyError(ctx context.Context, err error) error {
	if !isTimeout(err) {
		return err
	}
	stats := cl.Stats()
	most := cl.MaxConns
	switch {
	case cl.Pool != nil:
		most = 1 // the pool's own number is not known here
	case most == 0:
		most = DefaultMaxConns
	}
	switch {
	case most > 0 && stats.Active >= most:
		return &BusyError{Conns: stats.Active, Err: err}
	case cl.Network == "unix" && ctx.Err() == nil:
		return &BusyError{Err: err}
	}
	return err
}

// appendHead appends what a request begins with. See setID.
func appendBeginAndParams(p []byte, r *Request, length int64) ([]byte, error) {
	role := r.Role
	if role == 0 {
		role = RoleResponder
	}
	begin := binary.BigEndian.AppendUint16(nil, uint16(role))
	p = appendRecord(p, typeBeginRequest, firstRequestID, append(begin, flagKeepConn, 0, 0, 0, 0, 0))
	// A stream may be divided anywhere, but php-fpm reads each record of parameters by
	// itself: a pair that fits into one goes into one.
	pairs, pair := make([]byte, 0, initialBufferSize), []byte(nil)
	add := func(name, value string) {
		pair = appendPair(pair[:0], name, value)
		if len(pairs)+len(pair) > maxUnpaddedLen {
			p = appendStream(p, typeParams, pairs)
			pairs = pairs[:0]
		}
		pairs = append(pairs, pair...)
	}
	for name, value := range r.Params {
		switch {
		case name == "CONTENT_LENGTH":
		case len(name) > maxParamLen || len(value) > maxParamLen:
			return nil, fmt.Errorf("fastcgi: a parameter of %d bytes: %.40q", len(name)+len(value), name)
		default:
			add(name, value)
		}
	}
	if r.Body != nil {
		add("CONTENT_LENGTH", strconv.FormatInt(length, 10))
	}
	p = appendStream(p, typeParams, pairs)
	return appendRecord(p, typeParams, firstRequestID, nil), nil
}

// usualHead is how long a request without a body is as a rule, in bytes.
const initialBufferSize = 1 << 10

const maxParamLen = 16 << 20 // more is no parameter

func (cl *Client) maxHeaderBytes() int {
	if cl.MaxResponseHeaderBytes <= 0 {
		return DefaultMaxResponseHeaderBytes
	}
	return cl.MaxResponseHeaderBytes
}
