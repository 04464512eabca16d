package fastcgi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// A Response is an application's response.
type Response struct {
	StatusCode int
	Reason     string      // the reason phrase of the Status field, or the standard one
	Header     http.Header // without Status

	// Body is received while it is read. It ends with io.EOF when the application has
	// ended the request or has sent Content-Length bytes. It ends with
	// io.ErrUnexpectedEOF if the connection ends before that, or if the body is shorter
	// than Content-Length. If the body is longer, the rest is dropped and the connection
	// is closed, as nginx does. The same holds for the body of a response that must not
	// have one: to HEAD, or with status 204 or 304.
	//
	// Close ends a Read in progress. Close before the end of the body closes the
	// connection.
	//
	// A script may go on after the last byte of its response. If the request was sent
	// whole and the body has its Content-Length, Read and Close wait for the script for
	// at most 10 ms. The connection stays in use until the script ends or is silent for
	// longer than RecvTimeout. Neither Close nor ctx ends the script; Client.Close does.
	Body io.ReadCloser

	x *exchange
}

// Stderr returns what the application has written to its standard error so far, up to
// 64 KiB.
func (r *Response) Stderr() []byte {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.stderr
}

// AppStatus returns the application's exit status. It is 0 until the request has ended,
// which may be after the end of a Body with Content-Length.
func (r *Response) AppStatus() uint32 {
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	return r.x.appStatus
}

// A responseBody is a Response's Body.
type responseBody struct{ x *exchange }

func (b responseBody) Read(p []byte) (int, error) {
	x := b.x
	x.readMu.Lock()
	defer x.unlockRead()
	for len(x.chunk) == 0 || x.closed.Load() {
		if x.err != nil || x.closed.Load() {
			return 0, x.readErrorLocked()
		}
		if len(p) == 0 {
			return 0, nil
		}
		x.fillLocked()
	}
	n := copy(p, x.chunk)
	x.chunk = x.chunk[n:]
	return n, nil
}

// WriteTo writes each piece of the body to w as soon as it has been received.
func (b responseBody) WriteTo(w io.Writer) (n int64, err error) {
	x := b.x
	x.readMu.Lock()
	defer x.unlockRead()
	for {
		if len(x.chunk) > 0 && !x.closed.Load() {
			// A Write that fails may go on with the chunk: net/http's over HTTP/2 does, if
			// the client resets the stream meanwhile.
			wasLent := x.chunkLent
			x.chunkLent = true
			m, err := w.Write(x.chunk)
			x.chunkLent = wasLent || err != nil
			n += int64(m)
			x.chunk = x.chunk[m:]
			if err != nil {
				return n, err
			}
		}
		if x.err != nil || x.closed.Load() {
			if err = x.readErrorLocked(); errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		x.fillLocked()
	}
}

// Close may be called while another goroutine reads. It ends that Read.
func (b responseBody) Close() error {
	x := b.x
	ended := false
	if x.readMu.TryLock() {
		if x.err == nil && x.remaining == 0 && x.requestSent() {
			x.finishLocked()
		}
		ended = x.err != nil
		x.freeUnusedLocked()
		x.readMu.Unlock()
	}
	if !x.closed.Swap(true) && !ended {
		_ = x.conn.Discard()
		x.cleanUpClosed()
	}
	return nil
}

var errBodyClosed = errors.New("fastcgi: response body is closed")

// fillLocked receives the next chunk of the body, or sets x.err.
func (x *exchange) fillLocked() {
	if x.remaining == 0 && x.requestSent() {
		x.finishLocked()
		return
	}
	x.setNextLocked(x.nextChunk())
}

// setNextLocked makes the result of nextChunk the next chunk or the error of the body.
func (x *exchange) setNextLocked(p []byte, err error) {
	switch {
	case err == nil:
		x.setChunkLocked(p)
	case errors.Is(err, io.EOF) && x.remaining > 0:
		x.err = io.ErrUnexpectedEOF // shorter than Content-Length
	case errors.Is(err, io.EOF):
		x.err = err
	default:
		x.err = x.abort(err)
		if x.remaining == 0 && x.ctx.Err() == nil && !x.closed.Load() {
			x.err = io.EOF // the body is complete, however the request ended
		}
	}
}

// setChunkLocked makes p the next chunk of the body. If the body is longer than its
// Content-Length, it truncates p and closes the connection.
func (x *exchange) setChunkLocked(p []byte) {
	x.chunk = p
	if x.remaining < 0 {
		return
	}
	x.chunk = p[:min(int64(len(p)), x.remaining)]
	x.remaining -= int64(len(x.chunk))
	if len(x.chunk) < len(p) {
		_ = x.abort(nil)
		x.err = io.EOF
	}
}

// readErrorLocked returns the error of a Read at the end of the body.
func (x *exchange) readErrorLocked() error {
	if x.closed.Load() {
		return errBodyClosed
	}
	return x.err
}

func (x *exchange) unlockRead() {
	x.freeUnusedLocked()
	x.readMu.Unlock()
	x.cleanUpClosed()
}

// cleanUpClosed releases what an exchange holds whose body has been closed. Read and Close
// both call it at their end. The later of the two gets the mutex.
func (x *exchange) cleanUpClosed() {
	if !x.closed.Load() || !x.readMu.TryLock() {
		return
	}
	x.chunk = nil
	if x.err == nil {
		_ = x.abort(nil)
		x.err = errBodyClosed
	}
	x.freeUnusedLocked()
	x.readMu.Unlock()
}

// freeUnusedLocked frees the receive buffer if the body has ended and was read.
func (x *exchange) freeUnusedLocked() {
	if x.err != nil && len(x.chunk) == 0 && !x.detached {
		x.freeBuffer()
	}
}

// finishLocked ends a body that has its Content-Length. The end of the request usually has
// been received with it. Otherwise another goroutine receives it, and finishLocked waits for
// endGracePeriod: the next request can then use the connection.
func (x *exchange) finishLocked() {
	if p, err := x.bufferedChunk(); p != nil || err != nil {
		x.setNextLocked(p, err)
		return
	}
	if !x.detachCtx() {
		x.err = x.abort(x.ctx.Err())
		return
	}
	x.err, x.chunk, x.detached = io.EOF, nil, true
	if x.onWait != nil {
		x.onWait()
		x.onWait = nil // it is for the reader of the body
	}
	x.detachCtx = context.AfterFunc(x.baseCtx, x.discard)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer x.freeBuffer()
		// Close the connection after an error, and also if the body goes on: it may be
		// endless.
		if _, err := x.nextChunk(); !errors.Is(err, io.EOF) {
			_ = x.abort(err)
		}
	}()
	timer := time.NewTimer(endGracePeriod)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	x.stderrMu.Lock()
	x.onStderr = nil
	x.stderrMu.Unlock()
}
