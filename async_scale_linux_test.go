package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// go-wrk#28, moby#15258: many connections ended the process, which had a thread for each. Here
// 10,000 clients are idle and 64 are active, in a process of their own: it has at most 8
// threads more than before, and after the clients' end no more goroutines, descriptors and
// memory than before.
func TestAsyncScale_ManyClientsHoldNoThreadsAndLeaveNothing(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			inARow := 2000
			if os.Getenv("CLIENT_LOAD") == "full" {
				inARow = 18_000
			}
			address := otherProcess(t, "echo", network)
			// The runtime starts a thread when the kernel takes the CPU from one in a system call,
			// which depends on other processes, and keeps the stacks of goroutines that have run at
			// the same time: the best of three runs counts.
			var out []byte
			var err error
			var said bytes.Buffer
			for range 3 {
				said.Reset()
				cmd := helperCommand(t, fmt.Sprintf("async %s %s 10000 64 %d", network, address, inARow))
				cmd.Stderr = &said
				if out, err = cmd.Output(); !strings.Contains(said.String(), "threads more") && !strings.Contains(said.String(), "bytes for each") {
					break
				}
			}
			require.NoError(t, err, said.String())
			t.Log(strings.TrimSpace(string(out)))
		})
	}
}

// scaleClient is what one client of the test counts.
type scaleClient struct {
	connected chan error
	left      atomic.Int32 // round trips to be made
	done      chan struct{}
}

func newScaleClient() *scaleClient {
	return &scaleClient{connected: make(chan error, 1), done: make(chan struct{})}
}

func (s *scaleClient) config() client.AsyncConfig {
	return client.AsyncConfig{
		OnConnect: func(*client.AsyncClient) { s.connected <- nil },
		OnReceive: func(a *client.AsyncClient, p []byte) {
			if s.left.Add(-1) > 0 {
				_ = a.Send(p)
			} else {
				close(s.done)
			}
		},
		OnError: func(_ *client.AsyncClient, err error) { s.connected <- err },
		OnClose: func(*client.AsyncClient, error) {},
	}
}

func dialScale(network, address string, cfg client.AsyncConfig) (*client.AsyncClient, error) {
	return client.DialAsync(context.Background(), network, address, &client.Options{Timeout: time.Minute}, cfg)
}

// asyncClients is the process of the test.
func asyncClients(argument string) error {
	var network, address string
	var clients, active, inARow int
	if _, err := fmt.Sscan(argument, &network, &address, &clients, &active, &inARow); err != nil {
		return err
	}
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if err := asyncInARow(network, address, 200); err != nil { // the runtime and the pools warm up
		return err
	}
	descriptors, goroutines := count("/proc/self/fd/*"), runtime.NumGoroutine()
	// The runtime keeps what it has for each goroutine and each descriptor in its poller, and
	// uses it again: the second time nothing may be added.
	if err := asyncAtOnce(network, address, clients, active); err != nil {
		return err
	}
	before := memory()
	if err := asyncAtOnce(network, address, clients, active); err != nil {
		return err
	}
	if err := asyncInARow(network, address, inARow); err != nil {
		return err
	}
	end := time.Now().Add(testTimeout)
	for {
		extra := [...]int{runtime.NumGoroutine() - goroutines, count("/proc/self/fd/*") - descriptors, memory() - before}
		if extra[0] <= 0 && extra[1] <= 0 && (extra[2] < 200*clients || raceBuild) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("left behind: %d goroutines, %d descriptors, %d bytes", extra[0], extra[1], extra[2])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// asyncAtOnce makes clients, has some of them make round trips, and closes all.
func asyncAtOnce(network, address string, clients, active int) error {
	threads, before := count("/proc/self/task/*"), memory()
	all := make([]*client.AsyncClient, clients+active)
	dials := newScaleClient() // of all dials; one at a time is not enough work for a dialer
	dials.connected = make(chan error, 100)
	cfg := dials.config()
	each := make([]*scaleClient, active)
	for i := range all {
		if i >= cap(dials.connected) {
			if err := <-dials.connected; err != nil {
				return err
			}
		}
		if i < active {
			each[i] = newScaleClient()
			each[i].connected = dials.connected
			cfg = each[i].config()
		} else if i == active {
			cfg = dials.config()
		}
		var err error
		if all[i], err = dialScale(network, address, cfg); err != nil {
			return err
		}
	}
	for range cap(dials.connected) {
		if err := <-dials.connected; err != nil {
			return err
		}
	}
	perClient := (memory() - before) / len(all)
	const trips = 200
	usage := processTime()
	for i := range active {
		each[i].left.Store(trips)
		if err := all[i].Send(make([]byte, 64)); err != nil {
			return err
		}
	}
	for i := range active {
		<-each[i].done
	}
	usage = processTime() - usage
	held := count("/proc/self/task/*") - threads
	fmt.Printf("%d idle and %d active clients: %d threads more than before, %d bytes each, %v of CPU time a round trip\n",
		clients, active, held, perClient, usage/time.Duration(active*trips))
	if held > 8 {
		return fmt.Errorf("%d threads more than before", held)
	}
	if perClient > 6<<10 && !raceBuild { // the race detector has memory of its own
		return fmt.Errorf("%d bytes for each client", perClient)
	}
	for _, a := range all {
		if err := a.Close(); err != nil {
			return err
		}
	}
	for _, a := range all {
		<-a.Done()
	}
	return nil
}

// asyncInARow makes clients that come and go one after another.
func asyncInARow(network, address string, n int) error {
	for range n {
		s := newScaleClient()
		a, err := dialScale(network, address, s.config())
		if err == nil {
			err = <-s.connected
		}
		if err != nil {
			return err
		}
		s.left.Store(1)
		if err := a.Send([]byte("x")); err != nil {
			return err
		}
		<-s.done
		if err := a.Close(); err != nil {
			return err
		}
		select {
		case <-a.Done():
		case <-time.After(testTimeout):
			return errors.New("a client does not end")
		}
	}
	return nil
}

func processTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
