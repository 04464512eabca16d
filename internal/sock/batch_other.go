//go:build !linux

package sock

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Batch is for Linux. Elsewhere each datagram takes a system call of its own; see MaxBatch.
type Batch struct{}

// NewBatch is for Linux.
func NewBatch() *Batch { return nil }

// Free is for Linux.
func (*Batch) Free() {}

// MaxBatch is 1: this system has no batches.
func (*IOLock) MaxBatch() int { return 1 }

// Add is for Linux.
func (*Batch) Add(*Socket, []byte, Addr) error { return nil }

// AddBuffer is for Linux.
func (*Batch) AddBuffer([]byte) {}

// Received is for Linux.
func (*Batch) Received(*Socket, int) (size int, from Addr) { return 0, Addr{} }

func (*Socket) sysRecvBatch(*Batch) (int, unix.Errno) { return 0, unix.EAGAIN }

func (*Socket) sysSendBatch(*Batch) (int, unix.Errno) { return 0, unix.EAGAIN }

func (*Socket) supportsGSO() bool { return false }

// SetGRO is for Linux.
func (*Socket) SetGRO() {}

func (*Socket) adoptGRO() {}

type groBuffer struct{ left atomic.Int32 }

func (*Socket) discardGRO() {}
