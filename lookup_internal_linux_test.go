package client

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The two families are asked separately, and who is first is RFC 6724's to say all the
// same: not a family without a way there, not IPv4 before a global IPv6 address, and not
// a unique local one before IPv4.
func TestTheOrderOfFamiliesIsThatOfRFC6724(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		defer func() { done <- err }()
		if err != nil {
			return
		}
		ip := func(line string) {
			out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
			require.NoError(t, err, "ip %s: %s", line, out)
		}
		v4First := func(v4, v6 string) bool {
			at := func(s string) sock.Addr { return sock.Addr{IP: netip.AddrPortFrom(netip.MustParseAddr(s), 9)} }
			return prefersV4(at(v4), at(v6))
		}
		ip("link set lo up")
		require.False(t, v4First("127.0.0.1", "::1"))
		require.True(t, v4First("127.0.0.1", "2001:db8::2"), "there is no way to it")
		require.False(t, v4First("192.0.2.1", "::1"), "nor to this")
		for _, address := range []string{"192.0.2.1/24", "2001:db8::1/64", "fd77::1/64"} {
			ip("addr add " + address + " dev lo")
		}
		require.False(t, v4First("192.0.2.1", "2001:db8::1"))
		require.True(t, v4First("192.0.2.1", "fd77::1"), "precedence 35 and 3")
		require.False(t, v4First("127.0.0.1", "2001:db8::1"))
	}()
	if err := <-done; err != nil {
		if os.Getenv("CLIENT_REQUIRE_SERVERS") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs the right to make a network namespace: ", err)
	}
}
