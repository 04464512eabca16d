package fastcgi

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/blocksock/client"
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
	maxStderr     = 64 << 10 // that is stored for Response.Stderr
	maxInlineBody = 16 << 10 // sent together with the parameters

	// maxReusedConnHead is how many bytes of records, a body of maxInlineBody not
	// included, fit into the socket's buffer.
	maxReusedConnHead = 64 << 10
)

// A Client sends requests to one application. Its methods may be called by several
// goroutines at the same time. Its fields must not be changed after the first call.
//
// A worker of php-fpm, and of most other applications, serves one connection until that
// connection is closed. It serves no other connection meanwhile, even if no request is in
// progress. So the connections of all clients together must be fewer than the workers
// (pm.max_children). MaxConns is the share of this Client. When all of its connections are
// in use, further requests wait in FIFO order, instead of in the backlog of a server
// whose workers wait for this Client. IdleTimeout is short because an idle connection
// occupies a worker.
type Client struct {
	Network string // "unix", "tcp", or another network of client.Dial
	Address string

	// Options are the options of the connections. Framing must not be set. Timeout is the
	// default of the three timeouts below.
	//
	// RecvTimeout bounds the wait for the first record of the response, counted from the
	// end of the request, and then the wait between two records. Records of other
	// requests do not count. Default: 60 s. Negative: no limit.
	//
	// SendTimeout bounds the time in which the application reads one piece of the
	// request. A piece is the parameters with a body of up to 16 KiB, or up to 64 KiB of
	// a longer body. Default: 60 s. Negative: no limit.
	//
	// ConnectTimeout bounds the wait for a connection: the wait for a free one of
	// MaxConns and the dial. Default: 5 s. Negative: no limit.
	Options *client.Options

	// BodyTimeout bounds each Read of Request.Body. A request whose Read takes longer
	// fails with ErrBodyTimeout. Default: 60 s. Negative: no limit.
	BodyTimeout time.Duration

	// MaxConns is the maximum number of connections. Default: 4. Negative: no limit.
	MaxConns int

	// IdleTimeout is how long an idle connection stays open. Default: 2 s. Negative: no
	// limit.
	IdleTimeout time.Duration

	// Pool, if not nil, is the pool of the connections. MaxConns and IdleTimeout are then
	// ignored. The Client does not close it.
	Pool *client.Pool

	// ReuseForNonIdempotent sends non-idempotent requests on idle connections, too. This
	// saves a dial for each. Such a request fails if the application closes the
	// connection at that moment, as a worker of php-fpm does after its last request
	// (pm.max_requests) and at a reload. It is not sent again, because the Client cannot
	// know whether the worker has read it. Default: each non-idempotent request uses a
	// new connection.
	ReuseForNonIdempotent bool

	// MaxResponseHeaderBytes is the maximum length of a response's header. A longer
	// header is a *HeaderError. Default: 64 KiB.
	MaxResponseHeaderBytes int

	// MaxBufferedBody is the maximum length of a request's body in a temporary file. A
	// body of unknown length is stored there because CONTENT_LENGTH is sent before it.
	// Handler stores every body of more than 16 KiB there, unless Handler.StreamBody is
	// set. A longer body fails with ErrBodyTooLong. Default: 64 MiB. Negative: no file;
	// bodies of unknown length fail with ErrLengthRequired.
	MaxBufferedBody int64

	once          sync.Once
	pool          *client.Pool
	options       *client.Options
	uploadOptions *client.Options // options without RecvTimeout: an upload sets read deadlines
	recvTimeout   time.Duration   // options.RecvTimeout; negative: no limit

	baseCtx    context.Context // of scripts that go on after the end of their response
	cancelBase context.CancelFunc
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
		cl.options.Framing = nil // a recvBuffer finds the records
		cl.options.RecvTimeout = cmp.Or(cl.options.RecvTimeout, cl.options.Timeout, DefaultRecvTimeout)
		cl.options.SendTimeout = cmp.Or(cl.options.SendTimeout, cl.options.Timeout, DefaultSendTimeout)
		cl.recvTimeout = cl.options.RecvTimeout
		uploadOptions := *cl.options
		uploadOptions.RecvTimeout = -1
		cl.uploadOptions = &uploadOptions
		if cl.pool = cl.Pool; cl.pool == nil {
			maxConns := max(cmp.Or(cl.MaxConns, DefaultMaxConns), 0)
			cl.pool = client.NewPool(client.PoolOptions{
				MaxConnsPerKey: maxConns, MaxIdlePerKey: maxConns, IdleTimeout: cmp.Or(cl.IdleTimeout, DefaultIdleTimeout),
			})
		}
	})
}

// Close closes the idle connections, and the connections whose script goes on after its
// response has been read. A connection whose response is still being read is closed when
// that ends. Close does not close Client.Pool.
func (cl *Client) Close() error {
	cl.init()
	cl.cancelBase()
	if cl.pool == cl.Pool {
		return nil
	}
	return cl.pool.Close()
}

// Stats returns the pool's statistics for the application's connections with
// Options.PoolKey.
func (cl *Client) Stats() client.KeyStats {
	cl.init()
	var sum client.KeyStats // in a Pool with other users, several keys may differ in options alone
	for _, k := range cl.pool.Stats().Keys {
		if k.PoolKey == cl.options.PoolKey && k.Network == cl.Network && k.Address == cl.Address {
			sum.Add(&k.KeyStats)
		}
	}
	return sum
}

