package client_test

import (
	"fmt"
	"log"
	"net"
	"net/netip"

	"github.com/blocksock/client"
)

// echoDatagrams answers each datagram with itself.
func echoDatagrams() (address string, stop func()) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for buf := make([]byte, 2000); ; {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	return server.LocalAddr().String(), func() { _ = server.Close() }
}

// Three questions go out in one system call, and the answers come in as few as there have to
// be.
func ExampleClient_SendBatch() {
	address, stop := echoDatagrams()
	defer stop()
	c, err := client.Dial("udp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	questions := []client.Datagram{{Buf: []byte("one")}, {Buf: []byte("two")}, {Buf: []byte("three")}}
	if n, err := c.SendBatch(questions, 0); err != nil {
		log.Fatalf("%d of %d sent: %v", n, len(questions), err)
	}
	answers := []client.Datagram{{Buf: make([]byte, 1500)}, {Buf: make([]byte, 1500)}}
	for received := 0; received < len(questions); {
		n, err := c.RecvBatch(answers, 0)
		if err != nil {
			log.Fatal(err)
		}
		for _, a := range answers[:n] {
			fmt.Printf("%s\n", a.Buf[:a.N])
		}
		received += n
	}
	// Output:
	// one
	// two
	// three
}

// What has arrived is received together, from whoever sent it.
func ExampleClient_RecvBatch() {
	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"a", "b"} {
		sender, err := client.Dial("udp", c.LocalAddr().String(), nil)
		if err != nil {
			log.Fatal(err)
		}
		defer sender.Close()
		if _, err := sender.Send([]byte("hello from "+name), 0); err != nil {
			log.Fatal(err)
		}
	}

	ds := make([]client.Datagram, 16)
	for i := range ds {
		ds[i].Buf = make([]byte, 1500)
	}
	for received := 0; received < 2; {
		n, err := c.RecvBatch(ds, 0)
		if err != nil {
			log.Fatal(err)
		}
		for _, d := range ds[:n] {
			fmt.Printf("%s, at %v\n", d.Buf[:d.N], d.Addr.Addr())
		}
		received += n
	}
	// Output:
	// hello from a, at 127.0.0.1
	// hello from b, at 127.0.0.1
}

// A Datagram of an unconnected client has its receiver with it.
func ExampleDatagram() {
	address, stop := echoDatagrams()
	defer stop()
	c, err := client.NewUDP(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	d := client.Datagram{Buf: []byte("anybody?"), Addr: netip.MustParseAddrPort(address)}
	if _, err := c.SendBatch([]client.Datagram{d}, 0); err != nil {
		log.Fatal(err)
	}
	answer := []client.Datagram{{Buf: make([]byte, 4)}}
	_, err = c.RecvBatch(answer, 0)
	fmt.Println(answer[0].Addr == d.Addr, answer[0].N, answer[0].Size)
	fmt.Println(err != nil)
	// Output:
	// true 4 8
	// true
}

// A long text goes out as datagrams of 8 bytes, in one system call.
func ExampleClient_SendSegments() {
	address, stop := echoDatagrams()
	defer stop()
	c, err := client.Dial("udp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.SendSegments([]byte("a text of some length"), 8, 0); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	for range 3 {
		n, err := c.Recv(buf, 0)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", buf[:n])
	}
	// Output:
	// "a text o"
	// "f some l"
	// "ength"
}

// The same from a client without a peer.
func ExampleClient_SendSegmentsToAddrPort() {
	address, stop := echoDatagrams()
	defer stop()
	c, err := client.NewUDP(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.SendSegmentsToAddrPort([]byte("abcd"), 2, netip.MustParseAddrPort(address), 0); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	for range 2 {
		n, from, err := c.RecvFromAddrPort(buf, 0)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(buf[:n]), from.String() == address)
	}
	// Output:
	// ab true
	// cd true
}

// With GRO the kernel may receive all of these in one go. Each is a datagram all the same.
func ExampleOptions_manyDatagrams() {
	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0", GRO: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	sender, err := client.Dial("udp", c.LocalAddr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	if _, err := sender.SendSegments(make([]byte, 40*1200), 1200, 0); err != nil {
		log.Fatal(err)
	}
	ds := make([]client.Datagram, 32)
	for i := range ds {
		ds[i].Buf = make([]byte, 1500)
	}
	datagrams, bytes := 0, 0
	for datagrams < 40 {
		n, err := c.RecvBatch(ds, 0)
		if err != nil {
			log.Fatal(err)
		}
		datagrams += n
		for _, d := range ds[:n] {
			bytes += d.N
		}
	}
	fmt.Println(datagrams, bytes)
	// Output: 40 48000
}
