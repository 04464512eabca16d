package redis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// A road is a way to a redis that the test has for itself: whose sockets, over which
// network, and who makes TLS of them, if anybody does.
type road struct {
	server           *testserver.Server
	network, address string

	secure secure
	config *tls.Config   // for a driver that makes TLS
	dial   wire.DialFunc // what a driver gets
	wire.Log
}

// A secure tells who makes TLS.
type secure int

const (
	nobody secure = iota
	theDriver
	theDialer
)

type route struct {
	name     string
	network  string
	secure   secure
	byClient bool
}

// The last one has no like of its own in package net: what crypto/tls's Dialer gives is
// what a driver makes of net's.
var routes = []route{
	{"net over tcp", "tcp", nobody, false},
	{"client over tcp", "tcp", nobody, true},
	{"net over unix", "unix", nobody, false},
	{"client over unix", "unix", nobody, true},
	{"net under the driver's TLS", "tcp", theDriver, false},
	{"client under the driver's TLS", "tcp", theDriver, true},
	{"client that makes TLS", "tcp", theDialer, true},
}

// onEveryRoad runs a scenario on package net and on client, where it has to come out
// the same.
func onEveryRoad(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(route) bool { return true }, scenario)
}

// onPlainRoads leaves those with TLS out.
func onPlainRoads(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(way route) bool { return way.secure == nobody }, scenario)
}

// onSecureRoads takes only those with TLS.
func onSecureRoads(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(way route) bool { return way.secure != nobody }, scenario)
}

func onRoads(t *testing.T, wanted func(way route) bool, scenario func(t *testing.T, r *road)) {
	t.Helper()
	for _, way := range routes {
		if wanted(way) {
			t.Run(way.name, func(t *testing.T) { scenario(t, build(t, way)) })
		}
	}
}

// build starts the redis that the road leads to.
func build(t *testing.T, way route) *road {
	t.Helper()
	var settings []string
	var id *testserver.Identity
	if way.secure != nobody {
		var err error
		id, err = testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		settings = []string{
			"--port", "0", "--tls-port", "%port", "--tls-auth-clients", "no",
			"--tls-cert-file", id.CertFile, "--tls-key-file", id.KeyFile, "--tls-ca-cert-file", id.CAFile,
		}
	}
	s, err := testserver.Redis(settings...)
	r := &road{server: testserver.Serve(t, s, err), network: way.network, secure: way.secure}
	if r.address = r.server.Addr; way.network == "unix" {
		r.address = r.server.Socket()
	}
	if way.secure == theDriver {
		r.config = &tls.Config{RootCAs: id.Roots, ServerName: "localhost"}
	}
	open := new(net.Dialer).DialContext
	if way.byClient {
		w := wire.New(t)
		if way.secure == theDialer {
			w.Options = &client.Options{TLS: &client.TLSOptions{CAFile: id.CAFile}}
		}
		open = w.DialContext
	}
	r.dial = r.Noting(open)
	return r
}

// stop has the server do nothing any more, with its connections open, until resume.
func (r *road) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, r.server.Signal(syscall.SIGSTOP))
	eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(r.server.Pid()) + "/stat")
		return err == nil && strings.Contains(string(stat), ") T ") // proc(5)
	}, "the server goes on")
}

func (r *road) resume(t *testing.T) {
	t.Helper()
	require.NoError(t, r.server.Signal(syscall.SIGCONT))
}

// awaitInfo waits until the server says something of itself, in its INFO.
func (r *road) awaitInfo(t *testing.T, says string) {
	t.Helper()
	r.awaitAnswer(t, "INFO", says+"\r\n")
}

// awaitBlocked waits until so many clients wait in the server for what does not come.
func (r *road) awaitBlocked(t *testing.T, n int) {
	t.Helper()
	r.awaitInfo(t, fmt.Sprintf("blocked_clients:%d", n))
}

// awaitAnswer asks the server, over its unix socket, until it answers with want.
func (r *road) awaitAnswer(t *testing.T, question, want string) {
	t.Helper()
	eventually(t, func() bool {
		return testserver.Answers("unix", r.server.Socket(), question+"\r\nQUIT\r\n", want) == nil
	}, "the server never answers "+question+" with "+want)
}

// tell has the server do something, over its unix socket.
func (r *road) tell(t *testing.T, command, answer string) {
	t.Helper()
	require.NoError(t, testserver.Answers("unix", r.server.Socket(), command+"\r\n", answer+"\r\n"))
}

