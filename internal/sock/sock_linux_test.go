package sock

import (
	"bytes"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pair returns a connected unix socket and the raw descriptor of its other end.
func pair(t testing.TB, typ int) (*Socket, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	s := &Socket{fd: fds[0], domain: unix.AF_UNIX, stream: typ == unix.SOCK_STREAM}
	s.rd.init(recvLocked)
	s.wr.init(sendLocked)
	s.invalidateTimeout()
	t.Cleanup(func() { _, _ = s.Close(), unix.Close(fds[1]) })
	return s, fds[1]
}

// listenTCP returns a listening descriptor on loopback, and its address.
func listenTCP(t testing.TB) (ln int, at Addr) {
	t.Helper()
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(ln) })
	require.NoError(t, unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(ln, 1))
	sa, err := unix.Getsockname(ln)
	require.NoError(t, err)
	return ln, addrOf(sa)
}

func rcvTimeout(t *testing.T, s *Socket) time.Duration {
	t.Helper()
	tv, err := unix.GetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	require.NoError(t, err)
	return time.Duration(tv.Nano())
}

// The kernel's timers are late by up to an eighth, so recvfrom(2) must not wait for the
// whole timeout. SO_RCVTIMEO is always set, because without it no signal ends recvfrom(2).
func TestRecv_KernelWaitsForAPartOfTheTimeout(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	require.False(t, s.waitsInKernel(kernelWaitFrom-1), "too short for ticks")
	for limit, wait := range map[time.Duration]time.Duration{
		kernelWaitFrom: kernelWaitFrom * 3 / 4, 500 * time.Millisecond: 375 * time.Millisecond,
		time.Hour: longestSleep, -1: longestSleep,
	} {
		require.True(t, s.waitsInKernel(limit))
		require.InDelta(t, wait, rcvTimeout(t, s), float64(10*time.Millisecond))
	}
	s.polled.Store(true)
	require.False(t, s.waitsInKernel(time.Second))
}

// SO_RCVTIMEO is set once for a timeout, and again after a RawConn callback, which may
// have changed it.
func TestRecv_TimeoutHoldsAfterAnotherSetsSO_RCVTIMEO(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	const limit = 200 * time.Millisecond
	for range 2 {
		start := time.Now()
		_, err := s.Recv(make([]byte, 1), 0, limit, nil)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(start), limit)
		require.NoError(t, s.Raw().Control(func(fd uintptr) {
			require.NoError(t, unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}))
		}))
	}
}

