package client

import "github.com/blocksock/client/internal/sock"

// SetMaxThreads sets how many calls of all clients in the process may hold an operating-
// system thread while they wait, and returns what that was. Beyond it, and once a wait has
// lasted for half a second, a call parks: its goroutine waits in the Go runtime's poller, as
// those of package net do. A call that waits on its thread costs less CPU time where few
// calls wait, and is not delayed by goroutines that compute; one that parks takes no thread.
//
// 0 parks all calls. A negative n changes nothing. Default: 256. A call that waits for
// several sockets at once (Select, a dial of several addresses) or for an urgent byte (OOB)
// cannot park: where it may not hold a thread, it looks at intervals, from 50 µs up to an
// eighth of the time that it has waited, 50 ms at most.
//
// A Go process ends when it has more than 10,000 threads; see runtime/debug.SetMaxThreads.
func SetMaxThreads(n int) (previous int) { return sock.SetMaxThreads(n) }
