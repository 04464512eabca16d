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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// doAndRead sends a request and reads its response.
func doAndRead(cl *Client, r *Request) (*Response, string, error) {
	resp, err := cl.Do(context.Background(), r)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func TestClient_SendsRequestsAndReceivesResponses(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStderr, firstRequestID, []byte("careful")),
			appendRecord(nil, typeStdout, firstRequestID, []byte("Status: 201 Made\r\nX-A")),
			appendRecord(nil, typeStdout, firstRequestID, []byte(": b\r\nx-a: c\r\n\r\nfirst ")),
			appendRecord(nil, typeStderr, firstRequestID, []byte(", you")),
			appendRecord(nil, typeStdout, firstRequestID, []byte(a.params["WORD"]+" ")),
			appendRecord(nil, typeStdout, firstRequestID, a.body),
			appendRecord(nil, typeStdout, firstRequestID, nil), appendRecord(nil, typeStderr, firstRequestID, nil), endRecord(7, 0))
		return true
	})
	for i := range 3 {
		var stderr strings.Builder
		r := &Request{
			Params:     map[string]string{"WORD": "second", "CONTENT_LENGTH": "99"},
			Idempotent: true,
			Body:       strings.NewReader("third"), ContentLength: 5,
			Stderr: func(p []byte) { stderr.Write(p) },
		}
		resp, body, err := doAndRead(cl, r)
		require.NoError(t, err)
		require.Equal(t, 201, resp.StatusCode)
		require.Equal(t, "Made", resp.Reason)
		require.Equal(t, http.Header{"X-A": {"b", "c"}}, resp.Header)
		require.Equal(t, "first second third", body)
		require.Equal(t, "careful, you", string(resp.Stderr()))
		require.Equal(t, "careful, you", stderr.String())
		require.EqualValues(t, 7, resp.AppStatus())
		require.EqualValues(t, i, cl.Stats().Reuses)
		n, err := resp.Body.Read(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, resp.Body.Close())
	}
	require.EqualValues(t, 1, cl.Stats().Dials)
}

// CONTENT_LENGTH is the length that is sent, whatever Params say.
func TestRequest_BodyMustHaveItsContentLength(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, okResponse(fmt.Sprintf("%s %d", a.params["CONTENT_LENGTH"], len(a.body)))...)
		return true
	})
	for _, size := range []int{0, 1, maxInlineBody, maxInlineBody + 1, maxContentLen, 1 << 20} {
		content := bytes.Repeat([]byte("x"), size)
		for _, length := range []int64{int64(size), -1} {
			_, body, err := doAndRead(cl, &Request{Body: iotest.HalfReader(bytes.NewReader(content)), ContentLength: length})
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%d %d", size, size), body)
		}
		if size > 0 {
			_, _, err := doAndRead(cl, &Request{Body: bytes.NewReader(content[1:]), ContentLength: int64(size)})
			require.ErrorIs(t, err, ErrBodyTooShort, size)
			_, _, err = doAndRead(cl, &Request{Body: bytes.NewReader(content), ContentLength: int64(size) - 1})
			require.ErrorIs(t, err, ErrBodyTooLong, size)
		}
		failing := errors.New("no more")
		_, _, err := doAndRead(cl, &Request{Body: io.MultiReader(bytes.NewReader(content), iotest.ErrReader(failing)), ContentLength: -1})
		require.ErrorIs(t, err, failing)
	}
	_, body, err := doAndRead(cl, &Request{})
	require.NoError(t, err)
	require.Equal(t, " 0", body)
	cl.MaxBufferedBody = 1000
	_, _, err = doAndRead(cl, &Request{Body: strings.NewReader(strings.Repeat("x", 1001)), ContentLength: -1})
	require.ErrorIs(t, err, ErrBodyTooLong)
	cl.MaxBufferedBody = -1
	_, _, err = doAndRead(cl, &Request{Body: strings.NewReader("x"), ContentLength: -1})
	require.ErrorIs(t, err, ErrLengthRequired)
}

