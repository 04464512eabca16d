package client

// levels are the watermarks' state. AsyncClient.mu protects it.
type levels struct {
	full      bool
	changes   int // how often full has changed that was not reported yet
	reporting bool
}

// IsFull reports whether the queue has reached HighWatermark and has not sunk to LowWatermark
// since.
func (a *AsyncClient) IsFull() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.levels.full
}

// levelChangedLocked follows a change of the queue's length.
func (a *AsyncClient) levelChangedLocked() {
	l := &a.levels
	switch {
	case !l.full && a.queue.bytes >= a.cfg.HighWatermark:
		l.full = true
	case l.full && a.queue.bytes <= a.cfg.LowWatermark:
		l.full = false
		a.wakeSourcesLocked()
	default:
		return
	}
	l.changes++
	if !l.reporting {
		l.reporting = true
		go a.reportLevels(l.full)
	}
}

// reportLevels calls OnBufferFull and OnBufferEmpty by turns, once for each change. full is
// the first one. Changes that the end of the client has overtaken are not reported.
func (a *AsyncClient) reportLevels(full bool) {
	returned := false
	defer func() {
		if !returned { // a callback has ended the goroutine
			a.mu.Lock()
			a.levels.reporting = false
			a.mu.Unlock()
			_ = a.Close()
		}
	}()
	for a.nextLevel() {
		a.reportLevel(full)
		full = !full
	}
	returned = true
}

// nextLevel reports whether there is a change to report, and takes it.
func (a *AsyncClient) nextLevel() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &a.levels
	if l.changes == 0 || a.ended {
		l.reporting = false
		return false
	}
	l.changes--
	return true
}

// reportLevel makes a callback, unless Close was called or the last one has begun.
func (a *AsyncClient) reportLevel(full bool) {
	a.calls.Lock()
	defer a.calls.Unlock()
	f := a.cfg.OnBufferEmpty
	if full {
		f = a.cfg.OnBufferFull
	}
	if f != nil && !a.over && a.orders.Load()&orderClose == 0 {
		f(a)
	}
}
