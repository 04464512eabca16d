//go:build !linux

package client_test

import (
	"os"

	"golang.org/x/sys/unix"
)

func waitingThreads() int { return 0 }

func waitingClients(string) error { return nil }
func asyncClients(string) error   { return nil }

func idleClients(string) error { return nil }

func dialSearchList(string) error { return nil }

func signalThreads() { _ = unix.Kill(os.Getpid(), unix.SIGURG) }

func unshareNetwork() error { return unix.EPERM }

const sndBufForce = 0
