package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
)

// A moment is a point in time by two clocks, either of which may be the one that
// says that a limit is over: the monotonic one stands still while the machine
// sleeps, and servers elsewhere do not. The zero moment is never.
type moment struct{ mono, date sock.Instant }

func bothClocks() moment {
	mono, date := sock.Clocks()
	return moment{mono, date}
}

func (m moment) add(d time.Duration) moment {
	return moment{m.mono.Add(d), m.date.Add(d)}
}

// isOver reports whether m was before now by either clock.
func (m moment) isOver(now moment) bool {
	return m.mono != sock.Never && m.mono < now.mono || m.date != sock.Never && m.date < now.date
}

func earlier(a, b moment) moment {
	return moment{sock.Earlier(a.mono, b.mono), sock.Earlier(a.date, b.date)}
}
