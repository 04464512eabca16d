package sock

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSockaddr_AbstractNameKeepsAllItsBytes(t *testing.T) {
	for _, path := range []string{"@x", "@with\x00zero", "@" + string(make([]byte, MaxPath-1))} {
		var n rawSockaddr
		require.NoError(t, n.set(&Socket{domain: unix.AF_UNIX}, Addr{Path: path}))
		require.EqualValues(t, 2+len(path), n.len, "no terminating zero")
		require.Equal(t, path, n.addr(nil).Path)
	}
	var n rawSockaddr
	require.NoError(t, n.set(&Socket{domain: unix.AF_UNIX}, Addr{}))
	require.EqualValues(t, 2, n.len, "only the family")
	require.True(t, n.addr(nil).IsZero())
	require.True(t, new(rawSockaddr).addr(nil).IsZero())
	n = rawSockaddr{len: unix.SizeofSockaddrAny}
	n.raw.Addr.Family = unix.AF_NETLINK
	require.True(t, n.addr(nil).IsZero())
}

func TestSockaddr_PortIsInNetworkByteOrder(t *testing.T) {
	var n rawSockaddr
	require.NoError(t, n.set(&Socket{domain: unix.AF_INET}, Addr{IP: netip.MustParseAddrPort("1.2.3.4:258")}))
	require.Equal(t, []byte{1, 2, 1, 2, 3, 4}, func() []byte {
		out := make([]byte, 6)
		for i := range out {
			out[i] = byte(n.raw.Addr.Data[i])
		}
		return out
	}())
}
