package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// do makes a request and gives the body of its answer, which has to be whole.
func (v *visit) do(ctx context.Context, method, path string, body io.Reader) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, v.at(path), body)
	if err != nil {
		return 0, nil, err
	}
	response, err := v.web.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	if response.Proto != v.proto {
		return 0, nil, errors.New("it speaks " + response.Proto)
	}
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// puts puts a file of so many bytes there, and gives them.
func (v *visit) puts(t *testing.T, path string, size int) []byte {
	t.Helper()
	data := randomBytes(size)
	status, _, err := v.do(limited(t), http.MethodPut, path, bytes.NewReader(data))
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusCreated, http.StatusNoContent}, status)
	return data
}

// gets gets a file, which has to be want.
func (v *visit) gets(ctx context.Context, path string, want []byte) error {
	status, got, err := v.do(ctx, http.MethodGet, path, nil)
	switch {
	case err != nil:
		return err
	case status != http.StatusOK:
		return errors.New(http.StatusText(status))
	case !bytes.Equal(want, got):
		return errors.New("this is not what was sent there")
	}
	return nil
}

// works shows that the client is of use.
func (v *visit) works(t *testing.T) {
	t.Helper()
	require.NoError(t, v.gets(limited(t), "/ready", []byte(v.token)))
}

// limited is a context that ends what hangs.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), wire.TestTimeout)
	t.Cleanup(cancel)
	return ctx
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

const mebibyte = 1 << 20

func TestNginx_StoresAndServesFilesOnOneConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		for _, size := range []int{0, 1, 16 << 10, mebibyte - 1, 4 * mebibyte} {
			name := "/files/" + rand.Text()
			data := v.puts(t, name, size)
			for range 2 {
				require.NoError(t, v.gets(limited(t), name, data))
			}
			v.works(t)
		}
		require.Equal(t, 1, v.Dials())
	})
}

func TestNginx_ServesManyRequests(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.roads.MaxIdleConnsPerHost = 8
		data := v.puts(t, "/files/many", 256<<10) // and HTTP/2 has its one connection
		var all sync.WaitGroup
		workers, each := 8, 8
		if v.multiplexes() {
			workers, each = 64, 1
		}
		for range workers {
			all.Go(func() {
				for range each {
					if err := v.gets(limited(t), "/files/many", data); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if v.multiplexes() {
			require.Equal(t, 1, v.Dials())
		}
	})
}

func TestHTTP_BodyReturnsWhileItIsSent(t *testing.T) {
	// Of HTTP/1.1 nginx takes a request to its end before it gives an answer.
	overHTTP2(t, func(t *testing.T, v *visit) {
		in, out := io.Pipe()
		data, got := randomBytes(100<<10), make([]byte, 100<<10)
		send := func() { _, _ = out.Write(data) }
		request, err := http.NewRequestWithContext(limited(t), http.MethodPost, v.at("/app/echo"), in)
		require.NoError(t, err)
		go send() // nginx asks the app when there is some of it
		response, err := v.web.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		for i := range 20 {
			if i > 0 {
				go send()
			}
			_, err := io.ReadFull(response.Body, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got), "these are not the bytes that were sent")
		}
		require.NoError(t, out.Close())
		n, err := response.Body.Read(got)
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestExpect_RefusedBodyIsNotSent(t *testing.T) {
	overHTTP1(t, func(t *testing.T, v *visit) {
		v.roads.ExpectContinueTimeout = time.Minute
		asked, sent := v.expecting(t, "/refused", http.StatusRequestEntityTooLarge)
		require.False(t, asked)
		require.False(t, sent)
		asked, sent = v.expecting(t, "/files/"+rand.Text(), http.StatusCreated)
		require.True(t, asked)
		require.True(t, sent)
	})
}

func TestExpect_BodyIsSentAfterTheTimeout(t *testing.T) {
	overHTTP2(t, func(t *testing.T, v *visit) { // in which nginx asks for none
		v.works(t)
		v.roads.ExpectContinueTimeout = 100 * time.Millisecond
		began := time.Now()
		asked, sent := v.expecting(t, "/files/"+rand.Text(), http.StatusCreated)
		require.GreaterOrEqual(t, time.Since(began), v.roads.ExpectContinueTimeout)
		require.False(t, asked)
		require.True(t, sent)
	})
}

// expecting puts a file after asking for leave (RFC 9110, 10.1.1), and tells whether that
// was given and whether any of the file was sent.
func (v *visit) expecting(t *testing.T, path string, status int) (asked, sent bool) {
	t.Helper()
	var said atomic.Bool
	ctx := httptrace.WithClientTrace(limited(t), &httptrace.ClientTrace{Got100Continue: func() { said.Store(true) }})
	body := &watched{Reader: bytes.NewReader(randomBytes(mebibyte))}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, v.at(path), body)
	require.NoError(t, err)
	request.ContentLength = mebibyte
	request.Header.Set("Expect", "100-continue")
	response, err := v.web.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, status, response.StatusCode)
	return said.Load(), body.read.Load()
}

// A watched body tells whether it was read.
type watched struct {
	io.Reader
	read atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.read.Store(true)
	return w.Reader.Read(p)
}

func TestNginx_ConnectionLimitedToThreeRequestsIsReplaced(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		const requests, each = 10, 3
		for range requests {
			v.works(t)
		}
		if !v.multiplexes() { // where a request may come before nginx's GOAWAY
			require.Equal(t, (requests+each-1)/each, v.Dials())
		}
		require.Greater(t, v.Dials(), 1)
	}, "keepalive_requests 3;")
}

func TestNginx_ClosedIdleConnectionIsReplaced(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		require.Eventually(t, func() bool { return v.Open() == 0 }, wire.TestTimeout, time.Millisecond)
		require.Equal(t, 1, v.Dials())
		v.works(t)
		require.Equal(t, 2, v.Dials())
	}, "keepalive_timeout 100ms;")
}

func TestHTTP_DialWithoutServerIsRefused(t *testing.T) {
	eachWay(t, func(t *testing.T, v *visit) {
		v.works(t)
		v.server.Kill()
		require.Eventually(t, func() bool { return v.Open() == 0 }, wire.TestTimeout, time.Millisecond)
		_, _, err := v.do(limited(t), http.MethodGet, "/ready", nil)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var failed *net.OpError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "dial", failed.Op)
		require.NoError(t, v.server.Restart())
		v.works(t)
	})
}

func TestHTTP_CertificateOfAnotherServerIsRefused(t *testing.T) {
	for _, w := range ways {
		if !strings.HasPrefix(w.url, "https:") {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			s, other := startSite(t, w), startSite(t, w)
			onBoth(t, func(t *testing.T, d *dialer) {
				v := newVisit(t, s, d)
				v.works(t)
				_, err := v.web.Get(other.at("/ready"))
				var unknown x509.UnknownAuthorityError
				require.ErrorAs(t, err, &unknown)
				require.Eventually(t, func() bool { return v.Open() == 1 }, wire.TestTimeout, time.Millisecond)
			})
		})
	}
}