// Each of these responses is an error, and its connection is not used again.
func TestClient_InvalidResponseEndsTheConnection(t *testing.T) {
	t.Parallel()
	ok := appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\r\n\r\npart"))
	with := func(change func(p []byte)) []byte {
		p := appendRecord(nil, typeStdout, firstRequestID, []byte("more"))
		change(p)
		return p
	}
	var protocol *ProtocolError
	var malformed *HeaderError
	for name, test := range map[string]struct {
		pieces [][]byte
		is     error
		as     any
		says   string
	}{
		"no data":              {is: io.ErrUnexpectedEOF},
		"half a record":        {pieces: [][]byte{ok[:5]}, is: io.ErrUnexpectedEOF},
		"no end":               {pieces: [][]byte{ok}, is: io.ErrUnexpectedEOF},
		"no end, STDOUT ended": {pieces: [][]byte{ok, appendRecord(nil, typeStdout, firstRequestID, nil)}, is: io.ErrUnexpectedEOF},
		"half of END_REQUEST":  {pieces: [][]byte{ok, endRecord(0, 0)[:12]}, is: io.ErrUnexpectedEOF},
		"half of the padding":  {pieces: [][]byte{ok[:len(ok)-1]}, is: io.ErrUnexpectedEOF},
		"other version":        {pieces: [][]byte{ok, with(func(p []byte) { p[0] = 2 })}, as: &protocol, says: "version 2 is not supported (record begins 02 06"},
		"unknown type":         {pieces: [][]byte{ok, with(func(p []byte) { p[1] = 99 })}, as: &protocol, says: "record of type 99"},
		"type of a request":    {pieces: [][]byte{ok, with(func(p []byte) { p[1] = byte(typeStdin) })}, as: &protocol, says: "STDIN in a response"},
		"STDOUT after its end": {pieces: [][]byte{ok, appendRecord(nil, typeStdout, firstRequestID, nil), ok}, as: &protocol, says: "STDOUT after its end"},
		"STDERR after its end": {pieces: [][]byte{ok, appendRecord(nil, typeStderr, firstRequestID, nil), appendRecord(nil, typeStderr, firstRequestID, []byte("x"))}, as: &protocol, says: "STDERR after its end"},
		"short END_REQUEST":    {pieces: [][]byte{ok, appendRecord(nil, typeEndRequest, firstRequestID, []byte{0, 0, 0})}, as: &protocol, says: "END_REQUEST of 3 bytes"},
		"overloaded":           {pieces: [][]byte{endRecord(0, 2)}, is: StatusOverloaded, says: "OVERLOADED"},
		"no multiplexing":      {pieces: [][]byte{endRecord(0, 1)}, is: StatusCantMultiplex, says: "CANT_MPX_CONN"},
		"unknown role":         {pieces: [][]byte{endRecord(0, 3)}, is: StatusUnknownRole, says: "UNKNOWN_ROLE"},
		"another status":       {pieces: [][]byte{ok, endRecord(0, 9)}, is: ProtocolStatus(9), says: "protocol status 9"},
		"no response":          {pieces: [][]byte{endRecord(0, 0)}, as: &malformed, says: "ended before the header"},
		"half a header":        {pieces: [][]byte{appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\r\n")), endRecord(0, 0)}, as: &malformed, says: "ended before the header"},
		"no header":            {pieces: [][]byte{appendRecord(nil, typeStdout, firstRequestID, []byte("<html>\n\nhello")), endRecord(0, 0)}, as: &malformed, says: `malformed field: "<html>"`},
		"a header without end": {
			pieces: [][]byte{appendStream(nil, typeStdout, []byte("A: "+strings.Repeat("x", 70_000))), endRecord(0, 0)},
			as:     &malformed, says: "longer than 65536 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newApplication(t, func(a *appRequest) bool {
				if a.number == 0 && a.params["GOOD"] == "" {
					a.write(t, test.pieces...)
					return len(test.pieces) > 0 && (test.is != io.ErrUnexpectedEOF) //nolint:errorlint // a table's own
				}
				a.write(t, okResponse("good")...)
				return true
			})
			_, body, err := doAndRead(cl, &Request{Idempotent: true})
			require.Error(t, err, body)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			if test.as != nil {
				require.ErrorAs(t, err, test.as)
			}
			require.ErrorContains(t, err, test.says)
			_, body, err = doAndRead(cl, &Request{Params: map[string]string{"GOOD": "1"}})
			require.NoError(t, err)
			require.Equal(t, "good", body)
			if !strings.Contains(name, "header") && name != "no response" { // their responses are complete
				require.Zero(t, cl.Stats().Reuses)
			}
		})
	}
}

