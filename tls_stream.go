package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A tlsStream is TLS on a connected socket. crypto/tls makes and reads the
// records; what it may never do is wait while it holds a lock of its own, since
// no limit ends that, and a write that fails is the end of its connection.
// So it writes to a queue, which is sent outside it, and reads in the turn of
// the call that receives, under that call's limit:
//
//	Send ─▶ tls.Conn.Write ─▶ queue ─▶ socket   (the sender's turn)
//	Recv ─▶ tls.Conn.Read ──────────▶ socket    (the receiver's turn)
//	                   └─▶ queue                key updates, alerts
//
// A record that is made has to go out before anything else does: its number is
// taken. So a Send that is ended in its midst counts all of it, and the rest goes
// out as soon as there is room, as what is in the kernel's buffer does. For that
// alone there is a goroutine, until it is done or the client is closed.
type tlsStream struct {
	wire    tlsSocket
	conn    *tls.Conn
	chains  [][]*x509.Certificate // that were accepted in the handshake
	crashed atomic.Bool           // see errCrashed

	// Of whoever has the turn to receive.
	ahead []byte // received, and peeked at only
	one   [1]byte
	over  error // why nothing more will come

	failed error // why nothing more can be sent; of whoever has the turn to send

	ended       atomic.Bool // nothing more will come
	cut         atomic.Bool // and the end was within a record
	readClosed  atomic.Bool // by CloseRead
	writeClosed atomic.Bool // by CloseWrite
	closing     atomic.Bool // by Close
}

// maxPlaintext is what one record holds: RFC 8446, 5.1.
const maxPlaintext = 16 << 10

// errCut is the end of the socket's stream where TLS has not ended. It is not
// io.EOF, which crypto/tls would take for the end between two records.
var errCut = errors.New("the peer closed the connection and had not ended TLS")

// errCrashed is the error of every call after one in which a callback of the Config
// (ClientSessionCache, Time, Rand) panicked or ended its goroutine. The state of crypto/tls
// is then undefined, so both directions fail. It is set before each call of crypto/tls and
// cleared after it: it stays if the call does not return.
var errCrashed = errors.New("a callback of TLSOptions.Config panicked or ended its goroutine in an earlier call: close the client and dial again")

// newTLSStream makes the handshake, in both turns.
func newTLSStream(ctx context.Context, c *Client, config *tls.Config, rd, wr sock.IOLock) (*tlsStream, error) {
	t := &tlsStream{wire: tlsSocket{sock: c.sock, ends: c.ends.Load(), rd: rd, wr: wr, handshaking: true}}
	t.conn = tls.Client(&t.wire, config)
	err := t.conn.HandshakeContext(ctx)
	if keys, ok := config.KeyLogWriter.(*keyLog); ok {
		keys.ended.rethrow()
	}
	if err == nil {
		_, err = t.wire.flush(&t.wire.wr, 0)
	}
	if err != nil {
		_, _ = t.wire.flush(&t.wire.wr, unix.MSG_DONTWAIT) // an alert that says why
		return nil, err
	}
	t.wire.handshaking = false
	return t, nil
}

// recv is Recv on TLS: what the flags mean on a plain stream, they mean here.
func (t *tlsStream) recv(p []byte, flags Flag, timeout time.Duration) (int, error) {
	turn, err := t.wire.sock.LockRecv(int(flags), timeout)
	if err != nil {
		return 0, err
	}
	return t.receive(turn, p, flags)
}

func (t *tlsStream) read(p []byte) (int, error) {
	turn, err := t.wire.sock.LockRead()
	if err != nil {
		return 0, err
	}
	return t.receive(turn, p, 0)
}

// receive gives the turn back.
func (t *tlsStream) receive(turn sock.IOLock, p []byte, flags Flag) (int, error) {
	defer turn.Unlock()
	return t.take(&turn, p, flags)
}

