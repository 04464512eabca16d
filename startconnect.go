package client

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// StartConnect begins to connect a client from NewTCP, NewUDP and the like, as Connect does,
// and returns at once. The first call that needs the peer (Send, Recv, StartTLS, CloseWrite)
// waits for the end of that, and Select treats the client as not ready until then. If it
// fails, each such call returns its error, which is that of Connect, until the next Connect
// or StartConnect.
//
// Options.ConnectTimeout bounds the connect, and with it the wait, whatever the other
// timeouts and the deadlines are. Close and Watch end it. A call with DontWait returns
// unix.EAGAIN meanwhile. StartConnect itself fails with a *net.AddrError about the address,
// and with net.ErrClosed, unix.EISCONN and unix.EALREADY as Connect.
func (c *Client) StartConnect(address string) error {
	where := unresolvedAddr{c.network, address}
	if c.sock == nil || !c.lease.incref() {
		return c.opError(opConnect, where, net.ErrClosed)
	}
	defer c.lease.decref()
	_, err := networks[c.typ.String()].host(address)
	switch {
	case c.sock.Closed():
		err = net.ErrClosed
	case err == nil:
		err = c.beginConnect()
	}
	if err != nil {
		return c.connectResult(where, err)
	}
	started := &startedConnect{done: make(chan struct{}), err: errNoReturn}
	c.started.Store(started)
	go func() {
		defer started.finish()
		if started.err = c.connectBegun(context.Background(), address); started.err == nil {
			c.started.CompareAndSwap(started, nil)
		}
	}()
	return nil
}

// A startedConnect is a connect that StartConnect has begun.
type startedConnect struct {
	done chan struct{}
	err  error // set before done is closed

	mu    sync.Mutex
	polls []*sock.Poll // that wait for the end
}

func (s *startedConnect) finish() {
	close(s.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.polls {
		p.Interrupt()
	}
}

func (s *startedConnect) isOver() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// failed reports whether the connect is over and has failed. The nil startedConnect has not.
func (s *startedConnect) failed() bool { return s != nil && s.isOver() && s.err != nil }

// wait waits for the end of the connect of c. The error is net.ErrClosed after Close, but not
// if it was the failed handshake that has closed the client.
func (s *startedConnect) wait(c *Client) error {
	<-s.done
	var failed *TLSError
	if s.err != nil && c.sock.Closed() && !errors.As(s.err, &failed) {
		return net.ErrClosed
	}
	return s.err
}

// addPoll makes the end of the connect interrupt a poll.
func (s *startedConnect) addPoll(p *sock.Poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = append(s.polls, p)
	if s.isOver() {
		p.Interrupt()
	}
}

// removePoll undoes every addPoll.
func (s *startedConnect) removePoll(p *sock.Poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls = slices.DeleteFunc(s.polls, func(other *sock.Poll) bool { return other == p })
}

// startedConnect returns the connect that StartConnect has begun, unless the client is
// connected.
func (c *Client) startedConnect() *startedConnect {
	if c == nil || c.sock == nil || c.state.Load() == connected {
		return nil
	}
	return c.started.Load()
}

// awaitConnect waits for the end of a connect that StartConnect has begun, and returns its
// error.
func (c *Client) awaitConnect(flags Flag) error {
	s := c.startedConnect()
	switch {
	case s == nil:
		return nil
	case flags&DontWait != 0 && !s.isOver():
		return os.NewSyscallError("connect", unix.EAGAIN)
	}
	return s.wait(c)
}

// A connectingClient is a client in a set of Select that was connecting when Select began.
type connectingClient struct {
	c       *Client
	started *startedConnect
	set, i  int
}

// connect returns the connect that addConnected looks at. The client may have begun another one
// since.
func (s *selection) connect(set, i int) *startedConnect {
	for _, p := range s.connecting {
		if p.set == set && p.i == i {
			return p.started
		}
	}
	return nil
}

// addConnected adds the clients to the poll whose connect has succeeded since. It reports
// whether there were any, or one whose connect has failed.
func (s *selection) addConnected() (ended bool, err error) {
	for i := 0; i < len(s.connecting); i++ {
		p := s.connecting[i]
		set := &s.sets[p.set]
		switch {
		case !p.started.isOver():
			continue
		case p.started.err != nil:
			if err := p.started.wait(p.c); errors.Is(err, net.ErrClosed) {
				return false, set.error(p.i, err)
			}
			ended = true
			continue
		}
		if err := s.poll.Add(p.c.sock, set.pollEvents); err != nil {
			return false, set.error(p.i, err)
		}
		p.started.removePoll(&s.poll)
		s.connecting = slices.Delete(s.connecting, i, i+1)
		i--
		ended = true
	}
	return ended, nil
}
