// Package testleak fails a package's tests when they leave descriptors or
// goroutines behind.
package testleak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs a package's tests as TestMain does and exits. After them it asks more, if there
// are any, what else was left.
func Main(m *testing.M, more ...func() error) {
	// The runtime's poller opens its own descriptors when it is first needed;
	// from then on they are there before.
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
	before := descriptors()
	code := m.Run()
	if code == 0 {
		err := left(before)
		for _, ask := range more {
			err = errors.Join(err, ask())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// left waits a moment for what is on its way out, and names what stays.
func left(before map[string]string) error {
	if err := goleak.Find(); err != nil {
		return fmt.Errorf("goroutines left: %w", err)
	}
	const patience = 2 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC() // package net pools the pipes that it splices through
		extra := descriptors()
		for fd, what := range before {
			if extra[fd] == what {
				delete(extra, fd)
			}
		}
		if len(extra) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("descriptors left: %v", extra)
		}
	}
}

// descriptors tells what each open descriptor is; nothing where there is no /proc.
func descriptors() map[string]string {
	open := make(map[string]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return open
	}
	for _, e := range entries {
		what, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil {
			continue // the descriptor that read the directory
		}
		open[e.Name()] = what
	}
	return open
}
