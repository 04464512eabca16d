//go:build !linux

package sock

import (
	"os"

	"golang.org/x/sys/unix"
)

// Options that only Linux has.
const (
	UserTimeout = 0
	FastOpen    = 0
	QuickAck    = 0
	Mark        = 0
	BusyPoll    = 0
	MPTCP       = 0
)

// SetDevice is for Linux.
func (*Socket) SetDevice(string) error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

// SetICMPErrors is for Linux.
func (*Socket) SetICMPErrors() error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

func (*Socket) icmpError() error { return nil }
