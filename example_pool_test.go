package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/blocksock/client"
)

// pongs answers one request after the other.
func pongs(conn net.Conn) {
	for p := make([]byte, len("PING\r\n")); ; {
		if _, err := io.ReadFull(conn, p); err != nil {
			return
		}
		_, _ = io.WriteString(conn, "+PONG\r\n")
	}
}

// ping sends a request and receives the answer.
func ping(c *client.Client) error {
	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
		return err
	}
	_, err := c.Recv(make([]byte, len("+PONG\r\n")), client.WaitAll)
	return err
}

// The second Dial reuses the connection of the first.
func ExamplePool() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	for range 2 {
		c, err := pool.Dial(context.Background(), "tcp", address, nil)
		if err != nil {
			log.Fatal(err)
		}
		if err := ping(c); err != nil {
			log.Fatal(err)
		}
		fmt.Println(c.Reused(), c.ReuseCount())
		_ = c.Close()
	}
	// Output:
	// false 0
	// true 1
}

func ExamplePoolOptions() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{
		MaxIdlePerKey:  4,
		MaxConnsPerKey: 1,                // as many as the server has workers
		IdleTimeout:    20 * time.Second, // less than the server's 30 s
		MaxLifetime:    time.Hour,
	})
	defer pool.Close()

	c, err := pool.Dial(context.Background(), "tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = pool.Dial(ctx, "tcp", address, nil) // waits for the first client
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

// Setup greets the server once per connection, before a caller gets it.
func ExamplePoolOptions_setup() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{
		Setup: func(_ context.Context, c *client.Client) error {
			fmt.Println("hello")
			return ping(c)
		},
	})
	defer pool.Close()

	for range 3 {
		if err := pool.Do(context.Background(), "tcp", address, nil, ping); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(pool.Stats().Dials)
	// Output:
	// hello
	// 1
}

// If the server has closed the idle connection, Do repeats a request that is marked as
// retryable on a new one.
func ExamplePool_Do() {
	address, stop := exampleServer(pong) // one answer to each connection
	defer stop()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	for range 3 {
		err := pool.Do(context.Background(), "tcp", address, nil, func(c *client.Client) error {
			return client.Retryable(ping(c))
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(pool.Stats().Dials)
	// Output: 3
}

func ExamplePool_Stats() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	for _, key := range []string{"", "", "reports"} {
		err := pool.Do(context.Background(), "tcp", address, &client.Options{PoolKey: key}, ping)
		if err != nil {
			log.Fatal(err)
		}
	}
	stats := pool.Stats()
	fmt.Println(stats.Dials, stats.Reuses, stats.Idle)
	for _, k := range stats.Keys {
		if k.PoolKey == "reports" {
			fmt.Println(k.PoolKey, k.Dials, k.Reuses, k.Idle)
		}
	}
	// Output:
	// 2 1 2
	// reports 1 0 1
}

func ExamplePoolKeyStats() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	if err := pool.Do(context.Background(), "tcp", address, nil, ping); err != nil {
		log.Fatal(err)
	}
	key := pool.Stats().Keys[0]
	fmt.Println(key.Network, key.Address == address, key.Idle)
	// Output: tcp true 1
}

func ExampleKeyStats() {
	address, stop := exampleServer(pongs)
	defer stop()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	c, err := pool.Dial(context.Background(), "tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
		log.Fatal(err)
	}
	_ = c.Close() // the answer is outstanding: the pool closes the connection
	stats := pool.Stats().KeyStats
	fmt.Println(stats.Idle, stats.Discards[client.DiscardUnclean])
	// Output: 0 1
}

// A Dialer gives a pool to a driver that dials through a function and has no pool of its
// own.
func ExampleDialer_pool() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer server.Close()
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()

	dialer := &client.Dialer{Pool: pool}
	for range 2 {
		conn, err := dialer.DialContext(context.Background(), "tcp", server.Listener.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		c, _ := client.FromConn(conn)
		fmt.Printf("%s %v\n", body, c.Reused())
		_ = conn.Close()
	}
	// Output:
	// hello false
	// hello true
}
