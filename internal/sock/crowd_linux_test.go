package sock

import (
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
	const others = 1000
	everybody.word.Add(others)
	defer everybody.word.Add(^uint64(others - 1))
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
	const others = 1000
	everybody.word.Add(others)
	defer everybody.word.Add(^uint64(others - 1))
	everybody.procs.Store(1)
	everybody.quiet.Store(0)
	for name, recv := range map[string]func(s *Socket, p []byte) (int, error){
		"Recv": func(s *Socket, p []byte) (int, error) { return s.Recv(p, 0, 5*time.Second, nil) },
		"Read": (*Socket).Read,
	} {
		t.Run(name, func(t *testing.T) {
			most := 0
			for range 20 { // others run earlier if the kernel gives the processor away
				s, peer := pair(t, unix.SOCK_STREAM)
				_, err := unix.Write(peer, make([]byte, 10*mostInARow))
				require.NoError(t, err)
				require.NoError(t, unix.Shutdown(peer, unix.SHUT_WR))
				var ran atomic.Bool
				go ran.Store(true)
				n := 0
				for ; !ran.Load(); n++ {
					_, err := recv(s, make([]byte, 1))
					require.NoError(t, err, "nobody else ran until the end of the stream")
				}
				// The scheduler may have picked the one who let others run.
				require.LessOrEqual(t, n, 3*mostInARow)
				most = max(most, n)
			}
			require.Greater(t, most, mostInARow, "it is cheaper to go on for a while")
		})
	}
}

func TestNoKernelWaitFitsALimitThatIsUnknown(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	require.False(t, s.fitsKernelWait(In(time.Hour)), "nobody has set SO_RCVTIMEO, or it was lent")
	require.True(t, s.waitsInKernel(time.Second))
	require.True(t, s.fitsKernelWait(In(time.Second)))
	require.False(t, s.fitsKernelWait(In(time.Second/2)))
}
