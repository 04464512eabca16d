package fastcgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// slowBody returns a body that arrives in pieces, each after a pause.
func slowBody(t testing.TB, pieces, size int, pause time.Duration) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = r.Close() })
	go func() {
		for range pieces {
			time.Sleep(pause)
			if _, err := w.Write(make([]byte, size)); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	return r
}

// RecvTimeout starts when the request has been sent. An upload may take longer.
func TestClient_UploadSlowerThanRecvTimeoutIsServed(t *testing.T) {
	t.Parallel()
	root := writeFiles(t, map[string]string{"up.php": `<?php echo strlen(file_get_contents('php://input'));`})
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		cl.Options = &client.Options{RecvTimeout: 300 * time.Millisecond}
		for name, size := range map[string]int{"short": 100, "long": 10_000} {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprint(name, " ", known), func(t *testing.T) {
					t.Parallel()
					r := newScriptRequest(filepath.Join(root, "up.php"))
					r.Params["REQUEST_METHOD"], r.Params["CONTENT_TYPE"] = "POST", "application/octet-stream"
					r.Body, r.ContentLength = slowBody(t, 10, size, 100*time.Millisecond), -1
					if known {
						r.ContentLength = int64(10 * size)
					}
					begin := time.Now()
					_, body, err := doAndRead(cl, r)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(10*size), body)
					require.Greater(t, time.Since(begin), 900*time.Millisecond)
				})
			}
		}
	})
}

// After the upload, RecvTimeout applies.
func TestClient_RecvTimeoutStartsAfterTheUpload(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		_, _ = io.Copy(io.Discard, a.conn) // sends nothing
		return false
	})
	cl.Options = &client.Options{RecvTimeout: 200 * time.Millisecond}
	begin := time.Now()
	_, _, err := doAndRead(cl, &Request{Body: slowBody(t, 5, 10_000, 100*time.Millisecond), ContentLength: 50_000})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotErrorIs(t, err, ErrBodyTimeout)
	require.GreaterOrEqual(t, time.Since(begin), 700*time.Millisecond)
	require.Less(t, time.Since(begin), testTimeout/2)
}

// A slowReader reads up to 16 KiB at a time, each after a pause.
type slowReader struct {
	r     io.Reader
	pause time.Duration
}

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.r.Read(p[:min(len(p), 16<<10)])
}

// SendTimeout ends a request whose body the application does not read. It does not end one
// whose body is read slowly.
func TestClient_SendTimeoutEndsAStalledUpload(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{false, true} {
		t.Run(fmt.Sprint(reads), func(t *testing.T) {
			t.Parallel()
			const size = 4 << 20
			stalled := make(chan struct{})
			cl := newApplication(t, func(a *appRequest) bool {
				if !reads {
					<-stalled
					return false
				}
				slow := slowReader{a.conn, 10 * time.Millisecond}
				for n := -1; n != 0; {
					_, _, content, err := readRecord(slow)
					if n = len(content); err != nil {
						return false
					}
				}
				a.write(t, okResponse("taken")...)
				return true
			})
			defer close(stalled)
			// The kernel reports that the socket is writable when three quarters of its
			// 208 KiB are free again, here after each 0.1 s.
			cl.Options = &client.Options{SendTimeout: 1500 * time.Millisecond, RecvTimeout: testTimeout}
			begin := time.Now()
			_, body, err := doAndRead(cl, &Request{Params: map[string]string{"STREAM": "1"}, Body: io.LimitReader(zeroReader{}, size), ContentLength: size})
			if reads {
				require.NoError(t, err)
				require.Equal(t, "taken", body)
				require.Greater(t, time.Since(begin), 2*time.Second)
				return
			}
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(begin), 1500*time.Millisecond)
			require.Less(t, time.Since(begin), testTimeout/2)
		})
	}
}

// BodyTimeout ends a request whose body stalls, however the body is read. So does a
// context.
func TestClient_BodyTimeoutAndContextEndAStalledBody(t *testing.T) {
	t.Parallel()
	stream := map[string]string{"STREAM": "1"}
	for name, length := range map[string]int64{"short": 100, "long": 1 << 20, "of unknown length": -1} {
		for _, some := range []int{0, 50, 100_000} {
			if length > 0 && int64(some) > length {
				continue
			}
			t.Run(fmt.Sprint(name, ", after ", some), func(t *testing.T) {
				t.Parallel()
				cl := newApplication(t, func(a *appRequest) bool {
					_, _ = io.Copy(io.Discard, a.conn)
					return false
				})
				cl.BodyTimeout = 200 * time.Millisecond
				stalling := func() io.Reader {
					r, w := io.Pipe()
					t.Cleanup(func() { _ = w.Close() })
					return io.MultiReader(bytes.NewReader(make([]byte, some)), r)
				}
				begin := time.Now()
				_, _, err := doAndRead(cl, &Request{Params: stream, Body: stalling(), ContentLength: length})
				require.ErrorIs(t, err, ErrBodyTimeout)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond)
				require.Less(t, time.Since(begin), testTimeout/2)

				cl.BodyTimeout = -1
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				_, err = cl.Do(ctx, &Request{Params: stream, Body: stalling(), ContentLength: length})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Less(t, time.Since(begin), testTimeout/2)
			})
		}
	}
}

