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

// maxForeignErrors is how often an error of a send, on a socket that queues ICMP errors, is
// taken for that of another datagram, and the send made again. The kernel gives a send the
// error of whatever datagram was last, and a receive that takes one from the queue has it
// give the next (sock_dequeue_err_skb): there can be as many as are queued, but hardly so
// many in a row. An error that is the send's own, because there is no route, stays.
func maxForeignErrors(errno unix.Errno) int {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EPROTO, unix.EACCES:
		return 100
	case unix.EMSGSIZE:
		return 10 // each that is the send's own takes room in the queue too
	}
	return 0
}
