package fastcgi

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// DefaultClientTimeout is nginx's client_body_timeout and send_timeout.
const DefaultClientTimeout = 60 * time.Second

// pieceLen is how much is written to an HTTP client within one limit. Over HTTP/2 it is
// shortPiece, what net/http buffers there: a client's window may be 64 KiB, and no
// socket's buffer takes more.
const (
	maxWrite      = 32 << 10
	maxWriteHTTP2 = 4 << 10
)

// A link is the HTTP client's side of a request: each Read and each piece written has
// the whole of a limit, which the server's own limits still bound. The limit is taken
// back after each: over HTTP/2 it would end the stream at its time, Read or write or not.
type clientDeadlines struct {
	maxWrite    int // pieceLen or shortPiece
	controller  *http.ResponseController
	timeout     time.Duration // negative: none
	serverRead  time.Time     // http.Server.ReadTimeout; zero: never
	serverWrite time.Time     // http.Server.WriteTimeout

	mu      sync.Mutex
	stopped bool // the body is not to be read any more
	bodyEOF bool // the body has come whole
}

func (h *Handler) newClientDeadlines(w http.ResponseWriter, r *http.Request) *clientDeadlines {
	l := &clientDeadlines{maxWrite: maxWrite, controller: http.NewResponseController(w), timeout: cmp.Or(h.ClientTimeout, DefaultClientTimeout)}
	if r.ProtoMajor > 1 {
		l.maxWrite = maxWriteHTTP2
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		now := time.Now()
		if s.ReadTimeout > 0 {
			l.serverRead = now.Add(s.ReadTimeout)
		}
		if s.WriteTimeout > 0 {
			l.serverWrite = now.Add(s.WriteTimeout)
		}
	}
	return l
}

// within gives the end of a limit that begins now.
func (l *clientDeadlines) fromNow(until time.Time) time.Time {
	if end := time.Now().Add(l.timeout); until.IsZero() || end.Before(until) {
		return end
	}
	return until
}

// reading begins the limit of a read, and reports whether there is more to read. Where a
// ResponseWriter does not have deadlines, there is no limit. At the end of a body net/http
// takes the deadline back itself: it then waits for the client to go.
func (l *clientDeadlines) startRead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timeout > 0 && !l.stopped && !l.bodyEOF {
		_ = l.controller.SetReadDeadline(l.fromNow(l.serverRead))
	}
	return !l.bodyEOF
}

// hasRead ends the limit of a read that was not the last.
func (l *clientDeadlines) endRead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timeout > 0 && !l.stopped {
		_ = l.controller.SetReadDeadline(l.serverRead)
	}
}

// hasDeadlines reports whether a Read can be ended. It cannot behind a ResponseWriter
// that has no Unwrap.
func (l *clientDeadlines) isSupported() bool {
	return !errors.Is(l.controller.SetReadDeadline(l.serverRead), http.ErrNotSupported)
}

// stopReading ends a read that is under way, and all later ones.
func (l *clientDeadlines) stopReads() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	_ = l.controller.SetReadDeadline(time.Unix(1, 0))
}

// atEnd says that the body has come whole.
func (l *clientDeadlines) setBodyEOF() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodyEOF = true
}

func (l *clientDeadlines) isStopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// writing begins the limit of a write.
func (l *clientDeadlines) startWrite() {
	if l.timeout > 0 {
		_ = l.controller.SetWriteDeadline(l.fromNow(l.serverWrite))
	}
}

// written ends the limit of a write.
func (l *clientDeadlines) endWrite() {
	if l.timeout > 0 {
		_ = l.controller.SetWriteDeadline(l.serverWrite)
	}
}

// A clientBody is the body of a request as its client sends it.
type clientBody struct {
	io.Reader
	deadlines *clientDeadlines
	err       error // what was wrong with it
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.deadlines.startRead()
	n, err := b.Reader.Read(p)
	switch err { //nolint:errorlint // io.Reader's own, which comes bare
	case nil:
		b.deadlines.endRead()
	case io.EOF:
		b.deadlines.setBodyEOF()
	default:
		late := isTimeout(err)
		err = &BodyError{err}
		if !b.deadlines.isStopped() {
			b.err = err
		}
		if late {
			b.deadlines.stopReads() // and the server does not wait once more
		}
	}
	return n, err
}

// A clientWriter writes an answer as its client takes it.
type clientWriter struct {
	http.ResponseWriter
	deadlines *clientDeadlines
}

func (w *clientWriter) Write(p []byte) (n int, err error) {
	defer w.deadlines.endWrite()
	for {
		w.deadlines.startWrite()
		m, err := w.ResponseWriter.Write(p[:min(len(p), w.deadlines.maxWrite)])
		if n += m; err != nil {
			return n, err
		}
		if p = p[m:]; len(p) == 0 {
			return n, nil
		}
	}
}

// ReadFrom has files sent by the kernel, which net/http does for what is one.
func (w *clientWriter) ReadFrom(r io.Reader) (n int64, err error) {
	if w.deadlines.maxWrite < maxWrite {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	defer w.deadlines.endWrite()
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for whole.N > 0 {
		w.deadlines.startWrite()
		m, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: whole.R, N: min(whole.N, maxWrite)})
		n += m
		whole.N -= m
		if err != nil || m == 0 {
			return n, err
		}
	}
	return n, nil
}

func (w *clientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *clientWriter) flush() error {
	defer w.deadlines.endWrite()
	w.deadlines.startWrite()
	if err := w.deadlines.controller.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// A keptBody is a body that has come whole, in memory or in a temporary file.
type bufferedBody struct {
	io.Reader
	length int64
	file   *os.File
}

func (b bufferedBody) close() {
	if b.file != nil {
		_ = b.file.Close()
	}
}

// keepBody receives a body whole, so that the application is not kept waiting by a
// client that is slow. length is negative if it is not known. Of a body of up to most
// bytes the first 16 KiB are kept in memory.
func bufferBody(in *clientBody, length, maxLen int64) (bufferedBody, error) {
	if length > maxLen {
		return bufferedBody{}, ErrBodyTooLong
	}
	size := int64(maxInlineBody)
	if length >= 0 {
		size = min(length, size)
	}
	head := make([]byte, size+1) // the last byte finds the end
	n, err := io.ReadFull(in, head)
	if in.err != nil {
		return bufferedBody{}, in.err
	}
	if err != nil { // the end
		return checkLength(bytes.NewReader(head[:n]), nil, int64(n), length, maxLen)
	}
	f, err := temporaryFile()
	if err != nil {
		return bufferedBody{}, &TempFileError{err}
	}
	total, err := io.Copy(f, io.LimitReader(io.MultiReader(bytes.NewReader(head), in), maxLen+1))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case in.err != nil:
		err = in.err
	case err != nil:
		err = &TempFileError{err}
	default:
		return checkLength(f, f, total, length, maxLen)
	}
	_ = f.Close()
	return bufferedBody{}, err
}

func checkLength(r io.Reader, f *os.File, total, length, maxLen int64) (bufferedBody, error) {
	b := bufferedBody{r, total, f}
	switch {
	case total > maxLen, length >= 0 && total > length:
		b.close()
		return bufferedBody{}, ErrBodyTooLong
	case length >= 0 && total < length:
		b.close()
		return bufferedBody{}, ErrBodyTooShort
	}
	return b, nil
}
