// Package client is a blocking socket client: TCP, UDP and unix sockets whose
// calls wait in the kernel, on the thread that makes them, instead of in the Go
// runtime's poller.
//
//	c, err := client.Dial("tcp", "127.0.0.1:6379", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
//		return err
//	}
//	reply := make([]byte, 7)
//	if _, err := c.Recv(reply, client.WaitAll); err != nil {
//		return err
//	}
//
// # Why
//
// The runtime looks at its poller when a processor runs out of work. While
// computing goroutines keep all of them busy, a read through package net waits
// for the 10 ms tick that preempts one; a thread that sleeps in the kernel is
// woken by the kernel. The price is a thread for each call that waits. So at most
// 256 calls hold one, and none for longer than half a second: the others park in the
// runtime's poller, as those of package net do. See [SetMaxThreads].
//
// # Limits
//
// Every call has one: [Options].Timeout, 5 seconds if nothing else is said. It
// bounds the whole call, however many system calls, signals and addresses that
// takes, and it is never early. Read and Write are the exception: they keep the
// contract of net.Conn, which knows deadlines and nothing else.
//
// # Nothing lost
//
// A short count always comes with an error, and an error with the count of what
// was done before it. Bytes that arrived before a limit are in the buffer, or
// still there for the next call. The end of a stream, an empty datagram and a
// datagram that was cut are three different answers.
//
// # Packets
//
// [Options].Framing says where on a stream a packet ends: by a length in its header,
// a delimiter, or a function. [Client.RecvPacket] then gives whole packets, one limit
// for each, and keeps what it has of one that is not whole for the next call.
//
// # Several clients, and files
//
// [Select] waits for several clients at once, through TLS and packets.
// [Client.SendFile] has the kernel send from a file.
//
// # TLS
//
// With [Options].TLS the handshake is a part of the dial, and the peer's
// certificate, chain and name, is verified before there is a client. All calls
// mean over TLS what they mean without. [Client.StartTLS] begins later.
//
// # Connections that stay open
//
// A [Pool] keeps connections from one use to the next, by network, address and
// every option that decides what a connection is. One is looked at before it is
// given out: it is alive, and has nothing to receive that was meant for another.
//
// # FastCGI
//
// The package fastcgi talks to php-fpm, and to others like it, over connections that
// stay open.
//
// # Systems
//
// Linux is where the package is tested and fastest. On macOS and FreeBSD the
// contract is the same and a receive costs three system calls instead of one.
// Elsewhere it does not build.
package client
