package sock

import "golang.org/x/sys/unix"

const pollPeerClosed = unix.POLLRDHUP

// fioNWrite is FIONWRITE of sys/filio.h: the bytes in the send buffer.
const fioNWrite = 0x40046677

func (s *Socket) sysUnacknowledged() (int, error) { return unix.IoctlGetInt(s.fd, fioNWrite) }
