package client_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"

	"github.com/blocksock/client"
)

// says serves what a peer says to everybody, and then waits for them to leave.
func says(what string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.WriteString(conn, what)
		_, _ = io.Copy(io.Discard, conn)
	}
}

// Redis answers in lines; however they arrive, each call gives one.
func ExampleDelimiter() {
	address, stop := exampleServer(says("+PONG\r\n:42\r\n$5\r\nhello\r\n"))
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{
		Framing: client.Delimiter{Delim: []byte("\r\n"), Max: 64 << 10},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		line, err := c.RecvPacket()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", line)
	}
	bulk := make([]byte, 5)
	if _, err := c.Recv(bulk, client.WaitAll); err != nil { // whose length the last line has said
		log.Fatal(err)
	}
	fmt.Printf("%q\n", bulk)
	// Output:
	// "+PONG\r\n"
	// ":42\r\n"
	// "$5\r\n"
	// "hello"
}

// PostgreSQL's messages have a type in one byte, and then a length that counts
// itself.
func ExampleLengthPrefix() {
	address, stop := exampleServer(func(conn net.Conn) {
		_, _ = io.Copy(conn, conn) // an echo, in place of a database
	})
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{
		Framing: client.LengthPrefix{Encoding: 'N', Offset: 1, BodyOffset: 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	n, err := c.SendPacket([]byte("Qselect 1\x00"))
	if err != nil {
		log.Fatal(err)
	}
	message, err := c.RecvPacket()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes sent, %c of %d bytes: %q\n", n, message[0], binary.BigEndian.Uint32(message[1:]), message[5:])
	// Output: 14 bytes sent, Q of 13 bytes: "select 1\x00"
}

// MQTT's length is as many bytes as it needs, seven bits in each.
func ExampleLengthFunc() {
	address, stop := exampleServer(says("\x20\x02\x00\x00\xd0\x00"))
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{Framing: client.LengthFunc{
		Max: 1 << 20,
		Func: func(p []byte) (int, error) {
			length, size := binary.Uvarint(p[1:])
			switch {
			case size < 0 || size > 4:
				return 0, errors.New("a length of more than four bytes")
			case size == 0:
				return 0, nil // there has to be more
			}
			return 1 + size + int(length), nil
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		packet, err := c.RecvPacket()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%x\n", packet)
	}
	// Output:
	// 20020000
	// d000
}

// A packet is valid until the next one is received: copy what is to last longer.
func ExampleClient_Packets() {
	address, stop := exampleServer(func(conn net.Conn) { _, _ = io.WriteString(conn, "one\ntwo\n") })
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var lines [][]byte
	for line, err := range c.Packets() {
		if err != nil {
			log.Fatal(err)
		}
		lines = append(lines, slices.Clone(line))
	}
	fmt.Printf("%q\n", lines)
	// Output: ["one\n" "two\n"]
}

// With Whole, SendPacket takes what RecvPacket returns, here to forward packets unchanged.
func ExampleClient_SendPacket() {
	framing := client.LengthPrefix{Encoding: client.Uint16BE, BodyOffset: 2, Whole: true}
	source, stop := exampleServer(func(conn net.Conn) { _, _ = io.WriteString(conn, "\x00\x03one\x00\x03two") })
	defer stop()
	from, err := client.Dial("tcp", source, &client.Options{Framing: framing})
	if err != nil {
		log.Fatal(err)
	}
	defer from.Close()
	echo, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	defer stop()
	to, err := client.Dial("tcp", echo, &client.Options{Framing: framing})
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close()
	for packet, err := range from.Packets() {
		if err != nil {
			log.Fatal(err)
		}
		if _, err := to.SendPacket(packet); err != nil {
			log.Fatal(err)
		}
		answer, err := to.RecvPacket()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", answer)
	}
	// Output:
	// "\x00\x03one"
	// "\x00\x03two"
}

// What cannot be a packet is told apart from an end and from a time-out.
func ExamplePacketError() {
	address, stop := exampleServer(says("\xff\xff\xff\xff"))
	defer stop()
	c, err := client.Dial("tcp", address, &client.Options{
		Framing: client.LengthPrefix{Encoding: 'N', BodyOffset: 4, Max: 1 << 20},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.RecvPacket()
	var bad *client.PacketError
	if errors.As(err, &bad) {
		fmt.Println(bad.Length, bad.Max)
	}
	// Output: 4294967299 1048576
}

func ExampleFraming() {
	for _, framing := range []client.Framing{
		client.LengthPrefix{Encoding: 'n', BodyOffset: 2},
		client.Delimiter{Delim: []byte("\r\n")},
	} {
		address, stop := exampleServer(func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
		c, err := client.Dial("tcp", address, &client.Options{Framing: framing})
		if err != nil {
			log.Fatal(err)
		}
		if _, err := c.SendPacket([]byte("hello")); err != nil {
			log.Fatal(err)
		}
		packet, err := c.RecvPacket()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", packet)
		_ = c.Close()
		stop()
	}
	// Output:
	// "\x00\x05hello"
	// "hello\r\n"
}
