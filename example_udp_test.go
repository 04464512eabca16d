package client_test

import (
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/blocksock/client"
)

// A server that answers from another port than the one that was asked, as TFTP's does: a
// connected client would not receive it.
func ExampleOptions_unconnected() {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	worker, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	go func() {
		buf := make([]byte, 100)
		if n, from, err := server.ReadFrom(buf); err == nil {
			_, _ = worker.WriteTo(buf[:n], from)
		}
	}()

	c, err := client.Dial("udp4", server.LocalAddr().String(), &client.Options{Unconnected: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("hello"), 0); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := c.RecvFrom(buf, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, from the worker: %t\n", buf[:n], from.String() == worker.LocalAddr().String())
	// Output: hello, from the worker: true
}

// A name is looked up for each datagram.
func ExampleHostPort() {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	_, port, err := net.SplitHostPort(server.LocalAddr().String())
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.NewUDP(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	n, err := c.SendTo([]byte("requests:1|c"), client.HostPort("localhost:"+port))
	fmt.Println(n, err)

	_, err = c.SendTo([]byte("requests:1|c"), client.HostPort("localhost:70000"))
	var bad *net.AddrError
	fmt.Println(errors.As(err, &bad))
	// Output:
	// 12 <nil>
	// true
}
