package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

// exampleServer calls reply for each connection.
func exampleServer(reply func(net.Conn)) (address string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				reply(conn)
			}()
		}
	}()
	return ln.Addr().String(), func() { _ = ln.Close() }
}

// pong answers one request line.
func pong(conn net.Conn) {
	_, _ = io.ReadFull(conn, make([]byte, len("PING\r\n")))
	_, _ = io.WriteString(conn, "+PONG\r\n")
}

func ExampleDial() {
	address, stop := exampleServer(pong)
	defer stop()

	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	reply := make([]byte, len("+PONG\r\n"))
	if _, err := c.Recv(reply, client.WaitAll); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", reply)
	// Output: "+PONG\r\n"
}

func ExampleDialContext() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // the user has left
	_, err := client.DialContext(ctx, "tcp", "127.0.0.1:80", nil)
	fmt.Println(errors.Is(err, context.Canceled))
	// Output: true
}

// A message with a fixed header that holds the length of the rest takes two exact
// receives.
func ExampleClient_Recv() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.WriteString(conn, "\x05hello") })
	defer stop()

	c, err := client.Dial("tcp", address, &client.Options{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	header := make([]byte, 1)
	if _, err := c.Recv(header, client.WaitAll); err != nil {
		log.Fatal(err)
	}
	body := make([]byte, header[0])
	n, err := c.Recv(body, client.WaitAll)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		log.Fatalf("only %d bytes came within a second", n)
	case errors.Is(err, io.ErrUnexpectedEOF):
		log.Fatalf("the server closed after %d bytes", n)
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: hello
}

func ExampleClient_IsConnected() {
	address, stop := exampleServer(pong)
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.IsConnected())
	_ = c.Close()
	fmt.Println(c.IsConnected())
	// Output:
	// true
	// false
}

// One unconnected UDP socket sends to two servers.
func ExampleNewUDP() {
	servers := make([]net.PacketConn, 2)
	for i := range servers {
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		defer server.Close()
		servers[i] = server
	}

	c, err := client.NewUDP(&client.Options{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1500)
	for i, server := range servers {
		if _, err := c.SendTo([]byte("time?"), server.LocalAddr()); err != nil {
			log.Fatal(err)
		}
		_, asker, err := server.ReadFrom(buf) // the server's part
		if err != nil {
			log.Fatal(err)
		}
		if _, err := server.WriteTo(fmt.Appendf(nil, "tea time %d", i), asker); err != nil {
			log.Fatal(err)
		}
		n, from, err := c.RecvFrom(buf, 0)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, from the one asked: %t\n", buf[:n], from.String() == server.LocalAddr().String())
	}
	// Output:
	// tea time 0, from the one asked: true
	// tea time 1, from the one asked: true
}

func ExampleOptions() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }) // never answers
	defer stop()

	c, err := client.Dial("tcp", address, &client.Options{
		Timeout:     2 * time.Second,       // dialling and sending
		RecvTimeout: 20 * time.Millisecond, // an answer
		LocalAddr:   "127.0.0.1:0",
		NoDelay:     client.SwitchOff,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if ctrlErr := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
			}); ctrlErr != nil {
				return ctrlErr
			}
			return err
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Recv(make([]byte, 1), 0)
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	// Output: true
}

func ExampleFlag() {
	address, stop := exampleServer(pong)
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 7)
	_, err = c.Recv(buf, client.DontWait)
	fmt.Println("nothing there yet:", errors.Is(err, unix.EAGAIN))

	_, _ = c.Send([]byte("PING\r\n"), 0)
	_, _ = c.Recv(buf, client.WaitAll|client.Peek)
	_, _ = c.Recv(buf, client.WaitAll)
	fmt.Printf("looked at, then taken: %q\n", buf)
	// Output:
	// nothing there yet: true
	// looked at, then taken: "+PONG\r\n"
}

func ExampleType() {
	c, err := client.NewUnix(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Type())
	// Output: unix
}

func ExampleSwitch() {
	_, err := client.Dial("udp", "127.0.0.1:53", &client.Options{NoDelay: client.SwitchOn})
	fmt.Println(err)
	// Output: dial udp 127.0.0.1:53: option NoDelay: only for tcp, not for udp
}

// Dialer.DialContext is the dial function that drivers take.
func ExampleDialer() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer server.Close()

	dialer := &client.Dialer{Options: &client.Options{Timeout: time.Second}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(body))
	// Output: hello
}

func ExampleTruncatedError() {
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	c, err := client.Dial("udp", peer.LocalAddr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := peer.WriteTo([]byte("a long answer"), c.LocalAddr()); err != nil {
		log.Fatal(err)
	}

	buf := make([]byte, 6)
	n, err := c.Recv(buf, 0)
	var cut *client.TruncatedError
	if errors.As(err, &cut) {
		fmt.Printf("%q of %d bytes\n", buf[:n], cut.Size)
	}
	// Output: "a long" of 13 bytes
}

func ExampleDialError() {
	err := error(&net.OpError{Op: "dial", Net: "tcp", Err: &client.DialError{Errs: []*net.OpError{
		{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 80}, Err: os.NewSyscallError("connect", unix.ECONNREFUSED)},
		{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, Err: os.ErrDeadlineExceeded},
	}}})
	var all *client.DialError
	if errors.As(err, &all) {
		for _, e := range all.Errs {
			fmt.Println(e.Addr, e.Err)
		}
	}
	// Output:
	// [::1]:80 connect: connection refused
	// 127.0.0.1:80 i/o timeout
}

func ExampleOptionError() {
	_, err := client.NewTCP(&client.Options{LocalAddr: "localhost:0"})
	var bad *client.OptionError
	if errors.As(err, &bad) {
		fmt.Println(bad.Option)
	}
	// Output: LocalAddr
}

func ExampleSafeToRetry() {
	address, stop := exampleServer(pong)
	defer stop()
	ask := func(address string) error {
		c, err := client.Dial("tcp", address, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
			return err
		}
		_, err = c.Recv(make([]byte, 7), client.WaitAll)
		return err
	}
	err := ask("127.0.0.1:1") // no listener
	if client.SafeToRetry(err) {
		err = ask(address)
	}
	fmt.Println(err)
	// Output: <nil>
}

func ExampleProxyError() {
	address, stop := exampleServer(func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1000))
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
	})
	defer stop()
	_, err := client.Dial("tcp", "example.com:443", &client.Options{Proxy: "http://me:secret@" + address})
	var failed *client.ProxyError
	if errors.As(err, &failed) {
		fmt.Println(failed.Status, failed.Err)
	}
	// Output: 403 refused: 403 Forbidden
}

func ExampleSOCKSReply() {
	address, stop := exampleServer(func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1000))
		_, _ = conn.Write([]byte{5, 0}) // no authentication
		_, _ = conn.Read(make([]byte, 1000))
		_, _ = conn.Write([]byte{5, 4, 0})
	})
	defer stop()
	_, err := client.Dial("tcp", "example.com:443", &client.Options{Proxy: "socks5://" + address})
	var failed *client.ProxyError
	if errors.As(err, &failed) && failed.Reply == client.SOCKSHostUnreachable {
		fmt.Println(failed.Reply)
	}
	// Output: host unreachable
}

func ExampleClient_Watch() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close() // does not answer
	c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{Timeout: -1})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	unwatch := c.Watch(ctx)
	defer unwatch()
	_, err = c.Recv(make([]byte, 1), 0)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleSetMaxThreads() {
	previous := client.SetMaxThreads(0) // each call parks, like those of package net
	fmt.Println(client.SetMaxThreads(previous))
	// Output: 0
}
