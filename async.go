package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// An AsyncConfig says what an AsyncClient calls. OnReceive is required, for DialAsync
// OnError too, and for streams OnConnect and OnClose.
//
// The callbacks of one client never overlap, and never run inside a method that the program
// calls: they run on goroutines of this package. Any method may be called in a callback, and
// with any mutex of the program held. A callback that blocks delays this client alone. A
// panic in a callback ends the process, as in any goroutine.
type AsyncConfig struct {
	// OnConnect is called when the client is connected, with the proxy's and the TLS
	// handshake done. It is the first callback.
	OnConnect func(a *AsyncClient)

	// OnReceive is called with what has arrived: bytes of a stream, a packet with
	// Options.Framing, or a datagram. p is valid until OnReceive returns. Programs that are
	// built with the race detector find p overwritten afterwards.
	OnReceive func(a *AsyncClient, p []byte)

	// OnError is called if the client could not be connected, with the error that Dial
	// would have returned. It is the only callback then. After Close it is net.ErrClosed.
	OnError func(a *AsyncClient, err error)

	// OnClose is called once, after OnConnect and everything else. err is nil after Close,
	// and after Finish if nothing failed until then, io.EOF if the peer has ended the stream,
	// and otherwise what failed. Bytes that a send has accepted and that were not sent make it
	// an *UnsentError.
	OnClose func(a *AsyncClient, err error)

	// OnBufferFull is called when the queue has reached HighWatermark, and OnBufferEmpty
	// when it has then sunk to LowWatermark: strictly by turns.
	OnBufferFull  func(a *AsyncClient)
	OnBufferEmpty func(a *AsyncClient)

	// MaxQueue is how many bytes the queue holds. Default: 8 MiB. HighWatermark and
	// LowWatermark are numbers of bytes in it. Defaults: four fifths of MaxQueue, and 0.
	//
	// Only what is sent counts, and an empty datagram as one byte. Each datagram in the queue
	// takes about 110 bytes of memory besides, from SendTo 160 (64-bit systems): for many short
	// ones, set MaxQueue to a part of the memory that they may take.
	MaxQueue, HighWatermark, LowWatermark int

	// IdleTimeout ends the client with os.ErrDeadlineExceeded when it has neither received
	// nor sent anything for so long. It also holds after the peer's end, while others are
	// piped into the client, and in Finish. It does not end a client that is paused, or whose
	// pipe is held up by a full target: the target's limits hold then. If the queue stands
	// still, it may take twice that time. Default: none.
	IdleTimeout time.Duration
}

const defaultMaxQueue = 8 << 20

// check returns the configuration with its defaults.
func (cfg AsyncConfig) check(isStream, dials bool) (AsyncConfig, error) {
	bad := func(field, reason string) (AsyncConfig, error) {
		return cfg, &OptionError{Option: "AsyncConfig." + field, Reason: reason}
	}
	switch {
	case cfg.OnReceive == nil:
		return bad("OnReceive", "is required")
	case dials && cfg.OnError == nil:
		return bad("OnError", "is required: it is the only report of a failed connect")
	case isStream && cfg.OnConnect == nil:
		return bad("OnConnect", "is required for streams")
	case isStream && cfg.OnClose == nil:
		return bad("OnClose", "is required for streams")
	case cfg.MaxQueue < 0:
		return bad("MaxQueue", "is negative: use 0 for the default")
	case cfg.IdleTimeout < 0:
		return bad("IdleTimeout", "is negative: use 0 for no timeout")
	}
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = defaultMaxQueue
	}
	if cfg.HighWatermark == 0 {
		cfg.HighWatermark = max(cfg.MaxQueue/5*4, 1)
		if cfg.LowWatermark >= cfg.HighWatermark {
			return bad("LowWatermark", "must be less than HighWatermark, which is four fifths of MaxQueue by default")
		}
	}
	switch {
	case cfg.HighWatermark < 0 || cfg.HighWatermark > cfg.MaxQueue:
		return bad("HighWatermark", "must be from 1 to MaxQueue")
	case cfg.LowWatermark < 0 || cfg.LowWatermark >= cfg.HighWatermark:
		return bad("LowWatermark", "must be from 0 to less than HighWatermark")
	}
	return cfg, nil
}

