package sock

import (
	"bytes"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Beside goroutines that compute, a turn takes a time slice of each of them.
func TestATurnForNothingMakesNoLimitLonger(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	defer crowded()()
	const limit = 2 * time.Second
	for name, recv := range map[string]func(s *Socket) error{
		"in the kernel": func(s *Socket) error {
			_, err := s.Recv(make([]byte, 1), 0, limit, nil)
			return err
		},
		"in poll": func(s *Socket) error {
			if err := s.SetReadDeadline(In(limit)); err != nil {
				return err
			}
			_, err := s.Read(make([]byte, 1))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // who is preempted before its turn sees nothing of it
				everybody.procs.Store(2)
				everybody.quiet.Store(0)
				s, _ := pair(t, unix.SOCK_STREAM)
				var end atomic.Int64
				end.Store(math.MaxInt64)
				var wg sync.WaitGroup
				for range 500 { // a round of their time slices is longer than the limit
					wg.Go(func() {
						for int64(Now()) < end.Load() { //nolint:revive // it computes
						}
					})
				}
				begin := Now()
				end.Store(int64(begin.Add(limit + limit/100)))
				err := recv(s)
				took := time.Duration(Now() - begin)
				wg.Wait()
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, took, limit)
				require.Less(t, took, limit*8/5, "it began anew after its turn")
			}
		})
	}
}

// Who finds something each time would otherwise go on until the runtime's monitor sees it.
func TestWhoAlwaysFindsSomethingLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer crowded()()
	for name, recv := range map[string]func(s *Socket, p []byte) (int, error){
		"Recv": func(s *Socket, p []byte) (int, error) { return s.Recv(p, 0, 5*time.Second, nil) },
		"Read": (*Socket).Read,
	} {
		t.Run(name, func(t *testing.T) {
			most := 0
			for range 20 { // others run earlier if the kernel gives the processor away
				s, peer := pair(t, unix.SOCK_STREAM)
				_, err := unix.Write(peer, make([]byte, 100*mostInARow))
				require.NoError(t, err)
				require.NoError(t, unix.Shutdown(peer, unix.SHUT_WR))
				var ran atomic.Bool
				go ran.Store(true)
				n := 0
				for ; !ran.Load(); n++ {
					_, err := recv(s, make([]byte, 1))
					require.NoError(t, err, "nobody else ran until the end of the stream")
				}
				// The scheduler may have picked the one who let others run, and taken long.
				require.LessOrEqual(t, n, 10*mostInARow)
				most = max(most, n)
			}
			require.Greater(t, most, mostInARow, "it is cheaper to go on for a while")
		})
	}
}

// The first look of a call in a crowd may get a part of what it waits for.
func TestWaitAllInACrowdGetsAllOrACountWithinItsLimit(t *testing.T) {
	defer crowded()()
	s, peer := pair(t, unix.SOCK_STREAM)
	const piece, pieces = 1000, 16
	sent := make(chan error, 1)
	go func() {
		for i := range pieces {
			if _, err := unix.Write(peer, bytes.Repeat([]byte{byte(i)}, piece)); err != nil {
				sent <- err
				return
			}
			for n := piece; n > 0; time.Sleep(time.Millisecond) { // until it has been taken
				n, _ = unix.IoctlGetInt(peer, unix.SIOCOUTQ)
			}
		}
		_, err := unix.Write(peer, make([]byte, piece))
		sent <- err
	}()
	p := make([]byte, piece*pieces)
	n, err := s.Recv(p, unix.MSG_WAITALL, 20*time.Second, nil)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
	for i := range pieces {
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, piece), p[i*piece:][:piece])
	}
	require.NoError(t, <-sent)

	const limit = 200 * time.Millisecond
	begin := Now()
	n, err = s.Recv(p, unix.MSG_WAITALL, limit, nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, piece, n)
	require.GreaterOrEqual(t, time.Duration(Now()-begin), limit)
	require.Less(t, time.Duration(Now()-begin), 20*time.Second)
}

func TestNoKernelWaitFitsALimitThatIsUnknown(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	require.False(t, s.fitsKernelWait(In(time.Hour)), "nobody has set SO_RCVTIMEO, or it was lent")
	require.True(t, s.waitsInKernel(time.Second))
	require.True(t, s.fitsKernelWait(In(time.Second)))
	require.False(t, s.fitsKernelWait(In(time.Second/2)))
}
