package fastcgi

import (
	"errors"
	"io"
	"net/http"
)

// How much is written to an HTTP client before one deadline. Over HTTP/2 it is the size of
// net/http's buffer: a client's flow-control window may be 64 KiB, and unlike a TCP socket
// the stream has no send buffer beyond that.
const (
	maxWrite      = 32 << 10
	maxWriteHTTP2 = 4 << 10
)

// A clientWriter writes a response to an HTTP client with a deadline for each piece.
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

// ReadFrom lets net/http send a file with sendfile(2). Over HTTP/2 it does not do that.
func (w *clientWriter) ReadFrom(r io.Reader) (n int64, err error) {
	if w.deadlines.maxWrite < maxWrite {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	defer w.deadlines.endWrite()
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		w.deadlines.startWrite()
		m, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: limited.R, N: min(limited.N, maxWrite)})
		n += m
		limited.N -= m
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
