package client

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// PoolOptions are the limits of a Pool. The zero value means the defaults.
type PoolOptions struct {
	// MaxIdle is the maximum number of idle connections in the pool. Beyond it, the
	// pool closes the connection that has been unused for the longest time.
	// Default: 100. Negative: keep none.
	MaxIdle int

	// MaxIdlePerKey is the maximum number of idle connections per key. Beyond it, the
	// pool closes the connection of the key that has been unused for the longest time.
	// Default: 10, or MinIdle if that is greater. Negative: keep none.
	MaxIdlePerKey int

	// MaxConnsPerKey is the maximum number of open connections per key: connections in
	// use, being dialled, idle, and being closed. Further callers wait in FIFO order,
	// within the limit of their Dial. DialNew closes an idle connection first, if there
	// is one: the one that has been unused for the longest time. The second run of Do
	// closes one if there is no other room. Default: no limit.
	MaxConnsPerKey int

	// MinIdle is the number of idle connections per key that the pool dials in advance,
	// in the background, with the options of the first Dial of the key. It starts at the
	// first Dial of the key. MaxConnsPerKey, MaxIdle and, if set, MaxIdlePerKey bound it.
	// Default: none.
	//
	// After a failed dial the pool tries again, first after 100 ms, then at growing
	// intervals of up to 10 s, as long as the key was used within the last 10 minutes. A
	// connection that the server closes before its first use counts as a failed dial.
	// Until a client has then received an answer, the pool dials one connection at a
	// time, at these intervals.
	//
	// With MinIdle, IdleTimeout and MaxLifetime are at least 1 s. Shorter limits would
	// make the pool dial without end.
	MinIdle int

	// IdleTimeout is how long a connection may stay idle. Set it below the idle timeout
	// of the server. Default: 1 min. Negative: no limit.
	IdleTimeout time.Duration

	// MaxLifetime is the maximum age at which the pool still hands out a connection.
	// It lets servers behind a load balancer, and new addresses of a name, get their
	// share of the connections. Default: no limit.
	MaxLifetime time.Duration

	// LifetimeJitter is the maximum of a random time by which each connection's lifetime
	// is shorter than MaxLifetime, so that connections do not all end at once.
	// Default: a tenth of MaxLifetime. Negative: none.
	LifetimeJitter time.Duration

	// ReuseUnanswered is for protocols without answers. By default the pool closes the
	// connection of a client that has sent something and received nothing since: the
	// next caller could receive the late answer. The default is also to close the
	// connection of a client with Options.Framing that has sent more packets with
	// SendPacket than it has received with RecvPacket. A packet received while no answer
	// was outstanding, such as a greeting, does not count.
	ReuseUnanswered bool

	// Setup, if not nil, prepares each new connection before a caller gets it: it can
	// authenticate (AUTH, HELLO), select a database, or start TLS (StartTLS). Several
	// calls may run at the same time. Setup is not part of the key: the pool uses one
	// function for all its connections. Default: none.
	//
	// Setup is part of the dial: the limit of the dial ends ctx and every call on c.
	// When Setup returns, c is closed for further use, its Watches end, and the
	// connection counts as new, whatever was sent and received.
	//
	// The connection is closed and the dial fails if Setup returns an error. The dial
	// also fails if Setup returns nil after any of these:
	//
	//   - a call on c failed, or c was closed
	//   - a context that c still watches ended
	//   - part of an answer was left unread
	//   - a request was left without an answer: a packet sent by SendPacket for which no
	//     packet was received, or anything sent after the last receive. With
	//     ReuseUnanswered this is not checked.
	//
	// A Setup that receives nothing may send a header that has no answer, such as the
	// PROXY protocol's, with Send. What the server sends afterwards belongs to the
	// connection's first client. A Setup that sends a request must therefore receive the
	// answer.
	Setup func(ctx context.Context, c *Client) error
}

func (o PoolOptions) withDefaults() PoolOptions {
	o.MaxIdle = max(cmp.Or(o.MaxIdle, 100), 0)
	o.MaxIdlePerKey = min(max(cmp.Or(o.MaxIdlePerKey, max(o.MinIdle, 10)), 0), o.MaxIdle)
	if o.MaxConnsPerKey > 0 {
		o.MaxIdlePerKey = min(o.MaxIdlePerKey, o.MaxConnsPerKey)
	}
	o.MinIdle = min(o.MinIdle, o.MaxIdlePerKey)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, time.Minute)
	if o.MinIdle > 0 { // a shorter limit would make the pool dial without end
		raiseTo(&o.IdleTimeout, time.Second)
		raiseTo(&o.MaxLifetime, time.Second)
	}
	o.LifetimeJitter = min(max(cmp.Or(o.LifetimeJitter, o.MaxLifetime/10), 0), max(o.MaxLifetime, 0))
	return o
}

// raiseTo raises a limit to a minimum. A limit of zero or less means none and stays.
func raiseTo(limit *time.Duration, least time.Duration) {
	if *limit > 0 {
		*limit = max(*limit, least)
	}
}

