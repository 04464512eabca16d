package client

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// PoolOptions are the limits of a Pool. The zero value is the defaults.
type PoolOptions struct {
	// MaxIdle is how many connections are kept in all, and MaxIdlePerKey how many
	// of one key. Where there are more, those go that have not been used for the
	// longest time. Zero is 100, and for MaxIdlePerKey 10 or MinIdle, the greater;
	// negative is none.
	MaxIdle       int
	MaxIdlePerKey int

	// MaxConnsPerKey is how many connections of one key are open at a time: those in
	// use, those being dialled, those that are idle and those being closed. Further
	// callers wait in FIFO order, within the limits of the Dial. For a DialNew an idle
	// connection is closed first, if there is one, and for the second run of a Do if
	// there is no other room: the one that has not been used for the longest time.
	// Default: no limit.
	MaxConnsPerKey int

	// MinIdle is how many idle connections of one key the pool dials in advance, from
	// the first Dial of the key on, but no more than MaxConnsPerKey has room for, and no
	// more than MaxIdle and, if set, MaxIdlePerKey. They are dialled in the background,
	// with the options of the first Dial. After a failure the dial is repeated, first
	// after 100 ms, then at growing intervals of up to 10 s, for as long as the key was
	// used within the last 10 minutes. A connection that the server closes before its
	// first use is a failure too: until a client has received an answer, the connections
	// are then dialled one at a time, at these intervals. With MinIdle, IdleTimeout and
	// MaxLifetime are a second at least, lest the pool do nothing but dial. Default: none.
	MinIdle int

	// IdleTimeout is how long a connection is kept that nobody uses. It is better
	// shorter than the server's own. Zero is a minute; negative is for ever.
	IdleTimeout time.Duration

	// MaxLifetime is how long after its dial a connection is last given out, so
	// that a server behind a balancer, or a new address of a name, gets its share.
	// Each connection's is shorter by a random part of LifetimeJitter, lest all
	// end at once. Zero is for ever, and for LifetimeJitter a tenth of
	// MaxLifetime; a negative LifetimeJitter is none.
	MaxLifetime    time.Duration
	LifetimeJitter time.Duration

	// ReuseUnanswered is for protocols without answers. By default a client that
	// has sent something and received nothing since is not kept: what comes after
	// all would be the answer to somebody else.
	//
	// Of a client with Options.Framing the packets count too: one that has sent more by
	// SendPacket than it has received by RecvPacket is not kept. A packet received while
	// every packet sent has its answer, as a greeting, does not count.
	ReuseUnanswered bool

	// Setup, if not nil, is called with each new connection before anybody gets it: to
	// authenticate (AUTH, HELLO), to select a database, to turn it to TLS (StartTLS).
	// It is a part of the dial: ctx and all calls on c end with the dial's limit, and c
	// reaches nothing any more when Setup has returned. Then the connection counts as
	// new, whatever was sent and received. An error from Setup closes the connection
	// and fails the dial; so does a call on c that has failed, a context that c watches
	// and that has ended, an answer of which a part is left to receive, a question without
	// an answer, and Close of c. A Watch ends when Setup returns. Setup does not belong to
	// the key: it is one function for all connections of the pool, which may be called for
	// several at once. Default: none.
	//
	// A question without an answer is a packet sent by SendPacket for which none was
	// received, or anything sent after the last receive. With ReuseUnanswered there is no
	// such check. A Setup that receives nothing may send a header that has no answer, as
	// that of the PROXY protocol, by Send: what the server sends after it is for the
	// connection's first client. So a Setup that sends a request must receive its answer.
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
	if o.MinIdle > 0 { // else dialling would never cease
		atLeast(&o.IdleTimeout, time.Second)
		atLeast(&o.MaxLifetime, time.Second)
	}
	o.LifetimeJitter = min(max(cmp.Or(o.LifetimeJitter, o.MaxLifetime/10), 0), max(o.MaxLifetime, 0))
	return o
}

// atLeast makes a limit longer that is short; zero and less is none.
func atLeast(limit *time.Duration, least time.Duration) {
	if *limit > 0 {
		*limit = max(*limit, least)
	}
}

