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

// Ready is the result of Select: the ready clients of each set, in the set's order.
type Ready struct {
	Read   []*Client // a receive returns at once, with data, the end of the stream, or an error
	Write  []*Client // a send returns at once, with a count or an error
	Except []*Client // urgent data has arrived, or the connection has failed or ended in both directions
}

// Select waits until at least one client is ready: one in read to receive, one in write
// to send, one in except for the conditions of Ready.Except. timeout bounds the whole
// call. Zero: do not wait. Negative: no limit. If no client is ready by then, the error is
// os.ErrDeadlineExceeded.
//
// A client may be in several sets, and a set may be nil. Streams and datagrams, with and
// without TLS or a framing, can be mixed. Data that a client has already received with an
// earlier record or packet makes it ready. Over TLS, an incomplete record does not, and
// neither does a record without application data. With a framing, RecvPacket may still
// have to wait for the rest of a packet. Timeouts and deadlines of the clients have no
// effect.
//
// A client that StartConnect is connecting is not ready before the end of that. If it fails,
// the client is ready in each set: the call for it returns the error at once.
//
// A closed client and a stream that is not connected are a *SelectError, which tells the
// set and the index. Three empty sets are unix.EINVAL. If another goroutine closes a
// client or receives from it, the client may not be ready any more when Select returns:
// use DontWait then.
func Select(read, write, except []*Client, timeout time.Duration) (Ready, error) {
	until := sock.In(timeout)
	s := selections.Get().(*selection)
	defer selections.Put(s)
	defer s.release()
	s.sets = [...]set{
		{"read", read, unix.POLLIN, unix.POLLIN | unix.POLLERR | unix.POLLHUP},
		{"write", write, unix.POLLOUT, unix.POLLOUT | unix.POLLERR | unix.POLLHUP},
		{"except", except, unix.POLLPRI, unix.POLLPRI | unix.POLLERR | unix.POLLHUP},
	}
	if err := s.add(); err != nil {
		return Ready{}, err
	}
	limit := until
	if slices.ContainsFunc(read, func(c *Client) bool { return c.state.Load() == connected && c.readable(false) }) {
		limit = sock.Now() // poll the others without waiting
	}
	for {
		if ended, err := s.addConnected(); err != nil {
			return Ready{}, err
		} else if ended {
			limit = sock.Now() // a handshake may have received data, too
		}
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

// A selection is the state of one Select. It is reused.
type selection struct {
	poll sock.Poll
	sets [3]set
	held int // the number of clients that are held, in the order of the sets
	out  [3][]*Client

	connecting []connectingClient // they are not in the poll
}

type set struct {
	name        string
	clients     []*Client
	pollEvents  int16 // for poll(2)
	readyEvents int16 // that make a client ready
}

var selections = sync.Pool{New: func() any { return new(selection) }}

func (s *selection) add() error {
	for k, set := range s.sets {
		for i, c := range set.clients {
			if started := c.startedConnect(); started != nil && c.lease.incref() {
				started.addPoll(&s.poll)
				s.connecting = append(s.connecting, connectingClient{c, started, k, i})
			} else if err := c.addToPoll(&s.poll, set.pollEvents); err != nil {
				return set.error(i, err)
			}
			s.held++
		}
	}
	if s.held == 0 {
		return &net.OpError{Op: opSelect, Err: fmt.Errorf("all sets are empty: %w", unix.EINVAL)}
	}
	return nil
}

// addToPoll adds the client to a poll. The caller must call end.
func (c *Client) addToPoll(p *sock.Poll, events int16) error {
	if c == nil {
		return errNoClient
	}
	err := c.begin(0, 0, c.typ.isStream())
	if err != nil {
		return err
	}
	if err = p.Add(c.sock, events); err != nil {
		c.lease.decref()
	}
	return err
}

var errNoClient = fmt.Errorf("the client is nil: %w", unix.EINVAL)

func (s *selection) release() {
	for _, set := range s.sets {
		n := min(s.held, len(set.clients))
		for _, c := range set.clients[:n] {
			c.lease.decref()
		}
		s.held -= n
	}
	for _, p := range s.connecting {
		p.started.removePoll(&s.poll)
	}
	clear(s.connecting)
	s.connecting = s.connecting[:0]
	s.poll.Release()
	for i := range s.out {
		clear(s.out[i])
		s.out[i] = s.out[i][:0]
	}
	s.sets = [3]set{}
}

// ready collects the ready clients after a wait.
func (s *selection) ready() (found bool, err error) {
	for k, set := range s.sets {
		for i, c := range set.clients {
			if len(s.connecting) > 0 && !s.poll.Has(c.sock) {
				if started := s.connect(k, i); started.failed() {
					if err := started.wait(c); errors.Is(err, net.ErrClosed) {
						return false, set.error(i, err)
					}
					s.out[k] = append(s.out[k], c)
					found = true
				}
				continue
			}
			events, err := s.poll.Ready(c.sock)
			if err != nil {
				return false, set.error(i, err)
			}
			is := events&set.readyEvents != 0
			if set.pollEvents == unix.POLLIN {
				is = c.readable(is)
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

// A SelectError is the error of a client that Select cannot wait for.
type SelectError struct {
	Set   string // "read", "write" or "except"
	Index int
	Err   error
}

func (e *SelectError) Error() string { return fmt.Sprintf("%s[%d]: %v", e.Set, e.Index, e.Err) }

// Unwrap returns Err.
func (e *SelectError) Unwrap() error { return e.Err }

func (s *set) error(i int, err error) error {
	c := s.clients[i]
	if c == nil {
		return &net.OpError{Op: opSelect, Err: &SelectError{Set: s.name, Index: i, Err: err}}
	}
	return c.opError(opSelect, nil, &SelectError{Set: s.name, Index: i, Err: c.stopped(err)})
}
