package sock

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testTimeout is an upper bound that no machine is too slow for.
const testTimeout = 10 * time.Second

// TestMain runs the tests with calls that park if CLIENT_TEST_MAX_THREADS is 0.
func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv("CLIENT_TEST_MAX_THREADS")); err == nil {
		SetMaxThreads(n)
	}
	testleak.Main(m)
}

func TestInstant_ConversionsAndArithmetic(t *testing.T) {
	require.Equal(t, Never, In(-1))
	require.Equal(t, Never, In(math.MaxInt64), "too far away to be represented")
	require.Equal(t, Never, At(time.Time{}))
	require.Equal(t, Never, At(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), "too far away, but not the past")
	require.Equal(t, Never, At(time.Unix(math.MaxInt64>>2, 0)))
	require.Equal(t, Never, At(time.Now().Add(math.MaxInt64)))
	for _, past := range []time.Time{time.Unix(math.MinInt64>>2, 0), time.Time{}.Add(1), time.Now().Add(math.MinInt64)} {
		require.Positive(t, At(past))
		require.LessOrEqual(t, At(past).Left(), time.Duration(0), past)
	}
	require.Positive(t, At(time.Now().Add(290*365*24*time.Hour)).Left())
	require.Positive(t, At(time.Unix(1, 0)), "long over, but not Never")
	require.Negative(t, At(time.Unix(1, 0)).Left())
	require.Equal(t, forever, Never.Left())
	require.InDelta(t, time.Hour, In(time.Hour).Left(), float64(time.Minute))
	require.InDelta(t, time.Hour, At(time.Now().Add(time.Hour)).Left(), float64(time.Minute))
	require.LessOrEqual(t, In(0).Left(), time.Duration(0))
	require.Equal(t, Never, Never.Partial(3))
	require.InDelta(t, 20*time.Minute, In(time.Hour).Partial(3).Left(), float64(time.Minute))
	over := At(time.Unix(1, 0)).Partial(2)
	require.NotEqual(t, Never, over, "a part of no time is no time, not Never")
	require.LessOrEqual(t, over.Left(), time.Duration(0))
	require.Equal(t, Instant(5), Instant(3).Add(2))
	require.Equal(t, Instant(1), Instant(3).Add(-2))
	require.Equal(t, Instant(1), Instant(3).Add(-3), "but not Never")
	require.Equal(t, Instant(1), Instant(3).Add(math.MinInt64))
	require.Equal(t, Never, Instant(3).Add(math.MaxInt64))
	require.Equal(t, Instant(3), Earlier(3, Never))
	require.Equal(t, Instant(3), Earlier(Never, 3))
	require.Equal(t, Instant(3), Earlier(3, 4))
	require.Equal(t, Instant(3), Earlier(4, 3))
	require.Equal(t, Never, Earlier(Never, Never))
}

func TestFDWaker_KeepsAWakeThatComesFirst(t *testing.T) {
	var k fdWaker
	defer k.close()
	k.wake() // before the descriptor exists
	fd, err := k.pollFD()
	require.NoError(t, err)
	readable := func() bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, errno := sleepPoll(fds, 0)
		require.Zero(t, errno)
		return n == 1
	}
	require.True(t, readable())
	k.drain()
	require.False(t, readable())
	for range 3 {
		k.wake()
		k.wake()
		require.True(t, readable())
		k.drain()
		require.False(t, readable(), "one drain clears two wakes")
	}
}

func TestFDWaker_WakeAfterCloseTouchesNoOtherFile(t *testing.T) {
	var k fdWaker
	fd, err := k.pollFD()
	require.NoError(t, err)
	k.close()
	victim, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(victim)
	require.Equal(t, fd, victim, "the descriptor's number is in use again")
	k.wake()
	k.drain()
	k.close()
	_, err = unix.FcntlInt(uintptr(victim), unix.F_GETFD, 0)
	require.NoError(t, err)
}

func testAddrs() map[int][]Addr {
	return map[int][]Addr{
		unix.AF_INET:  {{IP: netip.MustParseAddrPort("127.0.0.1:80")}, {IP: netip.MustParseAddrPort("255.1.2.3:65535")}},
		unix.AF_INET6: {{IP: netip.MustParseAddrPort("[::1]:443")}, {IP: netip.MustParseAddrPort("[2001:db8::1]:1")}},
		unix.AF_UNIX:  {{Path: "/some/where"}, {Path: "relative"}},
	}
}