// A Pool keeps connections from one use to the next. Who dials through it gets
// one that is there, of the same key, and that was alive and had nothing to
// receive a moment ago, by looking at it; or else a new one.
//
// Close of a client from a pool gives the connection back. It is kept only if it
// is as a new one would be: no call on it has failed or is under way, what was
// sent has been answered (see PoolOptions.ReuseUnanswered), nothing is left to
// receive, it was neither shut down in one direction nor turned to TLS (but by
// PoolOptions.Setup), and its descriptor was in no other hands (SyscallConn). A caller who knows that an answer
// was not received to its end, or that of several questions not each was answered,
// says Discard: the pool can see bytes that have come, and not those that will.
//
// The key is network, address, Options.PoolKey, and everything in Options that has to
// do with what the connection is and whom it is with: Proxy, LocalAddr, the options
// of the socket, Resolver and Control (the same function value), and all of TLS
// (Config by its pointer, files by their names: a connection that is kept is not
// verified anew when they change; CloseIdle makes sure). Time limits are those of
// whoever has the client.
//
// What the look at an idle connection cannot see: a peer whose machine or network
// has failed silently, the urgent byte of a stream, and a unixgram peer that was
// started again at the same path. The first Send then fails, or, of the first,
// the first Recv; see Do.
//
// A Pool may be used by any number of goroutines, and has none of its own but for
// dials under way. It is not to be copied. The zero Pool has the default limits.
type Pool struct {
	opts PoolOptions

	life context.Context // of the dials
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	shelves map[place]*shelf // the first of each place
	latest  *shelf           // of them, the one that was asked for last; may be nil
	count   int              // of shelves
	sweepAt int              // how many shelves make it worth looking for empty ones
	idle    stack            // all that are idle, of any key
	blanks  []Client
	clean   *time.Timer  // due when the first of the idle has been so for too long
	cleanAt sock.Instant // zero: not set
	gone    KeyStats     // of shelves that are there no more

	unawaited int // dials that nobody waits for
}

// A shelf has all there is of one key. It belongs to the pool's mutex.
type shelf struct {
	place place
	opts  *Options // of the first dial; with the place, the key
	next  *shelf   // with the same place and another key

	idle    stack
	active  int
	dialing int       // also those that are ending
	ending  int       // dials that were canceled
	closing int       // connections that are being closed and count nowhere else
	waiters list.List // of *waiter, who asked first in front
	stats   KeyStats
	used    sock.Instant // by a caller

	panicked  any            // of a function of the options, with no caller to panic in; nil: none
	unawaited []*pendingDial // that nobody waits for
	patience  time.Duration  // after which one of them makes room for another dial; zero: the first
	backoff   time.Duration  // between dials for MinIdle that fail
	refill    sock.Instant   // when to try again to have MinIdle, after a failure
	wasted    bool           // a connection died before its first use, and none had an answer since
	filler    *time.Timer    // due when something is to be done without a caller
	fillAt    sock.Instant   // zero: not set
}

// NewPool makes a pool.
func NewPool(opts PoolOptions) *Pool {
	p := new(Pool)
	p.begin(opts)
	return p
}

func (p *Pool) begin(opts PoolOptions) {
	p.opts = opts.withDefaults()
	p.shelves = make(map[place]*shelf)
	p.idle.which = ofPool
	p.life, p.end = context.WithCancel(context.Background())
}

// Dial gives a client on a connection of the pool, or on a new one. Waiting for
// one, where MaxConnsPerKey has it, is a part of the one limit that
// Options.ConnectTimeout is, and ctx ends it. Errors are those of DialContext,
// and net.ErrClosed for a pool that is closed.
//
// A dial whose caller has gone, by ctx, goes on until its limit, but no longer than 5 s,
// and its connection is kept for the next caller. At most 4 such dials of one key go on,
// and 32 in all: a further one ends at once. Where MaxConnsPerKey leaves no other room,
// one of them ends for the dial of a caller who waits, once it has taken 100 ms (longer,
// up to a second, if that has been in vain before).
//
// If a function of opts or Setup panics, so does Dial. If no caller waits for the dial, as
// for one of MinIdle, the panic does not end the process: it counts as a DialError, and
// the next Dial of the key that would begin a dial panics instead.
func (p *Pool) Dial(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	return p.dial(ctx, network, address, orDefaults(opts), false)
}

// DialNew is Dial for who does not want what was there: it gives a new connection, as
// Do does for its second run, and counts and keeps it like any other. With
// PoolOptions.MaxConnsPerKey it takes the place of an idle one, if there is one: a
// server with fewer workers than that may not come to a new connection before an old one
// has ended.
func (p *Pool) DialNew(ctx context.Context, network, address string, opts *Options) (*Client, error) {
	return p.get(ctx, network, address, orDefaults(opts), true, true)
}

// dial dials through the pool; fresh is for who does not want what was there.
func (p *Pool) dial(ctx context.Context, network, address string, opts *Options, fresh bool) (*Client, error) {
	return p.get(ctx, network, address, opts, fresh, false)
}

