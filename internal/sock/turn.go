package sock

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// A Turn is one direction of a socket in the hands of one caller, for as many
// calls as it takes and with one limit for all of them. It is how a layer that
// has a state of its own, TLS or packets, uses the socket: whoever has the turn
// has the state. Leave gives the turn back.
type Turn struct {
	s     *Socket
	d     *side
	until Instant
	flags int  // MSG_DONTWAIT, or none
	wait  bool // the first receive may wait inside recv(2)
}

// ErrTaken is the error of Recv, Read, Send, SendTo and Write once a layer has
// taken the socket over.
var ErrTaken = errors.New("the stream became another layer's while the call waited for its turn")

// Take leaves the socket to those who use Turns. The caller has both turns: a
// call that waits for one of them meets ErrTaken when it gets it.
func (s *Socket) Take() { s.taken.Store(true) }

// Receiving takes the turn to receive, as Recv with these flags and this timeout.
func (s *Socket) Receiving(flags int, timeout time.Duration) (Turn, error) {
	t := Turn{s: s, d: &s.rd, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if t.flags != 0 {
		return t, s.enterNow(t.d, "recvfrom")
	}
	waited, err := s.enter(t.d, t.until)
	// The kernel's wait has a fixed length: it is for those who have all of it.
	// An error that is queued, and that a send has met first, does not end it.
	t.wait = err == nil && !waited && flags&unix.MSG_OOB == 0 && !s.icmp && s.waitsInKernel(timeout)
	return t, err
}

// Reading takes the turn to receive, as Read.
func (s *Socket) Reading() (Turn, error) {
	_, err := s.enter(&s.rd, Never)
	return Turn{s: s, d: &s.rd}, err
}

// Sending takes the turn to send, as Send with these flags and this timeout.
func (s *Socket) Sending(flags int, timeout time.Duration) (Turn, error) {
	t := Turn{s: s, d: &s.wr, until: In(timeout), flags: flags & unix.MSG_DONTWAIT}
	if t.flags != 0 {
		return t, s.enterNow(t.d, "sendto")
	}
	_, err := s.enter(t.d, t.until)
	return t, err
}

// TryReceiving takes the turn to receive if nobody has it, for what needs no
// wait and asks no deadline.
func (s *Socket) TryReceiving() (Turn, bool) { return s.try(&s.rd) }

// TrySending is TryReceiving for the turn to send.
func (s *Socket) TrySending() (Turn, bool) { return s.try(&s.wr) }

func (s *Socket) try(d *side) (Turn, bool) {
	ok, err := s.tryEnter(d)
	return Turn{s: s, d: d, flags: unix.MSG_DONTWAIT}, ok && err == nil
}

// Persist has the turn's calls wait for as long as it takes: only Close ends them.
func (t *Turn) Persist() { t.until, t.flags = Regardless, 0 }

// Both takes both turns if nobody has either, for calls that end at until.
func (s *Socket) Both(until Instant) (rd, wr Turn, ok bool) {
	if rd, ok = s.try(&s.rd); !ok {
		return rd, wr, false
	}
	if wr, ok = s.try(&s.wr); !ok {
		rd.Leave()
		return rd, wr, false
	}
	rd.until, rd.flags = until, 0
	wr.until, wr.flags = until, 0
	return rd, wr, true
}

// Recv receives as Socket.Recv does, in the turn.
func (t *Turn) Recv(p []byte, flags int) (int, error) { return t.recv(p, flags|t.flags, nil) }

func (t *Turn) recv(p []byte, flags int, from *name) (int, error) {
	wait := t.wait
	t.wait = false // time has passed when the next one begins
	return t.s.receive(p, flags, t.until, wait, from)
}

// Send sends as Socket.Send does, in the turn.
func (t *Turn) Send(p []byte, flags int) (int, error) {
	return t.s.transmit(p, flags|t.flags, t.until, nil)
}

// Expired reports whether the limit or the deadline is over, for a layer whose
// calls need not wait each time.
func (t *Turn) Expired() bool { return t.d.isOver(t.flags, t.until) }

// Late reports whether the deadline alone is over.
func (t *Turn) Late() bool { return t.d.expired() }

// Leave gives the turn back.
func (t *Turn) Leave() { t.s.leave(t.d) }

// A Sight is what Pending sees.
type Sight int

// The three sights.
const (
	Quiet Sight = iota // nothing, and the peer is there as far as the kernel knows
	Bytes              // something to receive
	Gone               // the stream's end, or an error
)

// Pending looks what the next receive would get, and takes nothing away but an
// error. It never waits and allocates nothing.
func (s *Socket) Pending() Sight {
	if !s.life.use() {
		return Gone
	}
	sight := s.look()
	_ = s.release() // not deferred, which a pool would pay for twice each checkout
	return sight
}

func (s *Socket) look() Sight {
	for {
		switch n, errno := s.sysPeek(); {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return Quiet
		case errno != 0, n == 0 && s.stream:
			s.note(errno)
			return Gone
		default: // also an empty datagram
			return Bytes
		}
	}
}

// Renew forgets what callers have set: deadlines, and that there were any. Nobody
// may be using the socket.
func (s *Socket) Renew() {
	if !s.polled.Load() {
		return // there never was any
	}
	s.rd.deadline.Store(int64(Never))
	s.wr.deadline.Store(int64(Never))
	s.mode.Lock()
	defer s.mode.Unlock()
	if !s.handedOut {
		s.polled.Store(alwaysPolled)
	}
}
