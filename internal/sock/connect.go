package sock

import (
	"net"

	"golang.org/x/sys/unix"
)

// Connect connects the socket to one address, as DialParallel does. Close ends it too.
// After a failure another address may be tried on Linux. Other systems leave the socket
// unusable.
func (s *Socket) Connect(to Addr, until Instant, stop *Stopper) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	_, _, results := DialParallel([]Addr{to}, nil, 0, until, stop,
		func(Addr) (*Socket, error) { return s, nil },
		func(s *Socket, _ Addr, _ error) { s.disconnect() })
	switch {
	case results == nil:
		return nil
	case s.refs.Closed():
		return net.ErrClosed
	}
	return results[0].Err
}

// SetUnconnected makes Connect and DialParallel set the destination of what is sent without an
// address, in place of connect(2): a datagram socket then receives from any address. Call it
// before the socket is used.
func (s *Socket) SetUnconnected() { s.unconnected = true }

// Addrs returns the socket's own and its peer's address at the time it was connected. It
// is for the caller that connected it. Other callers use Local.
func (s *Socket) Addrs() (local, peer Addr) { return s.localAddr, s.peerAddr }

// DiscardQueued discards the datagrams that were queued before the socket had a peer,
// which may come from anywhere. It reads no more datagrams than the queue can have held
// then: later ones come from the peer. It does nothing while another goroutine receives,
// which consumes them.
func (s *Socket) DiscardQueued() {
	if ok, _ := s.tryLock(&s.rd); !ok {
		return
	}
	defer s.unlock(&s.rd)
	const least = 256 // bytes of the receive buffer that even an empty datagram uses
	room, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return
	}
	for range room/least + 1 {
		s.discardGRO() // the kernel queues coalesced datagrams as one
		if _, errno := s.sysRecv(nil, unix.MSG_DONTWAIT, false, nil); errno != 0 && errno != unix.EINTR {
			return
		}
	}
}

// peerOrElse is the peer of a connected IP socket, which may differ from the address that
// connect(2) was given: the unspecified address means this machine. The result is asked
// if the socket has no peer yet (TCP_FASTOPEN_CONNECT) or no longer has one.
func (s *Socket) peerOrElse(asked Addr) Addr {
	var peer rawSockaddr
	if s.domain == unix.AF_UNIX || s.sysPeer(&peer) != 0 {
		return asked
	}
	return peer.addr(s)
}
