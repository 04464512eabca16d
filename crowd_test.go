package client_test

import (
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// Left to the Go scheduler, each of many goroutines whose peer answers fast keeps its
// processor for a time slice, and the others wait for hundreds of milliseconds.
func TestEachOfACrowdHasItsTurn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const crowd, each = 64, 2000
	address := otherProcess(t, "echo", "unix")
	ways := map[string]func(c *client.Client, buf []byte) error{
		"Send and Recv": roundTrip,
		"Write and Read": func(c *client.Client, buf []byte) error {
			if _, err := c.Write(buf); err != nil {
				return err
			}
			_, err := c.Read(buf)
			return err
		},
	}
	for way, trip := range ways {
		t.Run(way, func(t *testing.T) {
			// Left to the scheduler it is 2,000 or more, and 64 would be perfect. Where other
			// processes have the machine as well it is tried some times.
			const few, tries = 1800, 10
			queue := int64(math.MaxInt64)
			for n := 0; queue > few && n < tries; n++ {
				queue = queueOf(t, crowd, each, address, trip)
				t.Logf("behind %d others", queue)
			}
			require.LessOrEqual(t, queue, int64(few))
		})
	}
}

// queueOf has many clients make round trips at once, crowd * each in all, and gives how
// many of others' there are from one of a client's to its next: on average over the time.
func queueOf(t *testing.T, crowd, each int64, address string, trip func(*client.Client, []byte) error) int64 {
	var total, weighed atomic.Int64
	var begin, wg sync.WaitGroup
	begin.Add(int(crowd))
	for range crowd {
		c := dialServer(t, "unix", address, &client.Options{Timeout: testTimeout})
		wg.Go(func() {
			begin.Done()
			begin.Wait()
			for buf, before := make([]byte, 64), int64(0); ; {
				now := total.Add(1)
				weighed.Add((now - before) * (now - before))
				before = now
				if now > crowd*each {
					return
				}
				if err := trip(c, buf); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return weighed.Load() / (crowd * crowd * each)
}

// To let others run is never to make a limit longer.
func TestALimitHoldsInACrowd(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	address := otherProcess(t, "echo", "unix")
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 32 {
		c := dialServer(t, "unix", address, &client.Options{Timeout: testTimeout})
		wg.Go(func() {
			for buf := make([]byte, 64); !stop.Load(); {
				if err := roundTrip(c, buf); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, limit := range []time.Duration{3 * time.Millisecond, 200 * time.Millisecond} {
		c := dialServer(t, "unix", address, &client.Options{RecvTimeout: limit})
		begin := time.Now()
		_, err := c.Recv(make([]byte, 1), 0)
		took := time.Since(begin)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, took, limit)
		require.Less(t, took, testTimeout)
	}
}
