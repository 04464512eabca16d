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
	pieceLen   = 32 << 10
	shortPiece = 4 << 10
)

// A link is the HTTP client's side of a request: each Read and each piece written has
// the whole of a limit, which the server's own limits still bound. The limit is taken
// back after each: over HTTP/2 it would end the stream at its time, Read or write or not.
type link struct {
	piece      int // pieceLen or shortPiece
	control    *http.ResponseController
	limit      time.Duration // negative: none
	readUntil  time.Time     // http.Server.ReadTimeout; zero: never
	writeUntil time.Time     // http.Server.WriteTimeout

	mu      sync.Mutex
	stopped bool // the body is not to be read any more
	ended   bool // the body has come whole
}

func (h *Handler) newLink(w http.ResponseWriter, r *http.Request) *link {
	l := &link{piece: pieceLen, control: http.NewResponseController(w), limit: cmp.Or(h.ClientTimeout, DefaultClientTimeout)}
	if r.ProtoMajor > 1 {
		l.piece = shortPiece
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		now := time.Now()
		if s.ReadTimeout > 0 {
			l.readUntil = now.Add(s.ReadTimeout)
		}
		if s.WriteTimeout > 0 {
			l.writeUntil = now.Add(s.WriteTimeout)
		}
	}
	return l
}

// within gives the end of a limit that begins now.
func (l *link) within(until time.Time) time.Time {
	if end := time.Now().Add(l.limit); until.IsZero() || end.Before(until) {
		return end
	}
	return until
}

// reading begins the limit of a read, and reports whether there is more to read. Where a
// ResponseWriter does not have deadlines, there is no limit. At the end of a body net/http
// takes the deadline back itself: it then waits for the client to go.
func (l *link) reading() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit > 0 && !l.stopped && !l.ended {
		_ = l.control.SetReadDeadline(l.within(l.readUntil))
	}
	return !l.ended
}

// hasRead ends the limit of a read that was not the last.
func (l *link) hasRead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit > 0 && !l.stopped {
		_ = l.control.SetReadDeadline(l.readUntil)
	}
}

// hasDeadlines reports whether a Read can be ended. It cannot behind a ResponseWriter
// that has no Unwrap.
func (l *link) hasDeadlines() bool {
	return !errors.Is(l.control.SetReadDeadline(l.readUntil), http.ErrNotSupported)
}

// stopReading ends a read that is under way, and all later ones.
func (l *link) stopReading() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	_ = l.control.SetReadDeadline(time.Unix(1, 0))
}

// atEnd says that the body has come whole.
func (l *link) atEnd() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

func (l *link) isStopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// writing begins the limit of a write.
func (l *link) writing() {
	if l.limit > 0 {
		_ = l.control.SetWriteDeadline(l.within(l.writeUntil))
	}
}

// written ends the limit of a write.
func (l *link) written() {
	if l.limit > 0 {
		_ = l.control.SetWriteDeadline(l.writeUntil)
	}
}

// A clientBody is the body of a request as its client sends it.
type clientBody struct {
	io.Reader
	link *link
	err  error // what was wrong with it
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.link.reading()
	n, err := b.Reader.Read(p)
	switch err { //nolint:errorlint // io.Reader's own, which comes bare
	case nil:
		b.link.hasRead()
	case io.EOF:
		b.link.atEnd()
	default:
		late := isTimeout(err)
		err = &BodyError{err}
		if !b.link.isStopped() {
			b.err = err
		}
		if late {
			b.link.stopReading() // and the server does not wait once more
		}
	}
	return n, err
}

// A clientWriter writes an answer as its client takes it.
type clientWriter struct {
	http.ResponseWriter
	link *link
}

func (w *clientWriter) Write(p []byte) (n int, err error) {
	defer w.link.written()
	for {
		w.link.writing()
		m, err := w.ResponseWriter.Write(p[:min(len(p), w.link.piece)])
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
	if w.link.piece < pieceLen {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	defer w.link.written()
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for whole.N > 0 {
		w.link.writing()
		m, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: whole.R, N: min(whole.N, pieceLen)})
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
	defer w.link.written()
	w.link.writing()
	if err := w.link.control.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// A keptBody is a body that has come whole, in memory or in a temporary file.
type keptBody struct {
	io.Reader
	length int64
	file   *os.File
}

func (b keptBody) close() {
	if b.file != nil {
		_ = b.file.Close()
	}
}

// keepBody receives a body whole, so that the application is not kept waiting by a
// client that is slow. length is negative if it is not known. Of a body of up to most
// bytes the first 16 KiB are kept in memory.
func keepBody(in *clientBody, length, most int64) (keptBody, error) {
	if length > most {
		return keptBody{}, ErrBodyTooLong
	}
	size := int64(shortBody)
	if length >= 0 {
		size = min(length, size)
	}
	head := make([]byte, size+1) // the last byte finds the end
	n, err := io.ReadFull(in, head)
	if in.err != nil {
		return keptBody{}, in.err
	}
	if err != nil { // the end
		return kept(bytes.NewReader(head[:n]), nil, int64(n), length, most)
	}
	f, err := temporaryFile()
	if err != nil {
		return keptBody{}, &TempFileError{err}
	}
	total, err := io.Copy(f, io.LimitReader(io.MultiReader(bytes.NewReader(head), in), most+1))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	switch {
	case in.err != nil:
		err = in.err
	case err != nil:
		err = &TempFileError{err}
	default:
		return kept(f, f, total, length, most)
	}
	_ = f.Close()
	return keptBody{}, err
}

func kept(r io.Reader, f *os.File, total, length, most int64) (keptBody, error) {
	b := keptBody{r, total, f}
	switch {
	case total > most, length >= 0 && total > length:
		b.close()
		return keptBody{}, ErrBodyTooLong
	case length >= 0 && total < length:
		b.close()
		return keptBody{}, ErrBodyTooShort
	}
	return b, nil
}
