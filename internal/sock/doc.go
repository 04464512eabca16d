// Package sock owns a socket's file descriptor. It is the only package that makes
// socket system calls and the only one that waits for a socket. It knows addresses,
// limits and waiting. It knows nothing of host names, TLS, packets or pools.
//
// # How a call waits
//
//	Recv, no deadline ever set ──▶ recvfrom(2), bounded by SO_RCVTIMEO
//	                                  │ timer, signal
//	                                  ▼
//	any other call ──EAGAIN──▶ ppoll(2) on the socket and a wake-up descriptor
//	                                  │ waitPolicy, SetMaxThreads, longestHold
//	                                  ▼
//	                           Go runtime's poller, without a thread
//
// The first two block the calling thread in the kernel.
//
//   - Recv on a socket that never had a deadline waits inside recvfrom(2). A reply
//     then costs one system call. Close and the first deadline end the wait by a
//     signal to the thread; see threadWaker.
//   - Every other call tries with MSG_DONTWAIT and then waits in ppoll(2). Another
//     goroutine changes the deadline or closes the socket by waking the poll; see
//     fdWaker. A Recv whose recvfrom(2) ended early, by a signal or because the
//     kernel's timer is coarse, continues here.
//   - A call waits in the Go runtime's poller where that costs less (see waitPolicy), when
//     SetMaxThreads calls hold a thread, or when its wait has lasted for longestHold; see
//     netpollWaker. A Poll and a dial of several addresses cannot use that poller. They
//     poll at intervals instead.
//
// Send never waits inside send(2). On a unix stream the kernel applies SO_SNDTIMEO to
// each 32 KiB of the message separately, so a peer that reads slowly could extend the
// call to many times its limit.
//
// # How a socket is closed
//
// Close makes every call return. It does not act on the connection: the peer sees what
// close(2) does, which the last call to return makes. Only Shutdown calls shutdown(2).
// The kernel reports the error that ended a stream once, so the socket keeps it; see
// recordErr.
//
// # I/O locks
//
// One goroutine at a time receives, and one sends. An exact read and a whole write may
// take several system calls, and those of another goroutine must not come between.
// A call that waits for the lock obeys the same limits as the call that holds it.
package sock
