package client

import "github.com/blocksock/client/internal/sock"

// SetMaxThreads sets the maximum number of calls, of all clients in the process, that hold
// an operating-system thread while they wait. It returns the previous value. Default: 256.
// 0: no call holds a thread. A negative n changes nothing.
//
// Further calls park, and so does every call that has waited for half a second: the
// goroutine waits in the Go runtime's poller, as in package net. A call that waits on its
// thread uses less CPU time if few calls wait, and goroutines that compute do not delay
// it. A parked call holds no thread.
//
// A call that waits for several sockets at once (Select, a dial to several addresses) or
// for urgent data (OOB) cannot park. If it may not hold a thread, it polls at intervals:
// from 50 µs up to an eighth of the time that it has waited, 50 ms at most.
//
// The Go runtime ends a process with more than 10,000 threads; see
// runtime/debug.SetMaxThreads.
func SetMaxThreads(n int) (previous int) { return sock.SetMaxThreads(n) }
