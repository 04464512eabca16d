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

// SetDevice is for Linux.
func (*Socket) SetDevice(string) error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

// JoinedOnly is for Linux: here a socket receives from the groups that it has joined.
func (*Socket) JoinedOnly() error { return nil }

// SetICMPErrors is for Linux.
func (*Socket) SetICMPErrors() error { return os.NewSyscallError("setsockopt", unix.ENOPROTOOPT) }

func (*Socket) icmpError() error { return nil }
