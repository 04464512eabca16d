package frame

import (
	"errors"
	"sync/atomic"
)

// A Buffer is what was received from a stream and not returned to a caller yet, and the state
// of the packets that are sent on it:
//
//	stream ──Room, Filled──▶ buf ──Next──▶ a packet
//	                             ──Read──▶ bytes
//
// Two callers may use it at once: one that receives and one that sends.
type Buffer struct {
	codec Codec

	// These belong to the caller that receives.
	buf   []byte // buf[from:to] is received
	from  int
	to    int
	seen  int    // how much of it the codec has looked at in vain
	ahead bool   // the last Room was for as much as there is
	full  bool   // and was filled
	small int    // how many packets in a row would have done with a much smaller buffer
	err   error  // after which there are no more packets
	ready *Batch // of the packets from from on; nil: none

	received atomic.Int64 // how many packets were returned that answer one that was sent

	// These belong to the caller that sends.
	out     []byte
	scratch [8]byte
	partial bool         // a packet was sent in part
	sent    atomic.Int64 // how many were sent, or are being sent; the caller that receives reads it
}

const (
	// leastAhead is how much is received at once to begin with, if it is not known that more
	// belongs together. It doubles each time when as much is there, up to readAhead.
	leastAhead = 4 << 10
	readAhead  = 64 << 10

	// atOnce is the most memory that is taken for a packet before its bytes have arrived. For
	// a longer packet, the memory doubles each time when it is full.
	atOnce = DefaultMax

	// patience is after how many small packets in a row a large buffer is released.
	patience = 64

	// gather is up to how many bytes a packet is copied to be sent in one piece.
	gather = 64 << 10
)

// ErrPartial is the error of a packet after one that was sent in part.
var ErrPartial = errors.New("an earlier packet was sent in part, and the peer would take this one for the rest of it: close the client and dial again")

// NewBuffer returns an empty buffer.
func NewBuffer(codec Codec) *Buffer { return &Buffer{codec: codec} }

// Len is how many bytes are received and not returned. The nil Buffer has none.
func (b *Buffer) Len() int {
	if b == nil {
		return 0
	}
	b.takeBack()
	return b.to - b.from
}

// Unanswered reports whether fewer packets were received than sent before them, so that an
// answer is still to come. Nobody may be using the buffer.
func (b *Buffer) Unanswered() bool { return b != nil && b.sent.Load() > b.received.Load() }

// Read returns bytes of the buffer, across packets.
func (b *Buffer) Read(p []byte) int {
	n := b.Peek(p)
	b.from += n
	b.seen = 0
	return n
}

// Peek is Read that leaves the bytes.
func (b *Buffer) Peek(p []byte) int {
	b.takeBack()
	return copy(p, b.buf[b.from:b.to])
}

// Next returns the next packet if all of it is there, or else its size if that is known. The
// packet is valid until the next call that fills the buffer. If x, which is the caller's, is not
// nil, it becomes the batch of packets that follow and are there.
func (b *Buffer) Next(x *Batch) (packet []byte, size int, err error) {
	b.takeBack()
	if b.err != nil {
		return nil, 0, b.err
	}
	p := b.buf[b.from:b.to]
	if len(p) == b.seen {
		return nil, 0, nil
	}
	size, err = b.codec.Size(p, b.seen)
	switch {
	case err != nil:
		b.err = complete(err, b.codec.Max(), p)
		return nil, 0, b.err
	case size == 0:
		b.seen = len(p)
	case size <= len(p):
		b.from += size
		b.seen = 0
		b.countReceived()
		b.shrink(size)
		if x != nil {
			b.fill(x, size)
		}
		return p[:size:size], size, nil
	}
	return nil, size, nil
}

// countReceived counts a packet that is returned, unless it answers nothing, as a greeting.
func (b *Buffer) countReceived() {
	for n := b.received.Load(); n < b.sent.Load(); n = b.received.Load() {
		if b.received.CompareAndSwap(n, n+1) {
			return
		}
	}
}

// Room returns where to receive more of a packet that has size bytes, or 0 if that is not
// known. If all is true, all of the room is the packet's, and waiting until it is full is right.
func (b *Buffer) Room(size int) (room []byte, all bool) {
	have := b.to - b.from
	if b.ahead = size-have < readAhead; !b.ahead {
		b.grow(min(size, max(atOnce, 2*have)))
		return b.buf[b.to:min(b.from+size, len(b.buf))], true
	}
	// What follows the packet may come along.
	need := max(size, have+1, leastAhead)
	if b.full {
		need = max(need, min(2*len(b.buf), readAhead))
	}
	b.grow(need)
	return b.buf[b.to:], false
}

// RoomToPeek returns where to receive so that size bytes are in the buffer, and what has arrived
// with them: the next receive returns only what is in the buffer.
func (b *Buffer) RoomToPeek(size int) []byte {
	b.ahead = false
	b.grow(max(size, leastAhead))
	return b.buf[b.to:]
}

// Filled adds n bytes that were received into the room.
func (b *Buffer) Filled(n int) {
	b.to += n
	b.full = b.ahead && b.to == len(b.buf)
}

// grow makes size bytes fit, counted from the first that was not returned, and makes room for
// more than there is. It does not leave a small room behind packets that were returned: to receive
// little at once takes more system calls.
func (b *Buffer) grow(size int) {
	have := b.to - b.from
	switch {
	case b.from+size <= len(b.buf) && b.to < len(b.buf) && b.from <= len(b.buf)/2:
		return
	case size <= len(b.buf) && have < len(b.buf):
		copy(b.buf, b.buf[b.from:b.to]) // over packets that are not valid any more
	default:
		grown := make([]byte, max(size, min(2*have, b.codec.Max())))
		copy(grown, b.buf[b.from:b.to])
		b.buf = grown
	}
	b.from, b.to = 0, have
}

// shrink releases a buffer that a large packet has made and small ones do not need.
func (b *Buffer) shrink(size int) {
	if b.small++; size > len(b.buf)/4 || !b.isLarge() {
		b.small = 0
	}
	if b.small >= patience && b.from == b.to {
		b.buf, b.from, b.to, b.small = nil, 0, 0, 0 // the packet keeps its memory
	}
}

func (b *Buffer) isLarge() bool { return len(b.buf) > 4*readAhead }

// Encode returns what to send so that p becomes a packet, and its length. The pieces are
// valid until the next Encode. Sent is to be called after the send, or NotSent.
func (b *Buffer) Encode(p []byte) (pieces [3][]byte, total int, err error) {
	if b.partial {
		return pieces, 0, ErrPartial
	}
	missing, at, err := b.codec.Frame(p, b.scratch[:])
	if err != nil {
		return pieces, 0, complete(err, b.codec.Max(), p)
	}
	b.sent.Add(1) // before the send: the answer may be received before its return
	total = len(p) + len(missing)
	// A short packet goes in one piece, so that it is not two segments. A long one is not
	// copied for that.
	if at > gather {
		return [3][]byte{p[:at], missing, p[at:]}, total, nil
	}
	short := min(len(p), max(gather, at))
	b.out = append(append(append(b.out[:0], p[:at]...), missing...), p[at:short]...)
	return [3][]byte{b.out, p[short:]}, total, nil
}

// NotSent tells that the last packet is not going to be sent.
func (b *Buffer) NotSent() { b.sent.Add(-1) }

// Sent tells how many bytes of the last packet were sent.
func (b *Buffer) Sent(n, total int) { b.partial = n > 0 && n < total }
