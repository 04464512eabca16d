package client_test

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inANetworkOfItsOwn runs f on a thread with a network namespace of its own, whose
// loopback interface cut takes down. It needs root.
func inANetworkOfItsOwn(t *testing.T, f func(cut func()) error) {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unshareNetwork(); err != nil {
			result <- err
			return
		}
		if err := setLoopback(true); err != nil {
			result <- err
			return
		}
		result <- f(func() {
			if err := setLoopback(false); err != nil {
				t.Error(err)
			}
		})
	}()
	err := <-result
	if errors.Is(err, unix.EPERM) && os.Getenv("CLIENT_REQUIRE_SERVERS") != "1" {
		t.Skip("needs the right to make a network namespace")
	}
	require.NoError(t, err)
}

// setLoopback is for the network namespace of the calling thread.
func setLoopback(up bool) error {
	return onLoopback(func(request *unix.Ifreq) uint {
		if up {
			request.SetUint16(unix.IFF_UP)
		}
		return unix.SIOCSIFFLAGS
	})
}

// onLoopback makes a netdevice(7) request about the thread's loopback interface.
func onLoopback(prepare func(*unix.Ifreq) (call uint)) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	call := prepare(request)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(call), uintptr(unsafe.Pointer(request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// The kernel gives up a peer behind a failed network (TCP_USER_TIMEOUT). Whichever call
// gets that error first, the receiver returns an error too, not the end of the stream.
func TestRecv_KernelTimeoutIsNotEOF(t *testing.T) {
	inANetworkOfItsOwn(t, func(cut func()) error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{Timeout: -1, UserTimeout: 300 * time.Millisecond})
		if err != nil {
			return err
		}
		defer c.Close()
		peer, err := ln.Accept()
		if err != nil {
			return err
		}
		defer peer.Close()
		cut()
		var wg sync.WaitGroup
		errs := make([]error, 4)
		wg.Go(func() { _, errs[0] = c.Recv(make([]byte, 1), 0) })
		wg.Go(func() {
			for err := error(nil); err == nil; time.Sleep(5 * time.Millisecond) {
				_, err = c.Send([]byte("heartbeat"), 0)
			}
		})
		wg.Wait()
		for i := range errs[1:] {
			_, errs[1+i] = c.Recv(make([]byte, 1), 0)
		}
		for _, err := range errs {
			var errno unix.Errno
			if !errors.As(err, &errno) || !errors.Is(errs[0], errno) {
				t.Errorf("%v, and then %v", errs[0], err)
			}
		}
		return nil
	})
}
