package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// WaitStats tell how the calls of all clients in the process wait.
type WaitStats struct {
	Threads     int           // calls that hold a thread; SetMaxThreads explains which do
	MaxThreads  int           // the limit of Threads
	Refused     uint64        // how often MaxThreads kept a call from holding a thread
	Parked      int           // calls that wait without a thread
	LongestWait time.Duration // of the longest of LongestWaits; 0: there is none
	Computing   bool          // the process computes, by the last look; see SetMaxThreads
}

// ReadWaitStats returns the state of all calls that wait now. Its cost grows with the
// number of clients that have ever parked and are open: a few microseconds for a thousand.
func ReadWaitStats() WaitStats {
	s := sock.ReadWaitStats()
	return WaitStats{
		Threads: s.Threads, MaxThreads: sock.SetMaxThreads(-1), Refused: s.Refused,
		Parked: s.Parked, LongestWait: sock.LongestPark(), Computing: s.Computing,
	}
}

// A Wait is a call that waits in the Go runtime's poller.
type Wait struct {
	Op         string // "recv", "send" or "dial"; reads and writes are "recv" and "send", too
	Network    string // "tcp", "udp", "unix" or "unixgram"
	LocalAddr  string // empty: none
	RemoteAddr string // of a dial, the address that it tries; empty: none
	Duration   time.Duration
}

// LongestWaits returns the n calls that have waited for the longest time, of those that
// wait in the Go runtime's poller. The longest is the first. A negative n is no limit.
//
// A call that holds a thread parks after half a second, so each call that has waited for
// longer is among them, but for those that cannot park: Select, a dial while it tries
// several addresses, a Recv with OOB. Duration is the time since the call last received or
// sent something. A TLS handshake waits as "recv" or "send".
//
// The package keeps no list of waiting calls: LongestWaits looks at every client that has
// ever parked, and asks the kernel for the addresses of n.
func LongestWaits(n int) []Wait {
	calls := sock.LongestParked(n)
	waits := make([]Wait, len(calls))
	now := sock.Now()
	for i, c := range calls {
		w := Wait{Op: opRecv, Network: "tcp", LocalAddr: addrText(c.Local), RemoteAddr: addrText(c.Peer), Duration: -c.Began.LeftAt(now)}
		switch {
		case c.Dial:
			w.Op = opDial
		case c.Send:
			w.Op = opSend
		}
		switch {
		case c.Domain == unix.AF_UNIX && c.Stream:
			w.Network = "unix"
		case c.Domain == unix.AF_UNIX:
			w.Network = "unixgram"
		case !c.Stream:
			w.Network = "udp"
		}
		waits[i] = w
	}
	return waits
}

func addrText(a sock.Addr) string {
	if a.IP.IsValid() {
		return a.IP.String()
	}
	return a.Path
}