// An AsyncClient is a client that calls back. It comes from DialAsync or Client.Async, and
// ends with OnError, OnClose, or the function given to Detach. All methods may be called from
// any goroutine, and none waits for the peer or for a callback.
//
// An idle AsyncClient holds a goroutine that waits in the Go runtime's poller, no thread and
// no receive buffer, except that of Options.Framing. A second goroutine exists only while data waits to be sent.
//
// An AsyncClient that is connected stays open until it ends, also if the program does not
// refer to it any more.
type AsyncClient struct {
	cfg    AsyncConfig // callbacks; cleared at the end
	stream bool        // not datagrams

	calls sync.Mutex // held during a callback
	over  bool       // the last callback has begun; protected by calls

	client atomic.Pointer[Client] // nil before OnConnect
	done   chan struct{}          // made by Done; protected by mu

	// Orders for the goroutine that receives, and what makes it look at them; see sleep.
	orders    atomic.Uint32
	wake      atomic.Pointer[chan struct{}]
	receiving atomic.Bool // it waits on the socket, or is about to
	active    atomic.Int64

	recv recvState // belongs to the goroutine that receives

	mu       sync.Mutex
	queue    sendQueue
	ended    bool  // the socket is not to be used any more
	finished bool  // the last callback has returned
	lost     error // why the client ends, if sending failed

	levels levels
	pipe   pipe // has locks of its own
	detach func(*Client)
	cancel context.CancelFunc // ends the dial; nil if there is none
}

// The orders, as bits.
const (
	orderPause     = 1 << iota
	orderClose     // Close was called
	orderFail      // sending failed: see lost
	orderFinish    // all that was queued before Finish is sent
	orderDetach    // … before Detach …
	orderTLS       // StartTLS was called: receive nothing before the handshake
	orderHandshake // all that was queued before StartTLS is sent
)

// DialAsync begins to connect as Dial does, and returns at once. cfg's callbacks tell the
// rest: exactly one of OnConnect and OnError comes first. If DialAsync returns an error,
// which is about the network, the address, opts or cfg, nothing was begun and no callback
// comes.
//
// ctx and Options.ConnectTimeout bound the connect, name resolution included. After OnConnect
// ctx has no effect. Options.SendTimeout bounds how long a queue may stand still: the client
// then ends with os.ErrDeadlineExceeded, at the latest after twice that time.
// Options.RecvTimeout has no effect.
func DialAsync(ctx context.Context, network, address string, opts *Options, cfg AsyncConfig) (*AsyncClient, error) {
	opts = orDefaults(opts).clone()
	where := unresolvedAddr{network, address}
	p, host, err := prepareDial(where, opts)
	if err == nil {
		cfg, err = cfg.check(p.net.isStream(), true)
	}
	if err != nil {
		return nil, &net.OpError{Op: opDial, Net: network, Addr: where, Err: err}
	}
	p.parks = true
	a := newAsyncClient(cfg, p.net.isStream())
	until := deadline(ctx, opts.limits().connect)
	ctx, cancel := context.WithCancel(ctx)
	a.cancel = cancel
	go a.dial(ctx, cancel, where, host, p, until)
	return a, nil
}

// Async makes an AsyncClient of a connected client, or of a datagram client. Its OnConnect is
// called first. Nobody may be using the client, and until Detach only the methods that
// neither send, receive, set deadlines nor close may be called on it. Its deadlines are
// removed. A client of a Pool goes back to it at the end, by the pool's rules.
//
// Async waits for a StartConnect that is under way. The error is an *OptionError about cfg, that
// of the connect, unix.ENOTCONN, net.ErrClosed, or unix.EBUSY if the client belongs to an
// AsyncClient already.
func (c *Client) Async(cfg AsyncConfig) (*AsyncClient, error) {
	cfg, err := cfg.check(c.typ.isStream(), false)
	if err == nil {
		err = c.begin(0, 0, c.typ.isStream())
	}
	if err != nil {
		return nil, c.opError(opAsync, nil, err)
	}
	switch {
	case c.sock.Closed():
		err = net.ErrClosed
	case c.sock.AlwaysPark(true):
		err = errAsyncAlready
	}
	if err != nil {
		c.lease.decref()
		return nil, c.opError(opAsync, nil, err)
	}
	_ = c.sock.SetReadDeadline(sock.Never)
	_ = c.sock.SetWriteDeadline(sock.Never)
	a := newAsyncClient(cfg, c.typ.isStream())
	a.open(c)
	go a.start(c)
	return a, nil // end calls decref: a pool must not reuse the connection before, whoever calls Close
}

var errAsyncAlready = errors.Join(errors.New("the client belongs to an AsyncClient already"), unix.EBUSY)

func newAsyncClient(cfg AsyncConfig, isStream bool) *AsyncClient {
	a := &AsyncClient{cfg: cfg, stream: isStream}
	a.queue.refusal = unix.ENOTCONN
	return a
}

