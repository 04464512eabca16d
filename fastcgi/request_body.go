package fastcgi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/blocksock/client"
)

// A source is where a request's body is read from. A Read of it may never return, so
// each has a limit, after which the source is given up.
type source struct {
	body  io.Reader
	limit time.Duration // for one Read; negative is none
	timer *time.Timer
	late  func() // called when a Read takes longer, once
	isOut bool   // it was called

	hangUp func() // asks a Read under way to return; may be nil
	waits  bool   // a Read under way does return then, or by itself
	end    func() // called when body is not read any more; once or more often
}

// sourceOf is where a request's own body comes from.
func (cl *Client) sourceOf(r *Request) *source {
	s := &source{body: r.Body, limit: cmp.Or(cl.BodyTimeout, DefaultBodyTimeout), end: func() {}}
	switch {
	case r.interrupt != nil:
		s.hangUp, s.waits = r.interrupt, true
	case r.closeBody != nil:
		s.end = sync.OnceFunc(r.closeBody)
		// Close of a body that a server reads waits for the Read that is under way.
		s.hangUp = func() { go s.end() }
	}
	return s
}

// Read reads from the body. Its errors but io.EOF are a *BodyError.
func (s *source) Read(p []byte) (int, error) {
	switch {
	case s.isOut:
		return 0, &BodyError{ErrBodyTimeout}
	case s.limit > 0 && s.timer == nil:
		s.timer = time.AfterFunc(s.limit, s.late)
	case s.limit > 0:
		s.timer.Reset(s.limit)
	}
	n, err := s.body.Read(p)
	switch {
	case s.limit > 0 && !s.timer.Stop():
		s.isOut = true
		return n, &BodyError{ErrBodyTimeout}
	case err != nil && err != io.EOF: //nolint:errorlint // io.Reader's own, which comes bare
		return n, &BodyError{err}
	}
	return n, err
}

// giveUp ends a Read that is under way. over is closed when the body is not read any
// more.
func (s *source) giveUp(over <-chan struct{}) {
	if s.hangUp != nil {
		s.hangUp()
	}
	if s.waits {
		<-over
	}
}

// readNow has f read the body. It returns before f does if ctx ends, or if a Read takes
// longer than its limit; what f has made is then undone when f is over.
func (s *source) readNow(ctx context.Context, f func() error, undo func()) error {
	if isInMemory(s.body) {
		defer s.end()
		s.limit = -1
		return f()
	}
	late, over := make(chan struct{}), make(chan struct{})
	s.late = func() { close(late) }
	var read error
	go func() {
		defer close(over)
		read = f()
		s.end()
	}()
	var err error
	select {
	case <-over:
		return read
	case <-late:
		err = &BodyError{ErrBodyTimeout}
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.giveUp(over)
	go func() {
		if <-over; read == nil {
			undo()
		}
	}()
	return err
}

// isInMemory reports whether reading a body never waits.
func isInMemory(body io.Reader) bool {
	switch body.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// A content is a request's body whose length is known.
type content struct {
	length int64
	short  []byte  // all of it, if it goes with the request in one piece
	long   *source // otherwise; nil if it was short, or none
}

// contentOf gives a request's body with its length: it reads those that are short, and
// those whose length is not known, which go to a temporary file.
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
	case cl.MaxSpool < 0:
		s.end()
		return content{}, ErrLengthRequired
	}
	most := cmp.Or(cl.MaxSpool, DefaultMaxSpool)
	f, err := os.CreateTemp("", "fastcgi-body-")
	if err != nil {
		s.end()
		return content{}, &SpoolError{err}
	}
	_ = os.Remove(f.Name()) // it is gone with its descriptor, whatever happens
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
	file := &source{body: f, limit: -1, waits: true, end: sync.OnceFunc(func() { _ = f.Close() })}
	if length > shortBody {
		return content{length: length, long: file}, nil
	}
	defer file.end()
	short := make([]byte, length)
	return content{length: length, short: short}, readExactly(file, short, length)
}

// close lets go of a body that is not to be sent.
func (c content) close() {
	if c.long != nil {
		c.long.end()
	}
}

// readExactly fills p, with which a body of a known length has to end if all that is
// left of it is as long.
func readExactly(body io.Reader, p []byte, left int64) error {
	switch _, err := io.ReadFull(body, p); {
	case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // ReadFull's own; the body's are in a BodyError
		return ErrBodyTooShort
	case err != nil:
		return err
	case left > int64(len(p)):
		return nil
	}
	return endsHere(body)
}

// endsHere has no error if a body is over.
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

// An upload is a body that goes out while the answer is waited for already: an
// application may answer before it has read all.
type upload struct {
	over chan struct{} // closed when the body is neither read nor sent any more
	err  error         // what came of it, once over

	mu   sync.Mutex
	out  bool  // over is about to be closed: the time for the answer runs
	why  error // what the exchange was ended for by the upload, if it was
	body *source
}

// begin sends a body.
func (x *exchange) begin(body content) {
	u := &upload{over: make(chan struct{}), body: body.long}
	u.body.late = func() {
		x.endBy(u, &BodyError{ErrBodyTimeout})
		if u.body.hangUp != nil {
			u.body.hangUp()
		}
	}
	x.up = u
	x.arm()
	go func() {
		defer close(u.over)
		defer u.body.end()
		u.err = send(x.c, x.id, u.body, body.length)
		if isOfBody(u.err) || isTimeout(u.err) {
			x.endBy(u, u.err) // a part of a body has no end that the application could be told
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.out = true
		_ = x.c.SetReadDeadline(after(x.limit))
	}()
}

// endBy ends an exchange whose body cannot be sent.
func (x *exchange) endBy(u *upload, why error) {
	u.mu.Lock()
	if u.why == nil && x.ctx.Err() == nil {
		u.why = why
	}
	u.mu.Unlock()
	_ = x.c.Discard()
}

// isOver reports whether the body was sent whole, or will not be.
func (u *upload) isOver() bool {
	select {
	case <-u.over:
		return true
	default:
		return false
	}
}

// isOfBody reports whether an error is about a body, and not about the connection.
func isOfBody(err error) bool {
	var bad *BodyError
	return errors.As(err, &bad) || errors.Is(err, ErrBodyTooShort) || errors.Is(err, ErrBodyTooLong)
}

// send sends a body as the application takes it, each piece when it has been read, and
// the last when it is known that nothing is behind.
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
