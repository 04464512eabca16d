package client_test

import (
	"fmt"
	"log"
	"net"

	"github.com/blocksock/client"
)

// A connection that something else has opened: here package net, otherwise systemd (descriptor
// 3 and on: os.NewFile(3, "")) or a parent process (ExtraFiles of os/exec).
func ExampleFromFile() {
	address, stop := exampleServer(pong)
	defer stop()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		log.Fatal(err)
	}
	_ = conn.Close()

	c, err := client.FromFile(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := f.Close(); err != nil { // the client has a duplicate
		log.Fatal(err)
	}
	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	reply := make([]byte, len("+PONG\r\n"))
	if _, err := c.Recv(reply, client.WaitAll); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q from the server: %t\n", reply, c.RemoteAddr().String() == address)
	// Output: "+PONG\r\n" from the server: true
}
