package sock

import (
	"math"
	"time"
)

// An Instant is a point on the process's monotonic clock, in nanoseconds.
// The zero Instant is never: a limit that does not exist.
type Instant int64

// Never is the limit of a call that may wait for ever.
const Never Instant = 0

// Uninterruptible is Never for a wait that no deadline and no Stop ends either: only Close does.
const Uninterruptible Instant = -1

const forever = time.Duration(math.MaxInt64)

// epoch carries a monotonic reading, so that time.Since needs no wall clock.
var epoch = time.Now()

// Now is at least 1, so that it is never mistaken for Never.
func Now() Instant { return Instant(time.Since(epoch)) + 1 }

// Clocks reads two clocks at once: the monotonic one, as Now, and that of the time
// of day, as nanoseconds since 1970.
func Clocks() (now, date Instant) {
	t := time.Now()
	return Instant(t.Sub(epoch)) + 1, Instant(t.UnixNano())
}

// In gives the instant d from now. A negative d is no limit, as everywhere in
// this library, and one too far away to be represented is none either.
func In(d time.Duration) Instant {
	if d < 0 {
		return Never
	}
	return Now().Add(d)
}

// At converts a deadline as net.Conn takes it: the zero time is no deadline, and
// neither is one too far away to be represented. One that is already over is the
// first instant there was.
func At(t time.Time) Instant {
	if t.IsZero() {
		return Never
	}
	if t != t.Round(0) { // it has a monotonic reading (package time), as epoch has
		return Instant(1).Add(t.Sub(epoch))
	}
	left := time.Until(t) // before Now: what lies between may make i late, and not early
	if left <= 0 {
		return 1
	}
	return Now().Add(left)
}

// Add gives the instant d later than i. One too far away to be represented is Never,
// and one before the clock began is its first.
func (i Instant) Add(d time.Duration) Instant {
	if d > 0 && i > math.MaxInt64-Instant(d) {
		return Never
	}
	return max(i+Instant(d), 1)
}

// Left is the time until i: forever for Never, zero or less once i is over.
func (i Instant) Left() time.Duration {
	if i == Never || i == Uninterruptible {
		return forever // and no look at the clock
	}
	return i.LeftAt(Now())
}

// LeftAt is Left at another time than now, for who has read the clock already.
func (i Instant) LeftAt(now Instant) time.Duration {
	if i == Never || i == Uninterruptible {
		return forever
	}
	return time.Duration(i - now)
}

// Timeout is the time until i as In takes it: negative for Never, never else.
func (i Instant) Timeout() time.Duration {
	if i == Never {
		return -1
	}
	return max(i.Left(), 0)
}

// Partial is the instant when the first of n equal parts of the time until i is over.
func (i Instant) Partial(n int) Instant {
	if i == Never {
		return Never
	}
	return In(max(i.Left(), 0) / time.Duration(n))
}

// Earlier is the nearer of two limits, either of which may be Never.
func Earlier(a, b Instant) Instant {
	switch {
	case a == Never:
		return b
	case b == Never:
		return a
	}
	return min(a, b)
}
