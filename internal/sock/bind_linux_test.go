package sock

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tableAddr formats an address as in /proc/net/tcp.
func tableAddr(s string) string {
	a := netip.MustParseAddrPort(s)
	out := ""
	for b := a.Addr().AsSlice(); len(b) > 0; b = b[4:] {
		out += fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b))
	}
	return fmt.Sprintf("%s:%04X", out, a.Port())
}

func TestTCPTable_FindsSocketsThatConflictWithABind(t *testing.T) {
	const (
		established, finWait2, timeWait, lastAck, listen = "01", "05", "06", "09", "0A"
	)
	for _, test := range []struct {
		local, state string
		inode        int
		wanted       string
		used         bool
	}{
		{"127.0.0.1:80", established, 7, "127.0.0.1:80", true},
		{"127.0.0.1:80", established, 7, "127.0.0.1:81", false},
		{"127.0.0.1:80", established, 7, "127.0.0.2:80", false},
		{"127.0.0.1:80", established, 7, "0.0.0.0:80", true},
		{"0.0.0.0:80", listen, 7, "127.0.0.1:80", true},
		{"127.0.0.1:80", timeWait, 0, "127.0.0.1:80", false},
		{"127.0.0.1:80", finWait2, 0, "127.0.0.1:80", false},
		{"127.0.0.1:80", finWait2, 7, "127.0.0.1:80", true},
		{"127.0.0.1:80", lastAck, 0, "0.0.0.0:80", false},
		{"127.0.0.1:80", established, 7, "[::]:80", false},
		{"[::ffff:127.0.0.1]:80", established, 7, "127.0.0.1:80", true},
		{"[::ffff:127.0.0.1]:80", established, 7, "[::1]:80", false},
		{"[::1]:80", established, 7, "[::1]:80", true},
		{"[::1]:80", established, 7, "[::2]:80", false},
		{"[::1]:80", established, 7, "[::]:80", true},
		{"[::1]:80", established, 7, "127.0.0.1:80", false},
		{"[::]:80", listen, 7, "127.0.0.1:80", true},
		{"[fe80::1]:80", established, 7, "[fe80::1%lo]:80", true},
	} {
		table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
			fmt.Sprintf("   0: %s %s %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0\n",
				tableAddr(test.local), tableAddr("127.0.0.1:1"), test.state, test.inode)
		used, err := tcpTableHas(strings.NewReader(table), netip.MustParseAddrPort(test.wanted))
		require.NoError(t, err)
		require.Equal(t, test.used, used, "%v", test)
	}
	used, err := tcpTableHas(strings.NewReader("no such table\n   0: zz:50 1 01 0 0 0 0 0 0 7\n"), netip.MustParseAddrPort("127.0.0.1:80"))
	require.NoError(t, err)
	require.False(t, used)
}