func TestSockaddr_RoundTrip(t *testing.T) {
	for domain, list := range testAddrs() {
		for _, a := range list {
			var n rawSockaddr
			require.NoError(t, n.set(&Socket{domain: domain}, a))
			require.Equal(t, a, n.addr(nil))
		}
	}
	var n rawSockaddr
	require.Equal(t, unix.EAFNOSUPPORT, n.set(&Socket{domain: unix.AF_INET}, Addr{IP: netip.MustParseAddrPort("[::1]:1")}))
	require.Equal(t, unix.EAFNOSUPPORT, n.set(&Socket{domain: unix.AF_INET6}, Addr{IP: netip.MustParseAddrPort("1.2.3.4:1")}))
	require.Equal(t, unix.EAFNOSUPPORT, n.set(&Socket{domain: unix.AF_INET}, Addr{}))
	require.Equal(t, unix.EAFNOSUPPORT, n.set(&Socket{domain: unix.AF_UNIX}, Addr{IP: netip.MustParseAddrPort("1.2.3.4:1")}))
	require.Equal(t, unix.ENAMETOOLONG, n.set(&Socket{domain: unix.AF_UNIX}, Addr{Path: string(make([]byte, MaxPath+1))}))
}

func TestZone_IsAnInterface(t *testing.T) {
	lo := "lo"
	if runtime.GOOS != "linux" {
		lo = "lo0"
	}
	s, err := Open(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer s.Close()
	index, err := s.zoneIndex(lo)
	require.NoError(t, err)
	require.Positive(t, index)
	require.Equal(t, lo, s.zoneName(index))
	require.Equal(t, "4242", s.zoneName(4242), "an interface that does not exist")
	require.Empty(t, s.zoneName(0))
	index, err = s.zoneIndex("4242")
	require.NoError(t, err)
	require.EqualValues(t, 4242, index)
	for _, zone := range []string{"no such interface", "nowhere", "4294967296", lo + "\x00", strings.Repeat("x", 16), "-1"} {
		_, err = s.zoneIndex(zone)
		var ae *net.AddrError
		require.ErrorAs(t, err, &ae, zone)
	}
	var n rawSockaddr
	a := Addr{IP: netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(lo), 1)}
	require.NoError(t, n.set(s, a))
	require.Equal(t, a, n.addr(s))
}

func TestDialParallel_DropsAllButTheFirstToConnect(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	good := Addr{IP: netip.MustParseAddrPort(ln.Addr().String())}
	broken := errors.New("no socket")
	dropped := 0
	var opened []*Socket
	wrong := testAddrs()[unix.AF_INET6][0] // not of the sockets' family
	s, winner, results := DialParallel([]Addr{testAddrs()[unix.AF_INET][0], wrong, good}, nil, time.Hour, In(testTimeout), nil,
		func(a Addr) (*Socket, error) {
			if a != wrong && a != good {
				return nil, broken
			}
			s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
			opened = append(opened, s)
			return s, err
		},
		func(s *Socket, _ Addr, err error) { dropped++; require.Error(t, err); _ = s.Close() })
	require.Nil(t, results)
	require.Equal(t, good, winner)
	require.Equal(t, 1, dropped)
	require.Same(t, opened[1], s)
	local, peer := s.Addrs()
	require.Equal(t, good, peer)
	require.Equal(t, s.Local(), local)
	require.NoError(t, s.Close())
	require.True(t, s.Local().IsZero())
}

// A dial that has no attempt left waits for addresses also if it may hold no thread.
func TestDialParallel_WaitsForAddressesWithoutAThread(t *testing.T) {
	defer SetMaxThreads(SetMaxThreads(0))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	late := Addr{IP: netip.MustParseAddrPort(ln.Addr().String())}
	more := MoreAddrs{Update: func([]Addr) ([]Addr, bool) { return []Addr{late}, false }}
	defer more.Close()
	time.AfterFunc(20*time.Millisecond, more.Notify)
	wrong := testAddrs()[unix.AF_INET6][0] // not of the sockets' family: it fails at once
	s, winner, results := DialParallel([]Addr{wrong}, &more, time.Hour, In(testTimeout), nil,
		func(Addr) (*Socket, error) { return Open(unix.AF_INET, unix.SOCK_STREAM, 0) },
		func(s *Socket, _ Addr, _ error) { _ = s.Close() })
	require.Nil(t, results)
	require.Equal(t, late, winner)
	require.NoError(t, s.Close())
}

