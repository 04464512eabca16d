package sock

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"time"
)

// A ParkedCall is a call that waits in the runtime's poller.
type ParkedCall struct {
	Began       Instant // when it began to wait
	Send        bool    // it waits until the socket is writable: a send, or a dial
	Domain      int     // AF_INET, AF_INET6 or AF_UNIX
	Stream      bool
	Local, Peer Addr // the peer of a dial is the address that it connects to
	Dial        bool
}

// parkable has the sockets in the poller. A socket enters it when a call parks for the
// first time, so that a call pays for it with two stores to its own netpollWaker.
var parkable = struct {
	mu    sync.Mutex
	socks map[*os.File]parkableSocket
}{socks: make(map[*os.File]parkableSocket)}

// A parkableSocket must not refer to the Socket, whose finalizer would never run.
type parkableSocket struct {
	rd, wr *netpollWaker // nil if no call has waited for that
	domain int
	stream bool
}

func addParkable(k *netpollWaker, domain int, isStream bool) {
	parkable.mu.Lock()
	defer parkable.mu.Unlock()
	s := parkable.socks[k.file]
	s.domain, s.stream = domain, isStream
	if k.forRead {
		s.rd = k
	} else {
		s.wr = k
	}
	parkable.socks[k.file] = s
}

func removeParkable(file *os.File) {
	parkable.mu.Lock()
	defer parkable.mu.Unlock()
	delete(parkable.socks, file)
}

// LongestParked returns the n calls that have waited for the longest time, in that
// order. A negative n is no limit. It allocates memory for all parked calls, and asks the
// kernel for the addresses of n.
func LongestParked(n int) []ParkedCall {
	type parkedCall struct {
		began Instant
		waker *netpollWaker
		sock  parkableSocket
	}
	var all []parkedCall
	parkable.mu.Lock()
	for _, s := range parkable.socks {
		for _, k := range [...]*netpollWaker{s.rd, s.wr} {
			if began := k.waitsSince(); began != Never {
				all = append(all, parkedCall{began, k, s})
			}
		}
	}
	parkable.mu.Unlock()
	slices.SortFunc(all, func(a, b parkedCall) int { return cmp.Compare(a.began, b.began) })
	if n < 0 || n > len(all) {
		n = len(all)
	}
	calls := make([]ParkedCall, 0, n)
	for _, c := range all {
		if len(calls) == n {
			break
		}
		call := ParkedCall{Began: c.began, Send: !c.waker.forRead, Domain: c.sock.domain, Stream: c.sock.stream}
		to := c.waker.dialing.Load()
		if c.waker.addrs(&call.Local, &call.Peer) != nil {
			continue // it was closed
		}
		if call.Send && to != nil {
			call.Peer, call.Dial = *to, true
		}
		calls = append(calls, call)
	}
	return calls
}

// LongestPark returns how long the longest parked call has been parked.
func LongestPark() time.Duration {
	first := Never
	parkable.mu.Lock()
	for _, s := range parkable.socks {
		first = Earlier(first, Earlier(s.rd.waitsSince(), s.wr.waitsSince()))
	}
	parkable.mu.Unlock()
	if first == Never {
		return 0
	}
	return max(-first.Left(), 0)
}

// waitsSince is Never if no call is parked, or k is nil.
func (k *netpollWaker) waitsSince() Instant {
	if k == nil {
		return Never
	}
	return Instant(k.began.Load())
}

// addrs asks the kernel for the addresses of an open socket.
func (k *netpollWaker) addrs(local, peer *Addr) error {
	return k.raw.Control(func(fd uintptr) {
		s := &Socket{fd: int(fd)}
		var n rawSockaddr
		if s.sysLocal(&n) == 0 {
			*local = n.addr(s)
		}
		if s.sysPeer(&n) == 0 {
			*peer = n.addr(s)
		}
	})
}
