package fastcgi

import (
	"errors"
	"io"
	"sync"

	"github.com/blocksock/client"
)

// An upload sends a request's body in its own goroutine while the response is received,
// because an application may respond before it has read the whole body.
type upload struct {
	body *bodyReader
	done chan struct{} // closed when the goroutine has ended
	err  error         // of sending; valid after done

	mu         sync.Mutex
	sent       bool  // the read deadline for the response has been set
	closeCause error // why the upload has closed the connection, or nil
}

// startUpload starts to send a body.
func (x *exchange) startUpload(body requestBody) {
	u := &upload{done: make(chan struct{}), body: body.stream}
	u.body.onTimeout = func() {
		x.failUpload(u, &BodyError{ErrBodyTimeout})
		if u.body.interrupt != nil {
			u.body.interrupt()
		}
	}
	x.upload = u
	x.setReadDeadline()
	go func() {
		defer close(u.done)
		defer u.body.release()
		u.err = sendBody(x.conn, x.id, u.body, body.length)
		if isBodyError(u.err) || isTimeout(u.err) {
			x.failUpload(u, u.err)
			return
		}
		// The body has been sent, or the application has closed the connection and may
		// have responded before that.
		u.mu.Lock()
		defer u.mu.Unlock()
		u.sent = true
		_ = x.conn.SetReadDeadline(deadlineAfter(x.recvTimeout))
	}()
}

// failUpload closes the connection: the protocol has no record that ends a body early.
func (x *exchange) failUpload(u *upload, cause error) {
	u.mu.Lock()
	if u.closeCause == nil && x.ctx.Err() == nil {
		u.closeCause = cause
	}
	u.mu.Unlock()
	_ = x.conn.Discard()
}

// stopUpload stops an upload whose connection has been closed.
func (x *exchange) stopUpload() {
	if x.upload != nil && !x.upload.isDone() {
		x.upload.body.stop(x.upload.done)
	}
}

func (u *upload) isDone() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// isBodyError reports whether err is about the body, as opposed to the connection.
func isBodyError(err error) bool {
	var bodyErr *BodyError
	return errors.As(err, &bodyErr) || errors.Is(err, ErrBodyTooShort) || errors.Is(err, ErrBodyTooLong)
}

// sendBody sends each piece of the body as soon as it has been read. It sends the last
// piece only after the body has ended at its length.
func sendBody(conn *client.Client, id uint16, body io.Reader, length int64) error {
	p := make([]byte, headerLen+min(maxUnpaddedLen, length)+headerLen) // the last header ends STDIN
	for remaining := length; remaining > 0; {
		n, err := body.Read(p[headerLen : headerLen+min(remaining, maxUnpaddedLen)])
		remaining -= int64(n)
		if err == nil && remaining == 0 {
			err = expectEOF(body)
		}
		switch {
		case err == io.EOF && remaining > 0: //nolint:errorlint // io.Reader returns io.EOF unwrapped
			return ErrBodyTooShort
		case err != nil && err != io.EOF: //nolint:errorlint // as above
			return err
		case n == 0:
			continue
		}
		record := appendRecordHeader(p[:0], typeStdin, id, n, 0)[:headerLen+n]
		if remaining == 0 {
			record = appendRecord(record, typeStdin, id, nil)
		}
		if _, err := conn.Send(record, 0); err != nil {
			return err
		}
	}
	return nil
}
