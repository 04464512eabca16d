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

// A road is a way to a Redis server of the test's own: by which dialer, over which network, and with
// whose TLS, if any.
type road struct {
	server           *testserver.Server
	network, address string

	secure secure
	config *tls.Config   // for a driver that does TLS itself
	dial   wire.DialFunc // for the driver
	wire.Log
}

// A secure tells which side does TLS.
type secure int

const (
	plain secure = iota
	theDriver
	theDialer
)

type route struct {
	name     string
	network  string
	secure   secure
	byClient bool
}

// The last one has no counterpart in package net: a connection of tls.Dialer is what a driver makes
// itself.
var routes = []route{
	{"net over tcp", "tcp", plain, false},
	{"client over tcp", "tcp", plain, true},
	{"net over unix", "unix", plain, false},
	{"client over unix", "unix", plain, true},
	{"net under the driver's TLS", "tcp", theDriver, false},
	{"client under the driver's TLS", "tcp", theDriver, true},
	{"client that makes TLS", "tcp", theDialer, true},
}

// onEveryRoad runs a scenario on package net and on client. Both must have the same result.
func onEveryRoad(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(route) bool { return true }, scenario)
}

// onPlainRoads is onEveryRoad without TLS.
func onPlainRoads(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(way route) bool { return way.secure == plain }, scenario)
}

// onSecureRoads is onEveryRoad with TLS only.
func onSecureRoads(t *testing.T, scenario func(t *testing.T, r *road)) {
	t.Helper()
	onRoads(t, func(way route) bool { return way.secure != plain }, scenario)
}

func onRoads(t *testing.T, wanted func(way route) bool, scenario func(t *testing.T, r *road)) {
	t.Helper()
	for _, way := range routes {
		if wanted(way) {
			t.Run(way.name, func(t *testing.T) { scenario(t, build(t, way)) })
		}
	}
}

// build starts the Redis server of the road.
func build(t *testing.T, way route) *road {
	t.Helper()
	var settings []string
	var id *testserver.Identity
	if way.secure != plain {
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

// stop stops the server's process, with its connections open, until resume.
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

// awaitInfo waits until the server's INFO contains a text.
func (r *road) awaitInfo(t *testing.T, says string) {
	t.Helper()
	r.awaitAnswer(t, "INFO", says+"\r\n")
}

// awaitBlocked waits until n clients are blocked in the server.
func (r *road) awaitBlocked(t *testing.T, n int) {
	t.Helper()
	r.awaitInfo(t, fmt.Sprintf("blocked_clients:%d", n))
}

// awaitAnswer queries the server over its Unix socket until it replies want.
func (r *road) awaitAnswer(t *testing.T, question, want string) {
	t.Helper()
	eventually(t, func() bool {
		return testserver.Answers("unix", r.server.Socket(), question+"\r\nQUIT\r\n", want) == nil
	}, "the server never answers "+question+" with "+want)
}

// tell runs a command over the server's Unix socket.
func (r *road) tell(t *testing.T, command, answer string) {
	t.Helper()
	require.NoError(t, testserver.Answers("unix", r.server.Socket(), command+"\r\n", answer+"\r\n"))
}

// awaitTurn returns when the server has handled all earlier commands: it reads the second command in
// a later turn of its event loop than the first.
func (r *road) awaitTurn(t *testing.T) {
	t.Helper()
	r.tell(t, "PING", "+PONG")
	r.tell(t, "PING", "+PONG")
}

// awaitReceiving waits until a goroutine in a function waits for data: in the runtime's poller with
// net, in the kernel or the poller with client.
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
	}, "no goroutine waits in "+function)
}

func eventually(t *testing.T, is func() bool, otherwise string) {
	t.Helper()
	require.Eventually(t, is, wire.TestTimeout, time.Millisecond, otherwise)
}

// within returns the result of a call that must not hang.
func within(t *testing.T, call func() error) error {
	t.Helper()
	returned := make(chan error, 1)
	go func() { returned <- call() }()
	return returns(t, returned)
}

// returns waits for a call in another goroutine.
func returns(t *testing.T, returned <-chan error) error {
	t.Helper()
	select {
	case err := <-returned:
		return err
	case <-time.After(wire.TestTimeout):
		t.Fatal("the call hangs")
		return nil
	}
}

// together makes n calls at the same time. None may fail or hang.
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

// value returns n bytes that depend on the seed.
func value(seed, n int) []byte {
	var key [32]byte
	copy(key[:], strconv.Itoa(seed))
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // cannot fail
	return b
}

// sizes are the sizes of values: empty, one segment, several, and more than a socket buffers.
var sizes = []int{0, 5, 4<<10 + 1, 64 << 10, 1 << 20}

// errWrong is wrapped by the error of a reply to another command.
var errWrong = errors.New("the answer is not what was stored")

// same returns an error if got is not what was stored.
func same(want, got []byte) error {
	if string(want) != string(got) {
		return fmt.Errorf("%w: got %d bytes, want %d", errWrong, len(got), len(want))
	}
	return nil
}

// isTimeout checks that an error is a timeout in every form, and not too early.
func isTimeout(t *testing.T, err error, start time.Time, limit time.Duration) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), err)
	require.GreaterOrEqual(t, time.Since(start), limit)
}

// outlives lets several goroutines work while the server is killed and restarted. Calls in between
// must fail, must not hang, and must not return the reply to another call. Calls after the restart
// must succeed.
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

// rounds is the number of calls that must succeed, or fail.
const rounds = 10

func succeeds(do func() error) error {
	for range rounds {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// fails calls until the server is gone, and then rounds times more.
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

// recovers is succeeds after the errors of connections to the killed server.
func recovers(do func() error) error {
	end := time.Now().Add(wire.TestTimeout)
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
