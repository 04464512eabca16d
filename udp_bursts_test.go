package client_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// Bursts of datagrams come back from a peer, which the kernel cannot drop because the next
// burst waits for the last one: a call that loses a datagram or its wake-up stops the exchange.
// Calls of every kind receive and send them. In half of the cases deadlines end some calls.
func TestUDP_EveryDatagramOfABurstComesBack(t *testing.T) {
	const bursts = 200
	for _, gro := range []bool{false, true} {
		for _, deadlines := range []bool{false, true} {
			for _, asConn := range []bool{false, true} {
				t.Run(fmt.Sprintf("GRO=%v/deadlines=%v/Read=%v", gro, deadlines, asConn), func(t *testing.T) {
					c, peer := datagramPair(t, "udp", client.Options{GRO: gro, Timeout: -1, RecvBuffer: 1 << 18})
					exchangeBursts(t, c, peer, bursts, deadlines, asConn)
				})
			}
		}
	}
}

const maxBurst = 32 // datagrams

func exchangeBursts(t *testing.T, c, peer *client.Client, bursts int, deadlines, asConn bool) {
	var running sync.WaitGroup
	defer running.Wait()
	answered := make(chan error, 1)
	running.Go(func() {
		answered <- answerBursts(peer, c.LocalAddr())
	})
	defer func() { _ = peer.Close() }() // before the wait, if the test fails
	stop := make(chan struct{})
	defer close(stop)
	if deadlines {
		running.Go(func() {
			for {
				for _, c := range []*client.Client{c, peer} {
					limit := time.Duration(rand.IntN(300)-50) * time.Microsecond
					_ = c.SetReadDeadline(time.Now().Add(limit))
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond):
				}
			}
		})
	}
	done := make(chan error, 1)
	progress := make(chan int, 1)
	running.Go(func() { done <- sendBursts(c, bursts, asConn, progress) })
	last, stalled := -1, 0
	for waiting := true; waiting; {
		select {
		case err := <-done:
			require.NoError(t, err)
			waiting = false
		case last = <-progress:
			stalled = 0
		case <-time.After(10 * time.Second):
			// The process may have had no CPU time. Then the exchange goes on now.
			if stalled++; stalled < 5 {
				continue
			}
			_, _ = c.Close(), peer.Close()
			t.Fatalf("after %d bursts the exchange has stopped", last)
		}
	}
	require.NoError(t, peer.Close())
	select {
	case err := <-answered:
		require.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(time.Minute):
		t.Fatal("Close does not end the call that receives")
	}
}

// sendBursts sends bursts and waits for each datagram of them.
func sendBursts(c *client.Client, bursts int, asConn bool, progress chan<- int) error {
	ds := buffers(maxBurst, 2000)
	for i := range bursts {
		size := 8 + rand.IntN(1200)
		n := 1 + rand.IntN(maxBurst)
		p := make([]byte, n*size)
		for j := range n {
			binary.BigEndian.PutUint32(p[j*size:], uint32(i))
			binary.BigEndian.PutUint32(p[j*size+4:], uint32(j))
		}
		if err := sendBurst(c, p, size); err != nil {
			return err
		}
		var back [maxBurst]bool
		for missing := n; missing > 0; {
			got, err := receiveSome(c, ds, asConn)
			if err != nil {
				return err
			}
			for _, d := range ds[:got] {
				if d.N != size {
					return fmt.Errorf("burst %d: datagram of %d bytes, not %d", i, d.N, size)
				}
				burst, j := binary.BigEndian.Uint32(d.Buf), binary.BigEndian.Uint32(d.Buf[4:])
				if burst != uint32(i) || j >= uint32(n) || back[j] {
					return fmt.Errorf("burst %d: datagram %d of burst %d, again: %v", i, j, burst, j < maxBurst && back[j])
				}
				back[j] = true
				missing--
			}
		}
		select {
		case progress <- i:
		default:
		}
	}
	return nil
}

func sendBurst(c *client.Client, p []byte, size int) (err error) {
	switch rand.IntN(3) {
	case 0:
		_, err = c.SendSegments(p, size, 0)
	case 1:
		var ds []client.Datagram
		for ; len(p) > 0; p = p[size:] {
			ds = append(ds, client.Datagram{Buf: p[:size]})
		}
		_, err = c.SendBatch(ds, 0)
	default:
		for ; len(p) > 0 && err == nil; p = p[size:] {
			_, err = c.Send(p[:size], 0)
		}
	}
	return err
}

// receiveSome receives by one of the calls, and again after a deadline.
func receiveSome(c *client.Client, ds []client.Datagram, asConn bool) (n int, err error) {
	for {
		how := rand.IntN(4)
		if asConn {
			how = 4
		}
		switch n = 1; how {
		case 0:
			ds[0].N, err = c.Recv(ds[0].Buf, 0)
		case 1:
			ds[0].N, ds[0].Addr, err = c.RecvFromAddrPort(ds[0].Buf, 0)
		case 2:
			if ds[0].N, err = c.Recv(ds[0].Buf, client.Peek); err == nil {
				ds[0].N, err = c.Recv(ds[0].Buf, client.DontWait)
			}
		case 3:
			n, err = c.RecvBatch(ds[:1+rand.IntN(len(ds))], 0)
		case 4:
			ds[0].N, err = c.Read(ds[0].Buf)
		}
		if n > 0 && err == nil {
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Time{}) // a closed client tells so in the next call
	}
}

// answerBursts sends back what it receives.
func answerBursts(c *client.Client, to net.Addr) error {
	addr := to.(*net.UDPAddr).AddrPort()
	ds := buffers(maxBurst, 2000)
	for {
		n, err := receiveSome(c, ds, false)
		if err != nil {
			return err
		}
		back := make([]client.Datagram, n)
		for i, d := range ds[:n] {
			back[i] = client.Datagram{Buf: d.Buf[:d.N], Addr: addr}
		}
		if _, err := c.SendBatch(back, 0); err != nil {
			return err
		}
	}
}
