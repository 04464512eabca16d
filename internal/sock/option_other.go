//go:build !linux

package sock

import (
	"math"
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

	MaxKeepAlive = math.MaxInt32
	MaxKeepCount = math.MaxInt32
)

// BindToDevice is for Linux.
func (*Socket) BindToDevice(string) error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

// SetJoinedGroupsOnly is for Linux: here a socket receives from the groups that it has joined.
func (*Socket) SetJoinedGroupsOnly() error { return nil }

// SetICMPErrors is for Linux.
func (*Socket) SetICMPErrors() error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

func (*Socket) icmpErrorLocked() error { return nil }
