package client

import (
	"errors"
	"io"
	"iter"
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
func (c *Client) RecvPacket() ([]byte, error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return nil, c.opError(opRecvPacket, nil, err)
	}
	defer c.lease.decref()
	if !c.hasFraming() {
		return nil, c.opError(opRecvPacket, nil, errNoFraming)
	}
	p, got, err := c.recvPacket(c.limits().recv)
	c.recordRecv(got, 1, err, 0)
	if err != nil {
		return nil, c.opError(opRecvPacket, nil, err)
	}
	return p, nil
}

// Packets ranges over the packets that RecvPacket returns, until the stream ends between two
// of them. Another error is the last pair, with a nil packet.
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

// SendPacket makes p a packet of Options.Framing and sends it. For a LengthPrefix it inserts
// the length after the first Offset bytes of p. For a Delimiter it appends Delim. For a
// LengthFunc it adds nothing. The count includes what was added.
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
