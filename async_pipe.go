package client

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A pipe is where a client passes on what it receives, instead of OnReceive, and the clients
// that pass theirs on to it.
type pipe struct {
	to      atomic.Pointer[AsyncClient]
	writer  atomic.Pointer[io.Writer]
	sources []*AsyncClient // protected by mu of the client
}

const opPipe = "pipe"

// PipeTo sends what a receives from now on with dst, a stream, instead of calling OnReceive.
// While dst's queue is full (see IsFull), a receives nothing. The pipe cannot be undone.
//
// When a's peer ends the stream, so does the pipe dst's, by CloseWrite. A client that others
// are piped into stays open after its peer's end, until theirs: so two clients may be piped
// into each other, and each direction ends on its own. If a ends otherwise, nothing happens
// to dst. If dst ends first, a ends with an error.
func (a *AsyncClient) PipeTo(dst *AsyncClient) error {
	if !dst.stream {
		return &net.OpError{Op: opPipe, Err: unix.EOPNOTSUPP}
	}
	if err := dst.addSource(a); err != nil {
		return err
	}
	// After that: a receives meanwhile, and an error of dst would end it.
	if !a.pipe.to.CompareAndSwap(nil, dst) {
		dst.dropSource(a, false)
		return &net.OpError{Op: opPipe, Err: errPipeAlready}
	}
	a.mu.Lock()
	ended := a.ended
	a.mu.Unlock()
	if ended { // perhaps before it had a target to tell
		a.pipe.sourceEnded(a, false)
		return &net.OpError{Op: opPipe, Err: net.ErrClosed}
	}
	return nil
}

var errPipeAlready = fmt.Errorf("the client is piped to another one already: %w", unix.EALREADY)

func (a *AsyncClient) addSource(s *AsyncClient) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.sendableLocked(opPipe); err != nil {
		return err
	}
	a.pipe.sources = append(a.pipe.sources, s)
	return nil
}

// PipeToWriter writes what the client receives from now on to w instead of calling OnReceive.
// While Write runs, nothing is received. An error of Write ends the client.
func (a *AsyncClient) PipeToWriter(w io.Writer) error {
	if w == nil {
		return &net.OpError{Op: opPipe, Err: unix.EINVAL}
	}
	a.pipe.writer.Store(&w)
	return nil
}

func (p *pipe) active() bool { return p.to.Load() != nil || p.writer.Load() != nil }

// blocked reports whether nothing is to be received because the target's queue is full.
func (p *pipe) blocked() bool {
	to := p.to.Load()
	return to != nil && to.IsFull()
}

// A pipeError is the error of a pipe. It hides its cause until the client has ended: a limit of
// the target, for one, is none of this client's.
type pipeError struct{ *net.OpError }

func (pipeError) Unwrap() error { return nil }

// send passes b on. An error is a pipeError.
func (p *pipe) send(b []byte) error {
	if to := p.to.Load(); to != nil {
		if err := to.sendPiped(b); err != nil {
			return pipeError{&net.OpError{Op: opPipe, Err: err}}
		}
		return nil
	}
	n, err := (*p.writer.Load()).Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return pipeError{&net.OpError{Op: opPipe, Err: err}}
	}
	return nil
}

// sendPiped is Send without a limit for the queue, which PipeTo bounds.
func (a *AsyncClient) sendPiped(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opSend)
	if err != nil {
		return err
	}
	return a.sendLocked(c, opSend, [3][]byte{p})
}

// sourceEnded ends the pipe of the client s, in order or otherwise.
func (p *pipe) sourceEnded(s *AsyncClient, inOrder bool) {
	if to := p.to.Load(); to != nil {
		to.dropSource(s, inOrder)
	}
}

func (a *AsyncClient) dropSource(s *AsyncClient, inOrder bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.pipe.sources, s)
	if i < 0 {
		return // it has ended before
	}
	a.pipe.sources = slices.Delete(a.pipe.sources, i, i+1)
	if inOrder && a.queue.refusal == nil {
		a.lastItemLocked(a.client.Load(), itemCloseWrite, unix.EPIPE)
	}
	a.wakeReceiver()
}

// pipeBroken ends the client because the one that it is piped to has ended.
func (a *AsyncClient) pipeBroken(to *Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.loseLocked(&net.OpError{Op: opPipe, Net: to.network, Addr: to.RemoteAddr(), Err: net.ErrClosed})
	}
}

// wakeSourcesLocked makes the sources receive again.
func (a *AsyncClient) wakeSourcesLocked() {
	for _, s := range a.pipe.sources {
		s.wakeReceiver()
	}
}