// A response that arrives while the body stalls is returned.
func TestClient_ResponseDoesNotWaitForAStalledBody(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, okResponse("no need")...)
		_, _ = io.Copy(io.Discard, a.conn)
		return false
	})
	r, w := io.Pipe()
	defer w.Close()
	_, body, err := doAndRead(cl, &Request{Params: map[string]string{"STREAM": "1"}, Body: r, ContentLength: 1 << 20})
	require.NoError(t, err)
	require.Equal(t, "no need", body)
}

// An error of the body's Read is told apart from other errors, and so is that of a
// temporary file.
func TestClient_ErrorsOfTheBodyAreToldApart(t *testing.T) {
	cl := newApplication(t, func(a *appRequest) bool {
		_, _ = io.Copy(io.Discard, a.conn)
		return false
	})
	failing := errors.New("no more")
	for _, length := range []int64{100, 1 << 20, -1} {
		_, _, err := doAndRead(cl, &Request{Params: map[string]string{"STREAM": "1"}, Body: iotest.ErrReader(failing), ContentLength: length})
		var bad *BodyError
		require.ErrorAs(t, err, &bad)
		require.ErrorIs(t, err, failing)
		limited := http.MaxBytesReader(nil, io.NopCloser(io.LimitReader(zeroReader{}, 1<<20)), 10)
		_, _, err = doAndRead(cl, &Request{Params: map[string]string{"STREAM": "1"}, Body: limited, ContentLength: length})
		var tooLong *http.MaxBytesError
		require.ErrorAs(t, err, &tooLong)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "nowhere"))
	_, _, err := doAndRead(cl, &Request{Body: strings.NewReader("x"), ContentLength: -1})
	var file *TempFileError
	require.ErrorAs(t, err, &file)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "TMPDIR")
}

// If all connections are in use, the error says so instead of reporting a plain timeout.
func TestClient_BusyErrorIfAllConnectionsAreInUse(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	cl := newApplication(t, func(a *appRequest) bool {
		<-release
		a.write(t, okResponse("good")...)
		return true
	})
	cl.MaxConns, cl.Options = 2, &client.Options{ConnectTimeout: 200 * time.Millisecond, RecvTimeout: testTimeout}
	answers := make(chan string, 2)
	for range 2 {
		go func() {
			_, body, err := doAndRead(cl, &Request{})
			answers <- fmt.Sprint(body, err)
		}()
	}
	require.Eventually(t, func() bool { return cl.Stats().Active == 2 }, testTimeout, time.Millisecond)
	for _, ask := range []func() error{
		func() error { _, _, err := doAndRead(cl, &Request{Idempotent: true}); return err },
		func() error { _, _, err := doAndRead(cl, &Request{}); return err },
		func() error { _, err := cl.GetValues(context.Background()); return err },
	} {
		err := ask()
		var busy *BusyError
		require.ErrorAs(t, err, &busy)
		require.Equal(t, 2, busy.Conns)
		require.ErrorContains(t, err, "MaxConns")
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := cl.Do(ctx, &Request{})
	var busy *BusyError
	require.False(t, errors.As(err, &busy))
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	for range 2 {
		require.Equal(t, "good<nil>", <-answers)
	}
}

// A full backlog means that no worker is free. A connect to a unix socket waits for
// nothing else.
func TestClient_BusyErrorIfTheBacklogIsFull(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	first, err := net.Dial("unix", path) // fills the backlog
	require.NoError(t, err)
	defer first.Close()
	cl := &Client{Network: "unix", Address: path, Options: &client.Options{ConnectTimeout: 100 * time.Millisecond}}
	defer cl.Close()
	_, _, err = doAndRead(cl, &Request{})
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorContains(t, err, "backlog")
}

// The default timeouts are nginx's.
func TestClient_DefaultTimeouts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		set        *client.Options
		recv, send time.Duration
	}{
		{nil, time.Minute, time.Minute},
		{&client.Options{}, time.Minute, time.Minute},
		{&client.Options{Timeout: time.Second}, time.Second, time.Second},
		{&client.Options{Timeout: time.Second, RecvTimeout: -1, SendTimeout: 2}, -1, 2},
	} {
		cl := &Client{Options: test.set}
		cl.init()
		require.Equal(t, test.recv, cl.options.RecvTimeout)
		require.Equal(t, test.send, cl.options.SendTimeout)
		require.Equal(t, time.Duration(-1), cl.uploadOptions.RecvTimeout)
		require.NoError(t, cl.Close())
	}
}
