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
type source struct {
	body     io.Reader
	limit    time.Duration // of one Read; negative: no limit
	timer    *time.Timer
	onLate   func() // called once, when a Read takes longer than limit
	timedOut bool

	hangUp  func() // asks a Read in progress to return; may be nil
	returns bool   // a Read in progress returns soon after hangUp, or in any case
	release func() // called when body is not read any more; may be called again
}

// sourceOf gives the source of a request's own body.
func (cl *Client) sourceOf(r *Request) *source {
	s := &source{body: r.Body, limit: cmp.Or(cl.BodyTimeout, DefaultBodyTimeout), release: func() {}}
	switch {
	case r.interrupt != nil:
		s.hangUp, s.returns = r.interrupt, true
	case r.closeBody != nil:
		s.release = sync.OnceFunc(r.closeBody)
		// Close of a body that net/http's server made waits for a Read in progress.
		s.hangUp = func() { go s.release() }
	}
	return s
}

// Read reads from the body. All errors but io.EOF are a *BodyError.
func (s *source) Read(p []byte) (int, error) {
	switch {
	case s.timedOut:
		return 0, &BodyError{ErrBodyTimeout}
	case s.limit > 0 && s.timer == nil:
		s.timer = time.AfterFunc(s.limit, s.onLate)
	case s.limit > 0:
		s.timer.Reset(s.limit)
	}
	n, err := s.body.Read(p)
	switch {
	case s.limit > 0 && !s.timer.Stop():
		s.timedOut = true
		return n, &BodyError{ErrBodyTimeout}
	case err != nil && err != io.EOF: //nolint:errorlint // io.Reader's own, which comes bare
		return n, &BodyError{err}
	}
	return n, err
}

// giveUp ends a Read in progress. done is closed when the body is not read any more.
func (s *source) giveUp(done <-chan struct{}) {
	if s.hangUp != nil {
		s.hangUp()
	}
	if s.returns {
		<-done
	}
}

// readNow calls f, which reads the body. It returns before f if ctx ends or if a Read
// takes longer than its limit. If f succeeds after that, undo is called.
func (s *source) readNow(ctx context.Context, f func() error, undo func()) error {
	if isInMemory(s.body) {
		defer s.release()
		s.limit = -1
		return f()
	}
	late, done := make(chan struct{}), make(chan struct{})
	s.onLate = func() { close(late) }
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
	case <-late:
		err = &BodyError{ErrBodyTimeout}
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.giveUp(done)
	go func() {
		if <-done; result == nil {
			undo()
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
type content struct {
	length int64
	short  []byte  // a short body, which is sent with the parameters
	long   *source // a longer body; otherwise nil
}

// contentOf gives a request's body with its length. It reads a short body, and copies a
// body of unknown length to a temporary file.
func (cl *Client) contentOf(ctx context.Context, r *Request) (content, error) {
	if r.Body == nil {
		return content{}, nil
	}
	s := cl.sourceOf(r)
	switch {
	case r.ContentLength > shortBody:
		return content{length: r.ContentLength, long: s}, nil
	case r.ContentLength >= 0:
		short := make([]byte, r.ContentLength)
		err := s.readNow(ctx, func() error { return readExactly(s, short, r.ContentLength) }, func() {})
		return content{length: r.ContentLength, short: short}, err
	case cl.MaxBufferedBody < 0:
		s.release()
		return content{}, ErrLengthRequired
	}
	most := cmp.Or(cl.MaxBufferedBody, DefaultMaxBufferedBody)
	f, err := temporaryFile()
	if err != nil {
		s.release()
		return content{}, &TempFileError{err}
	}
	var length int64
	err = s.readNow(ctx, func() (err error) {
		length, err = spool(f, s, most)
		if err != nil {
			_ = f.Close()
		}
		return err
	}, func() { _ = f.Close() })
	if err != nil {
		return content{}, err
	}
	file := &source{body: f, limit: -1, returns: true, release: sync.OnceFunc(func() { _ = f.Close() })}
	if length > shortBody {
		return content{length: length, long: file}, nil
	}
	defer file.release()
	short := make([]byte, length)
	return content{length: length, short: short}, readExactly(file, short, length)
}

// close releases a body that is not sent.
func (c content) close() {
	if c.long != nil {
		c.long.release()
	}
}

// readExactly fills p. left is what is left of the body's length: if p is all of that,
// the body must end there.
func readExactly(body io.Reader, p []byte, left int64) error {
	switch _, err := io.ReadFull(body, p); {
	case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // ReadFull's own; those of the body are a BodyError
		return ErrBodyTooShort
	case err != nil:
		return err
	case left > int64(len(p)):
		return nil
	}
	return endsHere(body)
}

// endsHere returns nil at the end of a body.
func endsHere(body io.Reader) error {
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
	body *source
	done chan struct{} // closed when the goroutine has ended
	err  error         // of sending; valid after done

	mu    sync.Mutex
	sent  bool  // RecvTimeout runs
	cause error // why the upload closed the connection, if it did
}

// startUpload sends a body.
func (x *exchange) startUpload(body content) {
	u := &upload{done: make(chan struct{}), body: body.long}
	u.body.onLate = func() {
		x.failUpload(u, &BodyError{ErrBodyTimeout})
		if u.body.hangUp != nil {
			u.body.hangUp()
		}
	}
	x.up = u
	x.arm()
	go func() {
		defer close(u.done)
		defer u.body.release()
		u.err = send(x.c, x.id, u.body, body.length)
		if isOfBody(u.err) || isTimeout(u.err) {
			x.failUpload(u, u.err)
			return
		}
		// Sent, or the application has closed the connection, perhaps after an answer.
		u.mu.Lock()
		defer u.mu.Unlock()
		u.sent = true
		_ = x.c.SetReadDeadline(after(x.limit))
	}()
}

// failUpload closes the connection: the protocol has no way to say that a body ends
// early.
func (x *exchange) failUpload(u *upload, cause error) {
	u.mu.Lock()
	if u.cause == nil && x.ctx.Err() == nil {
		u.cause = cause
	}
	u.mu.Unlock()
	_ = x.c.Discard()
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
func isOfBody(err error) bool {
	var bad *BodyError
	return errors.As(err, &bad) || errors.Is(err, ErrBodyTooShort) || errors.Is(err, ErrBodyTooLong)
}

// send sends each piece of a body when it has been read, and the last piece when the
// body has ended there.
func send(c *client.Client, id uint16, body io.Reader, length int64) error {
	p := make([]byte, headerLen+min(maxPiece, length)+headerLen) // with room for the end
	for left := length; left > 0; {
		n, err := body.Read(p[headerLen : headerLen+min(left, maxPiece)])
		left -= int64(n)
		if err == nil && left == 0 {
			err = endsHere(body)
		}
		switch {
		case err == io.EOF && left > 0: //nolint:errorlint // io.Reader's own
			return ErrBodyTooShort
		case err != nil && err != io.EOF: //nolint:errorlint // as above
			return err
		case n == 0:
			continue
		}
		record := appendHeader(p[:0], stdin, id, n, 0)[:headerLen+n]
		if left == 0 {
			record = appendRecord(record, stdin, id, nil)
		}
		if _, err := c.Send(record, 0); err != nil {
			return err
		}
	}
	return nil
}
