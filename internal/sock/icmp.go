package sock

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// An ICMPError is what a router or host reported about a datagram.
type ICMPError struct {
	Errno      unix.Errno
	Type, Code uint8          // of ICMP or ICMPv6; zero if this machine reported it
	To         netip.AddrPort // the destination of the datagram
	By         netip.Addr     // the sender of the report
	MTU        int            // the largest size that passes, if the datagram was too long
}

func (e *ICMPError) Error() string { return e.Errno.Error() }

// ICMPErrnos are the errors that the kernel makes of ICMP messages about a datagram
// (icmp_err_convert, icmpv6_err_convert).
var ICMPErrnos = []unix.Errno{
	unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENOPROTOOPT,
	unix.EOPNOTSUPP, unix.EPROTO, unix.EACCES, unix.EMSGSIZE, hostIsolated,
}

// maxForeignErrors is how many errors of a send, on a socket that queues ICMP errors, are
// taken for errors of other datagrams, so that the send is made again. The kernel returns
// the last queued error to a send, whatever datagram it is about. A receive that consumes
// a queued error arms the next one (sock_dequeue_err_skb). So there can be as many as are
// queued, but hardly this many in a row. An error of the send itself, as when there is no
// route, remains.
func maxForeignErrors(errno unix.Errno) int {
	switch {
	case errno == unix.EMSGSIZE:
		return 10 // the send's own errors are queued too
	case slices.Contains(ICMPErrnos, errno):
		return 100
	}
	return 0
}
