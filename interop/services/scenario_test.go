package services

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// A dialFunc is how a driver dials.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// onBoth runs a scenario on package net, which shows what the driver makes of it, and on
// client, which has to come to the same.
func onBoth(t *testing.T, scenario func(t *testing.T, dial dialFunc)) {
	t.Helper()
	t.Run("net", func(t *testing.T) { scenario(t, new(net.Dialer).DialContext) })
	t.Run("client", func(t *testing.T) { scenario(t, wire.New(t).DialContext) })
}

// A limit is a deadline that tests wait for, soon one within which nothing that hangs
// can be.
const (
	limit = 150 * time.Millisecond
	soon  = wire.TestTimeout / 2
)

// timed runs a call and checks that it took at least a time, and not much longer.
func timed[T any](t *testing.T, atLeast time.Duration, call func() (T, error)) (T, error) {
	t.Helper()
	began := time.Now()
	v, err := call()
	took := time.Since(began)
	require.GreaterOrEqual(t, took, atLeast, "it was ended too early: %v", err)
	require.Less(t, took, atLeast+soon, "it was ended too late: %v", err)
	return v, err
}

// result is what a call in another goroutine has come to, which has to be soon.
func result(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(soon):
		t.Fatal("the call hangs")
		return nil
	}
}

// inBackground runs a call in a goroutine of its own.
func inBackground(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

// all runs work in as many goroutines, each with its number.
func all(t *testing.T, workers int, work func(worker int) error) {
	t.Helper()
	done := make([]<-chan error, workers)
	for i := range workers {
		done[i] = inBackground(func() error { return work(i) })
	}
	for i := range done {
		require.NoError(t, result(t, done[i]), "goroutine %d", i)
	}
}

// freeze stops a server and its processes between two instructions: the kernel goes on
// taking what they are sent, and nobody answers. Thawed they go on as if nothing had been.
func freeze(t *testing.T, s *testserver.Server) (thaw func()) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("this system does not tell whether a process has stopped")
	}
	group := s.Pid()
	require.NoError(t, syscall.Kill(-group, syscall.SIGSTOP))
	require.Eventually(t, func() bool { return frozen(group) }, wire.TestTimeout, time.Millisecond)
	thaw = sync.OnceFunc(func() { _ = syscall.Kill(-group, syscall.SIGCONT) }) // it may have been killed
	t.Cleanup(thaw)
	return thaw
}

// frozen reports whether all processes of a group have stopped, gone whether all have
// ended.
func frozen(group int) bool { return allAre(group, "TZ") && !allAre(group, "Z") }
func gone(group int) bool   { return allAre(group, "Z") }

// allAre reports whether the threads of a process group, if there are any, are all in one
// of some states: proc(5), /proc/pid/stat, of which the fields behind the name are the
// state, the parent and the group.
func allAre(group int, states string) bool {
	threads, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && !strings.Contains(states, fields[0]) {
			return false
		}
	}
	return true
}

// kill ends a server and waits for all of its processes, which may have the socket that
// it listens on.
func kill(t *testing.T, s *testserver.Server) {
	t.Helper()
	s.Kill()
	require.Eventually(t, func() bool { return gone(s.Pid()) }, wire.TestTimeout, time.Millisecond)
}

// awaitRequest waits until a server that is frozen has been sent something: proc(5),
// /proc/net/tcp, tells what its sockets have received and nobody has read.
func awaitRequest(t *testing.T, network string, s *testserver.Server) {
	t.Helper()
	port, err := strconv.Atoi(s.Port)
	require.NoError(t, err)
	local := fmt.Sprintf("0100007F:%04X", port)
	require.Eventually(t, func() bool {
		table, err := os.ReadFile("/proc/net/" + network)
		return err == nil && slices.ContainsFunc(strings.Split(string(table), "\n"), func(line string) bool {
			const listens = "0A" // then it is connections that nobody has accepted
			f := strings.Fields(line)
			return len(f) > 4 && f[1] == local && f[3] != listens && !strings.HasSuffix(f[4], ":00000000")
		})
	}, wire.TestTimeout, time.Millisecond, "it is not asked")
}

// throughRestart has goroutines work again and again while the server is killed and
// started again. Each notices that it is gone, none hangs, and all work again afterwards.
func throughRestart(t *testing.T, s *testserver.Server, workers int, work func(worker int) error) {
	t.Helper()
	until := func(worker int, wanted func(err error) bool) error {
		var err error
		for end := time.Now().Add(soon / 2); time.Now().Before(end); time.Sleep(time.Millisecond) { // not to dial all the time
			if err = work(worker); wanted(err) {
				return nil
			}
		}
		return fmt.Errorf("still %w", err)
	}
	works := func(err error) bool { return err == nil }
	fails := func(err error) bool { return err != nil }

	working, noticed := make(chan error, workers), make(chan error, workers)
	restarted, done := make(chan struct{}), make(chan error, workers)
	for i := range workers {
		go func() {
			working <- until(i, works)
			noticed <- until(i, fails)
			<-restarted
			done <- until(i, works)
		}()
	}
	for range workers {
		require.NoError(t, result(t, working), "before")
	}
	kill(t, s)
	for range workers {
		if err := result(t, noticed); err != nil {
			t.Errorf("nobody notices that the server is gone: %v", err)
		}
	}
	err := s.Restart()
	close(restarted)
	require.NoError(t, err)
	for range workers {
		require.NoError(t, result(t, done), "afterwards")
	}
}

// randomBytes gives n bytes of all values, line ends and zeros among them.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}
