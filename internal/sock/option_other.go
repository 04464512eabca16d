//go:build !linux

package sock

import (
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// The options that only Linux has.
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

// BindToDevice is supported on Linux only.
func (*Socket) BindToDevice(string) error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

// SetJoinedGroupsOnly does nothing: on these systems a socket receives only from the
// groups that it has joined.
func (*Socket) SetJoinedGroupsOnly() error { return nil }

// SetICMPErrors is supported on Linux only.
func (*Socket) SetICMPErrors() error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

func (*Socket) icmpErrorLocked() error { return nil }
