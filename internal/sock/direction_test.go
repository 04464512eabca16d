package sock

import (
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestIOLock_WaitingCallsGetItInOrder(t *testing.T) {
	s, err := Open(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	held, err := s.LockSend(0, -1)
	require.NoError(t, err)
	const calls = 20
	order := make(chan int, calls)
	for i := range calls {
		go func() {
			l, err := s.LockSend(0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			order <- i
			l.Unlock()
		}()
		require.Eventually(t, func() bool { return atLock(s.refs.word.Load(), sendLocked) == uint64(i+2) }, 10*time.Second, 10*time.Microsecond)
		time.Sleep(time.Millisecond) // between the count and the wait
	}
	held.Unlock()
	for i := range calls {
		require.Equal(t, i, <-order)
	}
}

// Calls that give up while the lock is handed over lose no lock and leave none held.
func TestIOLock_IsHeldByOneCallWhileOthersGiveUp(t *testing.T) {
	s, err := Open(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	var holders, locked, expired atomic.Int64
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 500 {
				l, err := s.LockRecv(0, time.Duration(rand.IntN(200))*time.Microsecond)
				if err != nil {
					if err != os.ErrDeadlineExceeded { //nolint:errorlint // as the lock returns it
						t.Error(err)
					}
					expired.Add(1)
					continue
				}
				locked.Add(1)
				if holders.Add(1) != 1 {
					t.Error("two calls hold the lock")
				}
				if rand.IntN(10) == 0 {
					time.Sleep(50 * time.Microsecond)
				}
				holders.Add(-1)
				l.Unlock()
			}
		})
	}
	calls.Wait()
	require.Positive(t, locked.Load())
	require.Positive(t, expired.Load())
	require.Zero(t, s.refs.word.Load())

	l, err := s.LockRecv(0, -1)
	require.NoError(t, err)
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() { _, err := s.LockRecv(0, -1); errs <- err }()
	}
	require.Eventually(t, func() bool { return atLock(s.refs.word.Load(), recvLocked) == 4 }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Close())
	for range cap(errs) {
		require.Equal(t, net.ErrClosed, <-errs)
	}
	require.False(t, s.fdClosed.Load(), "the lock is a reference")
	l.Unlock()
	require.True(t, s.fdClosed.Load())
}

// A call that gives up does not wait for one that comes later and gets the lock in its place.
func TestIOLock_GivesUpAtOnceIfALaterCallGetsIt(t *testing.T) {
	s, err := Open(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.LockRecv(0, -1)
	require.NoError(t, err)
	const limit = 20 * time.Millisecond
	gaveUp := make(chan error, 1)
	go func() { _, err := s.LockRecv(0, limit); gaveUp <- err }()
	require.Eventually(t, func() bool { return atLock(s.refs.word.Load(), recvLocked) == 2 }, testTimeout, time.Millisecond)

	// The holder is in the middle of Unlock when the limit ends, and the later call receives first.
	handOver, _ := s.refs.Unlock(recvLocked)
	require.True(t, handOver)
	time.Sleep(2 * limit)
	locked, open := s.refs.Lock(recvLocked)
	require.True(t, open)
	require.False(t, locked)
	select {
	case err := <-gaveUp:
		require.Equal(t, os.ErrDeadlineExceeded, err)
	case <-time.After(testTimeout):
		t.Error("the call waits on")
	}
	_, _ = s.refs.Unlock(recvLocked)
	require.Zero(t, s.refs.word.Load())
}