// awaitTurn returns when the server has done what it was asked for before, by whomever: it
// is at the second question when it has left the events that the first was among.
func (r *road) awaitTurn(t *testing.T) {
	t.Helper()
	r.tell(t, "PING", "+PONG")
	r.tell(t, "PING", "+PONG")
}

// awaitReceiving waits until a goroutine in a function waits for what a socket gives: in the
// runtime's poller if it is net's, in the kernel if it is client's.
func awaitReceiving(t *testing.T, function string) {
	t.Helper()
	eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			state, _, _ := strings.Cut(stack, "\n")
			waits := strings.Contains(state, "[IO wait") || strings.Contains(state, "[syscall")
			if waits && strings.Contains(stack, function) {
				return true
			}
		}
		return false
	}, "nobody waits in "+function)
}

func eventually(t *testing.T, is func() bool, otherwise string) {
	t.Helper()
	require.Eventually(t, is, wire.Enough, time.Millisecond, otherwise)
}

// within gives what a call that must not hang returns.
func within(t *testing.T, call func() error) error {
	t.Helper()
	returned := make(chan error, 1)
	go func() { returned <- call() }()
	return returns(t, returned)
}

// returns waits for a call that was made in another goroutine.
func returns(t *testing.T, returned <-chan error) error {
	t.Helper()
	select {
	case err := <-returned:
		return err
	case <-time.After(wire.Enough):
		t.Fatal("the call hangs")
		return nil
	}
}

// together makes n calls at once. None may fail, and none may hang.
func together(t *testing.T, n int, call func(i int) error) {
	t.Helper()
	returned := make(chan error, n)
	for i := range n {
		go func() { returned <- call(i) }()
	}
	for range n {
		require.NoError(t, returns(t, returned))
	}
}

// value gives n bytes that no other seed gives.
func value(seed, n int) []byte {
	var key [32]byte
	copy(key[:], strconv.Itoa(seed))
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // it never fails
	return b
}

// sizes are those of values: with nothing in them, in one segment, in several, and more
// than any socket takes at once.
var sizes = []int{0, 5, 4<<10 + 1, 64 << 10, 1 << 20}

// errWrong is in the error of an answer that is not the one to the question.
var errWrong = errors.New("the answer is not what was stored")

// same has no error if got is what was stored.
func same(want, got []byte) error {
	if string(want) != string(got) {
		return fmt.Errorf("%w: %d bytes in place of %d", errWrong, len(got), len(want))
	}
	return nil
}

// isTimeout checks that an error is a timeout to whoever asks it, and is not early.
func isTimeout(t *testing.T, err error, start time.Time, limit time.Duration) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), err)
	require.GreaterOrEqual(t, time.Since(start), limit)
}

// outlives has several goroutines work while the server is killed and after it has been
// started again. The work has to fail in between, never to hang, and never to give
// anybody the answer to something else; afterwards it has to succeed as it did before.
func outlives(t *testing.T, s *testserver.Server, work func(goroutine, round int) error) {
	t.Helper()
	const goroutines = 4
	var succeeded, failed sync.WaitGroup
	succeeded.Add(goroutines)
	failed.Add(goroutines)
	restarted := make(chan struct{})
	finished := make(chan error, goroutines)
	for g := range goroutines {
		round := 0
		do := func() error { round++; return work(g, round) }
		go func() {
			err := succeeds(do)
			succeeded.Done()
			if err == nil {
				err = fails(do)
			}
			failed.Done()
			<-restarted
			if err == nil {
				err = recovers(do)
			}
			finished <- err
		}()
	}
	awaitAll(t, &succeeded)
	s.Kill()
	awaitAll(t, &failed)
	require.NoError(t, s.Restart())
	close(restarted)
	for range goroutines {
		require.NoError(t, returns(t, finished))
	}
}

// rounds are how often a call has to succeed, or to fail, to be believed.
const rounds = 10

func succeeds(do func() error) error {
	for range rounds {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// fails goes on until the server is gone, and then some more.
func fails(do func() error) error {
	for n := 0; n < rounds; {
		err := do()
		if errors.Is(err, errWrong) {
			return err
		}
		if err != nil {
			n++
		}
	}
	return nil
}

// recovers is succeeds, once there have been errors about what the server has taken
// with it.
func recovers(do func() error) error {
	end := time.Now().Add(wire.Enough)
	for {
		err := succeeds(do)
		if err == nil || errors.Is(err, errWrong) || time.Now().After(end) {
			return err
		}
	}
}

func awaitAll(t *testing.T, group *sync.WaitGroup) {
	t.Helper()
	require.NoError(t, within(t, func() error { group.Wait(); return nil }))
}
