package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

// The options of setsockopt(2) that systems name differently.
const (
	KeepIdle = unix.TCP_KEEPIDLE

	UserTimeout = unix.TCP_USER_TIMEOUT
	FastOpen    = unix.TCP_FASTOPEN_CONNECT
	QuickAck    = unix.TCP_QUICKACK
	Mark        = unix.SO_MARK
	BusyPoll    = unix.SO_BUSY_POLL
	MPTCP       = unix.IPPROTO_MPTCP
)

// SetDevice binds the socket to an interface by its name (SO_BINDTODEVICE).
func (s *Socket) SetDevice(name string) error {
	return s.set(func() error { return unix.BindToDevice(s.fd, name) })
}

// TCPInfo is TCP_INFO of tcp(7). What an older kernel does not know is zero.
func (s *Socket) TCPInfo() (*unix.TCPInfo, error) {
	if err := s.hold(); err != nil {
		return nil, err
	}
	defer s.release()
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return info, os.NewSyscallError("getsockopt", err)
}
