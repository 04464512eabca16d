//go:build !linux

package client_test

import (
	"os"

	"golang.org/x/sys/unix"
)

var waitingCalls map[int]bool

func signalThreads() { _ = unix.Kill(os.Getpid(), unix.SIGURG) }

func unshareNetwork() error { return unix.EPERM }

const sndBufForce = 0
