package fastcgi

import (
	"bytes"
	"io"
	"os"
)

// A clientBody reads a request's body from an HTTP client, with a deadline for each Read.
type clientBody struct {
	io.Reader
	deadlines *clientDeadlines
	err       error // of Read, as a *BodyError
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.deadlines.startRead()
	n, err := b.Reader.Read(p)
	switch err { //nolint:errorlint // io.Reader returns io.EOF unwrapped
	case nil:
		b.deadlines.endRead()
	case io.EOF:
		b.deadlines.setBodyEOF()
	default:
		timedOut := isTimeout(err)
		err = &BodyError{err}
		if !b.deadlines.isInterrupted() {
			b.err = err
		}
		if timedOut {
			b.deadlines.stopReads() // otherwise the server would wait once more
		}
	}
	return n, err
}

// A bufferedBody is a request's body that was received whole, in memory or in a temporary
// file.
type bufferedBody struct {
	io.Reader
	length int64
	file   *os.File // nil: in memory
}

func (b bufferedBody) close() {
	if b.file != nil {
		_ = b.file.Close()
	}
}

// bufferBody receives a body whole, so that the application does not wait for a slow
// client. A body of more than maxInlineBody goes into a temporary file. length is negative
// if it is unknown.
func bufferBody(in *clientBody, length, maxLen int64) (bufferedBody, error) {
	if length > maxLen {
		return bufferedBody{}, ErrBodyTooLong
	}
	size := int64(maxInlineBody)
	if length >= 0 {
		size = min(length, size)
	}
	head := make([]byte, size+1) // one more than allowed in memory, to detect the end
	n, err := io.ReadFull(in, head)
	if in.err != nil {
		return bufferedBody{}, in.err
	}
	if err != nil { // io.EOF or io.ErrUnexpectedEOF
		return newBufferedBody(bytes.NewReader(head[:n]), nil, int64(n), length, maxLen)
	}
	f, err := createTemp()
	if err != nil {
		return bufferedBody{}, &TempFileError{err}
	}
	received, err := io.Copy(f, io.LimitReader(io.MultiReader(bytes.NewReader(head), in), maxLen+1))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case in.err != nil:
		err = in.err
	case err != nil:
		err = &TempFileError{err}
	default:
		return newBufferedBody(f, f, received, length, maxLen)
	}
	_ = f.Close()
	return bufferedBody{}, err
}

// newBufferedBody returns a body, or an error if its received length is wrong.
func newBufferedBody(r io.Reader, f *os.File, received, length, maxLen int64) (bufferedBody, error) {
	b := bufferedBody{r, received, f}
	switch {
	case received > maxLen, length >= 0 && received > length:
		b.close()
		return bufferedBody{}, ErrBodyTooLong
	case length >= 0 && received < length:
		b.close()
		return bufferedBody{}, ErrBodyTooShort
	}
	return b, nil
}
