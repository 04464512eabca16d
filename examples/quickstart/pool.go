package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/blocksock/client"
)

// repliesPerConn is how many messages the server replies to before it closes the
// connection, as servers do after some time.
const repliesPerConn = 2

// demoPool dials three times: the first connection is new, the second one reuses it, and
// the third one is new because the server has closed the first.
func demoPool(out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	closed := make(chan struct{}, 1)
	go serveConns(l, closed)
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	fmt.Fprintf(out, "\n%-9s %-19s %s\n", "POOL", "CONNECTION", "RECEIVED")
	for range repliesPerConn {
		if err := poolRequest(out, pool, l.Addr().String()); err != nil {
			return err
		}
	}
	<-closed
	fmt.Fprintf(out, "%-9s the server has closed the connection\n", "")
	if err := poolRequest(out, pool, l.Addr().String()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%-9s closed connections detected by the pool: %d\n", "", pool.Stats().Discards[client.DiscardDead])
	return nil
}

// poolRequest sends a request on a connection of the pool. Close puts the connection back.
func poolRequest(out io.Writer, pool *client.Pool, address string) error {
	c, err := pool.Dial(context.Background(), "tcp", address, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Send([]byte(message), 0); err != nil {
		return err
	}
	received := make([]byte, len(message))
	if _, err := c.Recv(received, client.WaitAll); err != nil {
		return err
	}
	state := "new"
	if c.Reused() {
		state = fmt.Sprintf("reused (use %d)", c.ReuseCount()+1)
	}
	fmt.Fprintf(out, "%-9s %-19s %q\n", "tcp", state, received)
	return nil
}

// serveConns serves one connection after the other, and sends on closed after it has closed
// one.
func serveConns(l net.Listener, closed chan<- struct{}) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // l is closed
		}
		p := make([]byte, len(message))
		for range repliesPerConn {
			n, _ := io.ReadFull(c, p)
			_, _ = c.Write(p[:n])
		}
		_ = c.Close()
		select {
		case closed <- struct{}{}:
		default:
		}
	}
}
