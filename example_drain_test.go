package client_test

import (
	"fmt"
	"io"
	"log"
	"net"

	"github.com/blocksock/client"
)

// A request that needs no answer: the connection ends in order, and what the server says is
// not of interest.
func ExampleClient_Drain() {
	address, stop := exampleServer(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		_, _ = io.Copy(io.Discard, conn) // until the client's end
		_, _ = io.WriteString(conn, "250 ok\r\n")
	})
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send([]byte("event\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	n, err := c.Drain(0) // until the server's end, for 5 s at most
	fmt.Println(n, err)
	// Output: 19 <nil>
}
