package fastcgi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/blocksock/client"
)

// A Response is what an application answers.
type Response struct {
	StatusCode int
	Reason     string
	Header     http.Header // without Status

	// Body is read as it comes. At its end is io.EOF only if the application has said
	// that it is the end; io.ErrUnexpectedEOF if the connection was over before. Close
	// before that closes the connection.
	Body io.ReadCloser

	x *exchange
}

// Stderr is what the application has said there so far, up to 64 KiB.
func (r *Response) Stderr() []byte {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.stderr
}

// AppStatus is the application's exit status. It is 0 before the body's end.
func (r *Response) AppStatus() uint32 {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.appStatus
}

// An exchange is one request on one connection.
type exchange struct {
	ctx      context.Context
	c        *client.Client
	uncancel func() bool  // has ctx not end the connection any more
	sending  chan error   // what came of the body; nil if it was sent with the request
	stderrTo func([]byte) // of the request
	done     func()       // with what there was for the body

	interrupt func() // of the request

	answered bool   // a record has come
	rest     []byte // of the body, received and not read
	outEnded bool   // STDOUT was
	errEnded bool   // STDERR was
	err      error  // why there is no more

	mu        sync.Mutex // of what Response gives
	stderr    []byte
	appStatus uint32
}

// header receives up to the end of the response's header.
func (x *exchange) header(limit int) (*Response, error) {
	var head []byte
	for {
		err := x.next()
		if errors.Is(err, io.EOF) { // the end of the request, with no response
			return nil, &HeaderError{Reason: "it does not end", Line: short(head)}
		}
		if err != nil {
			return nil, err
		}
		had := len(head)
		head = append(head, x.rest...)
		end := headerEnd(head, had)
		if end < 0 && len(head) <= limit {
			continue
		}
		if end < 0 || end > limit {
			return nil, &HeaderError{Reason: fmt.Sprintf("longer than %d bytes", limit)}
		}
		status, reason, h, err := parseHeader(head[:end])
		if err != nil {
			return nil, err
		}
		x.rest = x.rest[end-had:]
		return &Response{StatusCode: status, Reason: reason, Header: h, Body: body{x}, x: x}, nil
	}
}

// next receives until there is more of the response. At the end of the request the
// connection is given back, and next is io.EOF.
func (x *exchange) next() error {
	for {
		p, err := x.c.RecvPacket()
		if err != nil {
			return x.failure(err)
		}
		r, err := parse(p)
		if err != nil {
			return err
		}
		x.answered = true
		if r.id != requestID {
			return &ProtocolError{Reason: fmt.Sprintf("%v for request %d, which is not there", r.typ, r.id), Head: clip(p)}
		}
		switch r.typ {
		case stdout:
			if x.outEnded {
				return &ProtocolError{Reason: "STDOUT after its end", Head: clip(p)}
			}
			if x.outEnded = len(r.content) == 0; !x.outEnded {
				x.rest = r.content
				return nil
			}
		case stderr:
			if x.errEnded {
				return &ProtocolError{Reason: "STDERR after its end", Head: clip(p)}
			}
			x.errEnded = len(r.content) == 0
			x.said(r.content)
		case endRequest:
			return x.ended(r.content)
		default:
			return &ProtocolError{Reason: fmt.Sprintf("%v in an answer", r.typ), Head: clip(p)}
		}
	}
}

func (x *exchange) said(p []byte) {
	if len(p) == 0 {
		return
	}
	x.mu.Lock()
	x.stderr = append(x.stderr, p[:min(len(p), maxStderr-len(x.stderr))]...)
	x.mu.Unlock()
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
		return Refusal(status)
	}
	x.mu.Lock()
	x.appStatus = binary.BigEndian.Uint32(content)
	x.mu.Unlock()
	defer x.done()
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

// stopSending waits until the request's body is not read any more, if it has to be.
// The connection is closed.
func (x *exchange) stopSending() {
	if x.sending == nil || x.interrupt == nil {
		return
	}
	if _, over := x.outcome(); !over {
		x.interrupt()
	}
	x.sending <- <-x.sending
}

// outcome is what came of the body, if it is over.
func (x *exchange) outcome() (err error, over bool) { //nolint:revive // as a map's
	if x.sending == nil {
		return nil, true
	}
	select {
	case err = <-x.sending:
		x.sending <- err
		return err, true
	default:
		return nil, false
	}
}

// sent reports whether the request was sent whole.
func (x *exchange) sent() bool {
	err, over := x.outcome()
	return over && err == nil
}

// failure is what an error on the connection means to the caller.
func (x *exchange) failure(err error) error {
	if x.ctx.Err() != nil {
		return x.ctx.Err()
	}
	sent, _ := x.outcome()
	if why := ofBody(sent); why != nil {
		return why // that is why the connection is closed
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// abandon closes the connection.
func (x *exchange) abandon(err error) error {
	if x.ctx.Err() != nil {
		err = x.ctx.Err()
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
	for len(x.rest) == 0 {
		if x.err != nil {
			return 0, x.err
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
	err := x.next()
	switch {
	case err == nil:
		return
	case !errors.Is(err, io.EOF):
		err = x.abandon(err)
		x.done()
	}
	x.err = err
}

// WriteTo writes the body as it comes, each piece at once.
func (b body) WriteTo(w io.Writer) (n int64, err error) {
	x := b.x
	for {
		if len(x.rest) > 0 {
			m, err := w.Write(x.rest)
			n += int64(m)
			x.rest = x.rest[m:]
			if err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(x.err, io.EOF):
			return n, nil
		case x.err != nil:
			return n, x.err
		}
		x.receive()
	}
}

// Close is not to be called while another goroutine reads: ctx ends that.
func (b body) Close() error {
	x := b.x
	x.rest = nil
	if x.err == nil {
		x.err = errBodyClosed
		_ = x.abandon(nil)
		x.done()
	}
	return nil
}

var errBodyClosed = errors.New("fastcgi: the response's body was closed")