// take is a receive in the receiver's turn.
func (t *tlsStream) take(turn *sock.IOLock, p []byte, flags Flag) (int, error) {
	t.wire.rd, t.wire.impatient = *turn, flags&DontWait != 0
	defer func() {
		*turn, t.wire.impatient = t.wire.rd, false
		if t.over == errCrashed { //nolint:errorlint // as it was set
			t.ended.Store(true)
			t.crashed.Store(true)
		}
	}()
	if len(p) == 0 {
		return 0, nil
	}
	want := 1
	if flags&WaitAll != 0 {
		want = len(p)
	}
	if flags&Peek != 0 {
		return t.peek(p, want)
	}
	n := copy(p, t.ahead)
	if t.ahead = t.ahead[n:]; len(t.ahead) == 0 {
		t.ahead = nil
	}
	for n < want {
		if n > 0 && t.wire.rd.Expired() { // a peer that sends as fast as we receive
			return n, os.ErrDeadlineExceeded
		}
		m, err := t.decrypt(p[n:])
		n += m
		if err != nil {
			return n, ending(n, err)
		}
	}
	return n, nil
}

// peek gives what is there without taking it: at least want bytes, and whatever
// else has arrived that p has room for.
func (t *tlsStream) peek(p []byte, want int) (int, error) {
	var err error
	for err == nil && len(t.ahead) < len(p) {
		switch {
		case len(t.ahead) >= want:
			t.wire.impatient = true
		case len(t.ahead) > 0 && t.wire.rd.Expired():
			return copy(p, t.ahead), os.ErrDeadlineExceeded
		}
		have := len(t.ahead)
		t.ahead = slices.Grow(t.ahead, len(p)-have)
		var n int
		n, err = t.decrypt(t.ahead[have:len(p)])
		t.ahead = t.ahead[:have+n]
	}
	n := copy(p, t.ahead)
	if n >= want {
		return n, nil // crypto/tls keeps an error for who comes next
	}
	return n, ending(n, err)
}

// ending is the error of a call that got n bytes before it.
func ending(n int, err error) error {
	if n > 0 && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decrypt gets at least one byte of application data, or says why not.
func (t *tlsStream) decrypt(p []byte) (int, error) {
	if t.over == nil && t.crashed.Load() {
		t.over = errCrashed
	}
	if t.over != nil {
		return 0, t.over
	}
	t.over = errCrashed
	n, err := t.conn.Read(p)
	if n == 0 && t.wire.hasty && isPending(err) {
		t.wire.patient = true
		n, err = t.conn.Read(p)
	}
	t.over = nil
	t.wire.hasty, t.wire.patient = false, false
	t.push() // crypto/tls may have had something to say to the peer
	if n > 0 || err == nil {
		return n, nil // an error that came with bytes comes again without them
	}
	var again pending
	if errors.As(err, &again) {
		return 0, again.error
	}
	if errors.Is(err, errCut) {
		if err = io.ErrUnexpectedEOF; t.readClosed.Load() {
			err = io.EOF
		}
	}
	t.over = err // crypto/tls does not stay with all of them
	t.cut.Store(t.wire.in.midway())
	t.ended.Store(true)
	return 0, err
}

// send gives also whether anything at all was given to the kernel.
func (t *tlsStream) send(p []byte, flags Flag, timeout time.Duration) (n int, some bool, err error) {
	turn, err := t.wire.sock.LockSend(int(flags), timeout)
	if err != nil {
		return 0, false, err
	}
	defer t.leave(turn)
	return t.put(&turn, p)
}

// put is send in the sender's turn.
func (t *tlsStream) put(turn *sock.IOLock, p []byte) (n int, some bool, err error) {
	if t.writeClosed.Load() {
		return 0, false, os.NewSyscallError("sendto", unix.EPIPE)
	}
	if _, err := t.flush(turn); err != nil { // what others have left
		return 0, false, err
	}
	for n < len(p) {
		if n > 0 && turn.Expired() { // a peer that receives as fast as we send
			return n, true, os.ErrDeadlineExceeded
		}
		record := p[n:min(len(p), n+maxPlaintext)]
		t.failed = errCrashed
		_, err := t.conn.Write(record)
		t.failed = nil
		if err != nil {
			return n, some, err
		}
		went, err := t.flush(turn)
		some = some || went > 0
		if err == nil || mayGoOn(err) {
			n += len(record)
		}
		if err != nil {
			return n, some, err
		}
	}
	return n, some, nil
}

// flush sends the queue, and gives how much of it went. What the kernel has
// refused for good is the end of sending: nothing can take the place of a record.
func (t *tlsStream) flush(turn *sock.IOLock) (int, error) {
	if t.failed == nil && t.crashed.Load() {
		t.failed = errCrashed
	}
	if t.failed != nil {
		return 0, t.failed
	}
	went, err := t.wire.flush(turn, 0)
	if err != nil && !mayGoOn(err) {
		t.failed = err
	}
	return went, err
}

// leave gives the turn to send back, or to a goroutine that sends what is left:
// nobody else can send anything before that, and who waits to receive may wait for
// the answer to it.
func (t *tlsStream) leave(turn sock.IOLock) {
	if t.failed == errCrashed { //nolint:errorlint // as it was set
		t.crashed.Store(true)
	}
	if t.failed != nil || len(t.wire.queued()) == 0 {
		turn.Unlock()
		return
	}
	go func() {
		defer turn.Unlock()
		turn.SetUninterruptible()
		_, _ = t.flush(&turn)
	}()
}

// mayGoOn reports whether an error of the socket leaves the next call a chance.
func mayGoOn(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EAGAIN) || errors.Is(err, sock.ErrStopped)
}

