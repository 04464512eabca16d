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
	ctx         context.Context
	conn        *client.Client
	id          uint16          // of the request, on this connection
	recvTimeout time.Duration   // RecvTimeout; negative: no limit
	detachCtx   func() bool     // has ctx not end the connection any more
	upload      *upload         // the body, if it was not sent with the request
	baseCtx     context.Context // of the Client, for after the end of the body

	hasRecord    bool // a record of the answer has come
	staleRecords int  // how many records of other requests have come
	deadlineSet  bool // limit is kept by deadlines, as it is during an upload

	stdoutEnded bool // STDOUT was
	stderrEnded bool // STDERR was

	readMu    sync.Mutex // held by a Read or WriteTo of the body; guards the fields below
	closed    atomic.Bool
	chunk     []byte // of the body, received and not read
	remaining int64  // how much of the body is to come; negative if that is not known
	err       error  // why there is no more

	stderrMu sync.Mutex   // held by a call of stderrTo
	onStderr func([]byte) // of the request; nil after the end of the body

	mu        sync.Mutex // of what Response gives
	stderr    []byte
	appStatus uint32
}

// header receives up to the end of the response's header.
func (x *exchange) readHeader(limit int, isHead bool) (*Response, error) {
	var head []byte
	for {
		p, err := x.nextChunk()
		if errors.Is(err, io.EOF) { // the end of the request, with no response
			return nil, &HeaderError{Reason: "it does not end", Line: truncateLine(head)}
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
		status, reason, h, err := parseCGIHeader(head[:end])
		if err == nil {
			x.remaining, err = parseContentLength(h)
		}
		if err != nil {
			return nil, err
		}
		if isHead || status == http.StatusNoContent || status == http.StatusNotModified {
			x.remaining = 0 // RFC 9110, 6.4.1
		}
		x.setChunkLocked(p[end-had:])
		return &Response{StatusCode: status, Reason: reason, Header: h, Body: responseBody{x}, x: x}, nil
	}
}

// take makes p the next piece of the body. If the body is longer than its length, take
// cuts p and closes the connection.
func (x *exchange) setChunkLocked(p []byte) {
	x.chunk = p
	if x.remaining < 0 {
		return
	}
	x.chunk = p[:min(int64(len(p)), x.remaining)]
	x.remaining -= int64(len(x.chunk))
	if len(x.chunk) < len(p) {
		_ = x.abort(nil)
		x.err = io.EOF
	}
}

// next receives until there is more of the response, which is good until the next call.
// At the end of the request the connection is given back, and the error is io.EOF.
func (x *exchange) nextChunk() ([]byte, error) {
	x.setReadDeadline()
	begin := time.Now()
	for {
		p, err := x.conn.RecvPacket()
		if err != nil {
			return nil, x.connError(err)
		}
		r, err := parseRecord(p)
		if err != nil {
			return nil, err
		}
		if r.id != x.id {
			x.skipStaleRecord(begin)
			continue
		}
		x.hasRecord = true
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
			return nil, x.handleEndRequest(r.content)
		default:
			return nil, &ProtocolError{Reason: fmt.Sprintf("%v in an answer", r.typ), Head: firstBytes(p)}
		}
		x.setReadDeadline()
		begin = time.Now()
	}
}

// skip drops a record of another id: of an earlier request, whose script goes on writing
// after fastcgi_finish_request, or of id 0, a management record that nothing here asked
// for. Such a record does not extend the limit that began to run at begin.
func (x *exchange) skipStaleRecord(begin time.Time) {
	x.staleRecords++
	if x.upload == nil && !x.deadlineSet && x.recvTimeout > 0 {
		_ = x.conn.SetReadDeadline(begin.Add(x.recvTimeout))
		x.deadlineSet = true
	}
}

// arm sets the deadline for the next record where RecvTimeout alone will not do: the
// limit starts when the body has been sent.
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

// after gives the end of a limit that starts now.
func deadlineAfter(limit time.Duration) time.Time {
	if limit < 0 {
		limit = 1000 * time.Hour
	}
	return time.Now().Add(limit)
}

