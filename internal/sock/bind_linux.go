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

// BindNoPort binds a TCP socket to an IP address and lets connect(2) choose the port
// (IP_BIND_ADDRESS_NO_PORT, ip(7)). A port chosen by bind(2) is in use for all peers, one
// chosen by connect(2) for one peer only. A kernel without the option chooses the port
// now.
func (s *Socket) BindNoPort(a Addr) error {
	_ = s.SetInt(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // for IPv6 sockets too
	return s.Bind(a, nil)
}

// BindPort binds a TCP socket to an address whose port is not in use. Closed connections
// in TIME_WAIT do not count. With shared, sockets that called SetReuseAddr may use the
// port too.
//
// SO_REUSEADDR alone does not give this rule: two sockets that set it can bind to the same
// port in any state but LISTEN. So BindPort sets it only if bind(2) fails without it and
// no live connection uses the port.
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
	if err == nil && !shared && inUse(a.IP) { // a socket has connected since the check
		err = os.NewSyscallError("bind", unix.EADDRINUSE)
	}
	return err
}

// SetReuseAddr allows other sockets that do the same to bind to this socket's address
// (SO_REUSEADDR). A connected socket has to, because of its TIME_WAIT. A socket that is
// only bound must not.
func (s *Socket) SetReuseAddr(on bool) error {
	value := 0
	if on {
		value = 1
	}
	return s.SetInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

// inUse reports whether a TCP connection or listener uses an address that conflicts with
// a. If that cannot be determined, the answer is true.
func inUse(a netip.AddrPort) bool {
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(path, "6") {
				continue // the kernel has no IPv6
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
			if fields[inode] != "0" { // a process still has it open
				return true, nil
			}
		default:
			return true, nil
		}
	}
	return false, lines.Err()
}

// parseTableAddr parses "0100007F:0050": 32-bit words in host byte order, and a port.
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

// conflicts reports whether two sockets on the same port conflict by their addresses. If
// used is not an IPv4 address, it belongs to an IPv6 socket, which may use IPv4 too.
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
