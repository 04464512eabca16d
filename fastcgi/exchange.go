package fastcgi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/header"
)

// endGracePeriod is how long an exchange waits for the end of a request that should
// follow at once.
const endGracePeriod = 10 * time.Millisecond

// An exchange is one request and its response on one connection.
type exchange struct {
	resp        Response // a part of the exchange, because it needs no memory of its own then
	ctx         context.Context
	conn        *client.Client
	id          uint16          // the request ID
	in          *recvBuffer     // nil when it has been freed
	recvTimeout time.Duration   // Options.RecvTimeout; negative: no limit
	detachCtx   func() bool     // stops the context.AfterFunc that closes conn
	upload      *upload         // sends the body; nil if the body was sent with the parameters
	baseCtx     context.Context // of the Client, for a script that goes on after its response

	hasRecord    bool      // a record of the response has been received
	staleRecords int       // number of received records of other requests
	onWait       func()    // called before a wait for more of the response; may be nil
	waitingSince time.Time // since when the next record of the response is waited for; zero: not yet
	deadlineSet  bool      // a read deadline is set instead of Options.RecvTimeout alone

	stdoutEnded bool
	stderrEnded bool

	readMu    sync.Mutex // held by Read and WriteTo of the body; guards the next five
	chunk     []byte     // of the body, received and not yet read; a part of in
	remaining int64      // body bytes to be received; negative: unknown
	chunkLent bool       // a Writer may still use a chunk
	err       error      // why nothing more of the body will be received
	detached  bool       // another goroutine receives the end of the request; see finishLocked
	closed    atomic.Bool

	stderrMu sync.Mutex   // held during a call of onStderr
	onStderr func([]byte) // Request.Stderr; nil after the end of the body

	mu        sync.Mutex // guards stderr and appStatus
	stderr    []byte
	appStatus uint32
}

// readHeader receives the response's header.
func (x *exchange) readHeader(maxLen int, isHead bool) (*Response, error) {
	var head []byte // of earlier chunks; most headers are in one
	for {
		p, err := x.nextChunk()
		if errors.Is(err, io.EOF) {
			return nil, &HeaderError{Reason: "the request ended before the header's empty line", Line: truncateLine(head)}
		}
		if err != nil {
			return nil, err
		}
		before := len(head)
		if before > 0 {
			head = append(head, p...)
		} else {
			head = p
		}
		end := header.End(head, before)
		if end < 0 && len(head) <= maxLen {
			if before == 0 {
				head = bytes.Clone(p) // p is valid until the next call
			}
			continue
		}
		if end < 0 || end > maxLen {
			return nil, &HeaderError{Reason: fmt.Sprintf("longer than %d bytes: raise Client.MaxResponseHeaderBytes", maxLen)}
		}
		status, reason, h, err := parseCGIHeader(head[:end])
		if err == nil {
			x.remaining, err = parseContentLength(h)
		}
		if err != nil {
			return nil, err
		}
		if isHead || status == http.StatusNoContent || status == http.StatusNotModified {
			x.remaining = 0 // RFC 9110, section 6.4.1
		}
		x.setChunkLocked(p[end-before:]) // no other goroutine has x yet
		x.resp = Response{StatusCode: status, Reason: reason, Header: h, Body: responseBody{x}, x: x}
		return &x.resp, nil
	}
}

// nextChunk receives records until there is one with content of STDOUT, and returns that
// content, which is valid until the next call. At the end of the request it puts the
// connection back into the pool and returns io.EOF.
func (x *exchange) nextChunk() ([]byte, error) {
	for {
		if p, err := x.bufferedChunk(); p != nil || err != nil {
			return p, err
		}
		if err := x.receive(); err != nil {
			return nil, x.connError(err)
		}
	}
}

// bufferedChunk is nextChunk for records that have been received. It returns nil and no
// error if more has to be received.
func (x *exchange) bufferedChunk() ([]byte, error) {
	for p := x.in.next(); p != nil; p = x.in.next() {
		r, err := parseRecord(p)
		if err != nil {
			return nil, err
		}
		if r.id != x.id {
			// A record of an earlier request, whose script writes after
			// fastcgi_finish_request, or a management record (ID 0) that was not asked
			// for.
			x.staleRecords++
			continue
		}
		x.hasRecord, x.waitingSince = true, time.Time{}
		switch r.typ {
		case typeStdout:
			if x.stdoutEnded {
				return nil, &ProtocolError{Reason: "STDOUT after its end", Head: firstBytes(p)}
			}
			if x.stdoutEnded = len(r.content) == 0; !x.stdoutEnded {
				return r.content, nil
			}
		case typeStderr:
			if x.stderrEnded {
				return nil, &ProtocolError{Reason: "STDERR after its end", Head: firstBytes(p)}
			}
			x.stderrEnded = len(r.content) == 0
			x.addStderr(r.content)
		case typeEndRequest:
			return nil, x.endRequest(r.content)
		default:
			return nil, &ProtocolError{Reason: fmt.Sprintf("%v in a response", r.typ), Head: firstBytes(p)}
		}
	}
	return nil, nil
}

