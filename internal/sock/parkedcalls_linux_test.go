package sock

import (
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// parkedThat returns a parked call that is meant, once there is one.
func parkedThat(t *testing.T, meant func(ParkedCall) bool) ParkedCall {
	t.Helper()
	for range testTimeout / time.Millisecond { // not by the clock: the process may be stopped meanwhile
		all := LongestParked(-1)
		if i := slices.IndexFunc(all, meant); i >= 0 {
			return all[i]
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("no such call: %+v", ReadWaitStats())
	return ParkedCall{}
}

// parkedOn returns the parked call on a socket with this own address, once there is one.
func parkedOn(t *testing.T, local Addr) ParkedCall {
	t.Helper()
	return parkedThat(t, func(c ParkedCall) bool { return c.Local == local })
}

func TestLongestParked_TellsWhoWaitsForWhomAndSinceWhen(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	s, peer := tcpPair(t)
	before := Now()
	received := make(chan error, 1)
	go func() { _, err := s.Recv(make([]byte, 1), 0, -1, nil); received <- err }()
	local, to := s.Addrs()
	call := parkedOn(t, local)
	require.Equal(t, to, call.Peer)
	require.Equal(t, unix.AF_INET, call.Domain)
	require.True(t, call.Stream)
	require.False(t, call.Send || call.Dial)
	require.GreaterOrEqual(t, call.Began, before)
	require.LessOrEqual(t, call.Began, Now())
	time.Sleep(10 * time.Millisecond)
	require.GreaterOrEqual(t, LongestPark(), 10*time.Millisecond)
	_, err := unix.Write(peer, []byte{1})
	require.NoError(t, err)
	require.NoError(t, <-received)
	require.Empty(t, LongestParked(100))
	require.Zero(t, LongestPark())
}

// Half a second that the call has held its thread is a part of its wait.
func TestLongestParked_CountsTheTimeOnAThread(t *testing.T) {
	for range 5 { // a signal may end recvfrom(2) early, and then ppoll(2) waits
		s, _ := tcpPair(t)
		received := make(chan error, 1)
		before := Now()
		go func() { _, err := s.Recv(make([]byte, 1), 0, -1, nil); received <- err }()
		local, _ := s.Addrs()
		call := parkedOn(t, local)
		made := s.rd.fdWaker.made
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-received, net.ErrClosed)
		if !made && call.Began-before < Instant(longestHold/2) {
			return
		}
	}
	t.Fatal("the time in recvfrom(2) is not counted, or it waits in ppoll(2) too")
}

func TestLongestParked_LongestFirst(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	var locals []Addr
	for range 3 {
		s, _ := tcpPair(t)
		done := make(chan struct{})
		go func() { defer close(done); _, _ = s.Recv(make([]byte, 1), 0, -1, nil) }()
		t.Cleanup(func() { _ = s.Close(); <-done })
		local, _ := s.Addrs()
		parkedOn(t, local)
		locals = append(locals, local)
	}
	calls := LongestParked(2)
	require.Len(t, calls, 2)
	require.Equal(t, locals[:2], []Addr{calls[0].Local, calls[1].Local})
	require.Len(t, LongestParked(100), 3)
	require.Empty(t, LongestParked(0))
}

func TestLongestParked_DialTellsItsTarget(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	ln, at := listenTCP(t)
	require.NoError(t, unix.Listen(ln, 0))
	fill, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fill)
	require.NoError(t, unix.Connect(fill, &unix.SockaddrInet4{Port: int(at.IP.Port()), Addr: [4]byte{127, 0, 0, 1}}))
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0) // the backlog is full: no answer
	require.NoError(t, err)
	defer s.Close()
	var stop Stopper
	defer stop.Close()
	dialed := make(chan error, 1)
	go func() { dialed <- s.Connect(at, Never, &stop) }()
	call := parkedThat(t, func(c ParkedCall) bool { return c.Dial })
	require.Equal(t, at, call.Peer)
	stop.Stop()
	require.ErrorIs(t, <-dialed, ErrStopped)
	require.Empty(t, LongestParked(100))
}

func TestLongestParked_KeepsNoSocketOpen(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	known := func() int {
		parkable.mu.Lock()
		defer parkable.mu.Unlock()
		return len(parkable.socks)
	}
	before := known()
	park := func() *Socket {
		s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
		require.NoError(t, err)
		_, _ = s.Recv(make([]byte, 1), 0, time.Millisecond, nil)
		return s
	}
	s := park()
	require.Equal(t, before+1, known())
	require.NoError(t, s.Close())
	require.Equal(t, before, known())
	closed := Finalized.Load()
	park()
	require.Eventually(t, func() bool {
		runtime.GC()
		return Finalized.Load() > closed && known() <= before
	}, testTimeout, time.Millisecond)
	Finalized.Add(-1)
}

func TestReadWaitStats_CountsThreadsAndRefusals(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(1))
	waits.many.Store(false) // the sockets of an earlier test do not wait any more
	waits.active.Store(0)
	waits.computing.Store(false)
	s, peer := pair(t, unix.SOCK_STREAM)
	received := make(chan error, 1)
	go func() { _, err := s.Recv(make([]byte, 1), 0, -1, nil); received <- err }()
	require.Eventually(t, func() bool { return ReadWaitStats().Threads == 1 }, longestHold, time.Millisecond)
	_, err := unix.Write(peer, []byte{1})
	require.NoError(t, err)
	require.NoError(t, <-received)
	require.Zero(t, ReadWaitStats().Threads)

	SetMaxThreads(0)
	refused := ReadWaitStats().Refused
	_, err = s.Recv(make([]byte, 1), 0, 20*time.Millisecond, nil)
	require.Error(t, err)
	require.Greater(t, ReadWaitStats().Refused, refused)
}

func BenchmarkLongestPark(b *testing.B) {
	const socks = 1000
	defer SetMaxThreads(SetMaxThreads(0))
	for range socks {
		s, _ := pair(b, unix.SOCK_STREAM)
		require.True(b, s.attachNetpoll(&s.rd))
	}
	for b.Loop() {
		LongestPark()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/socks, "ns/socket")
}
