package sock

import (
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A receive that has parked first has a part of its limit behind it. If calls hold threads
// by then, recvfrom(2) would wait for another three quarters of the limit.
func TestRecv_PolicyThatChangesWhileItParksDoesNotExtendItsLimit(t *testing.T) {
	const limit = 400 * time.Millisecond
	s, peer := tcpPair(t)
	defer parkAll()()
	s.rd.parkedLast = true
	go func() {
		time.Sleep(limit * 3 / 4)
		waits.many.Store(false)
		_, _ = unix.Write(peer, []byte{1})
	}()
	begin := Now()
	n, err := s.Recv(make([]byte, 2), unix.MSG_WAITALL, limit, nil)
	took := time.Duration(Now() - begin)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, 1, n)
	require.GreaterOrEqual(t, took, limit)
	require.Less(t, took, limit*3/2)
}

// tcpPair is pair for TCP, where MSG_WAITALL waits inside recvfrom(2).
func tcpPair(t testing.TB) (*Socket, int) {
	t.Helper()
	ln, at := listenTCP(t)
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	require.NoError(t, s.Connect(at, In(testTimeout), nil))
	peer, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(peer) })
	return s, peer
}

// The kernel reports only an error, EPOLLERR, for a socket whose error queue has entries
// and whose send buffer is full. The runtime's poller then refuses to wait for a read.
func TestRead_ParksBesideAnErrorQueueWithoutSpinning(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	s, peer := tcpPair(t)
	require.NoError(t, s.SetInt(unix.SOL_SOCKET, unix.SO_TIMESTAMPING,
		unix.SOF_TIMESTAMPING_TX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE))
	for {
		if _, err := s.Send(make([]byte, 1<<16), unix.MSG_DONTWAIT, -1); err != nil {
			break
		}
	}
	require.True(t, s.attachNetpoll(&s.rd))
	k := s.rd.netpollWaker.Load()
	k.prepare()
	require.Eventually(t, func() bool {
		_, refused := k.park(unix.POLLIN, Now(), time.Millisecond)
		return refused
	}, testTimeout, time.Millisecond)
	require.True(t, s.waitParked(&s.rd, k, int32(s.fd), unix.POLLIN, Now(), Now(), time.Hour), "as in poll(2), so that the caller backs off")
	read := make(chan error, 1)
	go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
	time.Sleep(20 * time.Millisecond)
	_, err := unix.Write(peer, []byte{1})
	require.NoError(t, err)
	require.NoError(t, <-read)
}

// A Select that poll(2) wakes for nothing, as by an incomplete TLS record, holds no thread
// that is not counted.
func TestPoll_BackoffHoldsNoThread(t *testing.T) {
	var p Poll
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			p.Backoff(Never)
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	require.Eventually(t, func() bool { return Parked.Load() > 0 }, testTimeout, 100*time.Microsecond)
}

// A receive that can only poll at intervals, such as one of an urgent byte, does so the more
// seldom the longer it waits: many of them that are idle take no processor.
func TestRecv_PollsMoreSeldomTheLongerItWaits(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	const lasted = 200 * time.Millisecond
	time.Sleep(lasted - time.Duration(Now())) // Instants begin with the process
	now := Now()
	require.False(t, s.waitParked(&s.rd, nil, int32(s.fd), unix.POLLPRI, now.Add(-lasted), now, time.Hour))
	require.GreaterOrEqual(t, time.Duration(Now()-now), lasted/8)
}

// Inside recvfrom(2) and in ppoll(2) together a call holds its thread for longestHold.
func TestRecv_ParksAfterItsWaitInTheKernel(t *testing.T) {
	for range 5 { // a signal may end recvfrom(2) early
		s, peer := pair(t, unix.SOCK_STREAM)
		received := make(chan error, 1)
		go func() { _, err := s.Recv(make([]byte, 1), 0, -1, nil); received <- err }()
		require.Eventually(t, func() bool { return Parked.Load() > 0 }, testTimeout, time.Millisecond)
		_, err := unix.Write(peer, []byte{1})
		require.NoError(t, err)
		require.NoError(t, <-received)
		if !s.rd.fdWaker.made { // ppoll(2) would need it
			return
		}
	}
	t.Fatal("it waits in ppoll(2) too")
}

// Whatever an earlier call has left, its deadline or a wake that came too late for it, a
// wake ends a parked call, and nothing else does.
func TestNetpollWaker_WakesAtAnyMoment(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	s, peer := pair(t, unix.SOCK_STREAM)
	rounds := 5000
	if testing.Short() {
		rounds = 500
	}
	limits := [...]time.Duration{-1, time.Hour, testTimeout, time.Hour, 2 * time.Hour, -1}
	for i := range rounds {
		returned := make(chan error, 1)
		go func() {
			_, err := s.Recv(make([]byte, 1), 0, limits[i%len(limits)], nil)
			returned <- err
		}()
		for end := Now().Add(rand.N(30 * time.Microsecond)); end.Left() > 0; { //nolint:revive // too short to sleep
		}
		want := os.ErrDeadlineExceeded
		switch i % 4 {
		case 0: // data and a wake that changes nothing
			require.NoError(t, s.SetReadDeadline(In(time.Hour)))
			_, err := unix.Write(peer, []byte{1})
			require.NoError(t, err)
			want = nil
		case 1:
			require.NoError(t, s.SetReadDeadline(In(rand.N(100*time.Microsecond))))
		case 2:
			s.Stop()
			want = ErrStopped
		case 3:
			require.NoError(t, s.SetReadDeadline(1))
		}
		select {
		case err := <-returned:
			require.ErrorIs(t, err, want)
		case <-time.After(testTimeout):
			t.Fatalf("round %d: the call is not woken", i)
		}
		if want == ErrStopped { //nolint:errorlint // it is ours
			s.Resume()
		}
		require.NoError(t, s.SetReadDeadline(Never))
	}
}
