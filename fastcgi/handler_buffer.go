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

	bufferLen = 64 << 10 // of an answer, in memory; twice as much for a client that is slow

	// An answer that is whole by then is written in one piece.
	bufferTime = 5 * time.Millisecond
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
type buffer struct {
	out  *clientWriter
	most int64  // of the file
	fail func() // ends the request: the client takes nothing more
	logf func(string, ...any)

	mu     sync.Mutex
	change sync.Cond
	mem    []byte
	spare  []byte // what mem was before
	file   *os.File
	noFile bool  // there can be none
	read   int64 // of the file, passed on
	size   int64 // of the file
	ended  bool  // all has been written
	err    error // why the client gets no more

	timer    *time.Timer
	passing  bool          // there is a goroutine that does
	passed   chan struct{} // it has returned
	panicked any
}

func newBuffer(out *clientWriter, most int64, fail func(), logf func(string, ...any)) *buffer {
	b := &buffer{out: out, most: most, fail: fail, logf: logf}
	b.change.L = &b.mu
	return b
}

// Write takes what the application has written. It waits only if there is no more room.
func (b *buffer) Write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(p) > 0 && b.err == nil {
		m := b.addLocked(p)
		n += m
		p = p[m:]
		if len(p) > 0 {
			b.passLocked()
		}
		if m == 0 {
			b.change.Wait()
		}
	}
	b.change.Broadcast()
	if b.timer == nil {
		b.timer = time.AfterFunc(bufferTime, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.passLocked()
		})
	}
	return n, b.err
}

// addLocked adds a part of p, which is nothing if there is no room.
func (b *buffer) addLocked(p []byte) int {
	if b.read == b.size {
		if n := min(len(p), bufferLen-len(b.mem)); n > 0 {
			b.mem = append(b.mem, p[:n]...)
			return n
		}
	}
	room := min(int64(len(p)), b.most-b.size)
	if room <= 0 || b.noFile {
		return 0
	}
	n, err := b.writeFileLocked(p[:room])
	if err != nil {
		// No room on the disk is no reason to fail: the application then waits for the
		// client, as it would without a file.
		b.noFile = true
		b.logf("buffering an answer: %v; from here on at the client's speed", err)
	}
	b.size += int64(n)
	return n
}

func (b *buffer) writeFileLocked(p []byte) (int, error) {
	if b.file == nil {
		f, err := temporaryFile()
		if err != nil {
			return 0, err
		}
		b.file = f
	}
	return b.file.WriteAt(p, b.size)
}

// passLocked has a goroutine pass on what there is, unless one does already.
func (b *buffer) passLocked() {
	if b.passing || b.ended {
		return
	}
	b.passing, b.passed = true, make(chan struct{})
	go func() {
		defer close(b.passed)
		defer func() {
			if v := recover(); v != nil { // a ResponseWriter's
				b.panicked = v
				b.stop(errors.New("fastcgi: the ResponseWriter has panicked"))
			}
		}()
		b.pass()
	}()
}

// end is called when the application has written all, or will not. It returns when the
// client has it. The error is why it has not.
func (b *buffer) end() error {
	b.mu.Lock()
	b.ended = true
	b.change.Broadcast()
	passing := b.passing
	b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
	if passing {
		<-b.passed
	} else {
		b.pass() // in one piece
	}
	if b.file != nil {
		_ = b.file.Close()
	}
	if b.panicked != nil {
		panic(b.panicked)
	}
	return b.err
}

func (b *buffer) stop(err error) {
	b.mu.Lock()
	b.err = err
	b.change.Broadcast()
	b.mu.Unlock()
	b.fail()
}

// pass passes on what comes until it ends.
func (b *buffer) pass() {
	for {
		p, err := b.next()
		if err == nil && len(p) > 0 {
			_, err = b.out.Write(p)
		}
		if err == nil && !b.hasMore() {
			err = b.out.flush() // the application may take its time
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil && !errors.Is(err, http.ErrBodyNotAllowed):
			b.stop(err)
			return
		}
	}
}

// hasMore reports whether there is something to pass on, or nothing will come.
func (b *buffer) hasMore() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mem) > 0 || b.read < b.size || b.ended
}

// next gives what is to be passed on, io.EOF at the end. It is good until the next call.
func (b *buffer) next() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.err != nil:
			return nil, b.err
		case len(b.mem) > 0:
			p := b.mem
			b.mem, b.spare = b.spare[:0], p
			b.change.Broadcast()
			return p, nil
		case b.read < b.size:
			return b.readFileLocked()
		case b.ended:
			return nil, io.EOF
		}
		b.change.Wait()
	}
}

func (b *buffer) readFileLocked() ([]byte, error) {
	if cap(b.spare) < pieceLen {
		b.spare = make([]byte, pieceLen)
	}
	p := b.spare[:min(pieceLen, b.size-b.read)]
	if _, err := b.file.ReadAt(p, b.read); err != nil {
		return nil, err
	}
	if b.read += int64(len(p)); b.read == b.size {
		b.read, b.size = 0, 0
		_ = b.file.Truncate(0)
		b.noFile = false
	}
	b.change.Broadcast()
	return p, nil
}

// A stream is an answer that is passed on as it comes.
type stream struct{ out *clientWriter }

func (s stream) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return len(p), nil // to HEAD, 204, 304
	case err == nil:
		err = s.out.flush()
	}
	return n, err
}