// Do sends a request. It returns the response when the response's header has been
// received. The caller must read the response's Body to its end or close it. ctx bounds
// the request until the end of Body: when ctx ends, the connection is closed, and with
// it the request ends.
//
// A client.Trace in ctx, or in Options, is called for the connection; Retried is called
// before the request is sent once more.
//
// The error is one of Pool.Dial or of the connection, or one of *BusyError, *BodyError,
// *TempFileError, *ProtocolError, ProtocolStatus, *HeaderError and *ParamError. If the
// response has no end, the error of Do or of a Read of Body is io.ErrUnexpectedEOF.
func (cl *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	cl.init()
	body, err := cl.openBody(ctx, r)
	if err != nil {
		return nil, err
	}
	head, err := newRequestHead(r, body.length)
	if err != nil {
		body.close()
		return nil, err
	}
	defer head.free()
	if body.stream == nil {
		head.p = appendRecord(appendStream(head.p, typeStdin, body.inline), typeStdin, firstRequestID, nil)
	}
	// On an idle connection, the worker may first write what its previous script has left
	// over. If the head does not fit into the socket's buffer, the worker and this Client
	// would wait for each other.
	fresh := body.stream != nil || len(head.p) > maxReusedConnHead || !r.isIdempotent() && !cl.ReuseForNonIdempotent
	resp, retry, err := cl.roundTrip(ctx, r, head.p, body, fresh)
	if retry {
		cl.traceRetried(ctx, err)
		resp, _, err = cl.roundTrip(ctx, r, head.p, body, true)
	}
	if err != nil && len(head.p) > maxUnpaddedLen && isConnClosed(err) {
		err = asParamError(err, r.Params)
	}
	return resp, err
}

// traceRetried calls Retried of the Trace in ctx and of the one in Options.
func (cl *Client) traceRetried(ctx context.Context, err error) {
	for _, t := range [...]*client.Trace{client.ContextTrace(ctx), cl.options.Trace} {
		if t != nil && t.Retried != nil {
			t.Retried(client.RetriedInfo{PoolKey: cl.options.PoolKey, Network: cl.Network, Address: cl.Address, Err: err})
		}
	}
}

// asParamError returns a *ParamError if one of the parameters does not fit into a record,
// otherwise err.
func asParamError(err error, params map[string]string) error {
	for name, value := range params {
		if pairLen(name, value) > maxUnpaddedLen {
			return &ParamError{Name: name, Length: len(value), Err: err}
		}
	}
	return err
}

// roundTrip sends a request on an idle connection or, if fresh is true, on a new one. retry
// reports whether the request may be sent once more.
func (cl *Client) roundTrip(ctx context.Context, r *Request, head []byte, body requestBody, fresh bool) (resp *Response, retry bool, err error) {
	options, dial := cl.options, (*client.Pool).Dial
	if body.stream != nil {
		options = cl.uploadOptions
	}
	if fresh {
		dial = (*client.Pool).DialNew
	}
	conn, err := dial(cl.pool, ctx, cl.Network, cl.Address, options)
	if err != nil {
		body.close()
		return nil, false, cl.asBusyError(ctx, err)
	}
	x := &exchange{
		ctx: ctx, conn: conn, in: newRecvBuffer(), detachCtx: neverFires, id: requestIDAfter(conn.ReuseCount()), recvTimeout: cl.recvTimeout,
		baseCtx: cl.baseCtx, onStderr: r.Stderr, remaining: -1,
	}
	if ctx.Done() != nil {
		x.detachCtx = context.AfterFunc(ctx, x.discard)
	}
	returned := false
	defer func() {
		if !returned { // a function of a Trace or Request.Stderr has panicked
			_ = x.abort(nil)
		}
	}()
	setRequestID(head, x.id)
	if _, err = conn.Send(head, 0); err != nil {
		retry = isConnClosed(err) && client.SafeToRetry(err)
		body.close()
	} else {
		if body.stream != nil {
			x.startUpload(body)
		}
		resp, err = x.readHeader(cl.maxHeaderBytes(), r.Params["REQUEST_METHOD"] == http.MethodHead)
	}
	if err == nil {
		returned = true
		return resp, false, nil
	}
	// If an idle connection ends before any byte of the response, the application was
	// closing it. After a timeout the application may still work on the request.
	retry = retry || r.Idempotent && body.stream == nil && isConnClosed(err) && !x.hasResponseBytes()
	retry = retry && conn.Reused() && ctx.Err() == nil
	err = x.abort(err)
	x.freeBuffer()
	returned = true
	return nil, retry, err
}

// isConnClosed reports whether err says that the peer has closed the connection.
func isConnClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// asBusyError returns a *BusyError if err is a timeout because all connections are in use
// or because the application's backlog is full, otherwise err. A connect to a unix socket
// waits for nothing but the backlog.
func (cl *Client) asBusyError(ctx context.Context, err error) error {
	if !isTimeout(err) {
		return err
	}
	stats := cl.Stats()
	maxConns := cmp.Or(cl.MaxConns, DefaultMaxConns)
	if cl.Pool != nil {
		maxConns = 1 // the limit of the caller's pool is not known here
	}
	switch {
	case maxConns > 0 && stats.Active >= maxConns:
		return &BusyError{Conns: stats.Active, Err: err}
	case cl.Network == "unix" && ctx.Err() == nil:
		return &BusyError{Err: err}
	}
	return err
}

func (cl *Client) maxHeaderBytes() int {
	if cl.MaxResponseHeaderBytes <= 0 {
		return DefaultMaxResponseHeaderBytes
	}
	return cl.MaxResponseHeaderBytes
}
