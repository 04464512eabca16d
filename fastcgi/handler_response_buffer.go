package fastcgi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// DefaultMaxBufferedResponse is the default of nginx's fastcgi_max_temp_file_size.
const DefaultMaxBufferedResponse = 1 << 30

const (
	memoryBufferSize = 64 << 10

	// copyDelay is how long a buffer that has bytes waits for more before it starts to
	// write to the HTTP client. A response that is complete by then is written at once,
	// without another goroutine.
	copyDelay = 5 * time.Millisecond
)

// A responseBuffer stores what the application has written and the HTTP client has not yet
// accepted. Write stores at the application's speed, so that the worker is free as soon as
// the response is complete: in memory and, when that is full, in a temporary file. Another
// goroutine copies to the client at the client's speed.
//
//	Write → mem → file → client
//
// The bytes in mem precede those in file. While file has bytes, Write appends only to it.
type responseBuffer struct {
	out     *clientWriter
	maxFile int64     // maximum length of file; negative: no file
	in      io.Closer // the application's response, which is closed after an error of out
	logf    func(string, ...any)

	mu   sync.Mutex
	cond sync.Cond // a field below has changed
	*responseMemory
	file       *os.File
	fileFailed bool  // file cannot be created or is full
	readOff    int64 // up to which file was copied
	writeOff   int64 // up to which file was written
	ended      bool  // Write will not be called again
	err        error // of out

	startTimer *time.Timer
	copying    bool          // the copying goroutine was started
	copied     chan struct{} // closed when it has ended
	panicked   any           // its panic
}

// A responseMemory is the memory of a responseBuffer, which later ones use again.
type responseMemory struct {
	mem   []byte
	spare []byte // the previous mem
}

var responseMemories = sync.Pool{New: func() any { return new(responseMemory) }}

func newResponseBuffer(out *clientWriter, maxFile int64, in io.Closer, logf func(string, ...any)) *responseBuffer {
	b := &responseBuffer{
		out: out, maxFile: maxFile, in: in, logf: logf, responseMemory: responseMemories.Get().(*responseMemory),
	}
	b.cond.L = &b.mu
	return b
}

// Write stores p. It waits only if there is no more room.
func (b *responseBuffer) Write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(p) > 0 && b.err == nil {
		m := b.appendLocked(p)
		n += m
		p = p[m:]
		if len(p) > 0 {
			b.startCopyLocked()
		}
		if m == 0 {
			b.cond.Wait()
		}
	}
	b.cond.Broadcast()
	return n, b.err
}

// startSoon must be called when the application pauses. If there are bytes to copy,
// copying starts after copyDelay. Most responses are received without a pause, and a timer
// costs a wake-up of the runtime's poller.
func (b *responseBuffer) startSoon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.startTimer != nil || len(b.mem) == 0 {
		return
	}
	b.startTimer = time.AfterFunc(copyDelay, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.startCopyLocked()
	})
}

// appendLocked stores as much of p as there is room for. It returns 0 if there is no room.
func (b *responseBuffer) appendLocked(p []byte) int {
	if b.readOff == b.writeOff {
		if n := min(len(p), memoryBufferSize-len(b.mem)); n > 0 {
			b.mem = append(b.mem, p[:n]...)
			return n
		}
	}
	room := min(int64(len(p)), b.maxFile-b.writeOff)
	if room <= 0 || b.fileFailed {
		return 0
	}
	n, err := b.writeFileLocked(p[:room])
	if err != nil {
		// A full disk does not fail the request: the application waits for the client,
		// as without a file.
		b.fileFailed = true
		b.logf("store response in a temporary file: %v: continuing at the client's speed; free space in %s or set TMPDIR", err, os.TempDir())
	}
	b.writeOff += int64(n)
	return n
}

func (b *responseBuffer) writeFileLocked(p []byte) (int, error) {
	if b.file == nil {
		f, err := createTemp()
		if err != nil {
			return 0, err
		}
		b.file = f
	}
	return b.file.WriteAt(p, b.writeOff)
}

// startCopyLocked starts the copying goroutine, unless it was started before.
func (b *responseBuffer) startCopyLocked() {
	if b.copying || b.ended {
		return
	}
	b.copying, b.copied = true, make(chan struct{})
	go func() {
		defer close(b.copied)
		defer func() {
			if v := recover(); v != nil { // of the ResponseWriter
				b.panicked = v
				b.fail(errors.New("fastcgi: the ResponseWriter panicked"))
			}
		}()
		b.copyToClient()
	}()
}

// finish must be called after the last Write. It returns when the client has accepted
// everything, or why it has not.
func (b *responseBuffer) finish() error {
	b.mu.Lock()
	b.ended = true
	b.cond.Broadcast()
	copying := b.copying
	b.mu.Unlock()
	if b.startTimer != nil {
		b.startTimer.Stop()
	}
	if copying {
		<-b.copied
	} else {
		b.copyToClient()
	}
	if b.file != nil {
		_ = b.file.Close()
	}
	if b.panicked != nil {
		panic(b.panicked)
	}
	if b.err == nil { // a Write that failed may go on with the memory; see WriteTo of the body
		b.mem, b.spare = b.mem[:0], b.spare[:0]
		responseMemories.Put(b.responseMemory)
		b.responseMemory = nil
	}
	return b.err
}

func (b *responseBuffer) fail(err error) {
	b.mu.Lock()
	b.err = err
	b.cond.Broadcast()
	b.mu.Unlock()
	_ = b.in.Close()
}

// copyToClient copies to the client until everything was copied.
func (b *responseBuffer) copyToClient() {
	for {
		p, err := b.next()
		if err == nil && len(p) > 0 {
			_, err = b.out.Write(p)
		}
		if err == nil && !b.hasPending() {
			err = b.out.flush() // the application may pause
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && !errors.Is(err, http.ErrBodyNotAllowed):
			b.fail(err)
			return
		}
	}
}

// hasPending reports whether copyToClient will go on without waiting for the application.
func (b *responseBuffer) hasPending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mem) > 0 || b.readOff < b.writeOff || b.ended
}

// next returns the bytes to copy next, which are valid until the next call, and io.EOF
// after the last. It waits for the application.
func (b *responseBuffer) next() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.err != nil:
			return nil, b.err
		case len(b.mem) > 0:
			p := b.mem
			b.mem, b.spare = b.spare[:0], p
			b.cond.Broadcast()
			return p, nil
		case b.readOff < b.writeOff:
			return b.readFileLocked()
		case b.ended:
			return nil, io.EOF
		}
		b.cond.Wait()
	}
}

func (b *responseBuffer) readFileLocked() ([]byte, error) {
	if cap(b.spare) < maxWrite {
		b.spare = make([]byte, maxWrite)
	}
	p := b.spare[:min(maxWrite, b.writeOff-b.readOff)]
	if _, err := b.file.ReadAt(p, b.readOff); err != nil {
		return nil, err
	}
	if b.readOff += int64(len(p)); b.readOff == b.writeOff {
		b.readOff, b.writeOff = 0, 0
		_ = b.file.Truncate(0)
		b.fileFailed = false
	}
	b.cond.Broadcast()
	return p, nil
}

// An unbufferedWriter writes and flushes each piece of a response.
type unbufferedWriter struct{ out *clientWriter }

func (w unbufferedWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return len(p), nil // HEAD, 204 or 304
	case err == nil:
		err = w.out.flush()
	}
	return n, err
}
