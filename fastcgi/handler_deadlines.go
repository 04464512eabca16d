package fastcgi

import (
	"cmp"
	"errors"
	"net/http"
	"sync"
	"time"
)

// DefaultClientTimeout is the default of nginx's client_body_timeout and send_timeout.
const DefaultClientTimeout = 60 * time.Second

// A clientDeadlines sets the deadlines of an HTTP client's connection. Each Read of the
// request's body and each Write of the response has all of Handler.ClientTimeout. The
// server's own ReadTimeout and WriteTimeout still apply. After the Read or Write, the
// server's own deadline is restored: over HTTP/2, a deadline that passes resets the stream
// even if no Read or Write is in progress.
type clientDeadlines struct {
	maxWrite    int // bytes of the response that are written before one deadline
	controller  *http.ResponseController
	timeout     time.Duration // negative: no limit
	serverRead  time.Time     // deadline of http.Server.ReadTimeout; zero: none
	serverWrite time.Time     // deadline of http.Server.WriteTimeout; zero: none

	mu        sync.Mutex
	readUntil time.Time // deadline of the last Read
	stopped   bool      // the body must not be read any more
	bodyEOF   bool      // the body was read to its end
}

func (h *Handler) newClientDeadlines(w http.ResponseWriter, r *http.Request) *clientDeadlines {
	d := &clientDeadlines{maxWrite: maxWrite, controller: http.NewResponseController(w), timeout: cmp.Or(h.ClientTimeout, DefaultClientTimeout)}
	if r.ProtoMajor > 1 {
		d.maxWrite = maxWriteHTTP2
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		now := time.Now()
		if s.ReadTimeout > 0 {
			d.serverRead = now.Add(s.ReadTimeout)
		}
		if s.WriteTimeout > 0 {
			d.serverWrite = now.Add(s.WriteTimeout)
		}
	}
	return d
}

// earlier returns the earlier of server, unless that is zero, and the deadline of a timeout
// that starts now.
func (d *clientDeadlines) earlier(server time.Time) time.Time {
	if t := time.Now().Add(d.timeout); server.IsZero() || t.Before(server) {
		return t
	}
	return server
}

// startRead sets the deadline of a Read, unless the body was read to its end: net/http has
// then removed the deadline, and reads only to notice when the client closes the
// connection. startRead reports whether there may be more of the body. If the
// ResponseWriter does not support deadlines, there is no limit.
func (d *clientDeadlines) startRead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timeout > 0 && !d.stopped && !d.bodyEOF {
		d.readUntil = d.earlier(d.serverRead)
		_ = d.controller.SetReadDeadline(d.readUntil)
	}
	return !d.bodyEOF
}

// endRead restores the server's own deadline after a Read that has not reached the body's
// end.
func (d *clientDeadlines) endRead() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timeout > 0 && !d.stopped {
		_ = d.controller.SetReadDeadline(d.serverRead)
	}
}

// isSupported reports whether the ResponseWriter supports deadlines. That of a middleware
// does not if it has no Unwrap method.
func (d *clientDeadlines) isSupported() bool {
	return !errors.Is(d.controller.SetReadDeadline(d.serverRead), http.ErrNotSupported)
}

// stopReads ends a Read in progress and all later ones.
func (d *clientDeadlines) stopReads() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	_ = d.controller.SetReadDeadline(time.Unix(1, 0))
}

func (d *clientDeadlines) setBodyEOF() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bodyEOF = true
}

// isInterrupted reports whether a Read ended by stopReads, and not at its own deadline.
// net/http cancels the request when a Read fails, which calls stopReads before the Read has
// returned.
func (d *clientDeadlines) isInterrupted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopped && (d.readUntil.IsZero() || time.Now().Before(d.readUntil))
}

// startWrite sets the deadline of a Write.
func (d *clientDeadlines) startWrite() {
	if d.timeout > 0 {
		_ = d.controller.SetWriteDeadline(d.earlier(d.serverWrite))
	}
}

// endWrite restores the server's own deadline after a Write.
func (d *clientDeadlines) endWrite() {
	if d.timeout > 0 {
		_ = d.controller.SetWriteDeadline(d.serverWrite)
	}
}
