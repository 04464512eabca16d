package sock

import "golang.org/x/sys/unix"

// pollPeerClosed is what poll(2) reports when the peer has closed its side. On this system
// it is POLLHUP, and poll(2) checks the socket only if some event is requested.
const pollPeerClosed = unix.POLLHUP

func (s *Socket) sysUnacknowledged() (int, error) {
	return unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_NWRITE)
}