func (a *AsyncClient) dial(ctx context.Context, cancel func(), where unresolvedAddr, host string, p *dialConfig, until sock.Instant) {
	defer cancel()
	returned := false
	defer func() {
		if !returned { // a callback of Options has ended the goroutine
			go a.fail(&net.OpError{Op: opDial, Net: where.network, Addr: where, Err: errNoReturn})
		}
	}()
	c, addr, err := dialPrepared(ctx, where, host, p, until)
	returned = true
	if err == nil {
		c.sock.AlwaysPark(true)
		if a.open(c) {
			cancel()
			a.start(c)
			return
		}
		_ = c.Close()
	}
	if a.orders.Load()&orderClose != 0 {
		addr, err = where, net.ErrClosed
	}
	a.fail(&net.OpError{Op: opDial, Net: where.network, Addr: addr, Err: err})
}

// open makes the client usable. It reports false after Close. Otherwise it holds calls, so that
// no callback about the queue comes before that of start.
func (a *AsyncClient) open(c *Client) bool {
	a.calls.Lock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.orders.Load()&orderClose != 0 {
		a.calls.Unlock()
		return false
	}
	a.cancel = nil
	a.client.Store(c)
	a.queue.refusal = nil
	a.recv.readable = c.hasTLS() || c.sock.Buffered()
	a.touch()
	return true
}

// fail reports that the client could not be connected.
func (a *AsyncClient) fail(err error) {
	a.mu.Lock()
	a.ended, a.cancel = true, nil
	a.queue.refusal = net.ErrClosed
	a.mu.Unlock()
	a.pipe.sourceEnded(a, false)
	defer a.finish()
	a.calls.Lock()
	defer a.calls.Unlock()
	a.over = true
	a.cfg.OnError(a, err)
}

// start makes the first callback. The goroutine that receives is another one: a goroutine that
// has dialled, or called the program, has a larger stack than one that waits needs.
func (a *AsyncClient) start(c *Client) {
	connected := false
	defer func() {
		if connected {
			go a.run(c)
		} else { // OnConnect has ended the goroutine
			go a.end(c, errNoReturn)
		}
	}()
	defer a.calls.Unlock() // see open
	if a.cfg.OnConnect != nil {
		a.cfg.OnConnect(a)
	}
	connected = true
}

// run receives until the end. end is not called here: if a callback has panicked, that ends
// the process.
func (a *AsyncClient) run(c *Client) {
	err := error(errNoReturn) // if a callback ends the goroutine
	defer func() { go a.end(c, err) }()
	err = a.receive(c)
}

// call makes a callback, unless Close was called.
func (a *AsyncClient) call(f func(*AsyncClient)) {
	a.calls.Lock()
	defer a.calls.Unlock()
	if a.orders.Load()&orderClose == 0 {
		f(a)
	}
}

// order gives orders to the goroutine that receives. The caller holds mu.
func (a *AsyncClient) orderLocked(bits uint32) {
	a.orders.Or(bits)
	a.wakeReceiver()
	c := a.client.Load()
	// The receiver sets receiving before it looks at the orders.
	if c != nil && !a.ended && a.receiving.Load() {
		_ = c.sock.SetReadDeadline(pastDeadline)
	}
}

// pastDeadline is the first Instant. It ends a call that waits.
const pastDeadline sock.Instant = 1

// sleep makes the goroutine that receives wait for wakeReceiver. It may return without: the
// caller checks what it waits for, and calls again. A client that never sleeps has no channel.
func (a *AsyncClient) sleep() {
	if woken := a.wake.Load(); woken != nil {
		<-*woken
		return
	}
	woken := make(chan struct{}, 1)
	a.wake.Store(&woken) // the caller checks again, since wakeReceiver has not known it
}

// sleepFor is sleep for d at most.
func (a *AsyncClient) sleepFor(d time.Duration) {
	wake := time.AfterFunc(d, a.wakeReceiver)
	defer wake.Stop()
	a.sleep()
}

// wakeReceiver makes the goroutine that receives look at the orders if it does not wait on the
// socket.
func (a *AsyncClient) wakeReceiver() {
	if woken := a.wake.Load(); woken != nil {
		select {
		case *woken <- struct{}{}:
		default:
		}
	}
}

// touch records that something was received or sent.
func (a *AsyncClient) touch() {
	if a.cfg.IdleTimeout > 0 {
		a.active.Store(int64(sock.Now()))
	}
}

// Client returns the client underneath, for its addresses, ConnectionState, TCPInfo and the
// like; see Async for what not to call. It is nil before OnConnect.
func (a *AsyncClient) Client() *Client { return a.client.Load() }

// Done returns a channel that is closed when the last callback has returned.
func (a *AsyncClient) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = make(chan struct{})
		if a.finished {
			close(a.done)
		}
	}
	return a.done
}
