package fastcgi

import (
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
)

// A Response is what an application answers.
type Response struct {
	StatusCode int
	Reason     string
	Header     http.Header // without Status

	// Body is read as it comes. It ends with io.EOF if the application has ended the
	// request or has sent Content-Length bytes, and with io.ErrUnexpectedEOF if the
	// connection ended before, or if the body is shorter than Content-Length. If it is
	// longer, the rest is dropped with the connection, as by nginx; so is the body of a
	// response that has none (to HEAD, 204, 304). Close before the end closes the
	// connection. Close ends a Read in progress.
	//
	// A script may go on after its last byte. If the body has its length, and the request
	// was sent whole, neither Read nor Close waits for that for more than 10 ms. The
	// connection is in use until the request ends, within RecvTimeout from record to
	// record; neither Close nor ctx cut the script off. Client.Close does.
	Body io.ReadCloser

	x *exchange
}

// Stderr is what the application has said there so far, up to 64 KiB.
func (r *Response) Stderr() []byte {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.stderr
}

// AppStatus is the application's exit status. It is 0 before the end of the request,
// which may come after that of a body of known length.
func (r *Response) AppStatus() uint32 {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.appStatus
}

// An exchange is one request on one connection.
type exchange struct {
	ctx      context.Context
	c        *client.Client
	id       uint16          // of the request, on this connection
	limit    time.Duration   // RecvTimeout; negative: no limit
	uncancel func() bool     // has ctx not end the connection any more
	up       *upload         // the body, if it was not sent with the request
	life     context.Context // of the Client, for after the end of the body

	answered bool // a record of the answer has come
	stale    int  // how many records of other requests have come
	timed    bool // limit is kept by deadlines, as it is during an upload

	outEnded bool // STDOUT was
	errEnded bool // STDERR was

	reading sync.Mutex // held by a Read or WriteTo of the body; guards the fields below
	closed  atomic.Bool
	rest    []byte // of the body, received and not read
	left    int64  // how much of the body is to come; negative if that is not known
	err     error  // why there is no more

	saying   sync.Mutex   // held by a call of stderrTo
	stderrTo func([]byte) // of the request; nil after the end of the body

	mu        sync.Mutex // of what Response gives
	stderr    []byte
	appStatus uint32
}

// header receives up to the end of the response's header.
func (x *exchange) header(limit int, isHead bool) (*Response, error) {
	var head []byte
	for {
		p, err := x.next()
		if errors.Is(err, io.EOF) { // the end of the request, with no response
			return nil, &HeaderError{Reason: "it does not end", Line: short(head)}
		}
		if err != nil {
			return nil, err
		}
		had := len(head)
		head = append(head, p...)
		end := headerEnd(head, had)
		if end < 0 && len(head) <= limit {
			continue
		}
		if end < 0 || end > limit {
			return nil, &HeaderError{Reason: fmt.Sprintf("longer than %d bytes", limit)}
		}
		status, reason, h, err := parseHeader(head[:end])
		if err == nil {
			x.left, err = bodyLength(h)
		}
		if err != nil {
			return nil, err
		}
		if isHead || status == http.StatusNoContent || status == http.StatusNotModified {
			x.left = 0 // RFC 9110, 6.4.1
		}
		x.take(p[end-had:])
		return &Response{StatusCode: status, Reason: reason, Header: h, Body: body{x}, x: x}, nil
	}
}

// take makes p the next piece of the body. If the body is longer than its length, take
// cuts p and closes the connection.
func (x *exchange) take(p []byte) {
	x.rest = p
	if x.left < 0 {
		return
	}
	x.rest = p[:min(int64(len(p)), x.left)]
	x.left -= int64(len(x.rest))
	if len(x.rest) < len(p) {
		_ = x.abandon(nil)
		x.err = io.EOF
	}
}

