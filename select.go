package client

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Ready is what Select has found: of each set those that are ready, in the order
// in which the set has them.
type Ready struct {
	Read   []*Client // a receive gives something, the end, or an error, and does not wait
	Write  []*Client // a send takes something, or fails, and does not wait
	Except []*Client // an urgent byte has come, or the connection has failed or ended in both directions
}

// Select waits until one of several clients is ready at least: of read to receive,
// of write to send, of except for what Ready has. timeout is the limit of the whole
// call: zero is a look that does not wait, negative is no limit. Nobody ready by
// then is os.ErrDeadlineExceeded.
//
// The sets may be disjoint or overlap, any of them may be nil, and there is no limit
// to how many clients are in them but that of descriptors. Streams and datagrams,
// plain and over TLS, with a framing and without can be together. What a client has
// received already, with an earlier record or packet, counts as readable at once;
// over TLS a part of a record does not, nor does what is none of the application's.
// With a framing, RecvPacket may still have to wait, for the rest of its packet. The
// options and deadlines of the clients have no part in it.
//
// A client that is closed, before or meanwhile, and a stream that is not connected
// are a *SelectError that tells where in which set it is; three sets without anybody
// are unix.EINVAL. A client that is being closed elsewhere, or received from by
// another goroutine, may be found ready and be so no more the next moment: DontWait
// is for that.
func Select(read, write, except []*Client, timeout time.Duration) (Ready, error) {
	until := sock.In(timeout)
	s := selections.Get().(*selection)
	defer selections.Put(s)
	defer s.end()
	s.sets = [...]set{
		{"read", read, unix.POLLIN, unix.POLLIN | unix.POLLERR | unix.POLLHUP},
		{"write", write, unix.POLLOUT, unix.POLLOUT | unix.POLLERR | unix.POLLHUP},
		{"except", except, unix.POLLPRI, unix.POLLPRI | unix.POLLERR | unix.POLLHUP},
	}
	if err := s.begin(); err != nil {
		return Ready{}, err
	}
	limit := until
	if slices.ContainsFunc(read, func(c *Client) bool { return c.gives(false) }) {
		limit = sock.Now() // the others are looked at, and not waited for
	}
	for {
		err := s.poll.Wait(limit)
		if err != nil && (limit == until || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return Ready{}, &net.OpError{Op: opSelect, Err: err}
		}
		found, err := s.ready()
		switch {
		case err != nil:
			return Ready{}, err
		case found:
			return s.result(), nil
		}
		limit = until
		s.poll.Backoff(until)
	}
}

// A selection is the state of one Select, used again by the next.
type selection struct {
	poll sock.Poll
	sets [3]set
	held int // how many of the sets' clients, in their order
	out  [3][]*Client
}

type set struct {
	name    string
	clients []*Client
	asked   int16 // poll(2)'s events
	events  int16 // those that make a client ready
}

var selections = sync.Pool{New: func() any { return new(selection) }}

func (s *selection) begin() error {
	for _, set := range s.sets {
		for i, c := range set.clients {
			if err := c.join(&s.poll, set.asked); err != nil {
				return set.failed(i, err)
			}
			s.held++
		}
	}
	if s.held == 0 {
		return &net.OpError{Op: opSelect, Err: fmt.Errorf("nobody to wait for: %w", unix.EINVAL)}
	}
	return nil
}

// join has a poll wait for the client too, which then has to end.
func (c *Client) join(p *sock.Poll, events int16) error {
	if c == nil {
		return errNoClient
	}
	err := c.begin(0, 0, c.typ.isStream())
	if err != nil {
		return err
	}
	if err = p.Add(c.sock, events); err != nil {
		c.end()
	}
	return err
}

var errNoClient = fmt.Errorf("no client: %w", unix.EINVAL)

func (s *selection) end() {
	for _, set := range s.sets {
		n := min(s.held, len(set.clients))
		for _, c := range set.clients[:n] {
			c.end()
		}
		s.held -= n
	}
	s.poll.Release()
	for i := range s.out {
		clear(s.out[i])
		s.out[i] = s.out[i][:0]
	}
	s.sets = [3]set{}
}

// ready finds who is ready after a wait.
func (s *selection) ready() (found bool, err error) {
	for k, set := range s.sets {
		for i, c := range set.clients {
			events, err := s.poll.Ready(c.sock)
			if err != nil {
				return false, set.failed(i, err)
			}
			is := events&set.events != 0
			if set.asked == unix.POLLIN {
				is = c.gives(is)
			}
			if is {
				s.out[k] = append(s.out[k], c)
				found = true
			}
		}
	}
	return found, nil
}

func (s *selection) result() Ready {
	return Ready{Read: slices.Clone(s.out[0]), Write: slices.Clone(s.out[1]), Except: slices.Clone(s.out[2])}
}

// gives reports whether a receive has something to give at once; came is whether
// the socket has.
func (c *Client) gives(came bool) bool {
	t := c.tls.Load()
	if t == nil && c.packets == nil {
		return came || c.sock.Buffered()
	}
	turn, ok := c.sock.TryLockRecv()
	if !ok {
		return came // somebody else is about to know
	}
	defer turn.Unlock()
	return c.packets.buffered() > 0 || t == nil && came || t != nil && t.there(&turn, came)
}

// A SelectError tells which client it is that Select cannot wait for.
type SelectError struct {
	Set   string // "read", "write" or "except"
	Index int
	Err   error
}

func (e *SelectError) Error() string { return fmt.Sprintf("%s[%d]: %v", e.Set, e.Index, e.Err) }

// Unwrap gives the cause.
func (e *SelectError) Unwrap() error { return e.Err }

func (s *set) failed(i int, err error) error {
	c := s.clients[i]
	if c == nil {
		return &net.OpError{Op: opSelect, Err: &SelectError{Set: s.name, Index: i, Err: err}}
	}
	return c.failed(opSelect, nil, &SelectError{Set: s.name, Index: i, Err: c.stopped(err)})
}
