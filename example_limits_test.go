package client_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/blocksock/client"
)

// One call has another limit than the rest.
func ExampleClient_SetLimits() {
	silent, stop := exampleServer(func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) })
	defer stop()
	c, err := client.Dial("tcp", silent, &client.Options{Timeout: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	recvSoon := func() error {
		defer c.SetLimits(c.SetLimits(client.Limits{RecvTimeout: 10 * time.Millisecond}))
		_, err := c.Recv(make([]byte, 1), 0)
		return err
	}
	fmt.Println(errors.Is(recvSoon(), os.ErrDeadlineExceeded))
	// Output: true
}

// SetLimits returns the limits that the client had.
func ExampleLimits() {
	c, err := client.NewTCP(&client.Options{Timeout: time.Minute, SendTimeout: -1})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	was := c.SetLimits(client.Limits{RecvTimeout: time.Second})
	fmt.Println(was.ConnectTimeout, was.RecvTimeout, was.SendTimeout < 0)
	// Output: 1m0s 1m0s true
}