// get is dial; instead is for who wants a fresh connection in the place of an idle one.
func (p *Pool) get(ctx context.Context, network, address string, opts *Options, fresh, instead bool) (*Client, error) {
	if ctx.Err() != nil {
		return nil, poolError(network, address, contextual(ctx, sock.ErrStopped))
	}
	packets, err := opts.packets(network)
	if err != nil {
		return nil, poolError(network, address, err)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, poolError(network, address, errPoolClosed)
	}
	if p.shelves == nil {
		p.begin(PoolOptions{})
	}
	s := p.shelf(place{opts.PoolKey, network, address}, opts)
	c := p.blank()
	var w *waiter
	for again := false; ; again = true {
		var k *kept
		if !fresh {
			k = p.takeNewest(s)
		}
		if k != nil {
			s.lends(k)
			p.keepMinIdle(s)
		} else {
			if w == nil {
				w = newWaiter(ctx, opts, fresh)
				w.instead = instead && p.opts.MaxConnsPerKey > 0
			}
			p.queue(s, w, again)
		}
		p.mu.Unlock()
		if k == nil {
			if k, err = w.await(p, s); err != nil {
				return nil, poolError(network, address, err)
			}
		}
		now := bothClocks()
		cause := k.inspect(now)
		if cause == fit {
			c.packets = packets
			k.lend(c, opts, now)
			return c, nil
		}
		p.mu.Lock()
		s.takesBack(k, cause)
		if cause == dead && k.uses == 0 {
			p.diedUnused(s, now.mono)
		}
	}
}

// blank gives a client that nobody has had: one that was given back is never
// made use of again, since whoever still has it must have nothing.
func (p *Pool) blank() *Client {
	const batch = 17 // made together, so that a checkout does not allocate each time
	if len(p.blanks) == 0 {
		p.blanks = make([]Client, batch)
	}
	c := &p.blanks[0]
	p.blanks = p.blanks[1:]
	return c
}

// poolError gives an error the operation of a dial, unless a dial has done so.
func poolError(network, address string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == opDial {
		return err
	}
	return &net.OpError{Op: opDial, Net: network, Addr: target{network, address}, Err: err}
}

var errPoolClosed = fmt.Errorf("the pool is closed: %w", net.ErrClosed)

// shelf finds the shelf of a key, or puts one up.
func (p *Pool) shelf(at place, opts *Options) *shelf {
	if p.latest == nil || p.latest.place != at {
		p.latest = p.shelves[at]
	}
	for s := p.latest; s != nil; s = s.next {
		if s.opts.sameKey(opts) {
			return s
		}
	}
	if p.count >= p.sweepAt {
		p.sweep(sock.Now())
	}
	s := &shelf{place: at, opts: opts.clone(), idle: stack{which: ofShelf}, next: p.shelves[at]}
	p.shelves[at], p.latest = s, s
	p.count++
	return s
}

// sweep takes down the shelves that have not been used for long, so that a pool
// which sees ever new addresses does not grow for ever.
func (p *Pool) sweep(now sock.Instant) {
	const few = 64
	p.count, p.latest = 0, nil
	for at, s := range p.shelves {
		var left *shelf
		for next := s; next != nil; {
			s, next = next, next.next
			if s.isEmpty() && s.fillAt == sock.Never && s.used.Add(time.Minute) < now {
				p.gone.add(&s.stats)
				continue
			}
			s.next, left = left, s
			p.count++
		}
		if left == nil {
			delete(p.shelves, at)
		} else {
			p.shelves[at] = left
		}
	}
	p.sweepAt = max(2*p.count, few)
}

// all ranges over the shelves.
func (p *Pool) all(yield func(*shelf) bool) {
	for _, first := range p.shelves {
		for s := first; s != nil; s = s.next {
			if !yield(s) {
				return
			}
		}
	}
}

func (s *shelf) isEmpty() bool {
	return s.open() == 0 && s.waiters.Len() == 0
}

// CloseIdle closes the connections that nobody uses. Those of MinIdle are dialled again
// when the key is next used.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	all := p.takeIdle()
	p.mu.Unlock()
	p.closeAll(all...)
}

// takeIdle takes all that is idle.
func (p *Pool) takeIdle() (all []*kept) {
	for k := p.idle.newest; k != nil; k = p.idle.newest {
		p.unshelve(k)
		k.shelf.stats.Discarded++
		k.shelf.closing++
		all = append(all, k)
	}
	if p.clean != nil {
		p.clean.Stop()
		p.cleanAt = sock.Never
	}
	return all
}

// Close closes the pool and what is idle in it, ends dials under way, and has
// those who wait fail with net.ErrClosed. It waits for nobody: a client that is in
// use stays so, and its Close then closes the connection. Closing again is
// net.ErrClosed.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errPoolClosed
	}
	p.closed = true
	all := p.takeIdle()
	for s := range p.all {
		for e := s.waiters.Front(); e != nil; e = s.waiters.Front() {
			p.leave(s, e.Value.(*waiter), handed{err: errPoolClosed})
		}
		if s.filler != nil {
			s.filler.Stop()
		}
	}
	end := p.end
	p.mu.Unlock()
	if end != nil {
		end()
	}
	p.closeAll(all...)
	return nil
}
