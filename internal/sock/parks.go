package sock

import "golang.org/x/sys/unix"

// AlwaysPark makes every call that waits on the socket park, whatever the waitPolicy says,
// for callers that have many idle sockets. It returns the previous setting.
func (s *Socket) AlwaysPark(on bool) (previous bool) {
	if on && s.incref() == nil {
		s.attachNetpoll() // here, because it needs more stack than waiting does
		_ = s.decref()
	}
	return s.alwaysParks.Swap(on)
}

// WaitReadable waits until a receive may return at once. A second one without a receive of
// data in between sleeps for a backoff first: poll(2) may report what no receive returns.
func (l *IOLock) WaitReadable() error {
	if l.s.refs.Ending() {
		return l.s.closedErr()
	}
	return l.s.waitReady(l.d, unix.POLLIN, l.until, &l.retry)
}
