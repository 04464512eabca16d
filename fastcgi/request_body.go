package fastcgi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/blocksock/client"
)

// A source reads a request's body. A Read may block for ever, so each has a limit.
type bodyReader struct {
	body      io.Reader
	timeout   time.Duration // of one Read; negative: no limit
	timer     *time.Timer
	onTimeout func() // called once, when a Read takes longer than limit
	timedOut  bool

	interrupt   func() // asks a Read in progress to return; may be nil
	waitForRead bool   // a Read in progress returns soon after hangUp, or in any case
	release     func() // called when body is not read any more; may be called again
}

// sourceOf gives the source of a request's own body.
func (cl *Client) newBodyReader(r *Request) *bodyReader {
	s := &bodyReader{body: r.Body, timeout: cmp.Or(cl.BodyTimeout, DefaultBodyTimeout), release: func() {}}
	switch {
	case r.interrupt != nil:
		s.interrupt, s.waitForRead = r.interrupt, true
	case r.closeBody != nil:
		s.release = sync.OnceFunc(r.closeBody)
		// Close of a body that net/http's server made waits for a Read in progress.
		s.interrupt = func() { go s.release() }
	}
	return s
}

// Read reads from the body. All errors but io.EOF are a *BodyError.
func (s *bodyReader) Read(p []byte) (int, error) {
	switch {
	case s.timedOut:
		return 0, &BodyError{ErrBodyTimeout}
	case s.timeout > 0 && s.timer == nil:
		s.timer = time.AfterFunc(s.timeout, s.onTimeout)
	case s.timeout > 0:
		s.timer.Reset(s.timeout)
	}
	n, err := s.body.Read(p)
	switch {
	case s.timeout > 0 && !s.timer.Stop():
		s.timedOut = true
		return n, &BodyError{ErrBodyTimeout}
	case err != nil && err != io.EOF: //nolint:errorlint // io.Reader's own, which comes bare
		return n, &BodyError{err}
	}
	return n, err
}

// giveUp ends a Read in progress. done is closed when the body is not read any more.
func (s *bodyReader) stop(done <-chan struct{}) {
	if s.interrupt != nil {
		s.interrupt()
	}
	if s.waitForRead {
		<-done
	}
}