// next receives until there is more of the response, which is good until the next call.
// At the end of the request the connection is given back, and the error is io.EOF.
func (x *exchange) next() ([]byte, error) {
	x.arm()
	begin := time.Now()
	for {
		p, err := x.c.RecvPacket()
		if err != nil {
			return nil, x.failure(err)
		}
		r, err := parse(p)
		if err != nil {
			return nil, err
		}
		if r.id != x.id {
			x.skip(begin)
			continue
		}
		x.answered = true
		switch r.typ {
		case stdout:
			if x.outEnded {
				return nil, &ProtocolError{Reason: "STDOUT after its end", Head: clip(p)}
			}
			if x.outEnded = len(r.content) == 0; !x.outEnded {
				return r.content, nil
			}
		case stderr:
			if x.errEnded {
				return nil, &ProtocolError{Reason: "STDERR after its end", Head: clip(p)}
			}
			x.errEnded = len(r.content) == 0
			x.said(r.content)
		case endRequest:
			return nil, x.ended(r.content)
		default:
			return nil, &ProtocolError{Reason: fmt.Sprintf("%v in an answer", r.typ), Head: clip(p)}
		}
		x.arm()
		begin = time.Now()
	}
}

// skip drops a record of another id: of an earlier request, whose script goes on writing
// after fastcgi_finish_request, or of id 0, a management record that nothing here asked
// for. Such a record does not extend the limit that began to run at begin.
func (x *exchange) skip(begin time.Time) {
	x.stale++
	if x.up == nil && !x.timed && x.limit > 0 {
		_ = x.c.SetReadDeadline(begin.Add(x.limit))
		x.timed = true
	}
}

// arm sets the deadline for the next record where RecvTimeout alone will not do: the
// limit starts when the body has been sent.
func (x *exchange) arm() {
	switch u := x.up; {
	case u != nil:
		u.mu.Lock()
		defer u.mu.Unlock()
		if !u.sent {
			_ = x.c.SetReadDeadline(time.Time{})
			return
		}
	case !x.timed:
		return
	}
	_ = x.c.SetReadDeadline(after(x.limit))
}

// after gives the end of a limit that starts now.
func after(limit time.Duration) time.Time {
	if limit < 0 {
		limit = 1000 * time.Hour
	}
	return time.Now().Add(limit)
}

// isAnswered reports whether any byte of an answer has come, if only a part of a record.
func (x *exchange) isAnswered() bool {
	if x.answered {
		return true
	}
	n, _ := x.c.Recv(make([]byte, 1), client.DontWait)
	return n > 0
}

func (x *exchange) said(p []byte) {
	if len(p) == 0 {
		return
	}
	x.mu.Lock()
	x.stderr = append(x.stderr, p[:min(len(p), maxStderr-len(x.stderr))]...)
	x.mu.Unlock()
	x.saying.Lock()
	defer x.saying.Unlock()
	if x.stderrTo != nil {
		x.stderrTo(p)
	}
}

// ended is the end of the request. The connection is for the next if nothing of this
// one is left.
func (x *exchange) ended(content []byte) error {
	if len(content) != 8 {
		return &ProtocolError{Reason: fmt.Sprintf("END_REQUEST of %d bytes", len(content))}
	}
	if status := content[4]; status != 0 {
		return ProtocolStatus(status)
	}
	x.mu.Lock()
	x.appStatus = binary.BigEndian.Uint32(content)
	x.mu.Unlock()
	if !x.uncancel() {
		return x.failure(context.Cause(x.ctx))
	}
	if x.sent() {
		_ = x.c.Close()
	} else {
		_ = x.c.Discard()
		x.stopSending()
	}
	return io.EOF
}

// stopSending ends an upload whose connection is closed.
func (x *exchange) stopSending() {
	if x.up != nil && !x.up.isDone() {
		x.up.body.giveUp(x.up.done)
	}
}

// sent reports whether the request was sent whole. The application may end the request
// before the goroutine that has sent the body's last piece comes to say so.
func (x *exchange) sent() bool {
	if x.up == nil {
		return true
	}
	late := time.NewTimer(10 * time.Millisecond)
	defer late.Stop()
	select {
	case <-x.up.done:
		return x.up.err == nil
	case <-late.C:
		return false
	}
}

// failure is what an error on the connection means to the caller.
func (x *exchange) failure(err error) error {
	switch why := x.whyClosed(); {
	case why != nil:
		return why
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case x.stale > 0 && !x.answered && isTimeout(err):
		return fmt.Errorf("fastcgi: %d records of other requests and none of request %d came; the application must repeat the request's id: %w", x.stale, x.id, err)
	}
	return err
}

