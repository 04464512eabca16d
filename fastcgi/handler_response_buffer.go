package fastcgi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// DefaultMaxBufferedResponse is nginx's fastcgi_max_temp_file_size.
	DefaultMaxBufferedResponse = 1 << 30

	memoryBufferSize = 64 << 10 // of an answer, in memory; twice as much for a client that is slow

	// An answer that is whole by then is written in one piece.
	copyDelay = 5 * time.Millisecond
)

// A buffer is what an application has answered and the client has not taken yet. The
// application writes at its own speed, and is free for others when it has: to memory
// and, where that is full, to a temporary file. Another goroutine passes it on at the
// client's speed.
//
//	Write → mem → file → client
//
// What is in mem is older than what is in the file. While the file has something, all
// that comes goes there.
type responseBuffer struct {
	out     *clientWriter
	maxFile int64  // of the file
	cancel  func() // ends the request: the client takes nothing more
	logf    func(string, ...any)

	mu         sync.Mutex
	cond       sync.Cond
	mem        []byte
	spare      []byte // what mem was before
	file       *os.File
	fileFailed bool  // there can be none
	readOff    int64 // of the file, passed on
	writeOff   int64 // of the file
	ended      bool  // all has been written
	err        error // why the client gets no more

	startTimer *time.Timer
	copying    bool          // there is a goroutine that does
	copied     chan struct{} // it has returned
	panicked   any
}

func newResponseBuffer(out *clientWriter, most int64, fail func(), logf func(string, ...any)) *responseBuffer {
	b := &responseBuffer{out: out, maxFile: most, cancel: fail, logf: logf}
	b.cond.L = &b.mu
	return b
}

// Write takes what the application has written. It waits only if there is no more room.
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
	if b.startTimer == nil {
		b.startTimer = time.AfterFunc(copyDelay, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.startCopyLocked()
		})
	}
	return n, b.err
}

// addLocked adds a part of p, which is nothing if there is no room.
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
		// No room on the disk is no reason to fail: the application then waits for the
		// client, as it would without a file.
		b.fileFailed = true
		b.logf("buffering an answer: %v; from here on at the client's speed", err)
	}
	b.writeOff += int64(n)
	return n
}

func (b *responseBuffer) writeFileLocked(p []byte) (int, error) {
	if b.file == nil {
		f, err := temporaryFile()
		if err != nil {
			return 0, err
		}
		b.file = f
	}
	return b.file.WriteAt(p, b.writeOff)
}

// passLocked has a goroutine pass on what there is, unless one does already.
func (b *responseBuffer) startCopyLocked() {
	if b.copying || b.ended {
		return
	}
	b.copying, b.copied = true, make(chan struct{})
	go func() {
		defer close(b.copied)
		defer func() {
			if v := recover(); v != nil { // a ResponseWriter's
				b.panicked = v
				b.fail(errors.New("fastcgi: the ResponseWriter has panicked"))
			}
		}()
		b.copyToClient()
	}()
}

// end is called when the application has written all, or will not. It returns when the
// client has it. The error is why it has not.
func (b *responseBuffer) finish() error {
	b.mu.Lock()
	b.ended = true
	b.cond.Broadcast()
	passing := b.copying
	b.mu.Unlock()
	if b.startTimer != nil {
		b.startTimer.Stop()
	}
	if passing {
		<-b.copied
	} else {
		b.copyToClient() // in one piece
	}
	if b.file != nil {
		_ = b.file.Close()
	}
	if b.panicked != nil {
		panic(b.panicked)
	}
	return b.err
}

func (b *responseBuffer) fail(err error) {
	b.mu.Lock()
	b.err = err
	b.cond.Broadcast()
	b.mu.Unlock()
	b.cancel()
}

// pass passes on what comes until it ends.
func (b *responseBuffer) copyToClient() {
	for {
		p, err := b.nextChunk()
		if err == nil && len(p) > 0 {
			_, err = b.out.Write(p)
		}
		if err == nil && !b.hasPending() {
			err = b.out.flush() // the application may take its time
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

// hasMore reports whether there is something to pass on, or nothing will come.
func (b *responseBuffer) hasPending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mem) > 0 || b.readOff < b.writeOff || b.ended
}

// next gives what is to be passed on, io.EOF at the end. It is good until the next call.
func (b *responseBuffer) nextChunk() ([]byte, error) {
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

// A stream is an answer that is passed on as it comes.
type unbufferedWriter struct{ out *clientWriter }

func (s unbufferedWriter) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return len(p), nil // to HEAD, 204, 304
	case err == nil:
		err = s.out.flush()
	}
	return n, err
}