// As if names of unix sockets were on a file system that does not answer.
func TestConnect_ThatSleepsKeepsNoOtherFromConnecting(t *testing.T) {
	for range connectsAtOnce {
		defer enterConnect()()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	s.AlwaysPark(true)
	connected := make(chan error, 1)
	go func() {
		connected <- s.Connect(Addr{IP: netip.MustParseAddrPort(ln.Addr().String())}, In(testTimeout), nil)
	}()
	select {
	case err := <-connected:
		require.NoError(t, err)
	case <-time.After(testTimeout):
		t.Error("it waits for the others")
	}
}

func TestStopper_EndsADialThatHasNotBegun(t *testing.T) {
	var stop Stopper
	defer stop.Close()
	stop.Stop()
	s, _, results := DialParallel(testAddrs()[unix.AF_INET], nil, 0, Never, &stop,
		func(Addr) (*Socket, error) { t.Error("opened"); return nil, unix.EMFILE },
		func(*Socket, Addr, error) { t.Error("dropped") })
	require.Nil(t, s)
	require.Len(t, results, 2)
	for i, result := range results {
		require.Equal(t, testAddrs()[unix.AF_INET][i], result.Addr)
		require.ErrorIs(t, result.Err, ErrStopped)
		require.ErrorContains(t, result.Err, "not tried")
	}
	require.False(t, (*Stopper)(nil).Stopped())
}

func TestConnect_ExpiredLimitIsATimeout(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer s.Close()
	err = s.Connect(testAddrs()[unix.AF_INET][0], At(time.Unix(1, 0)), nil)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	op := &net.OpError{Op: "connect", Err: err}
	require.True(t, op.Timeout())
	require.True(t, op.Temporary()) //nolint:staticcheck // crypto/tls calls it
}

func TestClose_EveryMethodReturnsErrClosed(t *testing.T) {
	s, err := Open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.True(t, s.Closed())
	for name, f := range map[string]func() error{
		"Close":            s.Close,
		"SetInt":           func() error { return s.SetInt(unix.SOL_SOCKET, unix.SO_RCVBUF, 1) },
		"Shutdown":         func() error { return s.Shutdown(unix.SHUT_RD, Never) },
		"SetReadDeadline":  func() error { return s.SetReadDeadline(1) },
		"SetWriteDeadline": func() error { return s.SetWriteDeadline(1) },
		"Bind":             func() error { return s.Bind(Addr{}, nil) },
		"Connect":          func() error { return s.Connect(Addr{}, Never, nil) },
		"Recv":             func() error { _, err := s.Recv(nil, 0, 0, nil); return err },
		"Recv, not waiting": func() error {
			_, err := s.Recv(nil, unix.MSG_DONTWAIT, 0, nil)
			return err
		},
		"Read":              func() error { _, err := s.Read(nil); return err },
		"Send":              func() error { _, err := s.Send(nil, 0, 0); return err },
		"Send, not waiting": func() error { _, err := s.Send(nil, unix.MSG_DONTWAIT, 0); return err },
		"Write":             func() error { _, err := s.Write(nil); return err },
		"SendTo":            func() error { _, err := s.SendTo(nil, testAddrs()[unix.AF_INET][0], 0); return err },
		"Raw.Control":       func() error { return s.Raw().Control(func(uintptr) {}) },
		"Raw.Read":          func() error { return s.Raw().Read(func(uintptr) bool { return true }) },
		"Raw.Write":         func() error { return s.Raw().Write(func(uintptr) bool { return true }) },
	} {
		require.ErrorIs(t, f(), net.ErrClosed, name)
	}
	s.DiscardQueued()
	require.False(t, s.PeerOpen())
	require.True(t, s.Local().IsZero())
}

// A Close that comes before the connect waits must end it too.
func TestConnect_SocketClosedMeanwhile(t *testing.T) {
	for range 200 {
		s, err := Open(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		require.NoError(t, err)
		result := make(chan error, 1)
		go func() {
			var stop Stopper
			defer stop.Close()
			result <- s.Connect(Addr{Path: "/nowhere/at/all"}, Never, &stop)
		}()
		require.NoError(t, s.Close())
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			require.ErrorIs(t, err, unix.ENOENT)
		}
	}
}

func FuzzSockaddr(f *testing.F) {
	for _, s := range []string{"", "/a", "@b", "\x00c", "d\x00e", "@\x00f"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := Addr{Path: string(raw)}
		var n rawSockaddr
		if err := n.set(&Socket{domain: unix.AF_UNIX}, a); err != nil {
			require.Greater(t, len(raw), MaxPath)
			return
		}
		_ = n.addr(nil) // must not panic
	})
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func addrOf(sa unix.Sockaddr) Addr {
	in := sa.(*unix.SockaddrInet4)
	return Addr{IP: netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))}
}
