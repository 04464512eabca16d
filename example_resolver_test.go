package client_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/blocksock/client"
)

// A cachingResolver keeps answers for a minute. Package net does not tell how long an answer
// is valid.
type cachingResolver struct {
	client.Resolver // asked if the cache has no answer

	mu    sync.Mutex
	known map[string]cachedAnswer
}

type cachedAnswer struct {
	addrs []netip.Addr
	until time.Time
}

func (r *cachingResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	question := network + " " + host
	r.mu.Lock()
	known, ok := r.known[question]
	r.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.addrs, nil
	}
	addrs, err := r.Resolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= 1000 {
		clear(r.known) // a cache needs a bound
	}
	r.known[question] = cachedAnswer{addrs, time.Now().Add(time.Minute)}
	return addrs, nil
}

// Dials of one host share the answer of one lookup.
func ExampleResolver() {
	address, stop := exampleServer(pong)
	defer stop()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		log.Fatal(err)
	}
	resolver := &cachingResolver{Resolver: net.DefaultResolver, known: make(map[string]cachedAnswer)}
	opts := &client.Options{Resolver: resolver}
	for range 3 {
		c, err := client.Dial("tcp4", "localhost:"+port, opts)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(c.RemoteAddr().String() == address)
		if err := c.Close(); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(len(resolver.known), "answer in the cache")
	// Output:
	// true
	// true
	// true
	// 1 answer in the cache
}
