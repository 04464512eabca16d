package fastcgi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// newScriptRequest returns a GET request for a script.
func newScriptRequest(script string) *Request {
	return &Request{Idempotent: true, Params: map[string]string{
		"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": script, "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/",
	}}
}

// After fastcgi_finish_request a script may write more, and php-fpm sends that on the
// connection. Whether it arrives before or after the next request is sent, the next
// response contains none of it: no page, no cookie, no line of the log.
func TestPHP_OutputAfterFinishRequestIsInNoOtherResponse(t *testing.T) {
	t.Parallel()
	const later = `echo "answer of A"; fastcgi_finish_request(); usleep($pause); `
	root := writeFiles(t, map[string]string{
		"page.php":   later + `echo "Content-Type: text/html\r\nSet-Cookie: session=of-A\r\n\r\nthe private page of A\n", str_repeat('.', 20000);`,
		"status.php": later + `echo "Status: 500 of A\r\n\r\n"; flush();`,
		"debug.php":  later + `echo str_repeat("debug of A\n", 20000);`,
		"log.php":    later + `for ($i = 0; $i < 20; $i++) error_log(str_repeat('secret of A ', 80));`,
		"fatal.php":  later + `undefined_function_of_A();`,
		"b.php":      `header('X-Is: B'); echo "answer of B"; error_log('log of B');`,
	})
	for _, name := range []string{"page.php", "status.php", "debug.php", "log.php", "fatal.php", "b.php"} {
		p := filepath.Join(root, name)
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(p, append([]byte("<?php ini_set('error_log', ''); ini_set('log_errors', '1'); $pause = (int)($_SERVER['PAUSE'] ?? 0); "), text...), 0o600))
	}
	eachNetwork(t, func(t *testing.T, p *phpFPM) {
		cl := p.client(t)
		var reused uint64
		for _, pause := range []time.Duration{0, time.Millisecond, 100 * time.Millisecond} {
			for _, name := range []string{"page.php", "status.php", "debug.php", "log.php", "fatal.php"} {
				a := newScriptRequest(filepath.Join(root, name))
				a.Params["PAUSE"] = fmt.Sprint(pause.Microseconds())
				for range 3 {
					_, body, err := doAndRead(cl, a)
					require.NoError(t, err)
					require.Equal(t, "answer of A", body)
					var stderr bytes.Buffer
					b := newScriptRequest(filepath.Join(root, "b.php"))
					b.Stderr = func(p []byte) { stderr.Write(p) }
					resp, body, err := doAndRead(cl, b)
					require.NoError(t, err, "%s, %v", name, pause)
					require.Equal(t, "answer of B", body)
					require.Equal(t, 200, resp.StatusCode)
					require.Equal(t, "B", resp.Header.Get("X-Is"))
					require.Empty(t, resp.Header.Values("Set-Cookie"))
					require.Contains(t, stderr.String(), "log of B")
					require.NotContains(t, stderr.String(), "of A")
					require.Equal(t, stderr.String(), string(resp.Stderr()))
				}
			}
			reused = cl.Stats().Reuses
		}
		require.GreaterOrEqual(t, reused, uint64(15), "the connection with what was late was used: %+v", cl.Stats())
	})
}

// A record with another ID is dropped wherever it arrives, be it of an earlier request, of
// an unknown one or of ID 0. The connection stays usable.
func TestRecords_OfOtherRequestsAreSkipped(t *testing.T) {
	t.Parallel()
	of := func(id uint16, typ recordType, text string) []byte { return appendRecord(nil, typ, id, []byte(text)) }
	strangers := func(old uint16) []byte {
		var p []byte
		for _, id := range []uint16{old, 999, 65535, 0} {
			for _, typ := range []recordType{typeStdout, typeStderr, typeEndRequest, typeUnknown, typeGetValuesResult, typeStdin, 99} {
				p = append(p, of(id, typ, "A: secret\r\n\r\nsecret")...)
			}
			p = append(p, of(id, typeEndRequest, "\x00\x00\x00\x00\x00\x00\x00\x00")...)
			p = append(p, of(id, typeEndRequest, "\x00\x00\x00\x00\x02\x00\x00\x00")...)
			p = append(p, of(id, typeStdout, "")...)
			p = append(p, of(id, typeStderr, "")...)
		}
		return p
	}
	var ids []uint16
	cl := newApplication(t, func(a *appRequest) bool {
		ids = append(ids, a.id)
		own := [][]byte{
			of(a.id, typeStderr, "own "), of(a.id, typeStdout, "X-Is: own\r\n"), of(a.id, typeStdout, "\r\nfirst"), of(a.id, typeStdout, "second"),
			of(a.id, typeStdout, ""), of(a.id, typeStderr, ""), of(a.id, typeEndRequest, "\x00\x00\x00\x07\x00\x00\x00\x00"),
		}
		for _, p := range own {
			_, _ = a.conn.Write(append(strangers(a.id-1), p...))
		}
		return true
	})
	for i := range 3 {
		resp, body, err := doAndRead(cl, &Request{Idempotent: true})
		require.NoError(t, err)
		require.Equal(t, "firstsecond", body)
		require.Equal(t, http.Header{"X-Is": {"own"}}, resp.Header)
		require.Equal(t, "own ", string(resp.Stderr()))
		require.EqualValues(t, 7, resp.AppStatus())
		require.EqualValues(t, i, cl.Stats().Reuses)
	}
	require.Equal(t, []uint16{1, 2, 3}, ids)
}

func TestRequestID_StartsAgainAfter65535(t *testing.T) {
	t.Parallel()
	for requests, id := range map[int]uint16{0: 1, 1: 2, 65534: 65535, 65535: 1, 65536: 2, 2*65535 - 1: 65535} {
		require.Equal(t, id, requestIDAfter(requests), requests)
	}
	head, err := newRequestHead(&Request{Params: map[string]string{"A": strings.Repeat("a", 200_000)}, Body: strings.NewReader("x")}, 1)
	require.NoError(t, err)
	setRequestID(head.p, 65535)
	records := 0
	for r := bytes.NewReader(head.p); r.Len() > 0; records++ {
		_, id, _, err := readRecord(r)
		require.NoError(t, err)
		require.EqualValues(t, 65535, id)
	}
	require.Greater(t, records, 4)
}

// The output of an earlier script does not extend RecvTimeout of the next request, which
// is not sent again.
func TestRecords_OfOtherRequestsDoNotExtendRecvTimeout(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1 << 20} { // without and with an upload
		requests := 0
		cl := newApplication(t, func(a *appRequest) bool {
			requests++
			for {
				if _, err := a.conn.Write(appendRecord(nil, typeStdout, 999, []byte("late"))); err != nil {
					return false
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		cl.Options = &client.Options{RecvTimeout: 300 * time.Millisecond}
		begin := time.Now()
		r := &Request{Idempotent: true}
		if size > 0 {
			r.Body, r.ContentLength = io.LimitReader(zeroReader{}, int64(size)), int64(size)
		}
		_, _, err := doAndRead(cl, r)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.ErrorContains(t, err, "of other requests")
		require.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
		require.Less(t, time.Since(begin), testTimeout/2)
		require.Equal(t, 1, requests)
	}
}
