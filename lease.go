package client

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A client from a pool is lent. Its Close ends the loan, and whoever still has
// the client must not reach the connection any more, which may be somebody else's
// by then. So every call holds the client, and who ends the loan learns whether
// anybody does.

// hold begins a call; false: the client has been given back.
func (c *Client) hold() bool { return c.kept == nil || c.gate.enter() }

func (c *Client) end() {
	if c.kept != nil {
		c.gate.leave()
	}
}

// A gate counts who is inside, and lets nobody in once it is shut: from then on
// the count is below zero.
type gate struct{ inside atomic.Int64 }

func (g *gate) enter() bool {
	if g.inside.Add(1) > 0 {
		return true
	}
	g.inside.Add(-1)
	return false
}

func (g *gate) leave() { g.inside.Add(-1) }

// shut reports whether it was open, and whether anybody was inside.
func (g *gate) shut() (first, inUse bool) {
	for {
		n := g.inside.Load()
		if n < 0 {
			return false, false
		}
		if g.inside.CompareAndSwap(n, n+math.MinInt64) {
			return true, n > 0
		}
	}
}

// isEmpty reports whether it is shut and nobody is inside any more.
func (g *gate) isEmpty() bool { return g.inside.Load() == math.MinInt64 }

// A note is what a pool has to know of how a client was used.
type note struct{ bits atomic.Uint32 }

const (
	isBroken   = 1 << iota // a call failed, or ended a direction
	isAltered              // a call changed what the connection is, or had its descriptor
	isAsked                // something was sent, and nothing received since
	isAnswered             // something was received
	isLost                 // a call failed because the connection is dead
)

func (n *note) has(bit uint32) bool { return n.bits.Load()&bit != 0 }

// set costs nothing where it changes nothing.
func (n *note) set(bit uint32) {
	if !n.has(bit) {
		n.bits.Or(bit)
	}
}

func (n *note) broken()  { n.set(isBroken) }
func (n *note) altered() { n.set(isAltered) }

// failed notes the error of a call.
func (n *note) failed(err error) {
	n.broken()
	if isLoss(err) {
		n.set(isLost)
	}
}

// isLoss reports whether the error of a call says that the connection is dead. A
// timeout does not, the kernel's own (ETIMEDOUT) included: the peer may be carrying
// the request out. Neither do the client's own Close, a file, or a LengthFunc.
func isLoss(err error) bool {
	switch err.(type) { //nolint:errorlint // as the call gives it: what it wraps may be from elsewhere
	case *PacketError, *FileError, *fs.PathError:
		return false
	}
	for _, loss := range [...]error{
		io.EOF, io.ErrUnexpectedEOF,
		unix.ECONNRESET, unix.EPIPE, unix.ECONNABORTED,
		unix.ECONNREFUSED, unix.ENOTCONN, // of datagrams, whose peer was started again
		unix.ENETRESET, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EHOSTDOWN,
	} {
		if errors.Is(err, loss) {
			return true
		}
	}
	return false
}

// sends is noted before a send: the answer may be received before its return.
func (n *note) sends() { n.set(isAsked) }

func (n *note) sent(err error) {
	if err != nil {
		n.failed(err)
	}
}

// received notes the end of a receive of n bytes into room.
func (n *note) received(got, room int, err error, flags Flag) {
	if got > 0 || err == nil && room > 0 { // also an empty datagram
		n.set(isAnswered)
		if flags&Peek == 0 && n.has(isAsked) {
			n.bits.And(^uint32(isAsked))
		}
	}
	if err == nil {
		return
	}
	nothingThere := errors.Is(err, unix.EAGAIN) && (got == 0 || flags&Peek != 0)
	if !nothingThere {
		n.failed(err)
	}
}
