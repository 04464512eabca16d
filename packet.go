package client

import (
	"errors"
	"io"
	"iter"
	"os"
	"sync/atomic"

	"github.com/blocksock/client/internal/sock"
)

// A packets is what a client with a Framing has received and not given to anybody
// yet. It lies between the calls that receive and the stream, plain or TLS:
//
//	Recv, Read ─────┐
//	                ├─▶ buf ◀── stream
//	RecvPacket ─────┘
//
// All but out belongs to whoever has the turn to receive.
type packets struct {
	framer framer
	buf    []byte // buf[from:to] is received
	from   int
	to     int
	seen   int   // of that, how much the framer has looked at in vain
	full   bool  // the last receive had more to give than there was room for
	small  int   // how many packets in a row would have done with much less buffer
	bad    error // the *PacketError after which there are no more packets
	given  int64 // how many were given to RecvPacket's callers, that were asked for

	// Of whoever has the turn to send.
	out     []byte
	scratch [8]byte
	torn    bool         // a packet was sent in part
	sent    atomic.Int64 // how many were sent, or are being sent; whoever receives reads it
}

const (
	// leastAhead is how much is received at once to begin with, where it is not
	// known that more belongs together. It doubles each time when as much is there,
	// up to readAhead.
	leastAhead = 4 << 10
	readAhead  = 64 << 10

	// atOnce is the most memory that is taken for a packet before its bytes have
	// come. Of a longer one, as much as has come is taken again, and again.
	atOnce = DefaultMaxPacket

	// patience is how many small packets in a row give a large buffer up.
	patience = 64

	// gather is up to how many bytes a packet is copied to be sent in one piece.
	gather = 64 << 10
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
	p, err := c.recvPacket()
	if err != nil {
		return nil, c.failed(opRecvPacket, nil, err)
	}
	return p, nil
}

func (c *Client) recvPacket() (packet []byte, err error) {
	if err := c.begin(0, 0, c.typ.isStream()); err != nil {
		return nil, err
	}
	defer c.end()
	if c.packets == nil {
		return nil, errNoFraming
	}
	if packet = c.packets.there(c); packet == nil {
		var turn sock.IOLock
		if turn, err = c.sock.LockRecv(0, c.limits.recv); err != nil {
			return nil, err
		}
		defer turn.Unlock()
		packet, err = c.packets.next(c, &turn)
	}
	got := len(packet)
	if err != nil {
		got = c.packets.buffered() // a part of an answer is an answer, for Pool.Do
	}
	c.note.received(got, 1, err, 0)
	return packet, err
}

// there gives a packet that has been received already, which takes no time and so
// no look at the clock: the better half of what a short packet costs.
func (s *packets) there(c *Client) []byte {
	if s.bad != nil {
		return nil
	}
	turn, ok := c.sock.TryLockRecv()
	if !ok {
		return nil
	}
	defer turn.Unlock()
	if turn.DeadlineExceeded() {
		return nil
	}
	p, _, _ := s.whole()
	return p
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
	defer c.end()
	n, err := c.sendPacket(p)
	return n, c.sentSome(opSendPacket, nil, n, err)
}

func (c *Client) sendPacket(p []byte) (n int, err error) {
	if c.packets == nil {
		return 0, errNoFraming
	}
	turn, err := c.sock.LockSend(0, c.limits.send)
	if err != nil {
		return 0, err
	}
	s := c.packets
	defer func() { c.doneSending(turn) }()
	if s.torn {
		return 0, errTorn
	}
	lacks, at, err := s.framer.around(p, s.scratch[:])
	if err != nil {
		return 0, describe(err, s.framer.longest(), p)
	}
	s.sent.Add(1) // before the send: the answer may be received before its return
	total := len(p) + len(lacks)
	// What is short goes in one piece, so that it is not two segments; what is
	// long is not copied for that.
	if at <= gather {
		short := min(len(p), max(gather, at))
		s.out = append(append(append(s.out[:0], p[:at]...), lacks...), p[at:short]...)
		n, err = c.sendIn(&turn, s.out, p[short:])
	} else {
		n, err = c.sendIn(&turn, p[:at], lacks, p[at:])
	}
	s.torn = n > 0 && n < total
	return n, err
}

// sendIn sends in the sender's turn, by whatever the stream is now.
func (c *Client) sendIn(turn *sock.IOLock, pieces ...[]byte) (n int, err error) {
	t := c.tls.Load()
	for _, p := range pieces {
		var m int
		switch {
		case err != nil:
		case t != nil:
			var some bool
			if m, some, err = t.put(turn, p); some {
				c.sent.Store(true)
			}
		default:
			m, err = turn.Send(p, 0)
		}
		n += m
	}
	return n, err
}

func (c *Client) doneSending(turn sock.IOLock) {
	if t := c.tls.Load(); t != nil {
		t.leave(turn)
	} else {
		turn.Unlock()
	}
}

// recvIn receives in the receiver's turn, by whatever the stream is now.
func (c *Client) recvIn(turn *sock.IOLock, p []byte, flags Flag) (int, error) {
	if t := c.tls.Load(); t != nil {
		return t.take(turn, p, flags)
	}
	return turn.Recv(p, int(flags))
}

