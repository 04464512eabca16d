package fastcgi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newTaggedApplication starts an application each of whose responses consists of the
// request's TAG alone: its header, its standard error, and LENGTH bytes of its body. With
// SIZED the response has a Content-Length, with UNBUFFERED the field that Handler obeys. The
// records of a response arrive in writes of random lengths.
func newTaggedApplication(t testing.TB) *Client {
	t.Helper()
	return newApplication(t, func(a *appRequest) bool {
		tag := a.params["TAG"]
		length, _ := strconv.Atoi(a.params["LENGTH"])
		body := strings.Repeat(tag, length/len(tag)+1)[:length]
		head := "X-Tag: " + tag + "\r\nSet-Cookie: " + tag + "\r\n"
		if a.params["SIZED"] != "" {
			head += "Content-Length: " + strconv.Itoa(length) + "\r\n"
		}
		if a.params["UNBUFFERED"] != "" {
			head += "X-Accel-Buffering: no\r\n"
		}
		var p []byte
		p = append(p, appendRecord(nil, typeStderr, firstRequestID, []byte(tag))...)
		p = append(p, appendRecord(nil, typeStdout, firstRequestID, []byte(head))...)
		p = append(p, appendStream(nil, typeStdout, []byte("\r\n"+body))...)
		p = append(p, appendRecord(nil, typeStderr, firstRequestID, []byte(tag))...)
		p = append(p, appendRecord(nil, typeStdout, firstRequestID, nil)...)
		p = append(p, endRecord(uint32(length), 0)...)
		for p = a.withID(p); len(p) > 0; {
			n := len(p)
			if rand.N(2) == 0 {
				n = 1 + rand.N(n)
			}
			if _, err := a.conn.Write(p[:n]); err != nil {
				return false
			}
			p = p[n:]
		}
		return true
	})
}

// taggedRequest returns a request for a response that consists of tag alone.
func taggedRequest(tag string, length int, sized bool) *Request {
	params := map[string]string{"TAG": tag, "LENGTH": strconv.Itoa(length), "REQUEST_METHOD": http.MethodGet}
	if sized {
		params["SIZED"] = "1"
	}
	return &Request{Params: params}
}

// checkTagged checks a response to a taggedRequest.
func checkTagged(t *testing.T, resp *Response, body []byte, tag string, length int) {
	t.Helper()
	assert.Equal(t, []string{tag}, resp.Header["X-Tag"])
	assert.Equal(t, []string{tag}, resp.Header["Set-Cookie"])
	assert.Empty(t, strings.ReplaceAll(string(resp.Stderr()), tag, ""))
	assert.LessOrEqual(t, len(body), length)
	assert.True(t, bytes.Equal([]byte(strings.Repeat(tag, length/len(tag)+1)[:len(body)]), body), "the body of %s has other bytes", tag)
}

