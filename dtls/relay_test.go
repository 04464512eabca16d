package dtls_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// A relay is a network between a client and a server, that loses, doubles and reorders
// datagrams. A fate returns what becomes of the nth datagram, from 0, of one direction: what is sent
// on, in this order.
type relay struct {
	addr               string
	toServer, toClient *counter
	front, back        *net.UDPConn
	client             atomic.Pointer[net.UDPAddr]
}

type fate func(n int, datagram []byte) [][]byte

// A counter counts what went in and came out of one direction.
type counter struct {
	mu      sync.Mutex
	in, out int
	fate    fate
	seen    func([]byte)
}

func (c *counter) set(f fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fate, c.in, c.out = f, 0, 0
}

func (c *counter) counts() (in, out int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in, c.out
}

func (c *counter) pass(datagram []byte) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := [][]byte{datagram}
	if c.fate != nil {
		out = c.fate(c.in, datagram)
	}
	c.in++
	c.out += len(out)
	return out
}

func newRelay(t testing.TB, server string, toServer, toClient fate) *relay {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", server)
	require.NoError(t, err)
	r := &relay{toServer: &counter{fate: toServer}, toClient: &counter{fate: toClient}}
	r.front, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r.back, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r.addr = r.front.LocalAddr().String()
	var done sync.WaitGroup
	done.Go(func() {
		r.forward(r.front, r.toServer, func(from *net.UDPAddr, p []byte) {
			r.client.Store(from)
			_, _ = r.back.WriteToUDP(p, to) // an error is a loss
		})
	})
	done.Go(func() {
		r.forward(r.back, r.toClient, func(_ *net.UDPAddr, p []byte) {
			_, _ = r.front.WriteToUDP(p, r.client.Load())
		})
	})
	t.Cleanup(func() {
		_, _ = r.front.Close(), r.back.Close()
		done.Wait()
	})
	return r
}

func (r *relay) forward(from *net.UDPConn, c *counter, send func(*net.UDPAddr, []byte)) {
	buf := make([]byte, 1<<16)
	for {
		n, addr, err := from.ReadFromUDP(buf)
		if err != nil {
			return
		}
		for _, p := range c.pass(append([]byte(nil), buf[:n]...)) {
			send(addr, p)
		}
	}
}

// lose loses the datagrams with these numbers.
func lose(numbers ...int) fate {
	return func(n int, datagram []byte) [][]byte {
		for _, lost := range numbers {
			if n == lost {
				return nil
			}
		}
		return [][]byte{datagram}
	}
}

func loseAll(int, []byte) [][]byte { return nil }

// double sends each datagram twice.
func double(_ int, datagram []byte) [][]byte { return [][]byte{datagram, datagram} }

// swap exchanges the datagrams of each pair, beginning with the first.
func swap() fate {
	var held []byte
	return func(n int, datagram []byte) [][]byte {
		if n%2 == 0 {
			held = datagram
			return nil
		}
		return [][]byte{datagram, held}
	}
}
