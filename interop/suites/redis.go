package main

import (
	"net"
	"strconv"
	"strings"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/suites/dials"
)

// serveRedis is for tests that know their server at port 6379.
func serveRedis(string) (*serving, error) {
	s, err := testserver.Redis("--enable-debug-command", "yes", "--enable-module-command", "yes")
	if err != nil {
		return nil, err
	}
	return &serving{
		env: []string{
			dials.Moved + "=6379=" + s.Port,
			"REDIS_VERSION=" + redisVersion(s),
			// Theirs for a server alone: no sentinels, rings and clusters are set up.
			"RE_CLUSTER=true",
		},
		stop: s.Stop,
	}, nil
}

// redisVersion is the major and minor version that the server has said it has.
func redisVersion(s *testserver.Server) string {
	_, after, _ := strings.Cut(s.Output(), "Redis version=")
	parts := strings.SplitN(after, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// lendRedis is for tests that start the server themselves: on a port that is given to them.
func lendRedis(string) (*serving, error) {
	path, err := testserver.Find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	return &serving{args: []string{"-redis-server=" + path, "-redis-port=" + port}, stop: func() {}}, ln.Close()
}

// serveMemcached is for tests that know their server at port 11211.
func serveMemcached(string) (*serving, error) {
	s, err := testserver.Memcached()
	if err != nil {
		return nil, err
	}
	return &serving{env: []string{dials.Moved + "=11211=" + s.Port}, stop: s.Stop}, nil
}
