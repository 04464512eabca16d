package main

import "net"

// What servers make of a message.
func echo(p []byte) []byte   { return p }
func halve(p []byte) []byte  { return p[:len(p)/2] }
func double(p []byte) []byte { return append(p, p...) }

// serve starts a server of package net that answers one message and is gone.
func serve(network, address string, answer func([]byte) []byte) (at net.Addr, stop func() error, err error) {
	if isStream(network) {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, nil, err
		}
		go answerPeer(l, answer)
		return l.Addr(), l.Close, nil
	}
	c, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, nil, err
	}
	go answerDatagram(c, answer)
	return c.LocalAddr(), c.Close, nil
}

func answerPeer(l net.Listener, answer func([]byte) []byte) {
	c, err := l.Accept()
	if err != nil {
		return // stopped
	}
	defer c.Close()
	p := make([]byte, 100)
	n, _ := c.Read(p)
	_, _ = c.Write(answer(p[:n]))
}

func answerDatagram(c net.PacketConn, answer func([]byte) []byte) {
	p := make([]byte, 100)
	n, from, err := c.ReadFrom(p)
	if err != nil {
		return // stopped
	}
	_, _ = c.WriteTo(answer(p[:n]), from)
}
