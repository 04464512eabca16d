package dtls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/blocksock/client"
	pion "github.com/pion/dtls/v3"
	"golang.org/x/sys/unix"
)

// A Conn is a DTLS connection. All methods may be called from several goroutines at once:
// one receives and one sends at a time, the others wait in FIFO order within their own
// limits, and Close ends them all.
//
// Errors are a *net.OpError around the cause, except io.EOF and io.ErrUnexpectedEOF, which
// come bare. errors.Is finds os.ErrDeadlineExceeded for a limit that was reached,
// net.ErrClosed for a connection that was closed, and the kernel's unix.Errno for the rest.
// An error of the socket, such as unix.ECONNREFUSED after an ICMP message, and a record that
// is too long to receive do not end the connection, because anybody can send such a datagram.
type Conn struct {
	wire    *wire
	pion    *pion.Conn
	ending  *ending
	network string
	state   tls.ConnectionState

	recvTimeout, sendTimeout    time.Duration
	readDeadline, writeDeadline deadline
	socketLimit                 socketLimit

	recvLock, sendLock chan struct{} // locked: empty
	records            chan record   // from pump, which closes it at the end
	end                error         // why records is closed
	peeked             *record       // needs recvLock

	isClosed atomic.Bool
	closed   chan struct{}
}

// A record is a received record, or an error of the socket.
type record struct {
	data []byte
	err  error
}

var _ net.Conn = (*Conn)(nil)

func newConn(w *wire, p *pion.Conn, e *ending, network string, opts *client.Options) *Conn {
	c := &Conn{
		wire: w, pion: p, ending: e, network: network,
		recvTimeout: timeout(opts, opts.RecvTimeout), sendTimeout: timeout(opts, opts.SendTimeout),
		socketLimit: socketLimit{socket: w.Client},
		recvLock:    make(chan struct{}, 1), sendLock: make(chan struct{}, 1),
		records: make(chan record), closed: make(chan struct{}),
	}
	c.recvLock <- struct{}{}
	c.sendLock <- struct{}{}
	go c.pump()
	return c
}

// timeout returns a limit of client.Options, or its default.
func timeout(opts *client.Options, own time.Duration) time.Duration {
	for _, t := range []time.Duration{own, opts.Timeout} {
		if t != 0 {
			return t
		}
	}
	return client.DefaultTimeout
}

// Send sends p as one record, an empty one included, in one datagram. It returns len(p) or
// an error. Options.SendTimeout and the write deadline bound the call. The only flag is
// client.DontWait.
//
// The error is unix.EMSGSIZE for more than 16,384 bytes, which no record can hold (RFC 6347,
// 4.1), and for a record that does not fit into one datagram of Options.MTU or of the kernel's
// limit. The cipher suite adds 29 to 37 bytes; a connection identifier adds its length and 1.
// After the server has ended the connection the error is unix.EPIPE. Some servers, openssl
// s_server among them, end the connection after an empty record.
func (c *Conn) Send(p []byte, flags client.Flag) (int, error) {
	return c.send("send", p, flags, c.sendTimeout)
}

// Write is Send limited by the write deadline alone, as net.Conn has it.
func (c *Conn) Write(p []byte) (int, error) {
	return c.send("write", p, 0, -1)
}

func (c *Conn) send(op string, p []byte, flags client.Flag, timeout time.Duration) (int, error) {
	if err := c.sendRecord(p, flags, timeout); err != nil {
		return 0, c.failed(op, err)
	}
	return len(p), nil
}

func (c *Conn) sendRecord(p []byte, flags client.Flag, timeout time.Duration) error {
	if err := checkFlags(flags, client.DontWait); err != nil {
		return err
	}
	l := c.limit(timeout, &c.writeDeadline, flags)
	if _, _, err := await(c.sendLock, l); err != nil {
		return err
	}
	defer func() { c.sendLock <- struct{}{} }()
	if len(p) > maxRecord {
		return fmt.Errorf("%d bytes are more than a record can hold, %d: %w", len(p), maxRecord, unix.EMSGSIZE)
	}
	if !l.dontWait {
		c.wire.waits.Store(true)
		defer c.wire.waits.Store(false)
		c.socketLimit.setUntil(l.until)
		defer c.socketLimit.setUntil(time.Time{})
	}
	_, err := c.pion.Write(p)
	switch {
	case err == nil:
		return nil
	case c.isClosed.Load():
		return net.ErrClosed
	case c.ending.err.Load() != nil:
		return unix.EPIPE
	}
	return cause(err)
}

// Recv receives one record into p and returns its length. Options.RecvTimeout and the read
// deadline bound the call. If a record is longer than p, Recv returns what fits and a
// *client.TruncatedError with the true size; the rest is lost. An empty record gives 0 and no
// error.
//
// After close_notify the error is io.EOF, and after a fatal alert a *net.OpError around a
// tls.AlertError. Every later Recv returns the same. A server that is gone without either is
// not noticed, except by a limit.
//
// With client.Peek the next Recv returns the record again. With client.DontWait a call that
// would have to wait fails with unix.EAGAIN; a datagram that has just arrived may not be
// decrypted yet. client.WaitAll makes no difference, because a record is always whole.
func (c *Conn) Recv(p []byte, flags client.Flag) (int, error) {
	return c.recv("recv", p, flags, c.recvTimeout)
}

