package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/blocksock/client"
)

// answersEach is how many messages the pool's server answers on a connection
// before it closes it, as servers do in their own time.
const answersEach = 2

// showPool has three dials: of a connection, of the same once more, and of it when
// the server has closed it.
func showPool(out io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	closed := make(chan struct{}, 1)
	go answerPeers(l, closed)
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	fmt.Fprintf(out, "\n%-9s %-18s %s\n", "POOL", "CONNECTION", "CAME BACK")
	for range answersEach {
		if err := borrow(out, pool, l.Addr().String()); err != nil {
			return err
		}
	}
	<-closed
	fmt.Fprintf(out, "%-9s now the server has closed it\n", "")
	if err := borrow(out, pool, l.Addr().String()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%-9s connections found dead: %d\n", "", pool.Stats().Dead)
	return nil
}

// borrow asks on a connection of the pool, and gives it back.
func borrow(out io.Writer, pool *client.Pool, address string) error {
	c, err := pool.Dial(context.Background(), "tcp", address, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Send([]byte(message), 0); err != nil {
		return err
	}
	got := make([]byte, len(message))
	if _, err := c.Recv(got, client.WaitAll); err != nil {
		return err
	}
	what := "new"
	if c.Reused() {
		what = fmt.Sprintf("reused, use %d", c.ReuseCount()+1)
	}
	fmt.Fprintf(out, "%-9s %-18s %q\n", "tcp", what, got)
	return nil
}

// answerPeers tells of each connection that it has closed.
func answerPeers(l net.Listener, closed chan<- struct{}) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // stopped
		}
		p := make([]byte, len(message))
		for range answersEach {
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
