package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
)

// waiting lets Conns calls wait for an answer, each in its own goroutine, and measures the threads
// and memory of the process. Then it requests all answers; the time until the last one has
// arrived is Elapsed.
func waiting(s *sample.Spec) (*sample.Sample, error) {
	dial := map[string]func(*sample.Spec) (send, recv op, err error){"net": waitOnNet, "client": waitOnClient}[s.Peer]
	if dial == nil {
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	memory, rss, err := inUse()
	if err != nil {
		return nil, err
	}
	sends := make([]op, s.Conns)
	failed := make(chan error, s.Conns)
	var answered sync.WaitGroup
	for i := range sends {
		send, recv, err := dial(s)
		if err != nil {
			return nil, err
		}
		sends[i] = send
		answered.Go(func() {
			if err := recv(); err != nil {
				failed <- err
			}
		})
	}
	result := &sample.Sample{Ops: int64(s.Conns)}
	if result.Threads, err = settled(failed); err != nil {
		return nil, fmt.Errorf("a connection did not wait: %w", err)
	}
	if result.Memory, result.RSS, err = inUse(); err != nil {
		return nil, err
	}
	result.Memory -= memory
	result.RSS -= rss
	meter := sample.Start()
	for _, send := range sends {
		if err := send(); err != nil {
			return nil, err
		}
	}
	answered.Wait()
	meter.Stop(result)
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	return result, nil
}

func waitOnNet(s *sample.Spec) (send, recv op, err error) {
	c, err := dialWhenQueued(s)
	return func() error { _, err := c.Write(make([]byte, s.Request)); return err },
		func() error { _, err := io.ReadFull(c, make([]byte, s.Reply)); return err }, err
}

func waitOnClient(s *sample.Spec) (send, recv op, err error) {
	c, err := client.Dial(s.Network, s.Address, &client.Options{RecvTimeout: -1})
	return func() error { _, err := c.Send(make([]byte, s.Request), 0); return err },
		func() error { _, err := c.Recv(make([]byte, s.Reply), client.WaitAll); return err }, err
}

func isQueueFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }

// settled waits until the number of threads no longer changes, and returns it. All calls wait
// then.
func settled(failed <-chan error) (threads int, err error) {
	for last := -1; ; last = threads {
		select {
		case err := <-failed:
			return 0, err
		case <-time.After(200 * time.Millisecond):
		}
		if threads, _, err = status(); err != nil || threads == last {
			return threads, err
		}
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
