package sock

import "golang.org/x/sys/unix"

// poll(2) of this system reports POLLHUP once the peer has closed its side, but
// looks at the socket only if it is asked for some event.
const pollPeerClosed = unix.POLLHUP