// Requests reuse connections and buffers, however their responses are read, left or
// abandoned. No response contains bytes of another one, not even after its connection was
// given to another request.
func TestResponse_HasNoBytesOfAnotherOne(t *testing.T) {
	t.Parallel()
	cl := newTaggedApplication(t)
	cl.MaxConns, cl.Options = 3, &client.Options{ConnectTimeout: testTimeout}
	ends := []func(ctx context.Context, cancel func(), resp *Response) []byte{
		func(_ context.Context, _ func(), resp *Response) []byte { // read whole
			b, err := io.ReadAll(resp.Body)
			assert.NoError(t, err)
			return b
		},
		func(_ context.Context, _ func(), resp *Response) []byte { // in small pieces
			var b bytes.Buffer
			p := make([]byte, 1+rand.N(100))
			for {
				n, err := resp.Body.Read(p)
				b.Write(p[:n])
				if errors.Is(err, io.EOF) {
					return b.Bytes()
				}
				assert.NoError(t, err)
			}
		},
		func(_ context.Context, _ func(), resp *Response) []byte { // by WriteTo
			var b bytes.Buffer
			_, err := resp.Body.(io.WriterTo).WriteTo(&b)
			assert.NoError(t, err)
			return b.Bytes()
		},
		func(_ context.Context, _ func(), resp *Response) []byte { // closed in the middle
			p := make([]byte, 50)
			n, _ := io.ReadFull(resp.Body, p)
			assert.NoError(t, resp.Body.Close())
			return p[:n]
		},
		func(_ context.Context, _ func(), resp *Response) []byte { // closed during a Read
			time.AfterFunc(rand.N(100*time.Microsecond), func() { _ = resp.Body.Close() })
			b, _ := io.ReadAll(resp.Body)
			return b
		},
		func(_ context.Context, cancel func(), resp *Response) []byte { // canceled in the middle
			p := make([]byte, 50)
			n, _ := io.ReadFull(resp.Body, p)
			cancel()
			b, _ := io.ReadAll(resp.Body)
			return append(p[:n], b...)
		},
	}
	type result struct {
		resp   *Response
		body   []byte
		tag    string
		length int
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			var results []result
			for i := range 40 {
				r := result{tag: fmt.Sprintf("<%d-%d>", g, i), length: rand.N(300)}
				if i%8 == 0 {
					r.length = rand.N(200_000)
				}
				ctx, cancel := context.WithCancel(context.Background())
				var err error
				r.resp, err = cl.Do(ctx, taggedRequest(r.tag, r.length, i%2 == 0))
				if !assert.NoError(t, err) {
					cancel()
					return
				}
				r.body = ends[rand.N(len(ends))](ctx, cancel, r.resp)
				cancel()
				_ = r.resp.Body.Close()
				results = append(results, r)
			}
			for _, r := range results { // long after their connections were used again
				checkTagged(t, r.resp, r.body, r.tag, r.length)
			}
		})
	}
	wg.Wait()
}

// Of two responses that are open at the same time, each is read in turns with the other.
func TestResponse_TwoAtTheSameTimeAreReadInTurns(t *testing.T) {
	t.Parallel()
	cl := newTaggedApplication(t)
	for range 20 {
		const length = 5000
		tags := []string{"<first>", "<the second>"}
		var resps []*Response
		var bodies [2]bytes.Buffer
		for i, tag := range tags {
			resp, err := cl.Do(context.Background(), taggedRequest(tag, length, i == 0))
			require.NoError(t, err)
			resps = append(resps, resp)
		}
		for bodies[0].Len() < length || bodies[1].Len() < length {
			for i, resp := range resps {
				_, err := io.CopyN(&bodies[i], resp.Body, int64(min(1+rand.N(700), length-bodies[i].Len())))
				require.NoError(t, err)
			}
		}
		for i, resp := range resps {
			_, err := resp.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			checkTagged(t, resp, bodies[i].Bytes(), tags[i], length)
		}
	}
	require.Positive(t, cl.Stats().Reuses)
}

// A Response whose connection was given back stays readable: its end, its header and its
// standard error do not change when another request uses the connection.
func TestResponse_StaysAsItIsAfterItsConnectionIsReused(t *testing.T) {
	t.Parallel()
	for _, sized := range []bool{false, true} {
		cl := newTaggedApplication(t)
		cl.MaxConns = 1
		first, body, err := doAndRead(cl, taggedRequest("<the first>", 100, sized))
		require.NoError(t, err)
		header := first.Header.Clone()
		for i := range 3 {
			other, otherBody, err := doAndRead(cl, taggedRequest(fmt.Sprintf("<%d>", i), 1000, sized))
			require.NoError(t, err)
			checkTagged(t, other, []byte(otherBody), fmt.Sprintf("<%d>", i), 1000)
			n, err := first.Body.Read(make([]byte, 100))
			require.Zero(t, n)
			require.ErrorIs(t, err, io.EOF)
		}
		require.Positive(t, cl.Stats().Reuses)
		require.Equal(t, header, first.Header)
		checkTagged(t, first, []byte(body), "<the first>", 100)
		require.NoError(t, first.Body.Close())
		_, err = first.Body.Read(make([]byte, 1))
		require.ErrorIs(t, err, errBodyClosed)
	}
}