// A layer may receive without waiting under the lock of a call that waits. The next wait then
// has not held a thread before.
func TestIOLock_ReceiveThatDoesNotWaitHoldsNoThread(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	l, err := s.LockRecv(0, testTimeout)
	require.NoError(t, err)
	defer l.Unlock()
	require.True(t, l.waitInKernel)
	_, err = l.Recv(make([]byte, 1), unix.MSG_DONTWAIT)
	require.ErrorIs(t, err, unix.EAGAIN)
	require.False(t, s.rd.held)
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// poll(2) reports a socket as ready while its error queue has an entry or an urgent byte
// is first in the stream, but recv(2) returns EAGAIN. Without a backoff the thread would
// spin until the limit.
func TestRecv_DoesNotSpinOnASocketThatIsReadyWithoutData(t *testing.T) {
	const limit = 300 * time.Millisecond
	for name, make := range map[string]func(t *testing.T) func() error{
		"urgent byte on a unix stream": func(t *testing.T) func() error {
			s, peer := pair(t, unix.SOCK_STREAM)
			require.NoError(t, unix.Send(peer, []byte("!"), unix.MSG_OOB))
			return func() error {
				_, err := s.Recv(make([]byte, 1), unix.MSG_PEEK, limit, nil)
				return err
			}
		},
		"error queue": func(t *testing.T) func() error {
			s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			require.NoError(t, s.SetInt(unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			closed, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
			require.NoError(t, err)
			require.NoError(t, closed.Bind(Addr{IP: addrPort("127.0.0.1:0")}, nil))
			nobody := closed.Local()
			require.NoError(t, closed.Close())
			require.NoError(t, s.Connect(nobody, Never, nil))
			_, err = s.Send([]byte("x"), 0, testTimeout)
			require.NoError(t, err)
			_, err = s.Recv(make([]byte, 1), 0, testTimeout, nil)
			require.ErrorIs(t, err, unix.ECONNREFUSED) // the error queue still has it
			s.polled.Store(true)
			return func() error {
				_, err := s.Recv(make([]byte, 1), 0, limit, nil)
				return err
			}
		},
		"a callback that wants more": func(t *testing.T) func() error {
			s, peer := pair(t, unix.SOCK_STREAM)
			require.NoError(t, unix.Send(peer, []byte("x"), 0))
			return func() error {
				require.NoError(t, s.SetReadDeadline(In(limit)))
				return s.Raw().Read(func(uintptr) bool { return false })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := make(t)
			cpu, start := cpuTime(t), time.Now()
			require.ErrorIs(t, f(), os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(start), limit)
			require.Less(t, cpuTime(t)-cpu, limit/2)
		})
	}
}

// An error queue with unread entries is no closed peer, neither for PeerOpen nor for a
// peek that waits for more bytes.
func TestPeerOpen_ErrorQueueIsNotAClosedPeer(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(ln)
	require.NoError(t, unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(ln, 1))
	at, err := unix.Getsockname(ln)
	require.NoError(t, err)
	const stamp = unix.SOF_TIMESTAMPING_TX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE | unix.SOF_TIMESTAMPING_OPT_TSONLY
	require.NoError(t, s.SetInt(unix.SOL_SOCKET, unix.SO_TIMESTAMPING, stamp))
	require.NoError(t, s.Connect(addrOf(at), Never, nil))
	peer, _, err := unix.Accept(ln)
	require.NoError(t, err)
	defer unix.Close(peer)
	_, err = s.Send([]byte("x"), 0, testTimeout)
	require.NoError(t, err)
	fds := []unix.PollFd{{Fd: int32(s.fd)}}
	require.Eventually(t, func() bool {
		_, errno := sleepPoll(fds, 0)
		return errno == 0 && fds[0].Revents&unix.POLLERR != 0
	}, testTimeout, time.Millisecond, "a time stamp is queued")
	require.True(t, s.PeerOpen())

	require.NoError(t, unix.Send(peer, []byte("abc"), 0))
	time.AfterFunc(20*time.Millisecond, func() { _ = unix.Send(peer, []byte("def"), 0) })
	got := make([]byte, 6)
	_, err = s.Recv(got, unix.MSG_PEEK|unix.MSG_WAITALL, testTimeout, nil)
	require.NoError(t, err)
	require.Equal(t, "abcdef", string(got))
}

// With TCP Fast Open, connect(2) returns 0 without having sent anything.
func TestConnect_FastOpenSocketIsConnected(t *testing.T) {
	ln, at := listenTCP(t)
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.SetInt(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1))
	require.NoError(t, s.SetInt(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
	require.NoError(t, s.Connect(at, In(testTimeout), nil))
	_, peer := s.Addrs()
	require.Equal(t, at, peer)
	_, err = s.Send([]byte("x"), 0, testTimeout)
	require.NoError(t, err)
	fd, _, err := unix.Accept(ln)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
}

// If the process has no descriptor left, an fdWaker cannot be created. A call on an
// existing socket still works, and its limit holds.
func TestRecv_WaitsWithoutASpareDescriptor(t *testing.T) {
	s, peer := pair(t, unix.SOCK_STREAM)
	closing, _ := pair(t, unix.SOCK_STREAM)
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 3
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	_, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.ErrorIs(t, err, unix.EMFILE)

	start := time.Now()
	_, err = s.Recv(make([]byte, 1), 0, 150*time.Millisecond, nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(start), 150*time.Millisecond)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := closing.Read(make([]byte, 1))
		if err == nil || err == io.EOF { //nolint:errorlint // bare
			t.Errorf("closed: %v", err)
		}
	})
	time.AfterFunc(5*time.Millisecond, func() { _ = unix.Send(peer, []byte("x"), 0) })
	_, err = s.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, closing.Close())
	wg.Wait()
}

func TestFDWaker_IsNotInherited(t *testing.T) {
	var k fdWaker
	defer k.close()
	fd, err := k.pollFD()
	require.NoError(t, err)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC)
}

// Datagrams beyond those that the queue can have held come from the peer, and stay.
func TestDiscardQueued_EmptiesAFullQueue(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Bind(Addr{IP: addrPort("127.0.0.1:0")}, nil))
	from, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer from.Close()
	for range 2000 { // more than the queue holds
		_, err := from.SendTo(nil, s.Local(), testTimeout)
		require.NoError(t, err)
	}
	s.DiscardQueued()
	_, err = s.Recv(make([]byte, 1), unix.MSG_DONTWAIT, -1, nil)
	require.ErrorIs(t, err, unix.EAGAIN)
}

func TestRecv_PeekReturnsWhatIsQueuedAtTheTimeout(t *testing.T) {
	s, peer := pair(t, unix.SOCK_STREAM)
	want := bytes.Repeat([]byte("x"), 10)
	require.NoError(t, unix.Send(peer, want, 0))
	got := make([]byte, 20)
	n, err := s.Recv(got, unix.MSG_PEEK|unix.MSG_WAITALL, 20*time.Millisecond, nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, want, got[:n])
	n, err = s.Recv(got, 0, testTimeout, nil)
	require.NoError(t, err)
	require.Equal(t, want, got[:n])
}
