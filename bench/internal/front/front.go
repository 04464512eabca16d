// Package front has the servers written in Go, each for its own process: the TLS server of the round
// trips, and the compared web servers in front of php-fpm or Redis.
package front

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
	"github.com/blocksock/client/bench/internal/worker"
	"github.com/blocksock/client/fastcgi"
	"github.com/redis/go-redis/v9"
)

// Serve prints its address and serves until the end of standard input.
func Serve(s *sample.Spec) error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if s.Peer == "caddy" {
		return caddyFront(s)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serve := map[string]func(*sample.Spec, net.Listener) error{
		"tls":     tlsEcho,
		"fastcgi": fastcgiFront,
		"net":     redisFront,
		"client":  redisFront,
	}[s.Peer]
	if serve == nil {
		return fmt.Errorf("unknown server %q", s.Peer)
	}
	fmt.Println(ln.Addr())
	return serve(s, ln)
}

// tlsEcho replies to Request bytes with Reply bytes, over TLS. Files are the certificate and
// its key.
func tlsEcho(s *sample.Spec, ln net.Listener) error {
	pair, err := tls.LoadX509KeyPair(s.Files[0], s.Files[1])
	if err != nil {
		return err
	}
	ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}})
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			in, out := make([]byte, s.Request), make([]byte, s.Reply)
			for {
				if _, err := io.ReadFull(c, in); err != nil {
					return
				}
				if _, err := c.Write(out); err != nil {
					return
				}
			}
		}()
	}
}

// fastcgiFront runs this library's handler in front of the php-fpm at Address. Files[0] is the
// document root.
func fastcgiFront(s *sample.Spec, ln net.Listener) error {
	return http.Serve(ln, &fastcgi.Handler{
		Client: &fastcgi.Client{Network: s.Network, Address: s.Address, MaxConns: s.Conns},
		Root:   s.Files[0],
	})
}

// redisFront computes for 200 µs and queries the Redis server at Address, for each request.
func redisFront(s *sample.Spec, ln net.Listener) error {
	o := &redis.Options{Network: s.Network, Addr: s.Address, PoolSize: 64, DisableIdentity: true, Protocol: 2}
	if s.Peer == "client" {
		o.Dialer = new(client.Dialer).DialContext
	}
	rdb := redis.NewClient(o)
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		worker.Compute(100 * time.Microsecond)
		value, err := rdb.Get(r.Context(), "key").Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		worker.Compute(100 * time.Microsecond)
		_, _ = io.WriteString(w, value) // the caller may have disconnected
	}))
}