// Data after END_REQUEST must not become the next response, whether it arrives together with
// END_REQUEST or when the connection is idle.
func TestClient_ConnectionWithUnreadDataIsNotReused(t *testing.T) {
	t.Parallel()
	for _, together := range []bool{true, false} {
		wrote := make(chan struct{}, 3)
		cl := newApplication(t, func(a *appRequest) bool {
			response := bytes.Join(okResponse(fmt.Sprint(a.number)), nil)
			extra := appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\r\n\r\nsecret"))
			if together {
				a.write(t, append(response, extra...))
			} else {
				a.write(t, response, extra)
			}
			wrote <- struct{}{}
			return true
		})
		for range 3 {
			_, body, err := doAndRead(cl, &Request{Idempotent: true})
			require.NoError(t, err)
			require.Equal(t, "0", body)
			<-wrote
		}
		require.Zero(t, cl.Stats().Reuses)
		stats := cl.Stats()
		require.EqualValues(t, 3, stats.Discards[client.DiscardUnclean]+stats.Discards[client.DiscardByCaller]+uint64(stats.Idle), "%+v", stats)
	}
}

// An application may respond before it has read the whole request.
func TestClient_ResponseToAnIncompleteRequestEndsTheConnection(t *testing.T) {
	t.Parallel()
	const length = 1 << 40 // more than can be sent before the connection is closed
	var taken atomic.Int64
	cl := newApplication(t, func(a *appRequest) bool {
		if a.params["STREAM"] == "" {
			a.write(t, okResponse("good")...)
			return true
		}
		a.write(t, okResponse("no need")...)
		n, _ := io.Copy(io.Discard, a.conn)
		taken.Store(n)
		return false
	})
	_, body, err := doAndRead(cl, &Request{
		Params: map[string]string{"STREAM": "1"},
		Body:   io.LimitReader(zeroReader{}, length), ContentLength: length,
	})
	require.NoError(t, err)
	require.Equal(t, "no need", body)
	_, body, err = doAndRead(cl, &Request{})
	require.NoError(t, err)
	require.Equal(t, "good", body)
	require.Zero(t, cl.Stats().Reuses)
	require.Less(t, taken.Load(), int64(length))
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Both directions are in use at the same time, with more data than the sockets buffer.
func TestClient_LongBodyAndLongResponseAtTheSameTime(t *testing.T) {
	const up, down = 32 << 20, 12 << 20
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\r\n\r\n")))
		piece := appendRecord(nil, typeStdout, firstRequestID, make([]byte, 1<<15))
		for range down >> 15 {
			a.write(t, piece)
		}
		n := 0
		for {
			typ, _, content, err := readRecord(a.conn)
			if err != nil || typ != typeStdin {
				return false
			}
			if len(content) == 0 {
				break
			}
			n += len(content)
		}
		a.write(t, appendRecord(nil, typeStdout, firstRequestID, fmt.Append(nil, n)), endRecord(0, 0))
		return true
	})
	resp, err := cl.Do(context.Background(), &Request{
		Params: map[string]string{"STREAM": "1"}, Body: io.LimitReader(zeroReader{}, up), ContentLength: up,
	})
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, resp.Body, down)
	require.NoError(t, err)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(up), string(rest))
	require.Equal(t, 1, cl.Stats().Idle)
}

