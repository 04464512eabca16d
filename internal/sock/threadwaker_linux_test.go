package sock

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A signal between the check and the system call is lost, so it is sent until the thread
// has returned. A lost wake would let the thread sleep for an hour.
func TestThreadWaker_WakesAThreadAtAnyMoment(t *testing.T) {
	s, peer := pair(t, unix.SOCK_STREAM)
	tv := unix.NsecToTimeval(int64(time.Hour))
	require.NoError(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	var p [1]byte
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	for name, sleep := range map[string]func(z *threadWaker) unix.Errno{
		"recvfrom": func(z *threadWaker) unix.Errno {
			_, errno := z.sleep(unix.SYS_RECVFROM, s.fd, unsafe.Pointer(&p), 1, 0, nil, nil)
			return errno
		},
		"ppoll": func(z *threadWaker) unix.Errno {
			_, errno := z.sleepPoll(fds, time.Hour)
			return errno
		},
	} {
		t.Run(name, func(t *testing.T) {
			rounds := 3000
			if testing.Short() {
				rounds = 300
			}
			for range rounds {
				z := new(threadWaker)
				back := make(chan unix.Errno, 1)
				go func() { back <- sleep(z) }()
				for end := Now().Add(rand.N(50 * time.Microsecond)); end.Left() > 0; { //nolint:revive // too short to sleep
				}
				z.wake()
				select {
				case errno := <-back:
					require.Equal(t, unix.EINTR, errno)
					require.Zero(t, z.tid.Load())
				case <-time.After(testTimeout):
					require.NoError(t, unix.Send(peer, []byte("x"), 0))
					<-back
					t.Fatal("the thread sleeps on")
				}
			}
		})
	}
}

// A wake before prepare does not wake a thread that sleeps afterwards.
func TestThreadWaker_EarlierWakeDoesNotKeepAThreadFromSleeping(t *testing.T) {
	var z threadWaker
	z.wake()
	z.prepare()
	begin := time.Now()
	n, errno := z.sleepPoll(nil, 20*time.Millisecond)
	require.Zero(t, errno)
	require.Zero(t, n)
	require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond)
}
