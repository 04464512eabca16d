package client_test

import (
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
