package sock

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BindNoPort binds a TCP socket to an IP address and has the kernel choose the port when
// it connects (IP_BIND_ADDRESS_NO_PORT, ip(7)): a port chosen by bind(2) is taken for
// all peers, one chosen by connect(2) only for that one. A kernel that has no such
// option chooses it now.
func (s *Socket) BindNoPort(a Addr) error {
	_ = s.SetInt(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // of IPv6 sockets too
	return s.Bind(a, nil)
}

// BindPort binds a TCP socket to an address with a port that nobody uses; connections
// that are over, and only wait for late segments (TIME_WAIT), do not count. With shared
// it may also be in use by sockets that have had AllowReuse.
//
// SO_REUSEADDR by itself is not that rule: it lets two sockets that have it bind to
// the same port whatever they do with it, short of listening. So it is set only if
// the port cannot be had otherwise and no connection is alive on it.
func (s *Socket) BindPort(a Addr, shared bool) error {
	if !shared {
		err := s.Bind(a, nil)
		if !errors.Is(err, unix.EADDRINUSE) || inUse(a.IP) {
			return err
		}
	}
	if err := s.SetReuseAddr(true); err != nil {
		return err
	}
	err := s.Bind(a, nil)
	if off := s.SetReuseAddr(false); err == nil {
		err = off
	}
	if err == nil && !shared && inUse(a.IP) { // by one that has connected since
		err = os.NewSyscallError("bind", unix.EADDRINUSE)
	}
	return err
}

// AllowReuse lets other sockets that allow the same bind to the address of this one
// (SO_REUSEADDR). A connected socket has to, for the sake of its TIME_WAIT; one
// that is only bound is then no longer safe from them.
func (s *Socket) SetReuseAddr(on bool) error {
	value := 0
	if on {
		value = 1
	}
	return s.SetInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

// inUse reports whether a TCP connection or a listener has a local address that
// conflicts with a. What cannot be found out counts as in use.
func inUse(a netip.AddrPort) bool {
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(path, "6") {
				continue // a kernel without IPv6
			}
			return true
		}
		used, err := tcpTableHas(f, a)
		_ = f.Close()
		if used || err != nil {
			return true
		}
	}
	return false
}

// tcpTableHas looks for live sockets on a in a table like /proc/net/tcp; see proc(5).
func tcpTableHas(table io.Reader, a netip.AddrPort) (bool, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		const local, state, inode = 1, 3, 9
		fields := strings.Fields(lines.Text())
		if len(fields) <= inode {
			continue
		}
		addr, port, ok := parseTableAddr(fields[local])
		if !ok || port != a.Port() || !conflicts(addr, a.Addr()) {
			continue
		}
		switch st, _ := strconv.ParseUint(fields[state], 16, 8); st {
		case unix.BPF_TCP_TIME_WAIT:
		case unix.BPF_TCP_FIN_WAIT1, unix.BPF_TCP_FIN_WAIT2, unix.BPF_TCP_CLOSING, unix.BPF_TCP_LAST_ACK:
			if fields[inode] != "0" { // some program has it still
				return true, nil
			}
		default:
			return true, nil
		}
	}
	return false, lines.Err()
}

// parseTableAddr reads "0100007F:0050": 32-bit words in this machine's order, and a port.
func parseTableAddr(s string) (netip.Addr, uint16, bool) {
	words, digits, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	port, err := strconv.ParseUint(digits, 16, 16)
	return addr, uint16(port), ok && err == nil
}

// conflicts reports whether two sockets of one port with these addresses would be in
// each other's way. used is an IPv6 socket's if it is no IPv4 address, and that
// may speak IPv4 too.
func conflicts(used, wanted netip.Addr) bool {
	switch u := used.Unmap(); {
	case u == netip.IPv6Unspecified():
		return true
	case u.Is4() != wanted.Is4():
		return false
	default:
		return u == wanted.WithZone("") || u.IsUnspecified() || wanted.IsUnspecified()
	}
}
