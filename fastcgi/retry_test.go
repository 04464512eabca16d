package fastcgi

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// The application may be working on a request that timed out on an idle connection. It is
// not sent again, even if it is idempotent.
func TestClient_RequestThatTimesOutIsNotSentAgain(t *testing.T) {
	t.Parallel()
	count := filepath.Join(t.TempDir(), "count")
	root := writeFiles(t, map[string]string{
		"b.php":    `<?php echo "b";`,
		"slow.php": `<?php file_put_contents('` + count + `', "x", FILE_APPEND); usleep(600000); file_put_contents('` + count + `', "y", FILE_APPEND);`,
	})
	cl := startPHP(t, "unix").client(t)
	cl.Options = &client.Options{RecvTimeout: 200 * time.Millisecond}
	_, _, err := doAndRead(cl, newScriptRequest(filepath.Join(root, "b.php")))
	require.NoError(t, err)
	begin := time.Now()
	_, _, err = doAndRead(cl, newScriptRequest(filepath.Join(root, "slow.php")))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, time.Since(begin), 500*time.Millisecond, "RecvTimeout applied once")
	require.EqualValues(t, 1, cl.Stats().Reuses)
	require.EqualValues(t, 1, cl.Stats().Dials)
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(count)
		return strings.Contains(string(b), "y")
	}, testTimeout, time.Millisecond)
	b, err := os.ReadFile(count)
	require.NoError(t, err)
	require.Equal(t, "xy", string(b))
}

// The same holds for a request that the application does not read.
func TestClient_RequestThatIsNotReadIsNotSentAgain(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	busy := make(chan struct{})
	cl := newApplication(t, func(a *appRequest) bool {
		if a.number > 0 {
			return false
		}
		conns.Add(1)
		a.write(t, okResponse("good")...)
		<-busy // reads nothing meanwhile
		return false
	})
	defer close(busy)
	cl.Options = &client.Options{SendTimeout: 200 * time.Millisecond, SendBuffer: 4096}
	_, _, err := doAndRead(cl, &Request{})
	require.NoError(t, err)
	_, _, err = doAndRead(cl, &Request{Idempotent: true, Params: map[string]string{"LONG": strings.Repeat("x", 60_000)}})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.EqualValues(t, 1, conns.Load())
}

// A request is not sent again if any byte of a response was received, even part of a
// record.
func TestClient_RequestWhoseResponseHasBegunIsNotSentAgain(t *testing.T) {
	t.Parallel()
	for _, part := range [][]byte{{1}, endRecord(0, 0)[:5], endRecord(0, 0)[:12], appendRecord(nil, typeStderr, firstRequestID, []byte("x"))} {
		var requests atomic.Int32
		cl := newApplication(t, func(a *appRequest) bool {
			if requests.Add(1) == 1 {
				a.write(t, okResponse("good")...)
				return true
			}
			a.write(t, part)
			return false
		})
		_, _, err := doAndRead(cl, &Request{Idempotent: true})
		require.NoError(t, err)
		_, _, err = doAndRead(cl, &Request{Idempotent: true})
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%q", part)
		require.EqualValues(t, 2, requests.Load())
	}
}

// A non-idempotent request uses a new connection, so that it cannot meet a worker that is
// exiting. So does a request that cannot be sent twice.
func TestClient_NonIdempotentRequestsUseNewConnections(t *testing.T) {
	t.Parallel()
	cl := newApplication(t, func(a *appRequest) bool {
		a.write(t, okResponse(fmt.Sprint(a.number))...)
		return true
	})
	for name, test := range map[string]struct {
		r      Request
		reused bool
	}{
		"idempotent":                  {Request{Idempotent: true}, true},
		"not idempotent":              {Request{}, false},
		"not idempotent, with a body": {Request{Body: strings.NewReader("x"), ContentLength: 1}, false},
		"idempotent, with a long body": {Request{
			Idempotent: true, Body: io.LimitReader(zeroReader{}, 1<<20), ContentLength: 1 << 20,
		}, false},
		"idempotent, with a body that turns out to be long": {Request{
			Idempotent: true, Body: io.LimitReader(zeroReader{}, 1<<20), ContentLength: -1,
		}, false},
		"idempotent, with long parameters": {Request{Idempotent: true, Params: map[string]string{"LONG": strings.Repeat("x", 70_000)}}, false},
		"idempotent, with a body that turns out to be short": {Request{
			Idempotent: true, Body: strings.NewReader("x"), ContentLength: -1,
		}, true},
	} {
		_, _, err := doAndRead(cl, &Request{})
		require.NoError(t, err)
		_, body, err := doAndRead(cl, &test.r)
		require.NoError(t, err)
		require.Equal(t, test.reused, body != "0", name)
	}
	require.LessOrEqual(t, cl.Stats().Idle, DefaultMaxConns)
	cl.ReuseForNonIdempotent = true
	_, body, err := doAndRead(cl, &Request{})
	require.NoError(t, err)
	require.NotEqual(t, "0", body)
}

// With workers that exit after 20 requests, 51 of 2,000 POSTs failed. Now none fails, and
// each arrives once, while GETs use the idle connections.
func TestLoad_ExitingWorkersReceiveEachPOSTOnce(t *testing.T) {
	skipLoad(t)
	for _, network := range []string{"unix", "tcp"} {
		for _, at := range []int{1, 16} {
			t.Run(fmt.Sprint(network, " ", at), func(t *testing.T) {
				ids := filepath.Join(t.TempDir(), "ids")
				root := writeFiles(t, map[string]string{
					"p.php": `<?php file_put_contents('` + ids + `', file_get_contents('php://input') . "\n", FILE_APPEND); echo 'ok';`,
					"g.php": `<?php echo 'ok';`,
				})
				cl := startPHP(t, network, "pm.max_requests = 20").client(t)
				n := 2000 / loadDivisor(t)
				var wg sync.WaitGroup
				for g := range at {
					wg.Go(func() {
						for i := range n / at {
							id := fmt.Sprintf("%d-%d", g, i)
							r := newScriptRequest(filepath.Join(root, "p.php"))
							r.Params["REQUEST_METHOD"], r.Idempotent = "POST", false
							r.Body, r.ContentLength = strings.NewReader(id), int64(len(id))
							for _, r := range []*Request{r, newScriptRequest(filepath.Join(root, "g.php"))} {
								if _, body, err := doAndRead(cl, r); err != nil || body != "ok" {
									t.Errorf("%s: %q %v", r.Params["REQUEST_METHOD"], body, err)
								}
							}
						}
					})
				}
				wg.Wait()
				b, err := os.ReadFile(ids)
				require.NoError(t, err)
				seen := make(map[string]int)
				for id := range strings.FieldsSeq(string(b)) {
					seen[id]++
				}
				require.Len(t, seen, n/at*at)
				for id, times := range seen {
					require.Equal(t, 1, times, id)
				}
				require.Positive(t, cl.Stats().Reuses, "of the GETs")
			})
		}
	}
}
