package client_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/blocksock/client"
)

// Select finds the connections that have data.
func ExampleSelect() {
	silent, stop := exampleServer(func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) })
	defer stop()
	talking, stop := exampleServer(func(conn net.Conn) { _, _ = fmt.Fprint(conn, "hello"); _, _ = conn.Read(make([]byte, 1)) })
	defer stop()
	var all []*client.Client
	for _, address := range []string{silent, talking} {
		c, err := client.Dial("tcp", address, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	ready, err := client.Select(all, nil, nil, 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range ready.Read {
		p := make([]byte, 100)
		n, err := c.Recv(p, client.DontWait)
		fmt.Println(c == all[1], string(p[:n]), err)
	}
	_, err = client.Select(all[:1], nil, nil, 10*time.Millisecond)
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	// Output:
	// true hello <nil>
	// true
}

// The slices of Ready hold the clients of the sets that were passed.
func ExampleReady() {
	address, stop := exampleServer(pong)
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	one := []*client.Client{c}
	ready, err := client.Select(one, one, one, time.Second)
	fmt.Println(len(ready.Read), len(ready.Write), len(ready.Except), err)
	// Output: 0 1 0 <nil>
}

// A client that cannot be waited for is reported with its set and index.
func ExampleSelectError() {
	c, err := client.NewTCP(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = client.Select([]*client.Client{c}, nil, nil, 0)
	var of *client.SelectError
	if errors.As(err, &of) {
		fmt.Println(of.Set, of.Index)
	}
	// Output: read 0
}

// exampleFile makes a file with some text.
func exampleFile() (f *os.File, remove func()) {
	f, err := os.CreateTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	_, _ = fmt.Fprint(f, "some text, and more of it")
	return f, func() { _ = f.Close(); _ = os.Remove(f.Name()) }
}

// The kernel sends part of a file without copying it through the program.
func ExampleClient_SendFile() {
	f, remove := exampleFile()
	defer remove()
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	n, err := c.SendFile(f, 5, 4)
	fmt.Println(n, err)
	p := make([]byte, 4)
	_, err = c.Recv(p, client.WaitAll)
	fmt.Println(string(p), err)
	// Output:
	// 4 <nil>
	// text <nil>
}

// The range must be inside the file.
func ExampleFileError() {
	f, remove := exampleFile()
	defer remove()
	address, stop := exampleServer(pong)
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.SendFile(f, 20, 100)
	var bad *client.FileError
	if errors.As(err, &bad) {
		fmt.Println(bad.Offset, bad.Length, bad.Size, bad.Err)
	}
	// Output: 20 100 25 the range is outside of the file: invalid argument
}

// Members of a group receive what is sent to it.
func ExampleMulticast() {
	member, err := client.NewUDP(&client.Options{
		LocalAddr: ":0",
		ReuseAddr: client.SwitchOn,
		Multicast: &client.Multicast{TTL: 1, Loopback: client.SwitchOn},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer member.Close()
	fmt.Println(member.Type())
	// Output: udp4
}
