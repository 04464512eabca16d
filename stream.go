package client

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/internal/frame"
	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/tlsconn"
	"golang.org/x/sys/unix"
)

// A stream is the socket of a Client with what lies between the two: TLS, and the buffer of
// Options.Framing. This file alone picks between plain, TLS and framed. Each call takes the
// I/O lock of its direction first and picks then, so that a call that waited for the lock
// while StartTLS held it uses TLS:
//
//	Recv, Read, RecvPacket, Drain ────────▶ [frames] ──▶ recvBytes ─┬▶ [TLS] ─┬▶ socket
//	Send, Write, SendPacket, SendBuffers, SendFile ────▶ sendBytes ─┴─────────┘
type stream struct {
	sock   *sock.Socket
	tls    atomic.Pointer[tlsconn.Conn] // set by StartTLS or Dial, with both I/O locks held; never reset
	frames *frame.Buffer                // nil without Options.Framing
	sent   atomic.Bool                  // the kernel has accepted a byte
	state  atomic.Int32                 // idle, connecting or connected
}

// share makes s a stream on the connection of another one, without its framing.
func (s *stream) share(other *stream) {
	s.sock = other.sock
	if t := other.tls.Load(); t != nil {
		s.tls.Store(t)
	}
}

func (s *stream) recv(p []byte, flags Flag, timeout time.Duration) (int, error) {
	lock, err := s.sock.LockRecv(int(flags), timeout)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	return s.recvLocked(&lock, p, flags)
}

func (s *stream) read(p []byte) (int, error) {
	lock, err := s.sock.LockRead()
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	return s.recvLocked(&lock, p, 0)
}

func (s *stream) recvLocked(lock *sock.IOLock, p []byte, flags Flag) (int, error) {
	switch {
	case s.frames == nil || flags&OOB != 0:
		return s.recvBytes(lock, p, flags)
	case flags&Peek != 0:
		return s.peekLocked(lock, p, flags)
	}
	n := s.frames.Read(p)
	if n == len(p) || n > 0 && flags&WaitAll == 0 {
		return n, nil
	}
	m, err := s.recvBytes(lock, p[n:], flags)
	return n + m, sock.EOFAfter(n+m, err)
}

// peekLocked peeks with a framing: into its buffer, which RecvPacket looks into first.
func (s *stream) peekLocked(lock *sock.IOLock, p []byte, flags Flag) (n int, err error) {
	want := 1
	if flags&WaitAll != 0 {
		want = len(p)
	}
	for err == nil && s.frames.Len() < len(p) {
		how := flags &^ (Peek | WaitAll)
		if s.frames.Len() >= want {
			how |= DontWait
		} else if s.frames.Len() > 0 && lock.Expired() {
			err = os.ErrDeadlineExceeded
			break
		}
		n, err = s.recvBytes(lock, s.frames.RoomToPeek(len(p)), how)
		s.frames.Filled(n)
	}
	if n = s.frames.Peek(p); n >= want {
		return n, nil // an error is for the next call
	}
	return n, sock.EOFAfter(n, err)
}

// recvBytes receives past the buffer of the framing.
func (s *stream) recvBytes(lock *sock.IOLock, p []byte, flags Flag) (int, error) {
	t := s.tls.Load()
	switch {
	case t == nil:
		return lock.Recv(p, int(flags))
	case flags&OOB != 0:
		return 0, unix.EOPNOTSUPP
	}
	return t.Recv(lock, p, int(flags))
}

// recvPacket returns also how much it has of the packet: with an error, a part of it. If ready is
// not nil, it becomes a batch of packets that follow and have arrived.
func (s *stream) recvPacket(timeout time.Duration, ready *frame.Batch) (packet []byte, got int, err error) {
	lock, err := s.sock.LockRecv(0, timeout)
	if err != nil {
		return nil, 0, err
	}
	defer lock.Unlock()
	if packet, err = s.nextPacketLocked(&lock, ready); err != nil {
		return nil, s.frames.Len(), packetErr(err)
	}
	return packet, len(packet), nil
}

func (s *stream) nextPacketLocked(lock *sock.IOLock, ready *frame.Batch) ([]byte, error) {
	for {
		p, size, err := s.frames.Next(ready)
		if p != nil || err != nil {
			return p, err
		}
		if s.frames.Len() > 0 && lock.Expired() { // a peer that sends as fast as we receive
			return nil, os.ErrDeadlineExceeded
		}
		room, all := s.frames.Room(size)
		flags := Flag(0)
		if all {
			flags = WaitAll
		}
		n, err := s.recvBytes(lock, room, flags)
		if s.frames.Filled(n); err != nil {
			return nil, sock.EOFAfter(s.frames.Len(), err)
		}
	}
}

