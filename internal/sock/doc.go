// Package sock is a socket's descriptor and the only place that makes socket
// system calls. It knows addresses, limits and waiting; it knows nothing of
// names, TLS, packets or pools.
//
// # How a call waits
//
// A call that cannot go on waits in one of three ways, the first two of them in the
// kernel, on its own thread.
//
//   - Recv on a socket that nobody ever set a deadline on waits inside
//     recvfrom(2) itself, bounded by SO_RCVTIMEO: one system call for a reply.
//     Close and the first deadline end it by a signal to its thread; see sleeper.
//   - Everything else tries the call with MSG_DONTWAIT and then waits in
//     ppoll(2) on the socket and a waker, which another goroutine can use to
//     change the deadline or to close. What the first way leaves open, because
//     a signal came or the kernel's timer was coarse, ends here too.
//   - When more than SetMaxThreads calls wait, and when a wait has lasted for
//     longestHold, it parks: the goroutine waits in the Go runtime's poller, without a
//     thread; see parker. A Poll and a race of addresses, which no poller takes, look at
//     intervals instead.
//
// Sending never waits inside send(2). On a unix stream the kernel would apply
// SO_SNDTIMEO to each 32 KiB of the message anew, so a peer that reads a little
// now and then could hold a call for many times its limit.
//
// # How a socket ends
//
// Close has every call end and acts on nothing but the descriptor: close(2), by the last
// call that leaves, decides what the peer sees. No call does shutdown(2) but the one
// that is for it. The error that ends a stream is kept, since the kernel tells it once;
// see loss.
//
// # Turns
//
// One goroutine at a time receives and one sends: an exact read and a whole
// write may take several system calls, and another's must not fall between.
// Those who wait for their turn obey the same limits as those who have it.
package sock
