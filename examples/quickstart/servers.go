package main

import "net"

// The replies of the servers to a message.
func echo(p []byte) []byte   { return p }
func halve(p []byte) []byte  { return p[:len(p)/2] }
func double(p []byte) []byte { return append(p, p...) }

// serve starts a server of package net that replies to one message and then closes.
func serve(network, address string, reply func([]byte) []byte) (addr net.Addr, stop func() error, err error) {
	if isStream(network) {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, nil, err
		}
		go serveStream(l, reply)
		return l.Addr(), l.Close, nil
	}
	c, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, nil, err
	}
	go serveDatagram(c, reply)
	return c.LocalAddr(), c.Close, nil
}

func serveStream(l net.Listener, reply func([]byte) []byte) {
	c, err := l.Accept()
	if err != nil {
		return // l is closed
	}
	defer c.Close()
	p := make([]byte, 100)
	n, _ := c.Read(p)
	_, _ = c.Write(reply(p[:n]))
}

func serveDatagram(c net.PacketConn, reply func([]byte) []byte) {
	p := make([]byte, 100)
	n, from, err := c.ReadFrom(p)
	if err != nil {
		return // c is closed
	}
	_, _ = c.WriteTo(reply(p[:n]), from)
}
