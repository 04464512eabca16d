package client_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"

	"github.com/blocksock/client"
)

// A header and a body go out together, without a copy of the body.
func ExampleClient_SendBuffers() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	body := []byte("a long body")
	header := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if n, err := c.SendBuffers(net.Buffers{header, body}); err != nil {
		log.Fatalf("%d bytes were sent: %v", n, err)
	}
	reply := make([]byte, len(header)+len(body))
	if _, err := c.Recv(reply, client.WaitAll); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", reply)
	// Output: "\x00\x00\x00\va long body"
}