// A Writer that fails or panics may still use what it was given: net/http's over HTTP/2
// does, if the client resets the stream during the Write. Those bytes must not become the
// ones of another response.
func TestResponse_FailedWriterKeepsItsBytes(t *testing.T) {
	t.Parallel()
	cl := newTaggedApplication(t)
	for i := range 20 {
		resp, err := cl.Do(context.Background(), taggedRequest("<of the first>", 5000, i%2 == 0))
		require.NoError(t, err)
		var kept []byte
		func() {
			defer func() { _ = recover() }()
			_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
				kept = p
				if i%3 == 0 {
					panic("in Write")
				}
				return 0, io.ErrClosedPipe
			}), resp.Body)
			require.ErrorIs(t, err, io.ErrClosedPipe)
		}()
		_, _ = io.ReadAll(resp.Body)
		require.NoError(t, resp.Body.Close())
		for range 3 {
			_, _, err := doAndRead(cl, taggedRequest("<of another>", 5000, false))
			require.NoError(t, err)
		}
		require.False(t, bytes.Contains(kept, []byte("another")), "the bytes are those of another response")
	}
}

// What a failed Writer may still use does not change either when the rest of its own response
// is received: it may be on its way to the client, and the rest may be the standard error.
func TestResponse_FailedWriterKeepsItsBytesWhileTheRestIsReceived(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{false, true} {
		failed := make(chan struct{})
		cl := newApplication(t, func(a *appRequest) bool {
			a.write(t, appendStream(nil, typeStdout, []byte("Content-Length: 5000\r\n\r\n"+strings.Repeat("b", 5000))))
			<-failed
			for range 50 {
				a.write(t, appendRecord(nil, typeStderr, firstRequestID, bytes.Repeat([]byte("E"), 4000)))
			}
			a.write(t, appendRecord(nil, typeStdout, firstRequestID, nil), endRecord(0, 0))
			return true
		})
		resp, err := cl.Do(context.Background(), &Request{})
		require.NoError(t, err)
		var kept []byte
		_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
			kept = p
			close(failed)
			return 0, io.ErrClosedPipe
		}), resp.Body)
		require.ErrorIs(t, err, io.ErrClosedPipe)
		if read {
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
		}
		require.NoError(t, resp.Body.Close())
		require.Eventually(t, func() bool { return cl.Stats().Active == 0 }, testTimeout, time.Millisecond)
		require.Len(t, kept, 5000)
		require.Empty(t, strings.Trim(string(kept), "b"))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// No request has a parameter of another one that the Handler has sent before or sends at the
// same time.
func TestHandler_SendsNoParameterOfAnotherRequest(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		body, _ := json.Marshal(a.params)
		a.write(t, bytes.Join(okResponse(string(body)), nil))
		return true
	})
	h := &Handler{
		Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}),
		Params: func(r *http.Request) map[string]string {
			return map[string]string{"OWN_" + r.Header.Get("X-Name"): "1"}
		},
	}
	s := serveHandler(t, h)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				name := fmt.Sprintf("%d_%d", g, i)
				r, _ := http.NewRequest(http.MethodGet, s.URL+"/a.php/info?q="+name, nil)
				r.Header.Set("X-Name", name)
				for n := range rand.N(200) {
					r.Header.Set(fmt.Sprintf("X-%s-%d", strings.ReplaceAll(name, "_", "-"), n), name)
				}
				resp, err := s.Client().Do(r)
				if !assert.NoError(t, err) {
					return
				}
				var params map[string]string
				assert.NoError(t, json.NewDecoder(resp.Body).Decode(&params))
				_ = resp.Body.Close()
				for param, value := range params {
					switch {
					case strings.HasPrefix(param, "HTTP_X_"), param == "QUERY_STRING":
						assert.Equal(t, name, strings.TrimPrefix(value, "q="), param)
					case strings.HasPrefix(param, "OWN_"):
						assert.Equal(t, "OWN_"+name, param)
					}
				}
			}
		})
	}
	wg.Wait()
}

