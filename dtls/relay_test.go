package dtls_test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
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
	front, back        atomic.Pointer[net.UDPConn] // towards the client, towards the server
	client             atomic.Pointer[net.UDPAddr]
	server             *net.UDPAddr
	running            sync.WaitGroup
}

type fate func(n int, datagram []byte) [][]byte

// A counter counts what went in and came out of one direction.
type counter struct {
	mu      sync.Mutex
	in, out int
	fate    fate
	seen    [][]byte // datagrams that came in
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

// settles waits until so many datagrams have come in.
func (c *counter) settles(t testing.TB, in int) {
	t.Helper()
	eventually(t, func() bool { n, _ := c.counts(); return n >= in }, fmt.Sprintf("%d datagrams", in))
}

func (c *counter) pass(datagram []byte) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := [][]byte{datagram}
	if c.fate != nil {
		out = c.fate(c.in, datagram)
	}
	c.in++
	c.seen = append(c.seen, datagram)
	c.out += len(out)
	return out
}

// sizes returns the longest and the shortest datagram that came in.
func (c *counter) sizes() (longest, shortest int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, p := range c.seen {
		longest = max(longest, len(p))
		if i == 0 || len(p) < shortest {
			shortest = len(p)
		}
	}
	return longest, shortest
}

// has reports whether bytes came in.
func (c *counter) has(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.seen, func(datagram []byte) bool { return bytes.Contains(datagram, p) })
}

// sent reports whether the client has sent a datagram that begins with such a record.
func (r *relay) sent(kind byte) bool {
	r.toServer.mu.Lock()
	defer r.toServer.mu.Unlock()
	return slices.ContainsFunc(r.toServer.seen, func(datagram []byte) bool { return datagram[0] == kind })
}

func newRelay(t testing.TB, server string, toServer, toClient fate) *relay {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", server)
	require.NoError(t, err)
	r := &relay{toServer: &counter{fate: toServer}, toClient: &counter{fate: toClient}, server: to}
	r.openFront(t, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	r.openBack(t)
	r.addr = r.front.Load().LocalAddr().String()
	t.Cleanup(func() {
		_, _ = r.front.Load().Close(), r.back.Load().Close()
		r.running.Wait()
	})
	return r
}

// openFront opens the side of the client.
func (r *relay) openFront(t testing.TB, addr *net.UDPAddr) {
	t.Helper()
	front, err := net.ListenUDP("udp", addr)
	require.NoError(t, err)
	r.front.Store(front)
	r.running.Go(func() {
		r.forward(front, r.toServer, func(from *net.UDPAddr, p []byte) {
			r.client.Store(from)
			_, _ = r.back.Load().WriteToUDP(p, r.server) // an error is a loss
		})
	})
}

// openBack opens the side of the server, with a new address.
func (r *relay) openBack(t testing.TB) {
	t.Helper()
	back, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r.back.Store(back)
	r.running.Go(func() {
		r.forward(back, r.toClient, func(_ *net.UDPAddr, p []byte) {
			_, _ = r.front.Load().WriteToUDP(p, r.client.Load())
		})
	})
}

// rebind gives the client another address, as a NAT may. The old one is gone.
func (r *relay) rebind(t testing.TB) {
	t.Helper()
	old := r.back.Load()
	r.openBack(t)
	_ = old.Close()
}

// closeFront takes away the address that the client sends to.
func (r *relay) closeFront() { _ = r.front.Load().Close() }

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
		if slices.Contains(numbers, n) {
			return nil
		}
		return [][]byte{datagram}
	}
}

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