// Read is Recv without flags, limited by the read deadline alone, as net.Conn has it.
func (c *Conn) Read(p []byte) (int, error) {
	return c.recv("read", p, 0, -1)
}

func (c *Conn) recv(op string, p []byte, flags client.Flag, timeout time.Duration) (int, error) {
	n, err := c.recvRecord(p, flags, timeout)
	if err != nil {
		err = c.failed(op, err)
	}
	return n, err
}

func (c *Conn) recvRecord(p []byte, flags client.Flag, timeout time.Duration) (int, error) {
	if err := checkFlags(flags, client.Peek|client.DontWait|client.WaitAll); err != nil {
		return 0, err
	}
	l := c.limit(timeout, &c.readDeadline, flags)
	if _, _, err := await(c.recvLock, l); err != nil {
		return 0, err
	}
	defer func() { c.recvLock <- struct{}{} }()
	r := c.peeked
	if r == nil {
		next, more, err := await(c.records, l)
		switch {
		case err != nil:
			return 0, err
		case more && next.err != nil:
			return 0, next.err
		case !more && c.isClosed.Load():
			return 0, net.ErrClosed
		case !more:
			return 0, c.end
		}
		r = &next
	}
	c.peeked = nil
	if flags&client.Peek != 0 {
		c.peeked = r
	}
	n := copy(p, r.data)
	if n < len(r.data) {
		return n, &client.TruncatedError{Size: len(r.data), Got: n}
	}
	return n, nil
}

// pump receives records from pion, one ahead of Recv: pion's Read has no flag like DontWait,
// and loses a record that does not fit.
func (c *Conn) pump() {
	defer close(c.records)
	buf := make([]byte, maxReceived)
	// At the end pion's Read chooses at random between the last record and io.EOF. After so
	// many io.EOF there is no record.
	for ends := 0; ends < 64; {
		n, err := c.pion.Read(buf)
		if errors.Is(err, io.EOF) {
			ends++
			continue
		}
		if receivedAlert(err) != nil { // a warning, which has no effect
			continue
		}
		r := record{data: bytes.Clone(buf[:n]), err: cause(err)}
		select {
		case c.records <- r:
		case <-c.closed:
			return
		}
	}
	c.end = c.ending.cause()
}

// checkFlags refuses flags that mean nothing here.
func checkFlags(flags, known client.Flag) error {
	switch {
	case flags&client.OOB != 0:
		return fmt.Errorf("flag OOB: DTLS has no urgent data: %w", unix.EOPNOTSUPP)
	case flags&(client.Peek|client.WaitAll)&^known != 0:
		return fmt.Errorf("flags Peek and WaitAll are for Recv: %w", unix.EINVAL)
	case flags&^known != 0:
		return fmt.Errorf("flags %#x are unknown: %w", int(flags&^known), unix.EINVAL)
	}
	return nil
}

// cause returns the error within those of pion and of the socket.
func cause(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // the loop unwraps
		case *pion.FatalError:
			err = e.Err
		case *pion.InternalError:
			err = e.Err
		case *pion.TemporaryError:
			err = e.Err
		case *pion.TimeoutError:
			err = e.Err
		case *pion.HandshakeError:
			err = e.Err
		case *net.OpError:
			err = e.Err
		default:
			return err
		}
	}
}

// failed adds operation and addresses to an error.
func (c *Conn) failed(op string, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // they come bare
		return err
	}
	return &net.OpError{Op: op, Net: c.network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close sends close_notify (RFC 5246, 7.2.1), if the send buffer has room for it at once, and
// closes the socket. Every call that waits returns at once with an error that is
// net.ErrClosed. So does every later call, a second Close included.
func (c *Conn) Close() error {
	if c.isClosed.Swap(true) {
		return c.failed("close", net.ErrClosed)
	}
	close(c.closed)
	c.wire.closing.Store(true)
	c.socketLimit.end()
	_ = c.pion.Close() // it closes the socket, too, unless an alert of the server has closed it
	if err := c.wire.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return c.failed("close", cause(err))
	}
	return nil
}

// LocalAddr is the client's own address, a *net.UDPAddr. It is still known after Close.
func (c *Conn) LocalAddr() net.Addr { return c.wire.LocalAddr() }

// RemoteAddr is the server's address, a *net.UDPAddr. It is still known after Close.
func (c *Conn) RemoteAddr() net.Addr { return c.wire.RemoteAddr() }

// SetDeadline sets the read and the write deadline: the point in time after which calls
// fail with os.ErrDeadlineExceeded, also those that wait already. The zero time is no
// deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read and Recv.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed.Load() {
		return c.failed("set", net.ErrClosed)
	}
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline sets the deadline of Write and Send.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed.Load() {
		return c.failed("set", net.ErrClosed)
	}
	c.writeDeadline.set(t)
	_ = c.socketLimit.setDeadline(t) // it fails if the server has ended the connection, and then no Send waits
	return nil
}

// ConnectionState returns what the handshake has settled. Version is 0xfefd, which is DTLS 1.2.
func (c *Conn) ConnectionState() tls.ConnectionState {
	state := c.state
	state.PeerCertificates = slices.Clone(state.PeerCertificates)
	state.VerifiedChains = slices.Clone(state.VerifiedChains)
	return state
}