func TestResponse_StderrIsBounded(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		for range 4 {
			a.write(t, appendStream(nil, typeStderr, make([]byte, 30_000)))
		}
		a.write(t, okResponse("x")...)
		return true
	})
	total := 0
	resp, _, err := doAndRead(cl, &Request{Stderr: func(p []byte) { total += len(p) }})
	require.NoError(t, err)
	require.Len(t, resp.Stderr(), maxStderr)
	require.Equal(t, 120_000, total)
}

// The connection of an abandoned request is closed, so that the rest of its response
// reaches no other request.
func TestClient_AbandonedRequestEndsItsConnection(t *testing.T) {
	t.Parallel()
	for name, abandon := range map[string]func(t *testing.T, cl *Client){
		"closed in the middle": func(t *testing.T, cl *Client) {
			resp, err := cl.Do(context.Background(), &Request{Params: map[string]string{"SLOW": "1"}})
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			_, err = resp.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, errBodyClosed)
		},
		"canceled in the body": func(t *testing.T, cl *Client) {
			ctx, cancel := context.WithCancel(context.Background())
			resp, err := cl.Do(ctx, &Request{Params: map[string]string{"SLOW": "1"}})
			require.NoError(t, err)
			_, err = io.ReadFull(resp.Body, make([]byte, 4))
			require.NoError(t, err)
			time.AfterFunc(5*time.Millisecond, cancel)
			_, err = resp.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, context.Canceled)
		},
		"canceled before the header": func(t *testing.T, cl *Client) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			_, err := cl.Do(ctx, &Request{Params: map[string]string{"SILENT": "1"}, Idempotent: true})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		},
		"timed out": func(t *testing.T, cl *Client) {
			_, _, err := doAndRead(cl, &Request{Params: map[string]string{"SLOW": "1"}})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newApplication(t, func(a *appRequest) bool {
				if a.params["SILENT"]+a.params["SLOW"] == "" {
					a.write(t, okResponse("good")...)
					return true
				}
				if a.params["SLOW"] != "" {
					a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte("A: b\r\n\r\npart")))
				}
				_, _ = io.Copy(io.Discard, a.conn) // until the client closes the connection
				return false
			})
			cl.Options = &client.Options{RecvTimeout: 300 * time.Millisecond}
			abandon(t, cl)
			_, body, err := doAndRead(cl, &Request{})
			require.NoError(t, err)
			require.Equal(t, "good", body)
			require.Zero(t, cl.Stats().Reuses)
			require.EqualValues(t, 2, cl.Stats().Dials)
		})
	}
}

// An application may close an idle connection at the moment when a request is sent on it.
func TestClient_IdempotentRequestOnAClosedConnectionIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request Request
		works   bool
	}{
		"idempotent":               {Request{Idempotent: true}, true},
		"idempotent, short body":   {Request{Idempotent: true, Body: strings.NewReader("hello"), ContentLength: 5}, true},
		"not idempotent":           {Request{}, false},
		"a GET, not idempotent":    {Request{Params: map[string]string{"REQUEST_METHOD": "GET"}}, false},
		"idempotent, answer begun": {Request{Idempotent: true, Params: map[string]string{"BEGIN": "1"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			cl := newApplication(t, func(a *appRequest) bool {
				requests.Add(1)
				if a.number == 0 {
					a.write(t, okResponse("good "+string(a.body))...)
					return true
				}
				if a.params["BEGIN"] != "" {
					a.write(t, appendRecord(nil, typeStderr, firstRequestID, []byte("x")))
				}
				return false // the application has read the request and closes the connection
			})
			cl.ReuseForNonIdempotent = true
			_, _, err := doAndRead(cl, &Request{})
			require.NoError(t, err)
			_, body, err := doAndRead(cl, &test.request)
			if test.works {
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(body, "good "))
				require.EqualValues(t, 3, requests.Load())
				require.EqualValues(t, 2, cl.Stats().Dials)
				return
			}
			require.Error(t, err)
			require.EqualValues(t, 2, requests.Load())
			require.EqualValues(t, 1, cl.Stats().Dials)
		})
	}
	// A request that fails on a new connection is not sent again.
	var requests atomic.Int64
	cl := newApplication(t, func(*appRequest) bool { requests.Add(1); return false })
	_, _, err := doAndRead(cl, &Request{Idempotent: true})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.EqualValues(t, 1, requests.Load())
}