// recvSome receives what there is into a buffer of r, or a packet, without waiting: EAGAIN if
// there is nothing. It asks the socket only if r.readable is true, and sets that to false once
// the socket has no more.
func (s *stream) recvSome(lock *sock.IOLock, r *recvState, isUnixgram bool) ([]byte, error) {
	for {
		size := 0
		if s.frames != nil {
			var p []byte
			var err error
			if p, size, err = s.frames.Next(nil); p != nil || err != nil {
				return p, err
			}
		}
		var room []byte
		switch {
		case !r.readable:
			return nil, unix.EAGAIN
		case s.frames != nil:
			room, _ = s.frames.Room(size)
		default:
			room = r.room(lock, isUnixgram)
		}
		n, err := s.recvBytes(lock, room, DontWait)
		r.arrived = r.arrived || n > 0 || s.receivedPart()
		r.busy = r.busy && err == nil
		r.readable = err == nil && (r.busy || n == len(room) || s.hasTLS() || s.sock.Buffered())
		if s.frames == nil {
			return room[:min(n, len(room))], err
		}
		if s.frames.Filled(n); err != nil {
			return nil, sock.EOFAfter(s.frames.Len(), err)
		}
	}
}

// bufferedPacket is recvPacket for a packet that has been received already. It reads no clock,
// which is half of what a short packet costs.
func (s *stream) bufferedPacket(ready *frame.Batch) []byte {
	if !s.sock.TryLockBuffered() {
		return nil
	}
	defer s.sock.UnlockBuffered()
	p, _, _ := s.frames.Next(ready)
	return p
}

// scratchBuffers are for drain, and for sendBuffers over TLS, where they hold two records.
var scratchBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// drain discards what a receive would return, and counts it, until an error or, with DontWait,
// until nothing is left. With a framing and DontWait it discards whole packets.
func (s *stream) drain(flags Flag, timeout time.Duration) (total int64, err error) {
	until := sock.In(timeout)
	lock, err := s.sock.LockRecv(int(flags), timeout)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	buf := scratchBuffers.Get().(*[32 << 10]byte)
	defer scratchBuffers.Put(buf)
	for {
		var n int
		if s.frames != nil && flags&DontWait != 0 {
			var p []byte
			p, err = s.nextPacketLocked(&lock, nil)
			n, err = len(p), packetErr(err)
		} else {
			n, err = s.recvLocked(&lock, buf[:], flags)
		}
		total += int64(n)
		switch {
		case flags&DontWait != 0 && errors.Is(err, unix.EAGAIN):
			return total, nil
		case err != nil:
			return total, err
		case until.Left() <= 0 || lock.DeadlineExceeded(): // a peer that sends as fast as we receive
			return total, os.ErrDeadlineExceeded
		}
	}
}

func (s *stream) send(p []byte, flags Flag, timeout time.Duration) (int, error) {
	lock, err := s.sock.LockSend(int(flags), timeout)
	if err != nil {
		return 0, err
	}
	defer s.unlockSend(&lock)
	return s.sendBytes(&lock, p, flags)
}

func (s *stream) sendBytes(lock *sock.IOLock, p []byte, flags Flag) (int, error) {
	t := s.tls.Load()
	switch {
	case t == nil:
		return lock.Send(p, int(flags))
	case flags&OOB != 0:
		return 0, unix.EOPNOTSUPP
	}
	n, some, err := t.Send(lock, p)
	if some {
		s.sent.Store(true)
	}
	return n, err
}

// sendBuffers sends buffers one after the other. Over TLS they are copied first: a record holds as
// many as fit.
func (s *stream) sendBuffers(bufs [][]byte, timeout time.Duration) (sent int64, err error) {
	lock, err := s.sock.LockSend(0, timeout)
	if err != nil {
		return 0, err
	}
	defer s.unlockSend(&lock)
	if !s.hasTLS() {
		return lock.SendBuffers(bufs)
	}
	scratch := scratchBuffers.Get().(*[32 << 10]byte)
	defer scratchBuffers.Put(scratch)
	for off := 0; ; {
		size := 0
		for len(bufs) > 0 && size < len(scratch) {
			n := copy(scratch[size:], bufs[0][off:])
			size += n
			if off += n; off == len(bufs[0]) {
				bufs, off = bufs[1:], 0
			}
		}
		n, err := s.sendBytes(&lock, scratch[:size], 0)
		sent += int64(n)
		switch {
		case err != nil || len(bufs) == 0:
			return sent, err
		case lock.Expired(): // a peer that receives as fast as we send
			return sent, os.ErrDeadlineExceeded
		}
	}
}

// unlockSend releases the lock, or has TLS do so once the rest of a record is sent.
func (s *stream) unlockSend(lock *sock.IOLock) {
	if t := s.tls.Load(); t != nil {
		t.UnlockSend(*lock)
	} else {
		lock.Unlock()
	}
}

func (s *stream) sendPacket(p []byte, timeout time.Duration) (int, error) {
	lock, err := s.sock.LockSend(0, timeout)
	if err != nil {
		return 0, err
	}
	defer s.unlockSend(&lock)
	pieces, total, err := s.frames.Encode(p)
	if err != nil {
		return 0, packetErr(err)
	}
	sent := 0
	for _, piece := range pieces {
		var n int
		n, err = s.sendBytes(&lock, piece, 0)
		if sent += n; err != nil {
			break
		}
	}
	s.frames.Sent(sent, total)
	return sent, err
}

