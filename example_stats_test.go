package client_test

import (
	"fmt"
	"log"
	"time"

	"github.com/blocksock/client"
)

func ExampleReadWaitStats() {
	stats := client.ReadWaitStats()
	fmt.Println(stats.Threads <= stats.MaxThreads)
	// Output: true
}

func ExampleLongestWaits() {
	address, stop := exampleServer(pongs)
	defer stop()
	c, err := client.Dial("tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Recv(make([]byte, 1), 0) // nothing was asked: no answer comes
	}()
	for len(client.LongestWaits(1)) == 0 { // a call parks after half a second, or sooner
		time.Sleep(10 * time.Millisecond)
	}
	wait := client.LongestWaits(1)[0]
	fmt.Println(wait.Op, wait.Network, wait.RemoteAddr == address)
	_ = c.Close()
	<-done
	// Output: recv tcp true
}
