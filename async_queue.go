package client

import (
	"errors"
	"fmt"
	"os"

	"github.com/blocksock/client/internal/sock"
)

// ErrQueueFull is the error of a send for which AsyncConfig.MaxQueue leaves no room. Nothing
// of it was sent or queued. OnBufferEmpty tells when there is room again.
var ErrQueueFull = errors.New("the send queue is full: wait for OnBufferEmpty or set AsyncConfig.MaxQueue")

// An UnsentError is the error of OnClose if sends had accepted bytes that were not sent.
// Bytes is their number as far as this package knows: bytes that are in the kernel's buffer
// count as sent. Err is why the client has ended: net.ErrClosed after Close, or else what
// OnClose would have been given without unsent bytes.
type UnsentError struct {
	Bytes int64
	Err   error
}

func (e *UnsentError) Error() string { return fmt.Sprintf("%d bytes not sent: %v", e.Bytes, e.Err) }

// Unwrap returns Err.
func (e *UnsentError) Unwrap() error { return e.Err }

// A sendQueue is what waits to be sent, in order. AsyncClient.mu protects it. The goroutine
// that writes works on the first item and removes it when that is done.
type sendQueue struct {
	items   []*sendItem
	bytes   int   // in memory
	refusal error // of further sends; nil while the client is open
	writing bool  // there is a goroutine that writes
}

// A sendItem is one step of a sendQueue.
type sendItem struct {
	kind itemKind

	p    []byte // itemBytes and itemDatagram: what is not sent yet
	busy bool   // being written, so that nothing can be appended
	to   *sock.Addr

	file           *os.File
	offset, length int64 // what is not sent yet

	tls       *TLSOptions // itemTLS
	onSecured func(*AsyncClient)
}

type itemKind int

const (
	itemBytes itemKind = iota
	itemDatagram
	itemFile
	itemCloseWrite
	itemFinish

	// At these, the goroutine that writes gives an order to the one that receives.
	itemTLS
	itemDetach
)

// appendLimit bounds how long small sends are gathered in one item.
const appendLimit = 64 << 10

// push queues a copy of stream bytes.
func (q *sendQueue) push(p []byte) {
	q.bytes += len(p)
	if n := len(q.items); n > 0 {
		last := q.items[n-1]
		if last.kind == itemBytes && !last.busy && len(last.p)+len(p) <= appendLimit {
			last.p = append(last.p, p...)
			return
		}
	}
	q.items = append(q.items, &sendItem{p: append([]byte(nil), p...)})
}

// pop removes the first item.
func (q *sendQueue) pop() {
	q.items[0] = nil
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
}

// unsent is how many bytes are not sent. It releases all.
func (q *sendQueue) unsent() (n int64) {
	for _, it := range q.items {
		n += int64(len(it.p)) + it.length
		if it.file != nil {
			_ = it.file.Close()
		}
	}
	q.items, q.bytes = nil, 0
	return n
}
