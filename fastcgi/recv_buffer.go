package fastcgi

import (
	"errors"
	"io"
	"sync"

	"github.com/blocksock/client"
)

// A recvBuffer holds what an exchange has received and not yet used. It belongs to one
// exchange at a time, and not to a connection: bytes that follow the end of a response
// never reach the next request.
type recvBuffer struct {
	p        []byte // p[from:to] was received and not yet returned
	from, to int
}

const (
	minRecvBuffer = 8 << 10 // php-fpm's own buffer
	maxRecvBuffer = maxRecordLen
)

var recvBuffers = sync.Pool{New: func() any { return &recvBuffer{p: make([]byte, minRecvBuffer)} }}

func newRecvBuffer() *recvBuffer { return recvBuffers.Get().(*recvBuffer) }

// free makes the buffer available to another exchange. No record that next has returned may
// be used after that.
func (b *recvBuffer) free() {
	b.from, b.to = 0, 0
	recvBuffers.Put(b)
}

// buffered returns the number of bytes that were received and not yet returned.
func (b *recvBuffer) buffered() int { return b.to - b.from }

// next returns the next record, which is valid until the next receive, or nil if the whole
// of it has not been received.
func (b *recvBuffer) next() []byte {
	n := recordLen(b.p[b.from:b.to])
	if n == 0 || n > b.buffered() {
		return nil
	}
	b.from += n
	return b.p[b.from-n : b.from : b.from]
}

// receive receives what has arrived on conn. Its errors are those of Recv; within a record,
// io.EOF becomes io.ErrUnexpectedEOF.
func (b *recvBuffer) receive(conn *client.Client) error {
	b.makeRoom()
	n, err := conn.Recv(b.p[b.to:], 0)
	b.to += n
	if errors.Is(err, io.EOF) && b.buffered() > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// leave takes other memory, and leaves the former to whoever still uses a record in it.
func (b *recvBuffer) leave() {
	p := make([]byte, len(b.p))
	b.to = copy(p, b.p[b.from:b.to])
	b.p, b.from = p, 0
}

// makeRoom makes room for the rest of a record, and for more if the last receive has filled
// the buffer.
func (b *recvBuffer) makeRoom() {
	size := max(recordLen(b.p[b.from:b.to]), len(b.p))
	if b.to == len(b.p) {
		size = max(size, min(2*len(b.p), maxRecvBuffer))
	}
	p := b.p
	if size > len(p) {
		p = make([]byte, size)
	} else if b.from == 0 {
		return
	}
	b.to = copy(p, b.p[b.from:b.to])
	b.p, b.from = p, 0
}
