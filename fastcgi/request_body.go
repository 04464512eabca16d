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
)

// A bodyReader reads a request's body. Each Read has a timeout, because a Read of a
// caller's io.Reader may block forever.
type bodyReader struct {
	body      io.Reader
	timeout   time.Duration // of one Read; negative: no limit
	timer     *time.Timer
	onTimeout func() // called once, when a Read takes longer than timeout
	timedOut  bool

	interrupt   func() // makes a Read in progress return; may be nil
	waitForRead bool   // a Read in progress returns soon after interrupt
	release     func() // called when body will not be read any more; may be called again
}

// newBodyReader returns a reader of r.Body.
func (cl *Client) newBodyReader(r *Request) *bodyReader {
	b := &bodyReader{body: r.Body, timeout: cmp.Or(cl.BodyTimeout, DefaultBodyTimeout), release: func() {}}
	switch {
	case r.interrupt != nil:
		b.interrupt, b.waitForRead = r.interrupt, true
	case r.closeBody != nil:
		b.release = sync.OnceFunc(r.closeBody)
		// Close of a body of net/http's server waits for a Read in progress.
		b.interrupt = func() { go b.release() }
	}
	return b
}

// Read reads from the body. Its errors other than io.EOF are a *BodyError.
func (b *bodyReader) Read(p []byte) (int, error) {
	switch {
	case b.timedOut:
		return 0, &BodyError{ErrBodyTimeout}
	case b.timeout > 0 && b.timer == nil:
		b.timer = time.AfterFunc(b.timeout, b.onTimeout)
	case b.timeout > 0:
		b.timer.Reset(b.timeout)
	}
	n, err := b.body.Read(p)
	switch {
	case b.timeout > 0 && !b.timer.Stop():
		b.timedOut = true
		return n, &BodyError{ErrBodyTimeout}
	case err != nil && err != io.EOF: //nolint:errorlint // io.Reader returns io.EOF unwrapped
		return n, &BodyError{err}
	}
	return n, err
}

// stop interrupts a Read in progress. done is closed when the body is not read any more.
func (b *bodyReader) stop(done <-chan struct{}) {
	if b.interrupt != nil {
		b.interrupt()
	}
	if b.waitForRead {
		<-done
	}
}

// readBounded calls f, which reads the body, and returns its error. If ctx ends or a Read
// times out first, it returns before f does. If f succeeds after that, cleanup is called.
func (b *bodyReader) readBounded(ctx context.Context, f func() error, cleanup func()) error {
	if isInMemory(b.body) {
		defer b.release()
		b.timeout = -1
		return f()
	}
	timedOut, done := make(chan struct{}), make(chan struct{})
	b.onTimeout = func() { close(timedOut) }
	var result error
	go func() {
		defer close(done)
		result = f()
		b.release()
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
	b.stop(done)
	go func() {
		if <-done; result == nil {
			cleanup()
		}
	}()
	return err
}

// isInMemory reports whether Read of body never blocks.
func isInMemory(body io.Reader) bool {
	switch body.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// A requestBody is a request's body of known length. The zero value is no body.
type requestBody struct {
	length int64
	inline []byte      // a body of up to maxInlineBody, which is sent with the parameters
	stream *bodyReader // a longer body, or nil
}

// openBody returns a request's body with its length. It reads a body of up to
// maxInlineBody, and copies a body of unknown length to a temporary file.
func (cl *Client) openBody(ctx context.Context, r *Request) (requestBody, error) {
	if r.Body == nil {
		return requestBody{}, nil
	}
	b := cl.newBodyReader(r)
	switch {
	case r.ContentLength > maxInlineBody:
		return requestBody{length: r.ContentLength, stream: b}, nil
	case r.ContentLength >= 0:
		inline := make([]byte, r.ContentLength)
		err := b.readBounded(ctx, func() error { return readExactly(b, inline, r.ContentLength) }, func() {})
		return requestBody{length: r.ContentLength, inline: inline}, err
	case cl.MaxBufferedBody < 0:
		b.release()
		return requestBody{}, ErrLengthRequired
	}
	maxLen := cmp.Or(cl.MaxBufferedBody, DefaultMaxBufferedBody)
	f, err := createTemp()
	if err != nil {
		b.release()
		return requestBody{}, &TempFileError{err}
	}
	var length int64
	err = b.readBounded(ctx, func() (err error) {
		length, err = copyToFile(f, b, maxLen)
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
	inline := make([]byte, length)
	return requestBody{length: length, inline: inline}, readExactly(file, inline, length)
}

// close releases a body that will not be sent.
func (b requestBody) close() {
	if b.stream != nil {
		b.stream.release()
	}
}

// readExactly fills p. remaining is how much of the body's length has not been read. If p
// is all of that, the body must end after it.
func readExactly(body io.Reader, p []byte, remaining int64) error {
	switch _, err := io.ReadFull(body, p); {
	case err == io.EOF || err == io.ErrUnexpectedEOF: //nolint:errorlint // of ReadFull; other errors are a *BodyError
		return ErrBodyTooShort
	case err != nil:
		return err
	case remaining > int64(len(p)):
		return nil
	}
	return expectEOF(body)
}

// expectEOF returns nil if the body has ended, and ErrBodyTooLong if it has not.
func expectEOF(body io.Reader) error {
	var extra [1]byte
	switch n, err := io.ReadFull(body, extra[:]); {
	case n > 0:
		return ErrBodyTooLong
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}
