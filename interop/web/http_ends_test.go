package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// What ends a request before its answer does. The app never answers these, so whatever
// returns does so for another reason.

// came waits for a request to be with the app, and gives its context there.
func (a *app) came(t *testing.T) context.Context {
	t.Helper()
	select {
	case ctx := <-a.arrived:
		return ctx
	case <-time.After(wire.TestTimeout):
		t.Fatal("the request does not reach the app")
		return nil
	}
}

// isTold waits until the app knows that its request was given up.
func isTold(t *testing.T, ctx context.Context) { //nolint:revive // it is what this is about
	t.Helper()
	select {
	case <-ctx.Done():
	case <-time.After(wire.TestTimeout):
		t.Fatal("the app is not told")
	}
}

// isTimeout checks an error as callers do.
func isTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout interface{ Timeout() bool }
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
}

// eventually is a result that has to come without the server's help.
func eventually(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(wire.TestTimeout):
		t.Fatal("it hangs")
		return nil
	}
}

// stillWorks shows that the client is of use after a request has failed, by the same
// connection where there are several requests on one.
func (v *visit) stillWorks(t *testing.T) {
	t.Helper()
	v.works(t)
	if v.multiplexes() {
		require.Equal(t, 1, v.Dials())
		return
	}
	require.Equal(t, 2, v.Dials())
	require.Eventually(t, func() bool { return v.Open() == 1 }, wire.TestTimeout, time.Millisecond)
}

func TestHTTP_CancelEndsTheWaitForAHeader(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		ctx, cancel := context.WithCancel(limited(t))
		result := make(chan error, 1)
		go func() {
			_, _, err := v.do(ctx, http.MethodGet, "/app/never", nil)
			result <- err
		}()
		there := v.came(t)
		cancel()
		require.ErrorIs(t, eventually(t, result), context.Canceled)
		isTold(t, there)
		v.stillWorks(t)
	})
}

func TestHTTP_CancelEndsTheWaitForABody(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		ctx, cancel := context.WithCancel(limited(t))
		response, there := v.half(t, ctx)
		result := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(response.Body)
			result <- err
		}()
		cancel()
		require.ErrorIs(t, eventually(t, result), context.Canceled)
		isTold(t, there)
		v.stillWorks(t)
	})
}

func TestHTTP_ClosedBodyCancelsTheRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		response, there := v.half(t, limited(t))
		require.NoError(t, response.Body.Close())
		isTold(t, there)
		v.stillWorks(t)
	})
}

// half gets the first half of an answer, and no more.
func (v *visit) half(t *testing.T, ctx context.Context) (*http.Response, context.Context) { //nolint:revive // as in isTold
	t.Helper()
	type answer struct {
		*http.Response
		error
	}
	answered := make(chan answer, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.at("/app/half"), nil)
		if err != nil {
			answered <- answer{nil, err}
			return
		}
		response, err := v.web.Do(request)
		answered <- answer{response, err}
	}()
	there := v.came(t)
	a := <-answered
	require.NoError(t, a.error)
	t.Cleanup(func() { a.Body.Close() })
	begin := make([]byte, 10)
	_, err := io.ReadFull(a.Body, begin)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(begin))
	return a.Response, there
}

func TestHTTP_CancelEndsABlockedUpload(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		ctx, cancel := context.WithCancel(limited(t))
		body := &endless{}
		result := make(chan error, 1)
		go func() {
			_, _, err := v.do(ctx, http.MethodPost, "/app/deaf", body)
			result <- err
		}()
		v.came(t)
		// More than any buffer on the way has is not sent; less is what it takes to be
		// in the middle of it.
		require.Eventually(t, func() bool { return body.sent.Load() > 100<<10 }, wire.TestTimeout, time.Millisecond)
		cancel()
		require.ErrorIs(t, eventually(t, result), context.Canceled)
		v.stillWorks(t)
	})
}

// An endless body counts what was taken of it.
type endless struct{ sent atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.sent.Add(int64(len(p)))
	return len(p), nil
}

func TestHTTP_DeadlineEndsTheWaitForAHeader(t *testing.T) {
	const limit = 150 * time.Millisecond
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		result := make(chan error, 1)
		go func() {
			_, _, err := v.do(ctx, http.MethodGet, "/app/never", nil)
			result <- err
		}()
		there := v.came(t)
		err := eventually(t, result)
		require.GreaterOrEqual(t, time.Since(began), limit)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		isTimeout(t, err)
		isTold(t, there)
		v.stillWorks(t)
	})
}

