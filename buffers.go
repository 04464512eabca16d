package client

import "net"

// SendBuffers sends the buffers one after the other, as Send sends one, without copying them
// into one: a header and a body are one segment if they fit. It returns how many bytes the
// kernel has accepted; a count below the sum of their lengths comes with an error.
// Options.SendTimeout and the write deadline bound the whole call.
//
// On a plain stream one system call (sendmsg(2)) takes up to 1,024 buffers and 1 MiB. Over TLS
// the buffers are copied, so that a record of 16 KiB holds as many as fit. On a datagram client
// they are one datagram. A Framing adds nothing: SendPacket does.
//
// Buffers may be empty. No buffers send nothing on a stream, and an empty datagram.
// SendBuffers changes neither bufs nor what is in it, and allocates nothing, except on macOS and
// FreeBSD and for a datagram of more than 1,024 buffers. To go on after an error, skip as many
// bytes as were sent. Errors are otherwise those of Send.
//
// net.Buffers.WriteTo does not know SendBuffers: on a Client it calls Write for each buffer,
// which is right, but takes a system call, a segment, a TLS record or a datagram each.
func (c *Client) SendBuffers(bufs net.Buffers) (int64, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sendResult(opSendBuffers, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.sendBuffers(bufs, c.limits().send)
	return n, c.sendResult(opSendBuffers, nil, int(min(n, 1)), err)
}
