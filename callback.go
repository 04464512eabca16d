package client

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
)

// A function of the caller's may panic or end its goroutine (runtime.Goexit, as
// testing.T.FailNow does). Most are called in the caller's own goroutine, where deferred
// calls give back what is held. Two are not to be left to that:
//
//   - Resolver.Dial runs in goroutines of package net. A panic there ends the process, and
//     after a Goexit the lookup never returns (internal/singleflight).
//   - Config.KeyLogWriter is called with a mutex locked that all connections of the process
//     share and that is not unlocked by a deferred call (crypto/tls, writeKeyLog).
//
// They run contained, look like a failure to who called them, and what they did is done
// again where it is the caller's.

// An outcome is how a contained function has ended.
type outcome struct {
	panicked any
	exited   bool // by runtime.Goexit
}

// contain runs f in a goroutine of its own.
func contain(f func()) (o outcome) {
	done := make(chan struct{})
	go func() {
		returned := false
		defer func() {
			o.panicked = recover()
			o.exited = !returned && o.panicked == nil
			close(done)
		}()
		f()
		returned = true
	}()
	<-done
	return o
}

func (o outcome) isReturn() bool { return o.panicked == nil && !o.exited }

// repeat does in this goroutine what the function did in its own.
func (o outcome) repeat() {
	if o.panicked != nil {
		panic(o.panicked)
	}
	if o.exited {
		runtime.Goexit()
	}
}

var errNoReturn = errors.New("a function of the caller has not returned: it has panicked or ended its goroutine")

// A keyLog is a KeyLogWriter that is contained, for one connection.
type keyLog struct {
	to    io.Writer
	ended outcome
}

func (k *keyLog) Write(p []byte) (n int, err error) {
	if k.ended = contain(func() { n, err = k.to.Write(p) }); !k.ended.isReturn() {
		return 0, errNoReturn
	}
	return n, err
}

// A lookupCalls is how the Resolver.Dial of one lookup have ended. Several run at a time,
// in goroutines that have the lookup's context.
type lookupCalls struct{ ended atomic.Pointer[outcome] }

type lookupKey struct{}

// watchResolver gives the context for a lookup, and repeat, to be called when it is over:
// it does again what the resolver's Dial did, if that did not return.
func watchResolver(ctx context.Context, r *net.Resolver) (_ context.Context, repeat func()) {
	if r == nil || r.Dial == nil {
		return ctx, func() {}
	}
	calls := new(lookupCalls)
	return context.WithValue(ctx, lookupKey{}, calls), func() {
		if ended := calls.ended.Load(); ended != nil {
			ended.repeat()
		}
	}
}

// dialResolver calls a Resolver.Dial.
func dialResolver(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, address string) (conn net.Conn, err error) {
	ended := contain(func() { conn, err = dial(ctx, network, address) })
	if ended.isReturn() {
		return conn, err
	}
	// Who shares the lookup of another gets the error alone.
	if calls, ok := ctx.Value(lookupKey{}).(*lookupCalls); ok {
		calls.ended.CompareAndSwap(nil, &ended)
	}
	return nil, errNoReturn
}
