// Package client is a blocking socket client: TCP, UDP and Unix sockets, with TLS, proxies,
// packets and a connection pool. In a process that keeps all CPUs busy, a call waits in the
// kernel instead of the Go runtime's poller, and still gets its answer in time.
//
//	c, err := client.Dial("tcp", "127.0.0.1:6379", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
//		return err
//	}
//	reply := make([]byte, len("+PONG\r\n"))
//	if _, err := c.Recv(reply, client.WaitAll); err != nil { // all 7 bytes, or an error
//		return err
//	}
//
// [Dial] returns a [Client], which is a net.Conn. Drivers and net/http.Transport take
// [Dialer.DialContext]. The directory docs of the repository has tables of calls, errors and
// options, and shows what the names of package net and of Swoole's client are here.
//
// # Waiting
//
// The runtime looks at its poller when a processor has no goroutine to run. When goroutines
// that compute keep all processors busy, a read through package net waits until the runtime
// preempts one of them, after 10 ms or more. A thread that sleeps in the kernel is woken by
// the kernel, and has its answer at once.
//
// [Client.Close], a deadline set by another goroutine, and a context given to [Client.Watch]
// end every call that waits.
//
// # Threads
//
// A call that waits in the kernel holds an operating-system thread. It does so in a process
// that computes, and where few clients are in use. Otherwise, and in any case after half a
// second or where 256 calls hold one, it parks: it waits in the runtime's poller, as a call of
// package net does. [SetMaxThreads] has the details and changes the number.
//
// While it sleeps, a thread also keeps one of the GOMAXPROCS processors until the runtime's
// monitor takes it away. Goroutines that compute have less CPU time by that. A GOMAXPROCS
// above the number of CPUs gives most of it back.
//
// # Limits
//
// Every call has a time limit: [Options].Timeout. Default: 5 s. Negative: no limit. The limit
// bounds the whole call, however many system calls, signals, addresses or packets it takes.
// It never ends a call early. Read and Write have the contract of net.Conn instead: only
// their deadline ends them.
//
// # Errors
//
// A short count comes with an error, and an error with the count of what was done before it.
// Bytes that arrived before a limit are in the buffer, or are there for the next call. The
// end of a stream (io.EOF), an empty datagram (no error) and a datagram that was cut
// ([TruncatedError]) are different results.
//
// Errors are a *net.OpError around the cause, except for io.EOF and io.ErrUnexpectedEOF.
// errors.Is finds os.ErrDeadlineExceeded after a limit, net.ErrClosed after Close, the
// context's error, and any unix.Errno of the kernel's. [SafeToRetry] reports whether a request
// can be sent again.
//
// # Packets
//
// A byte stream has no message boundaries. [Options].Framing says where packets end: by a
// length in their header ([LengthPrefix]), a delimiter ([Delimiter]) or a function
// ([LengthFunc]). [Client.RecvPacket] then returns whole packets, with one limit for each,
// and keeps the beginning of an incomplete packet for the next call.
//
// # TLS
//
// With [Options].TLS the handshake is a part of the dial and of its limit. Dial returns a
// client only if the peer's certificate, chain and name, was verified. All calls mean the
// same over TLS as without. [Client.StartTLS] starts TLS on a connected stream.
//
// # Pool
//
// [Pool.Dial] returns an idle connection with the same key, after checking that it is alive
// and has no unread data; otherwise it opens a new one. The key is the network, the address
// and every option that the connection depends on. Close returns the connection to the pool.
//
// # Several clients, and files
//
// [Select] waits for several clients at once, with TLS and packets too. [Client.SendFile] has
// the kernel send a part of a file.
//
// # Callbacks
//
// [DialAsync] returns an [AsyncClient] at once, and the functions of an [AsyncConfig] are called
// when it is connected, has received something, or has ended. Callbacks of one client never
// overlap, and no method waits for the peer or for a callback. A send that the kernel does not
// take is queued. [Client.Async] makes an AsyncClient of a connected client, and
// [AsyncClient.Detach] makes a blocking client of it again. While it is idle, an AsyncClient
// holds a goroutine and no thread.
//
// [Client.StartConnect] connects in the background: the first call that needs the peer waits.
//
// # Tracing
//
// A [Trace] has functions that are called for each lookup, attempt to connect, handshake,
// first byte and close, and for what a Pool does. [Options].Trace is for all clients,
// [WithTrace] for one call. Without a Trace nothing is called and nothing measured. The
// functions of a net/http/httptrace.ClientTrace are called as package net calls them.
//
// # FastCGI
//
// The package fastcgi sends requests to php-fpm and other FastCGI applications, over
// connections that stay open.
//
// # Systems
//
// The package is tested on Linux. On macOS and FreeBSD the contract is the same, and a
// receive takes three system calls in place of one. It does not build elsewhere.
package client
