package client

import (
	"errors"
	"io"
	"iter"

	"github.com/blocksock/client/internal/frame"
)

// RecvPacket receives one packet of Options.Framing, including its header or delimiter. The
// packet is valid until the next call that receives. Options.RecvTimeout and the read
// deadline bound the call. If a part of a packet has arrived at the limit, it stays for the
// next call.
//
// The end of the stream is io.EOF between two packets and io.ErrUnexpectedEOF within one. If
// the bytes are no packet, or one longer than the framing's Max, this call and all later ones
// fail with a *PacketError. Recv then still returns the bytes. Without Options.Framing,
// RecvPacket fails with an *OptionError.
func (c *Client) RecvPacket() ([]byte, error) { return c.nextPacket(nil) }

// nextPacket is RecvPacket that also makes ready, if it is not nil, a batch of packets that follow.
func (c *Client) nextPacket(ready *frame.Batch) ([]byte, error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return nil, c.opError(opRecvPacket, nil, err)
	}
	defer c.lease.decref()
	if !c.hasFraming() {
		return nil, c.opError(opRecvPacket, nil, errNoFraming)
	}
	if p := c.bufferedPacket(ready); p != nil {
		c.recordRecv(len(p), 1, nil, 0)
		return p, nil
	}
	p, got, err := c.recvPacket(c.limits().recv, ready)
	c.recordRecv(got, 1, err, 0)
	if err != nil {
		return nil, c.opError(opRecvPacket, nil, err)
	}
	return p, nil
}

// Packets ranges over the packets that RecvPacket returns, until the stream ends between two
// of them. Another error is the last pair, with a nil packet. Close, the read deadline and the
// context of Watch end the loop between any two packets.
//
// A packet is valid until the body of the loop returns, or calls a method that receives on this
// client, or another goroutine calls one. Its memory is used again after that: copy what is to
// last longer, with slices.Clone.
//
// Packets is the fastest way to receive short packets. The body may receive, too: it gets what
// follows the packet. After a break, the packets that follow are still to be received. If several
// goroutines receive, each packet goes to one of them.
func (c *Client) Packets() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var ready frame.Batch
		for {
			var p []byte
			var err error
			if !ready.Empty() && !c.lease.ended() && !c.sock.RecvEnded() {
				p = ready.Next() // does not reach the socket, so it needs no lock and no reference
			}
			if p != nil {
				if c.lease != nil || c.trace.Load() != nil { // recordRecv is not inlined
					c.recordRecv(len(p), 1, nil, 0)
				}
			} else if p, err = c.nextPacket(&ready); err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// SendPacket makes p a packet of Options.Framing and sends it. For a LengthPrefix it inserts
// the length after the first Offset bytes of p. For a Delimiter it appends Delim. For a
// LengthFunc it adds nothing. The count includes what was added.
//
// RecvPacket returns what was added, too. If Whole of the framing is set, and for a LengthFunc,
// the two are a pair: SendPacket sends what RecvPacket of another client with the same framing
// returns, unchanged.
//
// If the peer would not receive p as one packet, SendPacket sends nothing and fails with a
// *PacketError. If a packet was sent in part, all later ones fail. Limits and errors are
// otherwise those of Send.
func (c *Client) SendPacket(p []byte) (int, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sendResult(opSendPacket, nil, 0, err)
	}
	defer c.lease.decref()
	if !c.hasFraming() {
		return 0, c.sendResult(opSendPacket, nil, 0, errNoFraming)
	}
	n, err := c.sendPacket(p, c.limits().send)
	return n, c.sendResult(opSendPacket, nil, n, err)
}
