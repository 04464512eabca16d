package client

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Drain receives and discards, and returns the number of bytes. Options.RecvTimeout and the
// read deadline bound the call; at the limit Drain fails with os.ErrDeadlineExceeded.
//
// Without flags, Drain discards until the peer has ended the stream, and the error is then nil.
// Use it after CloseWrite, to close a connection without a reset: close(2) with unread data
// resets TCP, and what was sent last may be lost. On a datagram client, which has no end, it
// fails with unix.EOPNOTSUPP.
//
// With DontWait, Drain discards what has arrived, and does not wait. If the stream has ended,
// the error is io.EOF. Use it before a request, to get rid of what an earlier one has left. With
// Options.Framing it discards whole packets, and the beginning of an incomplete one stays for
// the next call. A datagram counts with its full size.
//
// Drain cannot know what has not arrived. A client that has sent a request and may still get
// its answer is no cleaner for it. The same holds in a Pool: bytes that Drain has discarded are
// no answer, so that the connection of a client that has sent something, and received nothing
// itself, is not used again; see PoolOptions.ReuseUnanswered. The rest of an answer whose
// beginning was received may be drained, and whole packets of a Framing count as answers.
//
// Other errors are those of Recv.
func (c *Client) Drain(flags Flag) (int64, error) {
	if err := c.begin(DontWait, flags, c.typ.isStream()); err != nil {
		return 0, c.opError(opDrain, nil, err)
	}
	defer c.lease.decref()
	if !c.typ.isStream() && flags&DontWait == 0 {
		return 0, c.opError(opDrain, nil, os.NewSyscallError("recvfrom", unix.EOPNOTSUPP))
	}
	n, err := c.drain(flags, c.limits().recv)
	how := flags | Peek // what nobody has looked at is no answer
	if c.hasFraming() && flags&DontWait != 0 {
		how = flags
	}
	c.recordRecv(int(min(n, 1)), 0, err, how)
	if flags&DontWait == 0 && errors.Is(err, io.EOF) {
		return n, nil
	}
	_, err = c.recvResult(opDrain, nil, 0, 0, err)
	return n, err
}
