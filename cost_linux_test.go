package client_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A round trip is one sendto(2) and one recvfrom(2), without the runtime's poller.
func TestCost_RoundTripIsTwoSystemCalls(t *testing.T) {
	roundTripCosts(t, "roundtrips", 1)
}

// A checkout and its return are one recvfrom(2), the check.
func TestCost_PoolCheckoutIsOneSystemCall(t *testing.T) {
	roundTripCosts(t, "checkouts", 2)
}

// roundTripCosts counts the system calls of a helper process that makes 10,000 round trips.
func roundTripCosts(t *testing.T, part string, recvfroms int) {
	t.Helper()
	if testing.Short() {
		t.Skip("strace takes seconds")
	}
	requireProgram(t, "strace", "strace")
	const trips = 10_000
	counts := filepath.Join(t.TempDir(), "counts")
	cmd := helperCommand(t, part+" "+otherProcess(t, "echo", "unix"), "strace", "-f", "-c", "-o", counts,
		"-e", "trace=network,poll,ppoll,epoll_wait,epoll_pwait,epoll_ctl,eventfd2")
	require.NoError(t, cmd.Run())

	calls := systemCalls(t, counts)
	t.Logf("%d round trips: %v", trips, calls)
	// A signal of the runtime's own may cut a receive short now and then: that one goes
	// through ppoll and recvfrom once more. A pool does not check a new connection.
	const few = trips / 100
	require.GreaterOrEqual(t, calls["sendto"], trips)
	require.GreaterOrEqual(t, calls["recvfrom"], recvfroms*trips-few)
	require.LessOrEqual(t, calls["sendto"]+calls["recvfrom"], (1+recvfroms)*trips+few)
	for _, name := range []string{"poll", "ppoll", "epoll_wait", "epoll_pwait", "epoll_ctl", "eventfd2"} {
		require.LessOrEqual(t, calls[name], few, name)
	}
}

// io.Copy of a file makes the kernel send it: no byte passes through the process.
func TestCost_CopyOfAFileUsesSendfile(t *testing.T) {
	requireProgram(t, "strace", "strace")
	counts := filepath.Join(t.TempDir(), "counts")
	cmd := helperCommand(t, "copy "+otherProcess(t, "sink", "unix"), "strace", "-f", "-c", "-o", counts, "-e", "trace=/^sendfile,sendto,splice")
	require.NoError(t, cmd.Run())
	calls := systemCalls(t, counts)
	require.Positive(t, calls["sendfile"]+calls["sendfile64"]) // the latter on 32-bit machines
	require.Zero(t, calls["sendto"]+calls["splice"], "%v", calls)
}

// SendBuffers of up to 1,024 buffers is one sendmsg(2), and of more one for each 1,024.
func TestCost_SendBuffersIsOneSystemCall(t *testing.T) {
	requireProgram(t, "strace", "strace")
	counts := filepath.Join(t.TempDir(), "counts")
	cmd := helperCommand(t, "buffers "+otherProcess(t, "sink", "unix"), "strace", "-f", "-c", "-o", counts, "-e", "trace=sendto,sendmsg,writev")
	require.NoError(t, cmd.Run())
	calls := systemCalls(t, counts)
	require.Equal(t, 1000+3, calls["sendmsg"])
	require.Zero(t, calls["sendto"]+calls["writev"], "%v", calls)
}

// systemCalls parses strace's table: the calls are in the fourth column, the name in the
// last.
func systemCalls(t *testing.T, path string) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	calls := make(map[string]int)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		columns := strings.Fields(lines.Text())
		if len(columns) < 5 {
			continue
		}
		if n, err := strconv.Atoi(columns[3]); err == nil {
			calls[columns[len(columns)-1]] = n
		}
	}
	require.NotEmpty(t, calls)
	return calls
}

func TestCost_SendAndRecvAllocateNothing(t *testing.T) {
	none := func(name string, f func() error) {
		t.Helper()
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		}), name)
	}
	path := otherProcess(t, "echo", "unix")
	for _, opts := range []*client.Options{nil, {Timeout: -1}, {Timeout: 50 * 1e6}} {
		c, err := client.Dial("unix", path, opts)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		buf := make([]byte, 64)
		bufs := net.Buffers{buf[:30], nil, buf[30:]}
		none("SendBuffers and Recv", func() error {
			if _, err := c.SendBuffers(bufs); err != nil {
				return err
			}
			_, err := c.Recv(buf, client.WaitAll)
			return err
		})
		none("Send and Recv", func() error { return roundTrip(c, buf) })
		none("Write and Read", func() error {
			if _, err := c.Write(buf); err != nil {
				return err
			}
			_, err := c.Read(buf)
			return err
		})
	}

	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	self := netip.MustParseAddrPort(c.LocalAddr().String())
	buf := make([]byte, 64)
	none("SendToAddrPort and RecvFromAddrPort", func() error {
		if _, err := c.SendToAddrPort(buf, self); err != nil {
			return err
		}
		if _, from, err := c.RecvFromAddrPort(buf, 0); err != nil || from != self {
			return fmt.Errorf("from %v: %w", from, err)
		}
		return nil
	})
}
