package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A server that does not answer ended the process of its clients: each waiting call held a
// thread, and the Go runtime gives up at 10,000 of them (debug.SetMaxThreads). So does a
// container with a limit of its own, much sooner.
func TestThreads_ManyWaitingClientsHoldFew(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			clients, threads := 2000, 400
			if os.Getenv("CLIENT_LOAD") == "full" {
				clients, threads = 18_000, 300
			}
			address := otherProcess(t, "echo", network)
			cmd := helperCommand(t, fmt.Sprintf("waiting %s %s %d %d", network, address, clients, threads))
			out, err := cmd.Output()
			require.NoError(t, err)
			t.Log(strings.TrimSpace(string(out)))
		})
	}
}

// A wait that has lasted gives its thread up, whatever the budget.
func TestThreads_IdleClientsHoldNone(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 3 s")
	}
	cmd := helperCommand(t, "idle "+otherProcess(t, "echo", "unix"))
	out, err := cmd.Output()
	require.NoError(t, err)
	t.Log(strings.TrimSpace(string(out)))
}

func TestThreads_SetMaxThreadsGivesWhatWas(t *testing.T) {
	was := client.SetMaxThreads(-1)
	require.Equal(t, was, client.SetMaxThreads(7))
	require.Equal(t, 7, client.SetMaxThreads(-5))
	require.Equal(t, 7, client.SetMaxThreads(was))
	require.Equal(t, was, client.SetMaxThreads(-1))
}

// waitingClients has many clients wait in a process with a limit of threads. The server
// answers every other one. The rest are closed.
func waitingClients(argument string) error {
	var network, address string
	var clients, threads int
	if _, err := fmt.Sscan(argument, &network, &address, &clients, &threads); err != nil {
		return err
	}
	debug.SetMaxThreads(threads)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur < uint64(clients)+100 {
		return fmt.Errorf("%d descriptors are too few", limit.Cur)
	}
	descriptors, before := count("/proc/self/fd/*"), memory()
	all := make([]*client.Client, clients)
	for i := range all {
		c, err := client.Dial(network, address, &client.Options{Timeout: -1})
		if err != nil {
			return err
		}
		all[i] = c
	}
	errs := make(chan error, clients)
	for i, c := range all {
		go func() {
			buf := new([1]byte)
			_, err := c.Recv(buf[:], 0)
			if i%2 == 1 && errors.Is(err, net.ErrClosed) {
				err = nil
			}
			errs <- err
		}()
	}
	waiting := func() int { return clients - len(errs) }
	for end := time.Now().Add(testTimeout); waitingThreads()+parked() < waiting() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	held, each := count("/proc/self/task/*"), (memory()-before)/clients
	fmt.Printf("%d clients wait: %d threads, %d bytes each; ", waiting(), held, each)
	if waiting() != clients || held > threads {
		return fmt.Errorf("%d of %d wait, with %d threads", waiting(), clients, held)
	}
	var wg sync.WaitGroup
	for i, c := range all {
		if i%2 == 0 {
			if _, err := c.Send([]byte("x"), 0); err != nil {
				return err
			}
		} else {
			wg.Go(func() { _ = c.Close() })
		}
	}
	wg.Wait()
	for range all {
		if err := <-errs; err != nil {
			return err
		}
	}
	for i := 0; i < clients; i += 2 {
		_ = all[i].Close()
	}
	if n := count("/proc/self/fd/*"); n > descriptors+5 { // the poller's own
		return fmt.Errorf("%d descriptors, and %d before", n, descriptors)
	}
	fmt.Printf("%d threads at the end\n", count("/proc/self/task/*"))
	return nil
}

// idleClients counts the threads that sleep in a system call while 1,000 clients have
// waited for a while.
func idleClients(address string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 1000 {
		c, err := client.Dial("unix", address, &client.Options{Timeout: -1})
		if err != nil {
			return err
		}
		defer c.Close()
		if i%2 == 0 {
			if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
				return err
			}
		}
		wg.Go(func() { _, _ = c.Recv(make([]byte, 1), 0) })
	}
	time.Sleep(2 * time.Second)
	n := waitingThreads()
	fmt.Printf("1,000 idle clients hold %d threads\n", n)
	if n > 0 {
		return fmt.Errorf("%d threads are held", n)
	}
	return nil
}

func count(pattern string) int {
	all, _ := filepath.Glob(pattern)
	return len(all)
}

// waitingThreads counts the threads that sleep in a system call which the library waits in.
func waitingThreads() (n int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/syscall")
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		number, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		if call, err := strconv.Atoi(number); err == nil && waitingCalls[call] {
			n++
		}
	}
	return n
}

// memory is what the process takes from the system, without what it could give back.
func memory() int {
	runtime.GC()
	debug.FreeOSMemory()
	b, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize()
}

// Dials of servers that do not answer, more of them than calls may hold threads, end at their
// limits, and when their context does.
func TestThreads_DialsParkToo(t *testing.T) {
	defer client.SetMaxThreads(client.SetMaxThreads(0))
	hole := blackHole(t, "tcp", "127.0.0.1")
	const limit = 100 * time.Millisecond
	for range 3 {
		begin := time.Now()
		_, err := client.Dial("tcp", hole, &client.Options{Timeout: limit})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), limit)
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() { _, err := client.DialContext(ctx, "tcp", hole, &client.Options{Timeout: -1}); result <- err }()
		inKernel(t)
		require.Zero(t, waitingThreads())
		cancel()
		require.ErrorIs(t, <-result, context.Canceled)
	}
	ln := listen(t, "tcp")
	c, err := client.Dial("tcp", ln.Addr().String(), nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A dial that waits for the answer of one address gives its thread up too.
func TestThreads_LongDialHoldsNone(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for longer than a call holds its thread")
	}
	hole := blackHole(t, "tcp", "127.0.0.1")
	const limit = 1200 * time.Millisecond
	result := make(chan error, 1)
	begin := time.Now()
	go func() { _, err := client.Dial("tcp", hole, &client.Options{Timeout: limit}); result <- err }()
	require.Eventually(t, func() bool { return parked() > 0 && waitingThreads() == 0 }, limit, 10*time.Millisecond)
	require.ErrorIs(t, <-result, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
}
