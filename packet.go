package client

import (
	"errors"
	"io"
	"iter"
)

// RecvPacket receives one whole packet by Options.Framing, its header or delimiter
// included. It is valid until the next call that receives. Options.RecvTimeout and
// the read deadline, the earlier, bound the call; a packet of which a part has come
// by then is given by the next call, when the rest has.
//
// Between two packets the end of the stream is io.EOF, within one it is
// io.ErrUnexpectedEOF. What is no packet, or one longer than the framing's Max, is
// a *PacketError, for this and every later call; Recv gives the bytes as they came.
func (c *Client) RecvPacket() ([]byte, error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return nil, c.failed(opRecvPacket, nil, err)
	}
	defer c.lease.decref()
	if !c.hasFraming() {
		return nil, c.failed(opRecvPacket, nil, errNoFraming)
	}
	p, got, err := c.stream.recvPacket(c.limits.recv)
	c.lease.recordRecv(got, 1, err, 0)
	if err != nil {
		return nil, c.failed(opRecvPacket, nil, err)
	}
	return p, nil
}

// Packets ranges over the packets that RecvPacket gives, until the stream ends
// between two of them. Any other error comes last, with no packet.
func (c *Client) Packets() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			p, err := c.RecvPacket()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(nil, err)
				return
			case !yield(p, nil):
				return
			}
		}
	}
}

// SendPacket sends p with what it lacks to be a packet by Options.Framing: the
// length, after the first Offset bytes of p; the delimiter, after all of it;
// nothing, for a LengthFunc. What the peer's framing would not take for that one
// packet is a *PacketError, and nothing is sent. The count is of the packet's
// bytes, the added ones too; after a part there are no more packets. For the rest
// it is Send.
func (c *Client) SendPacket(p []byte) (int, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sentSome(opSendPacket, nil, 0, err)
	}
	defer c.lease.decref()
	if !c.hasFraming() {
		return 0, c.sentSome(opSendPacket, nil, 0, errNoFraming)
	}
	n, err := c.stream.sendPacket(p, c.limits.send)
	return n, c.sentSome(opSendPacket, nil, n, err)
}