func TestClient_MaxConnsAndIdleTimeoutHold(t *testing.T) {
	var cl *Client
	var most atomic.Int64
	cl = newApplication(t, func(a *appRequest) bool {
		stats := cl.Stats()
		if now := int64(stats.Active + stats.Idle + stats.Dialing); now > most.Load() {
			most.Store(now)
		}
		a.write(t, okResponse(a.params["N"])...)
		return true
	})
	cl.MaxConns, cl.IdleTimeout = 3, 30*time.Millisecond
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for range 20 {
				_, body, err := doAndRead(cl, &Request{Params: map[string]string{"N": fmt.Sprint(i)}, Idempotent: i%2 == 0})
				if err != nil || body != fmt.Sprint(i) {
					t.Error(i, body, err)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(3))
	require.Eventually(t, func() bool { return cl.Stats().Idle == 0 }, testTimeout, time.Millisecond)
	require.Positive(t, cl.Stats().Discards[client.DiscardIdleTimeout])
	require.NoError(t, cl.Close())
	_, _, err := doAndRead(cl, &Request{})
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, cl.Close(), net.ErrClosed)
}

func TestClient_GetValues(t *testing.T) {
	t.Parallel()
	cl := newNetHTTPFCGI(t, http.NotFoundHandler())
	values, err := cl.GetValues(context.Background())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"FCGI_MPXS_CONNS": "1"}, values)
	_, err = cl.GetValues(context.Background(), strings.Repeat("N", 70_000))
	require.ErrorContains(t, err, "do not fit")
}

// Each of many requests gets its own response from net/http/fcgi.
func TestClient_ManyRequestsToNetHTTPFCGI(t *testing.T) {
	cl := newNetHTTPFCGI(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s %s %d", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("X-Word"), len(b))
	}))
	cl.Pool = client.NewPool(client.PoolOptions{MaxConnsPerKey: 4})
	defer cl.Pool.Close()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 100 {
				size := k * 997
				_, body, err := doAndRead(cl, &Request{
					Params: map[string]string{
						"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": fmt.Sprintf("/%d?k=%d", i, k),
						"HTTP_X_WORD": fmt.Sprint(i * k),
					},
					Idempotent: true,
					Body:       io.LimitReader(zeroReader{}, int64(size)), ContentLength: int64(size),
				})
				if want := fmt.Sprintf("POST /%d k=%d %d %d", i, k, i*k, size); err != nil || body != want {
					t.Errorf("%q %v, not %q", body, err, want)
				}
			}
		})
	}
	wg.Wait()
	require.Greater(t, cl.Stats().Reuses, uint64(200)) // of the requests with a short body
	require.NoError(t, cl.Close(), "the pool is the caller's")
	_, _, err := doAndRead(cl, &Request{Params: map[string]string{"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/"}})
	require.NoError(t, err)
}

// Clients with a common Pool have statistics of their own if their PoolKey differs.
func TestClient_StatsAreThoseOfItsPoolKey(t *testing.T) {
	t.Parallel()
	first := newApplication(t, func(a *appRequest) bool {
		a.write(t, okResponse("good")...)
		return true
	})
	pool := client.NewPool(client.PoolOptions{})
	t.Cleanup(func() { _ = pool.Close() })
	first.Pool, first.Options = pool, &client.Options{PoolKey: "first"}
	second := &Client{Network: first.Network, Address: first.Address, Pool: pool, Options: &client.Options{PoolKey: "second"}}
	for range 3 {
		_, _, err := doAndRead(first, &Request{Idempotent: true})
		require.NoError(t, err)
	}
	_, _, err := doAndRead(second, &Request{Idempotent: true})
	require.NoError(t, err)
	for range 20 { // the pool's keys are in no particular order
		require.EqualValues(t, 3, first.Stats().Checkouts)
		require.EqualValues(t, 1, second.Stats().Checkouts)
	}
}
