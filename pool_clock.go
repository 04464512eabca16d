package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A moment is a point in time on two clocks. A limit is over when either clock says so:
// the monotonic clock stands still while the machine is suspended, and the limits of
// servers do not. The zero moment means never.
type moment struct{ mono, wall sock.Instant }

func bothClocks() moment {
	mono, wall := sock.Clocks()
	return moment{mono, wall}
}

func (m moment) add(d time.Duration) moment {
	return moment{m.mono.Add(d), m.wall.Add(d)}
}

// isOver reports whether m was before now on either clock.
func (m moment) isOver(now moment) bool {
	return m.mono != sock.Never && m.mono < now.mono || m.wall != sock.Never && m.wall < now.wall
}

func earlier(a, b moment) moment {
	return moment{sock.Earlier(a.mono, b.mono), sock.Earlier(a.wall, b.wall)}
}
