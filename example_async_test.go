package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/blocksock/client"
)

// A client that sends a request and prints the answer, up to the server's end.
func ExampleDialAsync() {
	address, stop := exampleServer(func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 100))
		_, _ = fmt.Fprint(conn, "hello")
	})
	defer stop()
	a, err := client.DialAsync(context.Background(), "tcp", address, nil, client.AsyncConfig{
		OnConnect: func(a *client.AsyncClient) { _ = a.Send([]byte("who is there?")) },
		OnReceive: func(_ *client.AsyncClient, p []byte) { fmt.Printf("%s\n", p) },
		OnError:   func(_ *client.AsyncClient, err error) { fmt.Println("not connected:", err) },
		OnClose:   func(_ *client.AsyncClient, err error) { fmt.Println("closed:", err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	<-a.Done()
	// Output:
	// hello
	// closed: EOF
}

// OnConnect comes first: the client can send from then on.
func ExampleAsyncConfig_onConnect() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	defer stop()
	cfg := quietAsync()
	cfg.OnConnect = func(a *client.AsyncClient) {
		fmt.Println("connected:", a.Client().RemoteAddr().String() == address)
		_ = a.Close()
	}
	exampleAsync(address, nil, cfg)
	// Output:
	// connected: true
}

// With a framing, OnReceive gets one packet at a time.
func ExampleAsyncConfig_onReceive() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = fmt.Fprint(conn, "one\ntwo\n") })
	defer stop()
	cfg := quietAsync()
	cfg.OnReceive = func(_ *client.AsyncClient, line []byte) { fmt.Printf("%q\n", line) }
	exampleAsync(address, &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}}, cfg)
	// Output:
	// "one\n"
	// "two\n"
}

// OnError says why the client could not be connected.
func ExampleAsyncConfig_onError() {
	address, stop := exampleServer(func(net.Conn) {})
	stop() // nobody listens
	cfg := quietAsync()
	cfg.OnError = func(_ *client.AsyncClient, err error) {
		var failed *net.OpError
		fmt.Println(errors.As(err, &failed), failed.Op)
	}
	exampleAsync(address, nil, cfg)
	// Output:
	// true dial
}

// OnClose says why the client has ended, and what was not sent.
func ExampleAsyncConfig_onClose() {
	closed := make(chan struct{})
	address, stop := exampleServer(func(net.Conn) { <-closed }) // reads nothing
	defer stop()
	defer close(closed)
	cfg := quietAsync()
	cfg.OnConnect = func(a *client.AsyncClient) {
		_ = a.Send(make([]byte, 8<<20)) // more than the kernel takes at once
		_ = a.Close()
	}
	cfg.OnClose = func(_ *client.AsyncClient, err error) {
		var unsent *client.UnsentError
		fmt.Println(errors.As(err, &unsent), unsent.Bytes > 0, errors.Is(err, net.ErrClosed))
	}
	exampleAsync(address, nil, cfg)
	// Output:
	// true true true
}

// A sender that stops when the queue is full, and goes on when it is empty.
func ExampleAsyncConfig_onBufferEmpty() {
	address, stop := exampleServer(func(conn net.Conn) {
		n, _ := io.Copy(io.Discard, conn)
		_, _ = fmt.Fprint(conn, n)
	})
	defer stop()
	const total = 32 << 20
	sent := 0
	piece := make([]byte, 1<<20)
	send := func(a *client.AsyncClient) { // only in callbacks, so one at a time
		for ; sent < total && !a.IsFull(); sent += len(piece) {
			if err := a.Send(piece); err != nil {
				fmt.Println(err)
				return
			}
		}
		if sent == total {
			sent++
			_ = a.CloseWrite()
		}
	}
	cfg := quietAsync()
	cfg.OnConnect, cfg.OnBufferEmpty = send, send
	cfg.OnBufferFull = func(*client.AsyncClient) {} // send has seen it
	cfg.OnReceive = func(_ *client.AsyncClient, p []byte) { fmt.Printf("%s bytes\n", p) }
	exampleAsync(address, nil, cfg)
	// Output:
	// 33554432 bytes
}

// exampleAsync runs a client until its end.
func exampleAsync(address string, opts *client.Options, cfg client.AsyncConfig) {
	a, err := client.DialAsync(context.Background(), "tcp", address, opts, cfg)
	if err != nil {
		log.Fatal(err)
	}
	<-a.Done()
}

// quietAsync has the callbacks that are required.
func quietAsync() client.AsyncConfig {
	return client.AsyncConfig{
		OnConnect: func(*client.AsyncClient) {},
		OnReceive: func(*client.AsyncClient, []byte) {},
		OnError:   func(*client.AsyncClient, error) {},
		OnClose:   func(*client.AsyncClient, error) {},
	}
}
