package client_test

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

// TCPInfo returns what the kernel knows about a connection.
func ExampleTCPInfo() {
	address, stop := exampleServer(pong)
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{TTL: 32, UserTimeout: 10 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	info, err := c.TCPInfo()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.State, info.RTT > 0)
	// Output: ESTABLISHED true
}

// A state has its name from RFC 9293.
func ExampleTCPState() {
	fmt.Println(client.Established, client.CloseWait)
	// Output: ESTABLISHED CLOSE-WAIT
}

// An unconnected client learns which destination could not be reached.
func ExampleICMPError() {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	address := gone.LocalAddr().String()
	_ = gone.Close()

	c, err := client.NewUDP(&client.Options{ICMPErrors: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.SendToAddrPort([]byte("hello"), netip.MustParseAddrPort(address)); err != nil {
		log.Fatal(err)
	}
	_, _, err = c.RecvFrom(make([]byte, 100), 0)
	var icmp *client.ICMPError
	if errors.As(err, &icmp) {
		fmt.Println(icmp.To.String() == address, errors.Is(err, unix.ECONNREFUSED), icmp.By)
	}
	// Output: true true 127.0.0.1
}
