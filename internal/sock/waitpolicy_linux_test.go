package sock

import (
	"bytes"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestWaitPolicy_ReadParksAndRecvHoldsItsThread(t *testing.T) {
	var w waitPolicy
	var d direction
	require.False(t, w.parks(&d, false, Now()), "Recv")
	require.True(t, w.parks(&d, true, Now()), "Read")
}

func TestWaitPolicy_ParksWhereMoreSocketsThanProcessorsWait(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var w waitPolicy
	d := make([]direction, 3)
	now := Now()
	parks := func(i int) bool { return w.parks(&d[i], false, now) }
	for range 10 {
		require.False(t, parks(0))
		require.False(t, parks(1), "each has a processor")
	}
	require.True(t, parks(2))
	require.True(t, parks(0), "now all do")

	now = now.Add(samplePeriod)
	require.True(t, parks(0), "there were three a moment ago")
	now = now.Add(samplePeriod)
	require.False(t, parks(0), "the others have not waited since")
}

func TestWaitPolicy_ComputingProcessHoldsThreads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var w waitPolicy
	var d direction
	parks := func() bool {
		w.count()
		return w.parks(&d, true, Now())
	}
	require.True(t, parks())
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() { //nolint:revive // it computes
			}
		})
	}
	require.Eventually(t, func() bool { return !parks() }, testTimeout, time.Millisecond)
	stop.Store(true)
	wg.Wait()
	require.Eventually(t, parks, testTimeout, time.Millisecond)
}

// Many round trips use processors too, but little CPU time each.
func TestWaitPolicy_RoundTripsAreNotComputing(t *testing.T) {
	var w waitPolicy
	var d direction
	now := Now()
	w.parks(&d, true, now)
	w.computing.Store(true)
	for begin := processCPU(); processCPU()-begin < 5*time.Millisecond; { // some 200 ns each
		w.count()
	}
	require.True(t, w.parks(&d, true, now.Add(samplePeriod)))
}

func TestRead_ParksItsGoroutine(t *testing.T) {
	s, peer := pair(t, unix.SOCK_STREAM)
	for range 3 {
		read := make(chan error, 1)
		go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
		require.Eventually(t, func() bool { return Parked.Load() > 0 }, testTimeout, time.Millisecond)
		_, err := unix.Write(peer, []byte{1})
		require.NoError(t, err)
		require.NoError(t, <-read)
	}
}

// The runtime's deadline is set only when it has to be, so one of an earlier call may still
// be there: it neither ends a later call nor lets it go on for too long.
func TestNetpollWaker_DeadlineOfAnEarlierCallChangesNothing(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	s, peer := pair(t, unix.SOCK_STREAM)
	for _, limit := range []time.Duration{
		time.Hour, 50 * time.Millisecond, 300 * time.Millisecond, 20 * time.Millisecond, -1, 20 * time.Millisecond,
		150 * time.Millisecond, 400 * time.Millisecond,
	} {
		if limit < 0 || limit == time.Hour {
			got := make(chan error, 1)
			go func() { _, err := s.Recv(make([]byte, 1), 0, limit, nil); got <- err }()
			select {
			case err := <-got:
				require.Fail(t, "it ended", "%v", err)
			case <-time.After(200 * time.Millisecond): // it spans the deadlines before
			}
			_, err := unix.Write(peer, []byte{1})
			require.NoError(t, err)
			require.NoError(t, <-got)
			continue
		}
		begin := Now()
		_, err := s.Recv(make([]byte, 1), 0, limit, nil)
		took := time.Duration(Now() - begin)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, took, limit)
		require.Less(t, took, testTimeout)
	}
}

// A receive that expects to wait parks before it asks the kernel. Data that is there, the
// peer's end and a short limit must come out as they would without.
func TestRecv_ThatParksFirstGetsWhatIsThere(t *testing.T) {
	defer parkAll()()
	s, peer := pair(t, unix.SOCK_STREAM)
	p := make([]byte, 8)
	recv := func(limit time.Duration) (int, error) {
		s.rd.parkedLast = true
		return s.Recv(p, 0, limit, nil)
	}
	_, err := recv(time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = unix.Write(peer, []byte("abc"))
	require.NoError(t, err)
	n, err := recv(1)
	require.NoError(t, err, "the limit is over, but it is there")
	require.Equal(t, "abc", string(p[:n]))
	_, err = unix.Write(peer, []byte("de"))
	require.NoError(t, err)
	n, err = recv(time.Hour)
	require.NoError(t, err)
	require.Equal(t, "de", string(p[:n]))
	require.False(t, s.rd.parkedLast, "it need not have waited")
	require.NoError(t, unix.Shutdown(peer, unix.SHUT_WR))
	_, err = recv(time.Hour)
	require.ErrorContains(t, err, "EOF")
}

// A receive that parks gets what a peer sends by and by.
func TestRecv_WaitAllWhileParkedGetsAllOrACountWithinItsLimit(t *testing.T) {
	defer parkAll()()
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
	n, err := s.Recv(p, unix.MSG_WAITALL, testTimeout, nil)
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
	require.Less(t, time.Duration(Now()-begin), testTimeout)
}

// parkAll has the policy find that more sockets than processors wait, until end is called.
func parkAll() (end func()) {
	waits.nextSample.Store(int64(Now().Add(time.Hour)))
	waits.computing.Store(false)
	waits.many.Store(true)
	return func() { waits.nextSample.Store(0) }
}

func TestRecv_NoKernelWaitFitsAnUnknownTimeout(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	require.False(t, s.fitsKernelWait(In(time.Hour)), "nobody has set SO_RCVTIMEO, or it was lent")
	require.True(t, s.waitsInKernel(time.Second))
	require.True(t, s.fitsKernelWait(In(time.Second)))
	require.False(t, s.fitsKernelWait(In(time.Second/2)))
}

// What samplePeriod is divided by.
func BenchmarkWaitPolicy_Sample(b *testing.B) {
	var w waitPolicy
	for b.Loop() {
		w.sample(Now())
	}
}

// What each receive costs more.
func BenchmarkWaitPolicy_Parks(b *testing.B) {
	var w waitPolicy
	var d direction
	for b.Loop() {
		w.parks(&d, false, Now())
	}
}

// A thread that leaves the runtime's poller for a wait in the kernel has another one take its
// place: once for each return from the poller, and never in a process that computes.
func TestWaitPolicy_PollerIsHandedOnBeforeAThreadSleeps(t *testing.T) {
	waits.computing.Store(false)
	waits.nextSample.Store(int64(Now().Add(time.Hour)))
	defer waits.nextSample.Store(0)
	s, peer := pair(t, unix.SOCK_STREAM)
	read := make(chan error, 1)
	go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
	require.Eventually(t, func() bool { return Parked.Load() > 0 }, testTimeout, time.Millisecond)
	_, err := unix.Write(peer, []byte{1})
	require.NoError(t, err)
	require.NoError(t, <-read)
	require.True(t, waits.leavePoller())
	require.False(t, waits.leavePoller())
	waits.unparked.Store(true)
	waits.computing.Store(true)
	require.False(t, waits.leavePoller())
	waits.computing.Store(false)
}
