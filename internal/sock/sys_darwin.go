package sock

// poll(2) of this system reports POLLHUP, which needs no asking for, once the
// peer has closed its side.
const pollPeerClosed = 0