// whyClosed gives the reason for which the connection was closed here, or nil.
func (x *exchange) whyClosed() error {
	if x.up != nil {
		x.up.mu.Lock()
		defer x.up.mu.Unlock()
		if x.up.cause != nil {
			return x.up.cause
		}
	}
	if x.closed.Load() {
		return errBodyClosed
	}
	return x.ctx.Err()
}

// abandon closes the connection.
func (x *exchange) abandon(err error) error {
	if why := x.whyClosed(); why != nil {
		err = why
	}
	x.uncancel()
	_ = x.c.Discard()
	x.stopSending() // which may end ctx too
	return err
}

// A body is what a response's Body is.
type body struct{ x *exchange }

func (b body) Read(p []byte) (int, error) {
	x := b.x
	x.reading.Lock()
	defer x.stopReading()
	for len(x.rest) == 0 || x.closed.Load() {
		if x.err != nil || x.closed.Load() {
			return 0, x.why()
		}
		if len(p) == 0 {
			return 0, nil
		}
		x.receive()
	}
	n := copy(p, x.rest)
	x.rest = x.rest[n:]
	return n, nil
}

// receive gets more of the body, or notes why there is no more.
func (x *exchange) receive() {
	if x.left == 0 && x.sent() {
		x.finish()
		return
	}
	p, err := x.next()
	switch {
	case err == nil:
		x.take(p)
	case errors.Is(err, io.EOF) && x.left > 0:
		x.err = io.ErrUnexpectedEOF // less than Content-Length
	case errors.Is(err, io.EOF):
		x.err = err
	default:
		x.err = x.abandon(err)
		if x.left == 0 && x.ctx.Err() == nil && !x.closed.Load() {
			x.err = io.EOF // the body has its length, however the request ended
		}
	}
}

// why gives the error of a Read at the end.
func (x *exchange) why() error {
	if x.closed.Load() {
		return errBodyClosed
	}
	return x.err
}

// WriteTo writes the body as it comes, each piece at once.
func (b body) WriteTo(w io.Writer) (n int64, err error) {
	x := b.x
	x.reading.Lock()
	defer x.stopReading()
	for {
		if len(x.rest) > 0 && !x.closed.Load() {
			m, err := w.Write(x.rest)
			n += int64(m)
			x.rest = x.rest[m:]
			if err != nil {
				return n, err
			}
		}
		if x.err != nil || x.closed.Load() {
			if err = x.why(); errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		x.receive()
	}
}

// Close may be called while another goroutine reads. It ends that Read.
func (b body) Close() error {
	x := b.x
	ended := false
	if x.reading.TryLock() {
		if x.err == nil && x.left == 0 && x.sent() {
			x.finish()
		}
		ended = x.err != nil
		x.reading.Unlock()
	}
	if !x.closed.Swap(true) && !ended {
		_ = x.c.Discard()
		x.settle()
	}
	return nil
}

// stopReading ends a Read.
func (x *exchange) stopReading() {
	x.reading.Unlock()
	x.settle()
}

// settle ends an exchange whose body was closed. Both Read and Close call it at their
// end, and the later of the two finds the mutex free.
func (x *exchange) settle() {
	if !x.closed.Load() || !x.reading.TryLock() {
		return
	}
	x.rest = nil
	if x.err == nil {
		_ = x.abandon(nil)
		x.err = errBodyClosed
	}
	x.reading.Unlock()
}

// finish ends a body that has its length. What the script does then is no longer of
// the response: its end is awaited in the background, but mostly comes at once, and then
// the connection is there for the next request.
func (x *exchange) finish() {
	if !x.uncancel() {
		x.err = x.abandon(x.ctx.Err())
		return
	}
	x.err, x.rest = io.EOF, nil
	x.uncancel = context.AfterFunc(x.life, func() { _ = x.c.Discard() })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// More of the body is too much, whose end would not come while nobody reads it.
		if _, err := x.next(); !errors.Is(err, io.EOF) {
			_ = x.abandon(err)
		}
	}()
	soon := time.NewTimer(10 * time.Millisecond)
	defer soon.Stop()
	select {
	case <-ended:
	case <-soon.C:
	}
	x.saying.Lock()
	x.stderrTo = nil
	x.saying.Unlock()
}

var errBodyClosed = errors.New("fastcgi: the response's body was closed")
