package sql

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// onBoth runs a scenario with net.Dialer and with client.Dialer. A failure with net.Dialer is a
// defect of the scenario; a failure with client.Dialer only is a defect of this library.
func onBoth(t *testing.T, scenario func(t *testing.T, dial wire.DialFunc)) {
	t.Run("net", func(t *testing.T) { scenario(t, new(net.Dialer).DialContext) })
	t.Run("client", func(t *testing.T) { scenario(t, wire.New(t).DialContext) })
}

// sizes are the sizes of values: part of a read, many reads, and the limits of the drivers'
// buffers.
var sizes = []int{0, 1, 4 << 10, 8<<10 - 1, 64<<10 + 1, 1 << 20}

// randomBytes returns n random bytes.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // cannot fail
	return b
}

// unique appends a random suffix to a word.
func unique(word string) string { return word + rand.Text() }

// same compares without printing the values.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	require.True(t, bytes.Equal(want, got), "%d bytes are not the %d that were sent", len(got), len(want))
}

var errHangs = errors.New("the call did not return in time")

// limited returns the error of a call, or errHangs.
func limited(call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(wire.TestTimeout):
		return errHangs
	}
}

// cancelled returns the error of a call whose context is canceled while the call waits in the
// server. The server would wait for a minute, longer than limited.
func cancelled(t *testing.T, waits func() bool, call func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	eventually(t, waits, "the server does not wait")
	require.Empty(t, done, "the call waits too")
	cancel()
	err := limited(func() error { return <-done })
	require.NotErrorIs(t, err, errHangs)
	return err
}

// expired returns the error of a call whose context expires, and checks that it did not return
// earlier.
func expired(t *testing.T, call func(ctx context.Context) error) error {
	t.Helper()
	const limit = 250 * time.Millisecond
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := limited(func() error { return call(ctx) })
	require.NotErrorIs(t, err, errHangs)
	require.GreaterOrEqual(t, time.Since(start), limit)
	return err
}

func eventually(t *testing.T, is func() bool, otherwise string) {
	t.Helper()
	require.Eventually(t, is, wire.TestTimeout, 2*time.Millisecond, otherwise)
}

// silent returns the address of a server that accepts connections and sends nothing.
func silent(t *testing.T) string {
	t.Helper()
	// The kernel completes the handshakes of connections in the listen queue.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

// streams checks that rows are 1 to count, each with eight times the digest of its number. All
// three servers can compute that.
func streams(t *testing.T, rows interface {
	Next() bool
	Scan(into ...any) error
	Err() error
}, count int,
) {
	t.Helper()
	read := 0
	for rows.Next() {
		var i int
		var text string
		require.NoError(t, rows.Scan(&i, &text))
		read++
		require.Equal(t, read, i)
		require.Equal(t, strings.Repeat(fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, i))), 8), text)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, count, read)
}

// doubles checks the results of a prepared statement for several numbers and texts.
func doubles[Row interface{ Scan(into ...any) error }](t *testing.T, ask func(i int, text string) Row) {
	t.Helper()
	for i := range 200 {
		var number int
		var text string
		want := strings.Repeat("ü", i)
		require.NoError(t, ask(i, want).Scan(&number, &text))
		require.Equal(t, 2*i, number)
		require.Equal(t, want+want, text)
	}
}

// survives kills a server while several goroutines use a driver, and restarts it. Calls without a
// server may fail but must return. After the restart the same driver must work again.
func survives(t *testing.T, s *testserver.Server, ask func() error) {
	t.Helper()
	require.NoError(t, limited(ask))
	const workers = 4
	var failed, hung atomic.Int64
	var done [workers]atomic.Int64 // since the restart
	var again, stop atomic.Bool
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for !stop.Load() {
				there := again.Load()
				switch err := limited(ask); {
				case errors.Is(err, errHangs):
					hung.Add(1)
					return
				case err != nil:
					failed.Add(1)
				case there:
					done[i].Add(1)
				}
			}
		})
	}
	end := func() {
		stop.Store(true)
		all.Wait()
	}
	defer end()
	s.Kill()
	eventually(t, func() bool { return failed.Load() >= workers }, "no goroutine has an error after the server was killed")
	restart(t, s)
	again.Store(true)
	eventually(t, func() bool {
		for i := range done {
			if done[i].Load() < 10 && hung.Load() == 0 {
				return false
			}
		}
		return true
	}, "the driver does not work again")
	end()
	require.Zero(t, hung.Load(), "calls that hang")
}

// killed kills a server during a call, which must return then, and restarts it.
func killed(t *testing.T, s *testserver.Server, waits func() bool, call func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	eventually(t, waits, "the server does not wait")
	require.Empty(t, done, "the call waits too")
	s.Kill()
	err := limited(func() error { return <-done })
	require.Error(t, err)
	require.NotErrorIs(t, err, errHangs)
	restart(t, s)
}

// restart restarts a killed server.
func restart(t *testing.T, s *testserver.Server) {
	t.Helper()
	// PostgreSQL's processes for connections are no part of its process group. They end
	// when they notice that the first of them has, and until then its memory is in use.
	var err error
	for end := time.Now().Add(wire.TestTimeout); time.Now().Before(end); {
		if err = s.Restart(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// isUnknownAuthority checks that a server was refused for who vouches for it.
func isUnknownAuthority(t *testing.T, err error) {
	t.Helper()
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
}