// readNow calls f, which reads the body. It returns before f if ctx ends or if a Read
// takes longer than its limit. If f succeeds after that, undo is called.
func (s *bodyReader) readBounded(ctx context.Context, f func() error, cleanup func()) error {
	if isInMemory(s.body) {
		defer s.release()
		s.timeout = -1
		return f()
	}
	timedOut, done := make(chan struct{}), make(chan struct{})
	s.onTimeout = func() { close(timedOut) }
	var result error
	go func() {
		defer close(done)
		result = f()
		s.release()
	}()
	var err error
	select {
	case <-done:
		return result
	case <-timedOut:
		err = &BodyError{ErrBodyTimeout}
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.stop(done)
	go func() {
		if <-done; result == nil {
			cleanup()
		}
	}()
	return err
}

// isInMemory reports whether Read of a body never blocks.
func isInMemory(body io.Reader) bool {
	switch body.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// A content is a request's body of known length. Without a body it is the zero content.
type requestBody struct {
	length int64
	inline []byte      // a short body, which is sent with the parameters
	stream *bodyReader // a longer body; otherwise nil
}

// contentOf gives a request's body with its length. It reads a short body, and copies a
// body of unknown length to a temporary file.
func (cl *Client) openBody(ctx context.Context, r *Request) (requestBody, error) {
	if r.Body == nil {
		return requestBody{}, nil
	}
	s := cl.newBodyReader(r)
	switch {
	case r.ContentLength > maxInlineBody:
		return requestBody{length: r.ContentLength, stream: s}, nil
	case r.ContentLength >= 0:
		short := make([]byte, r.ContentLength)
		err := s.readBounded(ctx, func() error { return readExactly(s, short, r.ContentLength) }, func() {})
		return requestBody{length: r.ContentLength, inline: short}, err
	case cl.MaxBufferedBody < 0:
		s.release()
		return requestBody{}, ErrLengthRequired
	}
	most := cmp.Or(cl.MaxBufferedBody, DefaultMaxBufferedBody)
	f, err := temporaryFile()
	if err != nil {
		s.release()
		return requestBody{}, &TempFileError{err}
	}
	var length int64
	err = s.readBounded(ctx, func() (err error) {
		length, err = copyToFile(f, s, most)
		if err != nil {
			_ = f.Close()
		}
		return err
	}, func() { _ = f.Close() })
	if err != nil {
		return requestBody{}, err
	}
	file := &bodyReader{body: f, timeout: -1, waitForRead: true, release: sync.OnceFunc(func() { _ = f.Close() })}
	if length > maxInlineBody {
		return requestBody{length: length, stream: file}, nil
	}
	defer file.release()
	short := make([]byte, length)
	return requestBody{length: length, inline: short}, readExactly(file, short, length)
}

// close releases a body that is not sent.
func (c requestBody) close() {
	if c.stream != nil {
		c.stream.release()
	}
}

// readExactly fills p. left is what is left of the body's length: if p is all of that,
// the body must end there.
func readExactly(body io.Reader, p []byte, remaining int64) error {
	switch _, err := io.ReadFull(body, p); {
	case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // ReadFull's own; those of the body are a BodyError
		return ErrBodyTooShort
	case err != nil:
		return err
	case remaining > int64(len(p)):
		return nil
	}
	return expectEOF(body)
}

// endsHere returns nil at the end of a body.
func expectEOF(body io.Reader) error {
	var more [1]byte
	switch n, err := io.ReadFull(body, more[:]); {
	case n > 0:
		return ErrBodyTooLong
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// An upload sends a body in a goroutine of its own while the answer is awaited: an
// application may answer before it has read the whole body.
type upload struct {
	body *bodyReader
	done chan struct{} // closed when the goroutine has ended
	err  error         // of sending; valid after done

	mu         sync.Mutex
	sent       bool  // RecvTimeout runs
	closeCause error // why the upload closed the connection, if it did
}

// startUpload sends a body.
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
		// Sent, or the application has closed the connection, perhaps after an answer.
		u.mu.Lock()
		defer u.mu.Unlock()
		u.sent = true
		_ = x.conn.SetReadDeadline(deadlineAfter(x.recvTimeout))
	}()
}

// failUpload closes the connection: the protocol has no way to say that a body ends
// early.
func (x *exchange) failUpload(u *upload, cause error) {
	u.mu.Lock()
	if u.closeCause == nil && x.ctx.Err() == nil {
		u.closeCause = cause
	}
	u.mu.Unlock()
	_ = x.conn.Discard()
}

func (u *upload) isDone() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// isOfBody reports whether an error is about a body, as opposed to the connection.
func isBodyError(err error) bool {
	var bad *BodyError
	return errors.As(err, &bad) || errors.Is(err, ErrBodyTooShort) || errors.Is(err, ErrBodyTooLong)
}

// send sends each piece of a body when it has been read, and the last piece when the
// body has ended there.
func sendBody(c *client.Client, id uint16, body io.Reader, length int64) error {
	p := make([]byte, headerLen+min(maxUnpaddedLen, length)+headerLen) // with room for the end
	for remaining := length; remaining > 0; {
		n, err := body.Read(p[headerLen : headerLen+min(remaining, maxUnpaddedLen)])
		remaining -= int64(n)
		if err == nil && remaining == 0 {
			err = expectEOF(body)
		}
		switch {
		case err == io.EOF && remaining > 0: //nolint:errorlint // io.Reader's own
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
		if _, err := c.Send(record, 0); err != nil {
			return err
		}
	}
	return nil
}