func TestHTTP_ResponseHeaderTimeoutEndsTheWaitForAHeader(t *testing.T) {
	const limit = 150 * time.Millisecond
	eachWay(t, func(t *testing.T, v *visit) {
		v.roads.ResponseHeaderTimeout = limit
		v.works(t)
		began := time.Now()
		result := make(chan error, 1)
		go func() {
			_, _, err := v.do(limited(t), http.MethodGet, "/app/never", nil)
			result <- err
		}()
		there := v.came(t)
		err := eventually(t, result)
		require.GreaterOrEqual(t, time.Since(began), limit)
		isTimeout(t, err)
		isTold(t, there)
		v.stillWorks(t)
	})
}

func TestHTTP_ClientTimeoutEndsTheWaitForABody(t *testing.T) {
	const limit = 300 * time.Millisecond
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		v.web.Timeout = limit
		began := time.Now()
		response, there := v.half(t, t.Context())
		_, err := io.ReadAll(response.Body)
		require.GreaterOrEqual(t, time.Since(began), limit)
		isTimeout(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		isTold(t, there)
		v.stillWorks(t)
	})
}

func TestHTTP_PingsDetectAStoppedServer(t *testing.T) {
	overHTTP2(t, func(t *testing.T, v *visit) {
		v.roads.HTTP2 = &http.HTTP2Config{SendPingTimeout: 100 * time.Millisecond, PingTimeout: 200 * time.Millisecond}
		v.works(t)
		result := make(chan error, 1)
		go func() {
			_, _, err := v.do(limited(t), http.MethodGet, "/app/never", nil)
			result <- err
		}()
		there := v.came(t)
		require.NoError(t, v.server.Signal(syscall.SIGSTOP))
		err := eventually(t, result)
		require.NoError(t, v.server.Signal(syscall.SIGCONT))
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded) // this is limited's
		isTold(t, there)
		require.Eventually(t, func() bool { return v.Open() == 0 }, wire.TestTimeout, time.Millisecond)
		v.works(t)
		require.Equal(t, 2, v.Dials())
	})
}

func TestHTTP_KilledServerEndsWaitingRequests(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		result := make(chan error, 2)
		response, _ := v.half(t, limited(t))
		go func() {
			_, err := io.ReadAll(response.Body)
			result <- err
		}()
		go func() {
			_, _, err := v.do(limited(t), http.MethodGet, "/app/never", nil)
			result <- err
		}()
		v.came(t)
		v.server.Kill()
		for range 2 {
			err := eventually(t, result)
			require.Error(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		}
		require.NoError(t, v.server.Restart())
		v.works(t)
	})
}

func TestHTTP_LoadOutlivesServerRestart(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		data := v.puts(t, "/files/load", 64<<10)
		load := startLoad(8, func() error { return v.gets(limited(t), "/files/load", data) })
		for range 2 {
			load.runs(t)
			v.server.Kill()
			load.fails(t)
			require.NoError(t, v.server.Restart())
		}
		load.runs(t)
		for _, err := range load.stop() {
			require.False(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded), "%v", err)
		}
		v.works(t)
	})
}

// A load does the same again and again, from several goroutines.
type load struct {
	all        sync.WaitGroup
	over       atomic.Bool
	good, bad  atomic.Int64
	mu         sync.Mutex
	errs       []error
	goroutines int64
}

func startLoad(goroutines int, do func() error) *load {
	l := &load{goroutines: int64(goroutines)}
	for range goroutines {
		l.all.Go(func() {
			for !l.over.Load() {
				l.count(do())
			}
		})
	}
	return l
}

func (l *load) count(err error) {
	if err == nil {
		l.good.Add(1)
		return
	}
	l.bad.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

// runs waits until more has gone well than can have been under way before.
func (l *load) runs(t *testing.T) { l.grows(t, &l.good) }

// fails waits until more has failed than can have been under way before.
func (l *load) fails(t *testing.T) { l.grows(t, &l.bad) }

func (l *load) grows(t *testing.T, n *atomic.Int64) {
	t.Helper()
	enough := n.Load() + 2*l.goroutines
	require.Eventually(t, func() bool { return n.Load() >= enough }, wire.TestTimeout, time.Millisecond)
}

// stop ends the load and gives what went wrong.
func (l *load) stop() []error {
	l.over.Store(true)
	l.all.Wait()
	return l.errs
}
