package worker

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
)

// waiting lets Conns connections wait for a server that sends nothing, and measures the threads
// and memory of the process.
func waiting(s *sample.Spec) (*sample.Sample, error) {
	dial := map[string]func(*sample.Spec) (op, error){
		"net": func(s *sample.Spec) (op, error) {
			c, err := net.Dial(s.Network, s.Address)
			for errors.Is(err, syscall.EAGAIN) { // the listen queue is full; net does not wait
				nanosleep(time.Millisecond)
				c, err = net.Dial(s.Network, s.Address)
			}
			return func() error { _, err := c.Read(make([]byte, 64)); return err }, err
		},
		"client": func(s *sample.Spec) (op, error) {
			c, err := client.Dial(s.Network, s.Address, &client.Options{RecvTimeout: -1})
			return func() error { _, err := c.Recv(make([]byte, 64), 0); return err }, err
		},
	}[s.Peer]
	if dial == nil {
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	runtime.GC()
	_, before, err := status()
	if err != nil {
		return nil, err
	}
	failed := make(chan error, s.Conns)
	var began sync.WaitGroup
	for range s.Conns {
		wait, err := dial(s)
		if err != nil {
			return nil, err
		}
		began.Add(1)
		go func() { began.Done(); failed <- wait() }()
	}
	began.Wait()
	// All of them wait when the number of threads no longer changes.
	last := -1
	for {
		select {
		case err := <-failed:
			return nil, fmt.Errorf("a connection did not wait: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
		threads, rss, err := status()
		if err != nil {
			return nil, err
		}
		if threads == last {
			return &sample.Sample{Ops: int64(s.Conns), Threads: threads, RSS: rss - before}, nil
		}
		last = threads
	}
}

// status returns the number of threads and the resident memory of the process, from proc(5).
func status() (threads int, rss int64, err error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		switch name {
		case "Threads":
			threads, err = strconv.Atoi(value)
		case "VmRSS":
			rss, err = strconv.ParseInt(value, 10, 64)
			rss <<= 10
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return threads, rss, lines.Err()
}
