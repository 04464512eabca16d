package sock

import "golang.org/x/sys/unix"

const pollPeerClosed = unix.POLLRDHUP