// receive receives more of the response. Options.RecvTimeout bounds all receives together
// up to the next record of the response. Parts of a record and records of other requests
// do not extend it.
func (x *exchange) receive() error {
	if x.onWait != nil {
		x.onWait()
	}
	switch {
	case x.waitingSince.IsZero():
		x.waitingSince = time.Now()
		x.setReadDeadline()
	case x.upload == nil && !x.deadlineSet && x.recvTimeout > 0:
		_ = x.conn.SetReadDeadline(x.waitingSince.Add(x.recvTimeout))
		x.deadlineSet = true
	}
	if x.chunkLent { // a Writer that has failed may still read the last chunk
		x.in.leave()
		x.chunkLent = false
	}
	return x.in.receive(x.conn)
}

// setReadDeadline sets the deadline for the next record where Options.RecvTimeout of the
// connection is not enough: with an upload, RecvTimeout starts when the body has been sent.
func (x *exchange) setReadDeadline() {
	switch u := x.upload; {
	case u != nil:
		u.mu.Lock()
		defer u.mu.Unlock()
		if !u.sent {
			_ = x.conn.SetReadDeadline(time.Time{})
			return
		}
	case !x.deadlineSet:
		return
	}
	_ = x.conn.SetReadDeadline(deadlineAfter(x.recvTimeout))
}

// deadlineAfter returns the deadline of a timeout that starts now. If timeout is negative,
// the deadline is so far away that it is no limit.
func deadlineAfter(timeout time.Duration) time.Time {
	if timeout < 0 {
		timeout = 1000 * time.Hour
	}
	return time.Now().Add(timeout)
}

// hasResponseBytes reports whether any byte of the response has been received, even if
// only part of a record.
func (x *exchange) hasResponseBytes() bool {
	if x.hasRecord || x.in.buffered() > 0 {
		return true
	}
	n, _ := x.conn.Recv(make([]byte, 1), client.DontWait)
	return n > 0
}

func (x *exchange) addStderr(p []byte) {
	if len(p) == 0 {
		return
	}
	x.mu.Lock()
	x.stderr = append(x.stderr, p[:min(len(p), maxStderr-len(x.stderr))]...)
	x.mu.Unlock()
	x.stderrMu.Lock()
	defer x.stderrMu.Unlock()
	if x.onStderr != nil {
		x.onStderr(p)
	}
}

// endRequest handles END_REQUEST. The connection goes back into the pool if the request
// was sent whole and no data has followed. The pool also closes it if data follows later.
func (x *exchange) endRequest(content []byte) error {
	if len(content) != 8 {
		return &ProtocolError{Reason: fmt.Sprintf("END_REQUEST of %d bytes, not 8", len(content))}
	}
	if status := content[4]; status != 0 {
		return ProtocolStatus(status)
	}
	x.mu.Lock()
	x.appStatus = binary.BigEndian.Uint32(content)
	x.mu.Unlock()
	if !x.detachCtx() {
		return x.connError(context.Cause(x.ctx))
	}
	if x.requestSent() && x.in.buffered() == 0 {
		_ = x.conn.Close()
	} else {
		_ = x.conn.Discard()
		x.stopUpload()
	}
	return io.EOF
}

// requestSent reports whether the request has been sent whole. It waits for a moment: the
// application may end the request before the goroutine that has sent the last piece of the
// body is scheduled again.
func (x *exchange) requestSent() bool {
	if x.upload == nil {
		return true
	}
	timer := time.NewTimer(endGracePeriod)
	defer timer.Stop()
	select {
	case <-x.upload.done:
		return x.upload.err == nil
	case <-timer.C:
		return false
	}
}

// freeBuffer makes the receive buffer available to other exchanges, unless a Writer may
// still use it. Nothing of the response may be received after that.
func (x *exchange) freeBuffer() {
	if x.in != nil && !x.chunkLent {
		x.in.free()
		x.in = nil
	}
}

// discard closes the connection.
func (x *exchange) discard() { _ = x.conn.Discard() }

// neverFires is the stop function of a context that never ends.
func neverFires() bool { return true }

// connError returns the caller's error for an error of the connection.
func (x *exchange) connError(err error) error {
	switch cause := x.closeCause(); {
	case cause != nil:
		return cause
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case x.staleRecords > 0 && !x.hasRecord && isTimeout(err):
		return fmt.Errorf("fastcgi: received %d records of other requests and none of request %d: the application must repeat the request ID: %w", x.staleRecords, x.id, err)
	}
	return err
}

// closeCause returns why the connection has been closed by this side, or nil.
func (x *exchange) closeCause() error {
	if x.upload != nil {
		x.upload.mu.Lock()
		defer x.upload.mu.Unlock()
		if x.upload.closeCause != nil {
			return x.upload.closeCause
		}
	}
	if x.closed.Load() {
		return errBodyClosed
	}
	return x.ctx.Err()
}

// abort closes the connection. It returns why it was closed, which is err if nothing else.
func (x *exchange) abort(err error) error {
	if cause := x.closeCause(); cause != nil {
		err = cause
	}
	x.detachCtx()
	_ = x.conn.Discard()
	x.stopUpload() // last, since it may end ctx
	return err
}
