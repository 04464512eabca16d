package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A clientTrace is what a Client keeps of its Trace.
type clientTrace struct {
	*Trace         // that of the Options and that of the context of Dial
	own     *Trace // that of the Options
	address string // as the caller of Dial or Connect wrote it

	open     atomic.Bool           // Connected was called, and Closed was not
	received atomic.Bool           // GotFirstResponseByte was called
	endedBy  atomic.Pointer[error] // what ended the stream
}

// setTrace makes the client call the functions of t, if it is not nil. own is the Trace of
// the Options.
func (c *Client) setTrace(t, own *Trace, address string) *clientTrace {
	if t == nil {
		return nil
	}
	ct := &clientTrace{Trace: t, own: own, address: address}
	c.trace.Store(ct)
	return ct
}

// ownTrace is the Trace of the client's Options.
func (c *Client) ownTrace() *Trace {
	if t := c.trace.Load(); t != nil {
		return t.own
	}
	return nil
}

// connIDs is the last ConnInfo.ID.
var connIDs atomic.Uint64

// connInfo describes a traced client's connection.
func (c *Client) connInfo() ConnInfo {
	address := ""
	if t := c.trace.Load(); t != nil {
		address = t.address
	}
	return c.addressing.connInfo(c.network, address)
}

func (a *addressing) connInfo(network, address string) ConnInfo {
	if a.id.Load() == 0 {
		a.id.CompareAndSwap(0, connIDs.Add(1))
	}
	i := ConnInfo{ID: a.id.Load(), Network: network, Address: address}
	if addrs := a.addrs.Load(); addrs != nil {
		i.Local, i.Remote = addrs.local, addrs.remote
	}
	return i
}

// traceConnected calls Connected, and makes the client call the Trace of ctx from now on.
// It does not keep a ClientTrace, which belongs to one request.
func (c *Client) traceConnected(ctx context.Context, own *Trace, address string) {
	t := c.setTrace(ContextTrace(ctx).before(own), own, address)
	if t != nil {
		defer t.open.Store(true) // after Connected: a Close at this time leaves Closed to connectResult
		notify(t.Connected, ConnectedInfo{c.connInfo()})
	}
}

// traceClosed calls Closed, if Connected was called. If err is nil, the cause is what ended
// the stream before.
func (c *Client) traceClosed(err error) {
	t := c.trace.Load()
	if t == nil || !t.open.Swap(false) {
		return
	}
	if err == nil {
		err = t.ended()
	}
	notify(t.Closed, ClosedInfo{Conn: c.connInfo(), Err: err})
}

// ended returns what ended the stream, or nil.
func (t *clientTrace) ended() error {
	if err := t.endedBy.Load(); err != nil {
		return *err
	}
	return nil
}

// closeFor closes the socket of a client whose dial or handshake has failed.
func (c *Client) closeFor(err error) {
	_ = c.sock.Close()
	c.traceClosed(err)
}

// traceRecv records a receive of n bytes into room.
func (c *Client) traceRecv(t *clientTrace, n, room int, err error) {
	if (n > 0 || err == nil && room > 0) && !t.received.Swap(true) {
		notify(t.GotFirstResponseByte, GotFirstResponseByteInfo{c.connInfo()})
	}
	c.traceErr(t, err)
}

// traceErr records the error of a call if it ended the stream.
func (c *Client) traceErr(t *clientTrace, err error) {
	if err != nil && c.typ.isStream() && (isLoss(err) || errors.Is(err, unix.ETIMEDOUT) || c.tlsEnded()) {
		end := err // allocated here, and not in each call
		t.endedBy.CompareAndSwap(nil, &end)
	}
}

// traceProxy calls ProxyStart, the handshake and ProxyDone.
func (c *Client) traceProxy(t *Trace, url string, handshake func() error) error {
	if t == nil {
		return handshake()
	}
	conn, began := c.connInfo(), time.Now()
	notify(t.ProxyStart, ProxyStartInfo{conn, url})
	err := errNoReturn
	defer func() { notify(t.ProxyDone, ProxyDoneInfo{conn, url, time.Since(began), err}) }()
	err = handshake()
	return err
}

// traceTLS calls TLSHandshakeStart, the handshake and TLSHandshakeDone.
func (c *Client) traceTLS(t *Trace, serverName string, handshake func() error) error {
	if t == nil {
		return handshake()
	}
	conn, began := c.connInfo(), time.Now()
	notify(t.TLSHandshakeStart, TLSHandshakeStartInfo{conn, serverName})
	err := errNoReturn // if a callback of TLSOptions.Config panics
	defer func() {
		done := TLSHandshakeDoneInfo{Conn: conn, ServerName: serverName, Duration: time.Since(began), Err: err}
		if err == nil {
			done.State = c.connectionState()
		}
		notify(t.TLSHandshakeDone, done)
	}()
	err = handshake()
	return err
}
