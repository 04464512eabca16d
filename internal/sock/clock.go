package sock

import (
	"math"
	"time"
)

// An Instant is a point on the process's monotonic clock, in nanoseconds. The zero
// Instant is Never. It is not a time.Time, because it is loaded and stored atomically.
type Instant int64

// Never is the absence of a limit or deadline.
const Never Instant = 0

// Uninterruptible is the limit of a call that no deadline and no Stop ends, only Close.
const Uninterruptible Instant = -1

const forever = time.Duration(math.MaxInt64)

// epoch has a monotonic reading, so time.Since(epoch) does not read the wall clock.
var epoch = time.Now()

// Now is the current Instant. It is at least 1, so it is never Never.
func Now() Instant { return Instant(time.Since(epoch)) + 1 }

// Clocks reads both clocks at once: now is Now, date is the wall clock in nanoseconds
// since 1970.
func Clocks() (now, date Instant) {
	t := time.Now()
	return Instant(t.Sub(epoch)) + 1, Instant(t.UnixNano())
}

// In returns the Instant d from now. It is Never if d is negative, as everywhere in this
// library, or too long to be represented.
func In(d time.Duration) Instant {
	if d < 0 {
		return Never
	}
	return Now().Add(d)
}

// At converts a deadline of net.Conn. It is Never for the zero time and for a time too
// far away to be represented. A past time is the first Instant.
func At(t time.Time) Instant {
	if t.IsZero() {
		return Never
	}
	if t != t.Round(0) { // it has a monotonic reading, as epoch does
		return Instant(1).Add(t.Sub(epoch))
	}
	left := time.Until(t) // before Now, so that the result may be late but not early
	if left <= 0 {
		return 1
	}
	return Now().Add(left)
}

// Add returns i+d: Never if that is too far away to be represented, the first Instant if
// it is before the clock began.
func (i Instant) Add(d time.Duration) Instant {
	if d > 0 && i > math.MaxInt64-Instant(d) {
		return Never
	}
	return max(i+Instant(d), 1)
}

// Left is the time until i: forever for Never, zero or negative once i is over.
func (i Instant) Left() time.Duration {
	if i == Never || i == Uninterruptible {
		return forever // without reading the clock
	}
	return i.LeftAt(Now())
}

// LeftAt is Left for a caller that has read the clock already: the time from now to i.
func (i Instant) LeftAt(now Instant) time.Duration {
	if i == Never || i == Uninterruptible {
		return forever
	}
	return time.Duration(i - now)
}

// Timeout is the time until i as In takes it: negative for Never only.
func (i Instant) Timeout() time.Duration {
	if i == Never {
		return -1
	}
	return max(i.Left(), 0)
}

// Partial returns the end of the first of n equal parts of the time until i.
func (i Instant) Partial(n int) Instant {
	if i == Never {
		return Never
	}
	return In(max(i.Left(), 0) / time.Duration(n))
}

// Earlier returns the earlier of two limits, either of which may be Never.
func Earlier(a, b Instant) Instant {
	switch {
	case a == Never:
		return b
	case b == Never:
		return a
	}
	return min(a, b)
}
