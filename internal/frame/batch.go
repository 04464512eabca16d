package frame

import "sync/atomic"

const (
	// batchSize is how many packets a Batch has at most.
	batchSize = 64

	// A batch saves some 20 ns a packet. After a packet that is longer than shortPacket, that is
	// less than to look for the next ones costs.
	shortPacket = 4 << 10

	// takenBack is more than the packets of any batch.
	takenBack = 1 << 32
)

// A Batch is packets of a Buffer that its owner takes one by one without the receive lock. They
// stay the buffer's until they are taken: a call that has the lock and uses the buffer takes the
// rest of the batch back first.
//
//	under the lock:    Buffer.Next ──▶ Batch        takeBack ◀── Len, Peek, Read, Next
//	without the lock:                  Batch ──Next──▶ a packet, until takeBack
type Batch struct {
	taken atomic.Int64 // how many packets were taken; more than takenBack after takeBack
	next  int          // how many packets the owner has taken

	// The owner sets these under the lock.
	buffer *Buffer
	buf    []byte // begins with the first packet
	size   int
	ends   [1 + batchSize]int32 // where the packet before the first one ends, which is 0, the first one, …
}

// fill makes x the batch of the packets that the buffer begins with and that are there whole, after
// the owner of x has got one of a size. As long as no other call takes packets back, batches grow.
func (b *Buffer) fill(x *Batch, size int) {
	limit := min(2*x.next+1, batchSize)
	x.next, x.size = 0, 0
	if size > shortPacket {
		return
	}
	x.buf = b.buf[b.from:min(b.to, b.from+readAhead)]
	if x.size = b.codec.Ends(x.buf, x.ends[1:1+limit]); x.size > 0 {
		x.taken.Store(0)
		x.buffer, b.ready = b, x
	}
}

// Empty reports whether the owner has taken all packets.
func (x *Batch) Empty() bool { return x.next == x.size }

// Next takes the next packet. It returns nil if there is none. The packet is valid until the next
// call that fills the buffer.
func (x *Batch) Next() []byte {
	i := x.next
	if x.Empty() || x.taken.Add(1) > takenBack {
		return nil
	}
	x.next++
	if b := x.buffer; b.received.Load() < b.sent.Load() {
		b.countReceived()
	}
	end := x.ends[i+1]
	return x.buf[x.ends[i]:end:end]
}

// takeBack makes the packets of a batch that were not taken the next ones of the buffer again.
func (b *Buffer) takeBack() {
	x := b.ready
	if x == nil {
		return
	}
	n := x.taken.Swap(takenBack)
	b.ready = nil
	b.from, b.seen = b.from+int(x.ends[n]), 0
	for i := int64(0); i < n && b.isLarge(); i++ {
		b.shrink(int(x.ends[i+1] - x.ends[i]))
	}
}
