package sock

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Each further try would copy all segments in vain.
func TestSendSegments_RefusedSegmentationIsNotTriedAgain(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.SetInt(unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)) // the kernel says EINVAL
	require.NoError(t, s.Bind(Addr{IP: netip.MustParseAddrPort("127.0.0.1:0")}, nil))
	to := s.Local()
	for range 2 {
		l, err := s.LockSend(0, -1)
		require.NoError(t, err)
		n, err := l.SendSegments([]byte("aabbc"), 2, 0, to)
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.Equal(t, gsoRefused, s.dgrams.gso)
		l.Unlock()
		buf := make([]byte, 10)
		for _, want := range []string{"aa", "bb", "c"} {
			n, err := s.Recv(buf, unix.MSG_DONTWAIT, -1, nil)
			require.NoError(t, err)
			require.Equal(t, want, string(buf[:n]))
		}
	}
}

// Probe reports datagrams that the kernel delivered with another one.
func TestProbe_ReportsCoalescedDatagrams(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer s.Close()
	s.SetGRO()
	require.NoError(t, s.Bind(Addr{IP: netip.MustParseAddrPort("127.0.0.1:0")}, nil))
	l, err := s.LockSend(0, -1)
	require.NoError(t, err)
	_, err = l.SendSegments([]byte("aabb"), 2, 0, s.Local())
	require.NoError(t, err)
	l.Unlock()
	for range 2 {
		require.Equal(t, Readable, s.Probe())
		_, err = s.Recv(make([]byte, 2), unix.MSG_DONTWAIT, -1, nil)
		require.NoError(t, err)
	}
	require.Equal(t, Idle, s.Probe())
}