// push sends what crypto/tls has queued while it received, if there is any.
func (t *tlsStream) push() {
	if len(t.wire.queued()) == 0 {
		return
	}
	turn, ok := t.wire.sock.TryLockSend()
	if !ok {
		return // the sender takes it along
	}
	defer t.leave(turn)
	_, _ = t.flush(&turn)
}

// closeWrite ends this side of TLS; the socket's stays open for what the other
// side has still to say. See RFC 8446, 6.1.
func (t *tlsStream) closeWrite(timeout time.Duration) error {
	turn, err := t.wire.sock.LockSend(0, timeout)
	if err != nil {
		return err
	}
	defer t.leave(turn)
	return t.closeNotify(&turn)
}

func (t *tlsStream) closeNotify(turn *sock.IOLock) error {
	t.writeClosed.Store(true)
	if t.failed != nil {
		return t.failed
	}
	t.failed = errCrashed
	err := t.conn.CloseWrite()
	t.failed = nil
	if err == nil {
		_, err = t.flush(turn)
	}
	return err
}

// pending is Socket.Pending for what is in TLS. Session tickets are nothing; half a
// record is something. afresh looks also for what was received with an earlier
// record, which the socket knows nothing of any more.
func (t *tlsStream) pending(afresh bool) sock.ProbeResult {
	if sight := t.wire.sock.Probe(); sight == sock.Closed || sight == sock.Idle && !afresh {
		return sight
	}
	turn, ok := t.wire.sock.TryLockRecv()
	if !ok {
		return sock.Readable // somebody's
	}
	n, err := t.receive(turn, make([]byte, 1), Peek)
	switch {
	case n > 0 || t.wire.in.midway():
		return sock.Readable
	case errors.Is(err, unix.EAGAIN):
		return sock.Idle
	}
	return sock.Closed
}

// there reports, in the receiver's turn, whether a receive has something to give or
// to say at once; came is whether the socket has something, which may be less than
// a record, or none of the application's.
func (t *tlsStream) there(turn *sock.IOLock, came bool) bool {
	switch {
	case len(t.ahead) > 0 || t.over != nil:
		return true
	case t.wire.dry && !came:
		return false
	}
	n, err := t.take(turn, t.one[:], DontWait)
	t.ahead = t.one[:n]
	return n > 0 || !errors.Is(err, unix.EAGAIN)
}

// close sends close_notify and closes the socket, also if a callback panics in between.
func (t *tlsStream) close() (err error) {
	if t.closing.Swap(true) {
		return net.ErrClosed // by the call that was first
	}
	defer func() { err = t.wire.sock.Close() }()
	t.bye()
	return nil
}

// bye does before Close what can be done without waiting: it takes what the
// peer's TLS has sent of its own accord (a close(2) with session tickets unread
// resets the connection, and what was sent last is lost with it), and says that
// this is the end.
func (t *tlsStream) bye() {
	if turn, ok := t.wire.sock.TryLockRecv(); ok {
		_, _ = t.receive(turn, make([]byte, 1), Peek)
	}
	if turn, ok := t.wire.sock.TryLockSend(); ok {
		defer turn.Unlock()
		_ = t.closeNotify(&turn)
	}
}

// A cutter follows a stream to know where its records end (RFC 8446, 5.1).
type cutter struct {
	header [5]byte
	have   int // bytes of the header
	left   int // bytes of the record after it
}

