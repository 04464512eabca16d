package sock

import "golang.org/x/sys/unix"

// pollPeerClosed is what poll(2) reports when the peer has closed its side. On this system
// it is POLLHUP, and poll(2) checks the socket only if some event is requested.
const pollPeerClosed = unix.POLLHUP