// isAnswered reports whether any byte of an answer has come, if only a part of a record.
func (x *exchange) hasResponseBytes() bool {
	if x.hasRecord {
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

// ended is the end of the request. The connection is for the next if nothing of this
// one is left.
func (x *exchange) handleEndRequest(content []byte) error {
	if len(content) != 8 {
		return &ProtocolError{Reason: fmt.Sprintf("END_REQUEST of %d bytes", len(content))}
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
	if x.requestSent() {
		_ = x.conn.Close()
	} else {
		_ = x.conn.Discard()
		x.stopUpload()
	}
	return io.EOF
}

// stopSending ends an upload whose connection is closed.
func (x *exchange) stopUpload() {
	if x.upload != nil && !x.upload.isDone() {
		x.upload.body.stop(x.upload.done)
	}
}

// sent reports whether the request was sent whole. The application may end the request
// before the goroutine that has sent the body's last piece comes to say so.
func (x *exchange) requestSent() bool {
	if x.upload == nil {
		return true
	}
	late := time.NewTimer(10 * time.Millisecond)
	defer late.Stop()
	select {
	case <-x.upload.done:
		return x.upload.err == nil
	case <-late.C:
		return false
	}
}

// failure is what an error on the connection means to the caller.
func (x *exchange) connError(err error) error {
	switch why := x.closeCause(); {
	case why != nil:
		return why
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case x.staleRecords > 0 && !x.hasRecord && isTimeout(err):
		return fmt.Errorf("fastcgi: %d records of other requests and none of request %d came; the application must repeat the request's id: %w", x.staleRecords, x.id, err)
	}
	return err
}

// whyClosed gives the reason for which the connection was closed here, or nil.
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

// abandon closes the connection.
func (x *exchange) abort(err error) error {
	if why := x.closeCause(); why != nil {
		err = why
	}
	x.detachCtx()
	_ = x.conn.Discard()
	x.stopUpload() // which may end ctx too
	return err
}

// A body is what a response's Body is.
type responseBody struct{ x *exchange }

func (b responseBody) Read(p []byte) (int, error) {
	x := b.x
	x.readMu.Lock()
	defer x.unlockRead()
	for len(x.chunk) == 0 || x.closed.Load() {
		if x.err != nil || x.closed.Load() {
			return 0, x.readErrorLocked()
		}
		if len(p) == 0 {
			return 0, nil
		}
		x.fillLocked()
	}
	n := copy(p, x.chunk)
	x.chunk = x.chunk[n:]
	return n, nil
}

// receive gets more of the body, or notes why there is no more.
func (x *exchange) fillLocked() {
	if x.remaining == 0 && x.requestSent() {
		x.drainLocked()
		return
	}
	p, err := x.nextChunk()
	switch {
	case err == nil:
		x.setChunkLocked(p)
	case errors.Is(err, io.EOF) && x.remaining > 0:
		x.err = io.ErrUnexpectedEOF // less than Content-Length
	case errors.Is(err, io.EOF):
		x.err = err
	default:
		x.err = x.abort(err)
		if x.remaining == 0 && x.ctx.Err() == nil && !x.closed.Load() {
			x.err = io.EOF // the body has its length, however the request ended
		}
	}
}

// why gives the error of a Read at the end.
func (x *exchange) readErrorLocked() error {
	if x.closed.Load() {
		return errBodyClosed
	}
	return x.err
}

// WriteTo writes the body as it comes, each piece at once.
func (b responseBody) WriteTo(w io.Writer) (n int64, err error) {
	x := b.x
	x.readMu.Lock()
	defer x.unlockRead()
	for {
		if len(x.chunk) > 0 && !x.closed.Load() {
			m, err := w.Write(x.chunk)
			n += int64(m)
			x.chunk = x.chunk[m:]
			if err != nil {
				return n, err
			}
		}
		if x.err != nil || x.closed.Load() {
			if err = x.readErrorLocked(); errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		x.fillLocked()
	}
}

// Close may be called while another goroutine reads. It ends that Read.
func (b responseBody) Close() error {
	x := b.x
	ended := false
	if x.readMu.TryLock() {
		if x.err == nil && x.remaining == 0 && x.requestSent() {
			x.drainLocked()
		}
		ended = x.err != nil
		x.readMu.Unlock()
	}
	if !x.closed.Swap(true) && !ended {
		_ = x.conn.Discard()
		x.finishClose()
	}
	return nil
}

// stopReading ends a Read.
func (x *exchange) unlockRead() {
	x.readMu.Unlock()
	x.finishClose()
}

// settle ends an exchange whose body was closed. Both Read and Close call it at their
// end, and the later of the two finds the mutex free.
func (x *exchange) finishClose() {
	if !x.closed.Load() || !x.readMu.TryLock() {
		return
	}
	x.chunk = nil
	if x.err == nil {
		_ = x.abort(nil)
		x.err = errBodyClosed
	}
	x.readMu.Unlock()
}

// finish ends a body that has its length. What the script does then is no longer of
// the response: its end is awaited in the background, but mostly comes at once, and then
// the connection is there for the next request.
func (x *exchange) drainLocked() {
	if !x.detachCtx() {
		x.err = x.abort(x.ctx.Err())
		return
	}
	x.err, x.chunk = io.EOF, nil
	x.detachCtx = context.AfterFunc(x.baseCtx, func() { _ = x.conn.Discard() })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// More of the body is too much, whose end would not come while nobody reads it.
		if _, err := x.nextChunk(); !errors.Is(err, io.EOF) {
			_ = x.abort(err)
		}
	}()
	soon := time.NewTimer(10 * time.Millisecond)
	defer soon.Stop()
	select {
	case <-ended:
	case <-soon.C:
	}
	x.stderrMu.Lock()
	x.onStderr = nil
	x.stderrMu.Unlock()
}

var errBodyClosed = errors.New("fastcgi: the response's body was closed")
