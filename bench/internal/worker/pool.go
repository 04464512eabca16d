package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
	"github.com/jackc/puddle/v2"
	"github.com/redis/go-redis/v9"
)

// poolSize is the limit of connections of the pools.
const poolSize = 8

// checkouts takes a connection from a pool and returns it.
func checkouts(s *sample.Spec) (*sample.Sample, error) {
	var one op
	ctx := context.Background()
	switch s.Peer {
	case "client.Pool":
		p := client.NewPool(client.PoolOptions{MaxConnsPerKey: poolSize})
		one = func() error {
			c, err := p.Dial(ctx, s.Network, s.Address, nil)
			if err != nil {
				return err
			}
			return c.Close()
		}
	case "puddle":
		p, err := puddle.NewPool(&puddle.Config[net.Conn]{
			Constructor: func(context.Context) (net.Conn, error) { return net.Dial(s.Network, s.Address) },
			Destructor:  func(c net.Conn) { _ = c.Close() },
			MaxSize:     poolSize,
		})
		if err != nil {
			return nil, err
		}
		one = func() error {
			r, err := p.Acquire(ctx)
			if err == nil {
				r.Release()
			}
			return err
		}
	default:
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	return measure(s, same(s, batch(s, one)))
}

// same returns one operation for all goroutines.
func same(s *sample.Spec, one op) []op {
	ops := make([]op, conns(s))
	for i := range ops {
		ops[i] = one
	}
	return ops
}

// askThroughPool sends a PING to Redis, each time on a connection of a pool.
func askThroughPool(s *sample.Spec) (*sample.Sample, error) {
	ctx := context.Background()
	var one op
	switch s.Peer {
	case "client.Pool":
		p := client.NewPool(client.PoolOptions{MaxConnsPerKey: poolSize})
		one = func() error {
			return p.Do(ctx, s.Network, s.Address, nil, func(c *client.Client) error {
				if _, err := c.Send([]byte("PING\r\n"), 0); err != nil {
					return err
				}
				var pong [7]byte
				_, err := c.Recv(pong[:], client.WaitAll)
				return err
			})
		}
	case "go-redis on net", "go-redis on client":
		o := &redis.Options{Network: s.Network, Addr: s.Address, PoolSize: poolSize, DisableIdentity: true, Protocol: 2}
		if s.Peer == "go-redis on client" {
			o.Dialer = new(client.Dialer).DialContext
		}
		rdb := redis.NewClient(o)
		one = func() error { return rdb.Ping(ctx).Err() }
	default:
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	return measure(s, same(s, one))
}

// getThroughPool requests a page from a web server, each time on a connection of a pool.
func getThroughPool(s *sample.Spec) (*sample.Sample, error) {
	url := "http://" + s.Address + "/"
	var one op
	switch s.Peer {
	case "client.Pool":
		p := client.NewPool(client.PoolOptions{MaxConnsPerKey: poolSize})
		request := []byte("GET / HTTP/1.1\r\nHost: " + s.Address + "\r\n\r\n")
		one = func() error {
			return p.Do(context.Background(), "tcp", s.Address, nil, func(c *client.Client) error {
				if _, err := c.Send(request, 0); err != nil {
					return err
				}
				response, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return err
				}
				return drain(response)
			})
		}
	case "net/http", "net/http on client":
		t := &http.Transport{MaxConnsPerHost: poolSize, MaxIdleConnsPerHost: poolSize, DisableCompression: true}
		if s.Peer == "net/http on client" {
			t.DialContext = new(client.Dialer).DialContext
		}
		web := &http.Client{Transport: t, Timeout: time.Minute}
		one = func() error { return get(web, url) }
	default:
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	return measure(s, same(s, one))
}

func get(web *http.Client, url string) error {
	response, err := web.Get(url)
	if err != nil {
		return err
	}
	return drain(response)
}

func drain(response *http.Response) error {
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("unexpected status %s", response.Status)
	}
	_, err := io.Copy(io.Discard, response.Body)
	return err
}
