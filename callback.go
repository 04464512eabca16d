package client

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"

	"github.com/blocksock/client/internal/sock"
)

// A callback may panic or end its goroutine (runtime.Goexit, as testing.T.FailNow does).
// Most callbacks run in the goroutine that called this package, and deferred calls release
// what it holds. Three need more:
//
//   - A Resolver that is not package net's may not return when its context ends, but the
//     limit of the dial holds.
//   - net.Resolver.Dial runs in goroutines of package net. A panic there ends the process, and
//     after a Goexit the lookup never returns (internal/singleflight).
//   - Config.KeyLogWriter runs while crypto/tls holds a mutex that all connections of the
//     process share, and does not unlock in a deferred call (writeKeyLog).
//
// Each of these runs in a goroutine of its own. Its caller gets an error, and the panic or
// Goexit is repeated in the goroutine that called this package. That of a Resolver which the
// dial does not wait for any more is dropped.

// A callbackResult tells how a callback ended.
type callbackResult struct {
	panicked any
	exited   bool // by runtime.Goexit
}

// runCallback runs f in a new goroutine and waits for its end.
func runCallback(f func()) callbackResult {
	done := make(chan callbackResult, 1)
	startCallback(f, func(ended callbackResult) { done <- ended })
	return <-done
}

// startCallback runs f in a new goroutine, and then done.
func startCallback(f func(), done func(callbackResult)) {
	go func() {
		returned := false
		defer func() {
			panicked := recover()
			done(callbackResult{panicked: panicked, exited: !returned && panicked == nil})
		}()
		f()
		returned = true
	}()
}

func (o callbackResult) returned() bool { return o.panicked == nil && !o.exited }

// rethrow panics or exits as the callback did.
func (o callbackResult) rethrow() {
	if o.panicked != nil {
		panic(o.panicked)
	}
	if o.exited {
		runtime.Goexit()
	}
}

var errNoReturn = errors.New("the callback panicked or ended its goroutine")

// A keyLog runs the KeyLogWriter of one connection.
type keyLog struct {
	to    io.Writer
	ended callbackResult
}

func (k *keyLog) Write(p []byte) (n int, err error) {
	if k.ended = runCallback(func() { n, err = k.to.Write(p) }); !k.ended.returned() {
		return 0, errNoReturn
	}
	return n, err
}

// A resolverPanic keeps the first call of a Resolver, or of net.Resolver.Dial, that did not
// return in one lookup. Package net makes several calls at a time, each with the lookup's
// context.
type resolverPanic struct {
	ended atomic.Pointer[callbackResult]
}

type resolverPanicKey struct{}

// guardResolver returns the context for lookups. The caller calls rethrow when they are
// over: if the resolver panicked or ended its goroutine, rethrow closes the socket, if
// there is one, and does the same. There may be a connection in spite of the panic,
// because package net may have asked again.
func guardResolver(ctx context.Context, r Resolver) (_ context.Context, rethrow func(*sock.Socket)) {
	if known, ok := netResolver(r); ok && known.Dial == nil {
		return ctx, func(*sock.Socket) {}
	}
	calls := new(resolverPanic)
	return context.WithValue(ctx, resolverPanicKey{}, calls), func(s *sock.Socket) {
		ended := calls.ended.Load()
		if ended == nil {
			return
		}
		if s != nil {
			_ = s.Close()
		}
		ended.rethrow()
	}
}

// dialDirect is dialAddrs with a guarded resolver.
func dialDirect(ctx context.Context, where unresolvedAddr, p *dialConfig, until sock.Instant) (*Client, net.Addr, error) {
	lookup, rethrow := guardResolver(ctx, p.opts.Resolver)
	c, addr, err := dialAddrs(lookup, where, p, until)
	if err != nil {
		rethrow(nil)
		return nil, addr, err
	}
	rethrow(c.sock)
	returned := false
	defer func() {
		if !returned { // Connected has panicked
			c.closeFor(errNoReturn)
		}
	}()
	c.traceConnected(ctx, p.opts.Trace, p.target.address)
	returned = true
	return c, nil, nil
}

// callResolverDial calls net.Resolver.Dial.
func callResolverDial(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, address string) (conn net.Conn, err error) {
	ended := runCallback(func() { conn, err = dial(ctx, network, address) })
	if ended.returned() {
		return conn, err
	}
	// Concurrent lookups of one name share the first one's context. The others get the error.
	recordResolverPanic(ctx, ended)
	return nil, errNoReturn
}

func recordResolverPanic(ctx context.Context, ended callbackResult) {
	if calls, ok := ctx.Value(resolverPanicKey{}).(*resolverPanic); ok {
		calls.ended.CompareAndSwap(nil, &ended)
	}
}
