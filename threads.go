package client

import "github.com/blocksock/client/internal/sock"

// SetMaxThreads sets how many calls of all clients in the process may hold an operating-
// system thread while they wait, and returns the previous number. Default: 256. 0: none. A
// negative n changes nothing.
//
// A call that holds no thread parks: its goroutine waits in the Go runtime's poller, as one
// of package net does. Up to the limit the package decides. A call holds its thread if the
// process computes, because the runtime serves its poller late then, and if no more clients
// than GOMAXPROCS are in use by Recv, because that costs the least CPU time. It parks
// otherwise, and in any case after half a second. Read parks in a process that does not
// compute: drivers call it, and have other goroutines to run on its thread.
//
// A process computes, for this purpose, if it uses more than 100 µs of CPU time for each wait
// that ends while goroutines queue for a processor. The package looks at that every 20 ms.
//
// Select, a dial of several addresses, and a Recv with OOB cannot park. Where they may not
// hold a thread, they look at their sockets at intervals, from 50 µs up to an eighth of the
// time that they have waited, 50 ms at most.
//
// ReadWaitStats tells how many calls hold a thread now, and how many park.
//
// The Go runtime ends a process that has more than 10,000 threads; see
// runtime/debug.SetMaxThreads.
func SetMaxThreads(n int) (previous int) { return sock.SetMaxThreads(n) }