// sendRange sends a range of a file. On a plain stream the kernel does (sendfile(2)).
func (s *stream) sendRange(f *os.File, offset, length int64, timeout time.Duration) (sent int64, err error) {
	lock, err := s.sock.LockSend(0, timeout)
	if err != nil {
		return 0, err
	}
	defer s.unlockSend(&lock)
	if !s.hasTLS() {
		raw, err := f.SyscallConn()
		if err != nil {
			return 0, err
		}
		sent, err = lock.SendFile(raw.Control, offset, length)
		if !errors.Is(err, sock.ErrNoSendFile) {
			return sent, err
		}
	}
	const piece = 64 << 10
	p := make([]byte, min(length, piece))
	for sent < length {
		if sent > 0 && lock.Expired() { // a peer that receives as fast as we send
			return sent, os.ErrDeadlineExceeded
		}
		got, err := f.ReadAt(p[:min(length-sent, piece)], offset+sent)
		if got == 0 && errors.Is(err, io.EOF) {
			return sent, io.ErrUnexpectedEOF
		}
		if got == 0 && err != nil {
			return sent, err
		}
		n, err := s.sendBytes(&lock, p[:got], 0)
		sent += int64(n)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// closeWrite ends sending: by close_notify over TLS, else by shutdown(2).
func (s *stream) closeWrite(timeout time.Duration) error {
	t := s.tls.Load()
	if t == nil {
		return s.sock.Shutdown(unix.SHUT_WR, sock.In(timeout))
	}
	lock, err := s.sock.LockSend(0, timeout)
	if err != nil {
		return err
	}
	defer s.unlockSend(&lock)
	return t.CloseWrite(&lock)
}

func (s *stream) closeRead(timeout time.Duration) error {
	if t := s.tls.Load(); t != nil {
		t.CloseRead()
	}
	return s.sock.Shutdown(unix.SHUT_RD, sock.In(timeout))
}

// close closes the socket, and sends close_notify before if it need not wait for that.
func (s *stream) close() error {
	if t := s.tls.Load(); t != nil {
		return t.Close()
	}
	return s.sock.Close()
}

// closeAndWait is close for a pool, which waits until the calls under way have returned.
func (s *stream) closeAndWait(limit time.Duration) {
	defer func() { _ = s.sock.CloseWait(limit) }() // also if a callback of TLS panics
	if t := s.tls.Load(); t != nil {
		t.CloseNotify()
	}
}

func (s *stream) hasTLS() bool { return s.tls.Load() != nil }

func (s *stream) hasFraming() bool { return s.frames != nil }

// connectionState is the zero value without TLS.
func (s *stream) connectionState() (state tls.ConnectionState) {
	if t := s.tls.Load(); t != nil {
		state = t.ConnectionState()
	}
	return state
}

// truncated reports whether the stream ended within a TLS record.
func (s *stream) truncated() bool {
	t := s.tls.Load()
	return t != nil && t.Truncated()
}

// isUp reports whether the peer can still answer, as far as the kernel and TLS know.
func (s *stream) isUp() bool {
	return !s.tlsEnded() && s.sock.PeerOpen()
}

// unsent is how many bytes a send has counted that TLS has not sent. See Client.Send.
func (s *stream) unsent() int {
	if t := s.tls.Load(); t != nil {
		return t.Unsent()
	}
	return 0
}

// receivedPart reports whether TLS has received something, be it a part of a record. The caller
// holds the receive lock.
func (s *stream) receivedPart() bool {
	t := s.tls.Load()
	return t != nil && t.ReceivedPart()
}

// tlsEnded reports whether nothing more will be received over TLS.
func (s *stream) tlsEnded() bool {
	t := s.tls.Load()
	return t != nil && t.Ended()
}

// readable reports whether a receive returns at once; inSocket is whether the socket is
// readable, which is not the same over TLS and with a framing.
func (s *stream) readable(inSocket bool) bool {
	t := s.tls.Load()
	if t == nil && s.frames == nil {
		return inSocket || s.sock.Buffered()
	}
	lock, ok := s.sock.TryLockRecv()
	if !ok {
		return inSocket // whoever has the lock finds out
	}
	defer lock.Unlock()
	switch {
	case s.frames.Len() > 0:
		return true
	case t == nil:
		return inSocket
	}
	return t.Readable(&lock, inSocket)
}

// buffered is how many bytes were received with an earlier packet and not returned.
func (s *stream) buffered() int { return s.frames.Len() }

// isUnanswered reports whether fewer packets were received than sent. Nobody may be using
// the stream.
func (s *stream) isUnanswered() bool { return s.frames.Unanswered() }

// probe reports what the next receive would get. With TLS and fresh false it does not look
// for what was received together with an earlier record.
func (s *stream) probe(fresh bool) sock.ProbeResult {
	if t := s.tls.Load(); t != nil {
		return t.Probe(fresh)
	}
	return s.sock.Probe()
}