// The same holds for what the Handler sends, to HTTP clients that read all of it and to those
// that go.
func TestHandler_SendsNoByteOfAnotherResponse(t *testing.T) {
	t.Parallel()
	cl := newTaggedApplication(t)
	cl.Options = &client.Options{ConnectTimeout: testTimeout}
	h := &Handler{
		Client: cl, Root: writeFiles(t, map[string]string{"a.php": ""}), ErrorLog: newLogger(io.Discard),
		Params: func(r *http.Request) map[string]string {
			params := make(map[string]string)
			for name, values := range r.URL.Query() {
				params[name] = values[0]
			}
			return params
		},
	}
	for _, s := range []*httptest.Server{serveHandler(t, h), serveHTTP2(t, h)} {
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 25 {
					tag, length := fmt.Sprintf("<%d.%d>", g, i), rand.N(3000)
					if i%3 == 0 {
						length = rand.N(300_000)
					}
					query := url.Values{"TAG": {tag}, "LENGTH": {strconv.Itoa(length)}}
					for _, param := range []string{"SIZED", "UNBUFFERED"} {
						if rand.N(2) == 0 {
							query.Set(param, "1")
						}
					}
					resp, err := s.Client().Get(s.URL + "/a.php?" + query.Encode())
					if !assert.NoError(t, err) {
						return
					}
					assert.Equal(t, []string{tag}, resp.Header["Set-Cookie"])
					body := io.Reader(resp.Body)
					leaves := rand.N(4) == 0
					if leaves {
						body = io.LimitReader(body, int64(rand.N(length+1)))
					}
					b, err := io.ReadAll(body)
					_ = resp.Body.Close()
					assert.NoError(t, err)
					assert.True(t, leaves || len(b) == length, "%d of %d bytes", len(b), length)
					assert.True(t, string(b) == strings.Repeat(tag, length/len(tag)+1)[:len(b)], "the body of %s has other bytes", tag)
				}
			})
		}
		wg.Wait()
	}
}

// A request for a short page allocates its response and little else. With the race detector,
// a sync.Pool drops a part of what it is given.
func TestClient_RequestAllocatesLittle(t *testing.T) {
	cl := startPHP(t, "unix").client(t)
	r := newScriptRequest(filepath.Join(siteDir(t), "hello.php"))
	allocs := testing.AllocsPerRun(200, func() {
		resp, err := cl.Do(context.Background(), r)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.EqualValues(t, len("hello"), n)
	})
	require.LessOrEqual(t, allocs, 12.0)
}

// A record that arrives in small pieces does not extend RecvTimeout with each piece.
func TestClient_RecvTimeoutBoundsAWholeRecord(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "A: b\r\n\r\nbody"} {
		cl := newApplication(t, func(a *appRequest) bool {
			if before != "" {
				a.write(t, appendRecord(nil, typeStdout, firstRequestID, []byte(before)))
			}
			for _, b := range appendRecord(nil, typeStdout, a.id, bytes.Repeat([]byte("x"), 60_000)) {
				if _, err := a.conn.Write([]byte{b}); err != nil {
					return false
				}
				time.Sleep(5 * time.Millisecond)
			}
			return false
		})
		cl.Options = &client.Options{RecvTimeout: 200 * time.Millisecond}
		begin := time.Now()
		_, _, err := doAndRead(cl, &Request{})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond)
		require.Less(t, time.Since(begin), testTimeout/2)
	}
}
