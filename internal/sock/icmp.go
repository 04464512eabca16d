package sock

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// An ICMPError is what somebody on the way has said of a datagram.
type ICMPError struct {
	Errno      unix.Errno
	Type, Code uint8          // of ICMP, or of ICMPv6; zero if it is this machine that says so
	To         netip.AddrPort // whom the datagram was for
	By         netip.Addr     // who says so
	MTU        int            // what would have passed, if it was too long
}

func (e *ICMPError) Error() string { return e.Errno.Error() }