// recv is Recv and Read of a client with a framing: what was received with the
// packets before comes first. It gives the turn back.
func (s *packets) recv(c *Client, turn sock.IOLock, p []byte, flags Flag) (n int, err error) {
	defer turn.Unlock()
	if flags&Peek != 0 {
		return s.peek(c, &turn, p, flags)
	}
	n = copy(p, s.buf[s.from:s.to])
	s.from += n
	s.seen = 0
	if n == len(p) || n > 0 && flags&WaitAll == 0 {
		return n, nil
	}
	m, err := c.recvIn(&turn, p[n:], flags)
	return n + m, ending(n+m, err)
}

// peek looks at what is there, and receives what else there is to see.
func (s *packets) peek(c *Client, turn *sock.IOLock, p []byte, flags Flag) (n int, err error) {
	want := 1
	if flags&WaitAll != 0 {
		want = len(p)
	}
	s.makeRoom(len(p))
	for err == nil && s.to-s.from < len(p) {
		how := flags &^ (Peek | WaitAll)
		if s.to-s.from >= want {
			how |= DontWait
		} else if s.to > s.from && turn.Expired() {
			err = os.ErrDeadlineExceeded
			break
		}
		n, err = c.recvIn(turn, s.buf[s.to:s.from+len(p)], how)
		s.to += n
	}
	if n = copy(p, s.buf[s.from:s.to]); n >= want {
		return n, nil // an error is for who comes next
	}
	return n, ending(n, err)
}

// next gives the next packet.
func (s *packets) next(c *Client, turn *sock.IOLock) ([]byte, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	for {
		p, size, err := s.whole()
		if p != nil || err != nil {
			return p, err
		}
		if s.to > s.from && turn.Expired() { // a peer that sends as fast as we receive
			return nil, os.ErrDeadlineExceeded
		}
		if err := s.receive(c, turn, size); err != nil {
			return nil, ending(s.to-s.from, err)
		}
	}
}

// whole gives the next packet if all of it is there, or its size if that is known.
func (s *packets) whole() (packet []byte, size int, err error) {
	p := s.buf[s.from:s.to]
	if len(p) == s.seen {
		return nil, 0, nil
	}
	size, err = s.framer.size(p, s.seen)
	switch {
	case err != nil:
		s.bad = describe(err, s.framer.longest(), p)
		return nil, 0, s.bad
	case size == 0:
		s.seen = len(p)
	case size <= len(p):
		s.from += size
		s.seen = 0
		if s.given < s.sent.Load() { // else it is no answer, as a greeting
			s.given++
		}
		s.tire(size)
		return p[:size:size], size, nil
	}
	return nil, size, nil
}

// receive gets more of a packet that is size bytes long, or 0 if nobody knows yet.
func (s *packets) receive(c *Client, turn *sock.IOLock, size int) error {
	have := s.to - s.from
	if size-have < readAhead {
		// What follows the packet may come along.
		room := max(size, have+1, leastAhead)
		if s.full {
			room = max(room, min(2*len(s.buf), readAhead))
		}
		s.makeRoom(room)
		n, err := c.recvIn(turn, s.buf[s.to:], 0)
		s.to += n
		s.full = s.to == len(s.buf)
		return err
	}
	s.makeRoom(min(size, max(atOnce, 2*have)))
	n, err := c.recvIn(turn, s.buf[s.to:min(s.from+size, len(s.buf))], WaitAll)
	s.to += n
	return err
}

// makeRoom sees to it that size bytes fit from the first that is not given on,
// and that there is room for more than there is.
func (s *packets) makeRoom(size int) {
	have := s.to - s.from
	switch {
	case s.from+size <= len(s.buf) && s.to < len(s.buf):
		return
	case size <= len(s.buf) && have < len(s.buf):
		// What was given to the caller is their no longer.
		copy(s.buf, s.buf[s.from:s.to])
	default:
		grown := make([]byte, max(size, min(2*have, s.framer.longest())))
		copy(grown, s.buf[s.from:s.to])
		s.buf = grown
	}
	s.from, s.to = 0, have
}

// tire gives a buffer up that a large packet has made and small ones do not need.
func (s *packets) tire(size int) {
	if s.small++; size > len(s.buf)/4 || len(s.buf) <= 4*readAhead {
		s.small = 0
	}
	if s.small >= patience && s.from == s.to {
		s.buf, s.from, s.to, s.small = nil, 0, 0, 0 // the packet keeps its memory
	}
}

// buffered is how many bytes are received and not given.
func (s *packets) buffered() int {
	if s == nil {
		return 0
	}
	return s.to - s.from
}

// unanswered reports whether fewer packets were received than sent before them, so that
// an answer is still to come. Nobody may be using the client.
func (s *packets) unanswered() bool { return s != nil && s.sent.Load() > s.given }

// describe completes the error of a framer.
func describe(err error, limit int, p []byte) error {
	var e *PacketError
	if errors.As(err, &e) {
		e.Max, e.Head = limit, append([]byte(nil), p[:min(len(p), 32)]...)
	}
	return err
}