func (c *cutter) follow(p []byte) {
	for len(p) > 0 {
		if c.left > 0 {
			n := min(c.left, len(p))
			c.left -= n
			p = p[n:]
			continue
		}
		n := copy(c.header[c.have:], p)
		p = p[n:]
		if c.have += n; c.have == len(c.header) {
			c.have, c.left = 0, int(c.header[3])<<8|int(c.header[4])
		}
	}
}

// inAlert reports whether the last record that has begun is an alert.
func (c *cutter) inAlert() bool {
	const alert = 21
	return c.header[0] == alert
}

// midway reports whether a record has begun that is not all there.
func (c *cutter) midway() bool { return c.have > 0 || c.left > 0 }

// A tlsSocket is the socket as crypto/tls sees it.
type tlsSocket struct {
	sock *sock.Socket
	ends *ends
	rd   sock.IOLock // of who receives, while somebody does

	handshaking bool        // one caller has both turns
	wr          sock.IOLock // while handshaking

	// Of who receives.
	in        cutter
	impatient bool // it has what it needs
	hasty     bool // a read has not waited, though it might have
	patient   bool // and is to, now
	dry       bool // crypto/tls has asked for more than there was, so it has nothing whole

	mu    sync.Mutex
	buf   []byte
	taken int // how much of buf is sent
}

var _ net.Conn = (*tlsSocket)(nil)

// A pending is the error of a read that can be made again. crypto/tls ends the
// connection after any other.
type pending struct{ error }

func (e pending) Unwrap() error { return e.error }
func (pending) Timeout() bool   { return true }
func (pending) Temporary() bool { return true }

// maxQueued is how much may be waiting to be sent that nobody here has asked for.
// A peer can ask for key updates without end and not take the answers.
const maxQueued = 64 << 10

var errGreedy = errors.New("the peer asks for more answers of TLS than it receives")

func isPending(err error) bool {
	var p pending
	return errors.As(err, &p)
}

// Read receives what there is. What was written in a handshake goes first: it is
// what the peer answers.
func (w *tlsSocket) Read(p []byte) (int, error) {
	flags := 0
	switch {
	case w.handshaking:
		if w.rd.Expired() { // a peer that never stops talking
			return 0, os.ErrDeadlineExceeded
		}
		if _, err := w.flush(&w.wr, 0); err != nil {
			return 0, err
		}
	case len(w.queued()) > maxQueued:
		return 0, errGreedy
	case w.impatient:
		flags = unix.MSG_DONTWAIT
	case w.in.inAlert() && !w.patient:
		// crypto/tls looks for an alert behind the data that it has to give, and
		// would wait for the rest of it. If there is no data, it is called again.
		w.hasty, flags = true, unix.MSG_DONTWAIT
	}
	n, err := w.rd.Recv(p, flags)
	w.in.follow(p[:n])
	w.dry = n == 0 && err != nil && mayGoOn(err)
	switch {
	case errors.Is(err, io.EOF):
		return n, errCut
	case err != nil && mayGoOn(err) && !w.handshaking:
		return n, pending{err}
	}
	return n, err
}

// Write queues. Whoever has crypto/tls write sends the queue.
func (w *tlsSocket) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// queued is what is to be sent. Others may add to it, and nobody but the sender
// takes from it.
func (w *tlsSocket) queued() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf[w.taken:]
}

// flush sends the queue in the sender's turn, and gives how much went.
func (w *tlsSocket) flush(turn *sock.IOLock, flags int) (went int, err error) {
	for {
		p := w.queued()
		if len(p) == 0 {
			return went, nil
		}
		n, err := turn.Send(p, flags)
		went += n
		w.mu.Lock()
		if w.taken += n; w.taken == len(w.buf) {
			w.buf, w.taken = w.buf[:0], 0
		}
		w.mu.Unlock()
		if err != nil {
			return went, err
		}
	}
}

// Close does nothing: who closes the client closes the socket.
func (w *tlsSocket) Close() error { return nil }

// LocalAddr and RemoteAddr are the socket's.
func (w *tlsSocket) LocalAddr() net.Addr { return w.ends.local }

// RemoteAddr is the peer's.
func (w *tlsSocket) RemoteAddr() net.Addr { return w.ends.remote }

// SetDeadline and its kin do nothing: the limits are those of the turns.
func (w *tlsSocket) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (w *tlsSocket) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (w *tlsSocket) SetWriteDeadline(time.Time) error { return nil }