// A Pool keeps connections open between uses. Dial returns an idle connection with the
// same key, after checking that it is alive and has no unread data; otherwise it opens
// a new one.
//
// # Reuse
//
// Close of a pooled client returns the connection to the pool. The pool keeps it only if
// it is as good as a new one:
//
//   - no call on it has failed or is under way
//   - everything sent has been answered (see PoolOptions.ReuseUnanswered)
//   - nothing that was received is left in the buffer of Options.Framing or of TLS
//   - it was not shut down in one direction, and StartTLS was not called on it
//     (except by PoolOptions.Setup)
//   - its descriptor was not lent out (SyscallConn)
//
// Otherwise the connection is closed. Unread data in the socket, and a peer that has
// closed, are found when the next Dial checks the connection; until then it is idle. The
// pool cannot detect data that has not arrived. Call Discard if an answer was not received to its end, or if one of several requests
// was not answered.
//
// # Keys
//
// Two Dials share connections if their keys are equal. The key consists of network,
// address, Options.PoolKey, and every option that decides what a connection is and
// who the peer is: Proxy, LocalAddr, the socket options, Resolver, Control (the same
// function value) and TLS. TLS.Config is compared as a pointer and files by their names:
// the pool does not verify an idle connection again when a file changes. Call CloseIdle
// after such a change. Time limits are not part of the key.
//
// # What the check cannot detect
//
// The check of an idle connection does not detect a peer whose machine or network has
// failed silently, the urgent byte of a stream, and a unixgram peer that was restarted
// at the same path. The first Send then fails or, in the first case, the first Recv.
// See Do.
//
// A Pool may be used by several goroutines at once. It runs goroutines of its own only
// while a dial is under way. It must not be copied. The zero Pool has the default limits.
type Pool struct {
	opts PoolOptions

	dialsCtx    context.Context // ends the dials under way when the pool is closed
	cancelDials context.CancelFunc

	mu           sync.Mutex
	closed       bool
	buckets      map[connKey]*bucket // the first bucket of each connKey
	lastBucket   *bucket             // the value in buckets that was used last; may be nil
	numBuckets   int
	sweepAt      int      // numBuckets at which unused buckets are removed
	idle         idleList // the idle connections of all keys
	spareHandles []spareHandle
	spareWaiters sync.Pool    // of *waiter
	cleaner      *time.Timer  // fires when the first idle connection expires
	cleanAt      sock.Instant // when cleaner fires; zero: not set
	removedStats KeyStats     // of removed buckets
	numDetached  int          // detached dials of all keys
}

// NewPool makes a pool.
func NewPool(opts PoolOptions) *Pool {
	p := new(Pool)
	p.init(opts)
	return p
}

func (p *Pool) init(opts PoolOptions) {
	p.opts = opts.withDefaults()
	p.buckets = make(map[connKey]*bucket)
	p.idle.list = inPool
	p.dialsCtx, p.cancelDials = context.WithCancel(context.Background())
}

// Dial returns a client on an idle connection of the pool, or on a new one.
// Options.ConnectTimeout and ctx bound the whole call, including the time spent waiting
// for room (MaxConnsPerKey). Errors are those of DialContext. A closed pool fails with
// net.ErrClosed.
//
// If ctx ends, the dial goes on in the background until its limit, for 5 s at most, and
// the pool keeps the connection for the next caller. At most 4 such dials per key, and
// 32 in all, go on; further ones end at once. If MaxConnsPerKey leaves no other room for
// a waiting caller, the pool ends one of them once it has taken 100 ms. That time
// doubles, up to 1 s, each time a dial was ended in vain.
//
// If a callback in opts or Setup panics, Dial panics. If no caller waits for the dial,
// as with MinIdle, the panic does not end the process: it counts as a DialError, and the
// next Dial with the same key that needs a new connection panics instead.
func (p *Pool) Dial(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	return p.acquire(ctx, network, address, orDefaults(opts), reuseOrDial)
}

// DialNew is Dial without reuse: it always returns a client on a new connection. The
// pool counts and keeps that connection like any other.
//
// With PoolOptions.MaxConnsPerKey, DialNew closes an idle connection first, if there is
// one. A server with fewer workers than MaxConnsPerKey may not accept a new connection
// before an old one has ended.
func (p *Pool) DialNew(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	return p.acquire(ctx, network, address, orDefaults(opts), replaceIdle)
}

var errPoolClosed = fmt.Errorf("the pool is closed: %w", net.ErrClosed)

// CloseIdle closes all idle connections. Connections of MinIdle are dialled again when
// their key is next used.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	all := p.takeAllIdleLocked(DiscardCloseIdle)
	p.mu.Unlock()
	p.closeConns(all...)
}

// Close closes the pool: it closes the idle connections and ends the dials under way.
// Callers that wait in Dial fail with net.ErrClosed. Clients in use stay usable, and
// their Close then closes the connection. Close does not wait for them. A second Close
// returns net.ErrClosed.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errPoolClosed
	}
	p.closed = true
	all := p.takeAllIdleLocked(DiscardPoolClosed)
	for b := range p.bucketsLocked {
		for b.waiters.first != nil {
			p.finishLocked(b, b.waiters.first, acquireResult{err: errPoolClosed})
		}
		if b.replenisher != nil {
			b.replenisher.Stop()
		}
	}
	cancel := p.cancelDials
	p.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	p.closeConns(all...)
	return nil
}
