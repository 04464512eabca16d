package client

import (
	"net"
	"net/netip"
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A Datagram is one of those that RecvBatch receives or SendBatch sends.
type Datagram struct {
	// Buf is what SendBatch sends, or the room into which RecvBatch receives.
	Buf []byte

	// N is how many bytes RecvBatch put into Buf. Size is how many bytes the datagram had:
	// more than N if Buf was too short for it. SendBatch does not use them.
	N, Size int

	// Addr is the sender, or the receiver. Zero: the peer of a connected client. The zone of
	// a link-local IPv6 address is the interface's name. UDP only.
	Addr netip.AddrPort

	// UnixName is what Addr is for a unixgram client: a path, or on Linux "@" and an
	// abstract name. Empty: the peer of a connected client, or a sender without a name.
	UnixName string
}

// RecvBatch receives datagrams, one into each Datagram of ds, and returns how many. It waits
// until there is one, as Recv does, within Options.RecvTimeout and the read deadline, and
// then returns those that have arrived: 32 at most. On Linux they take one system call
// (recvmmsg(2)); elsewhere, and where that call is refused, RecvBatch receives one datagram.
//
// The error may come with a number of datagrams: it arrived after them. A datagram that is
// longer than its Buf is cut, and the error is a *TruncatedError about the first of those;
// Size tells which they are.
//
// flags are DontWait and Peek. Peek gives the first datagram alone. WaitAll makes no
// difference. RecvBatch allocates nothing, but for a UnixName. On a stream it fails with
// unix.EOPNOTSUPP.
func (c *Client) RecvBatch(ds []Datagram, flags Flag) (int, error) {
	if err := c.begin(recvFlags, flags, false); err != nil {
		return 0, c.failed(opRecvBatch, nil, err)
	}
	defer c.end()
	if c.typ.isStream() {
		return 0, c.failed(opRecvBatch, nil, os.NewSyscallError("recvmmsg", unix.EOPNOTSUPP))
	}
	if len(ds) == 0 {
		return 0, nil
	}
	n, err := c.recvBatch(ds, flags)
	c.note.received(n, n, err, flags)
	for i := range n {
		if d := &ds[i]; d.Size > d.N && err == nil {
			_, err = c.received(opRecvBatch, d.netAddr(c.typ), d.N, d.Size, nil)
			return n, err
		}
	}
	return c.received(opRecvBatch, nil, n, n, err)
}

func (c *Client) recvBatch(ds []Datagram, flags Flag) (int, error) {
	lock, err := c.sock.LockRecv(int(flags), c.limits.recv)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	if flags&Peek == 0 && len(ds) > 1 && lock.MaxBatch() > 1 {
		n, err := c.recvQueued(&lock, ds[:min(len(ds), lock.MaxBatch())])
		if n > 0 || err != nil {
			return n, err
		}
	}
	var from sock.Addr
	size, err := lock.RecvFrom(ds[0].Buf, int(flags), &from)
	if err != nil {
		return 0, err
	}
	ds[0].set(size, from)
	return 1, nil
}

// recvQueued receives what has arrived. It holds a batch only for as long as a system call
// that does not wait.
func (c *Client) recvQueued(lock *sock.IOLock, ds []Datagram) (int, error) {
	b := sock.NewBatch()
	defer b.Free()
	for i := range ds {
		if err := b.Add(c.sock, ds[i].Buf, sock.Addr{}); err != nil {
			return 0, err
		}
	}
	n, err := lock.RecvBatch(b)
	for i := range n {
		ds[i].set(b.Received(c.sock, i))
	}
	return n, err
}

func (d *Datagram) set(size int, from sock.Addr) {
	d.N, d.Size, d.Addr, d.UnixName = min(size, len(d.Buf)), size, from.IP, from.Path
}

func (d *Datagram) netAddr(typ Type) net.Addr {
	if !d.Addr.IsValid() && d.UnixName == "" {
		return nil
	}
	return netAddr(typ, sock.Addr{IP: d.Addr, Path: d.UnixName})
}

// SendBatch sends the Buf of each Datagram of ds as a datagram, in their order, and returns how
// many the kernel took: all of them, or fewer and an error about the next one. To leave that
// one out, call it again with those behind it. On Linux 32 datagrams take one system call
// (sendmmsg(2)); elsewhere, and where that call is refused, each takes one.
//
// Where the socket has no more room, SendBatch waits. Options.SendTimeout and the write deadline
// bound the whole call. The flag is DontWait. SendBatch allocates nothing.
//
// A client without a peer needs an Addr, or a UnixName, in each Datagram, and gives
// unix.ENOTCONN otherwise. On a client that is connected one that is not zero fails with
// net.ErrWriteToConnected. A UDP datagram that finds its receiver's port closed makes a
// later call fail with unix.ECONNREFUSED, or a later datagram of the same call. On a stream
// SendBatch fails with unix.EOPNOTSUPP.
func (c *Client) SendBatch(ds []Datagram, flags Flag) (int, error) {
	n, err := c.sendBatch(ds, flags)
	if err != nil {
		return n, c.sentSome(opSendBatch, func() net.Addr {
			if n < len(ds) {
				return ds[n].netAddr(c.typ)
			}
			return nil
		}, n, err)
	}
	return n, c.sentSome(opSendBatch, nil, n, nil)
}

func (c *Client) sendBatch(ds []Datagram, flags Flag) (int, error) {
	lock, err := c.beginDatagrams("sendmmsg", flags)
	if err != nil {
		return 0, err
	}
	defer c.end()
	defer lock.Unlock()
	for sent := 0; ; {
		n, err := c.sendSomeOf(&lock, ds[sent:], flags)
		sent += n
		switch {
		case err != nil || sent == len(ds):
			return sent, err
		case lock.Expired(): // a socket that takes all as fast as it is sent
			return sent, os.ErrDeadlineExceeded
		}
	}
}

// beginDatagrams begins a call that sends several datagrams: it has to end, and the lock has
// to be left.
func (c *Client) beginDatagrams(call string, flags Flag) (sock.IOLock, error) {
	if err := c.begin(sendFlags, flags, false); err != nil {
		return sock.IOLock{}, err
	}
	var lock sock.IOLock
	var err error
	if c.typ.isStream() {
		err = os.NewSyscallError(call, unix.EOPNOTSUPP)
	} else if err = c.bindToBeAnswered(); err == nil {
		c.note.sends()
		lock, err = c.sock.LockSend(int(flags), c.limits.send)
	}
	if err != nil {
		c.end()
	}
	return lock, err
}

// sendSomeOf sends as many as the socket takes in one call, but the next one after those that
// it took, and one at least, by a call of its own: that one waits for room, or tells the
// error which made the first call end.
func (c *Client) sendSomeOf(lock *sock.IOLock, ds []Datagram, flags Flag) (int, error) {
	sent := 0
	if most := lock.MaxBatch(); most > 1 && len(ds) > 1 {
		n, asked, err := c.sendQueued(lock, ds[:min(len(ds), most)])
		if err != nil || n == asked && n > 0 {
			return n, err
		}
		sent = n
	}
	if sent == len(ds) {
		return sent, nil
	}
	to, err := c.receiver(ds[sent].Addr, ds[sent].UnixName)
	if err == nil {
		_, err = lock.SendTo(ds[sent].Buf, int(flags), to)
	}
	if err != nil {
		return sent, err
	}
	return sent + 1, nil
}

// sendQueued sends those up to the first one whose address cannot be used.
func (c *Client) sendQueued(lock *sock.IOLock, ds []Datagram) (n, asked int, err error) {
	b := sock.NewBatch()
	defer b.Free()
	for i := range ds {
		to, err := c.receiver(ds[i].Addr, ds[i].UnixName)
		if err != nil || b.Add(c.sock, ds[i].Buf, to) != nil {
			break
		}
		asked++
	}
	if asked == 0 {
		return 0, 0, nil
	}
	n, err = lock.SendBatch(b)
	return n, asked, err
}

// receiver is the address to send to, zero for the peer.
func (c *Client) receiver(ap netip.AddrPort, unixName string) (sock.Addr, error) {
	isConnected := c.state.Load() == connected
	switch {
	case ap == netip.AddrPort{} && unixName == "":
		if !isConnected && !c.sock.Closed() {
			return sock.Addr{}, unix.ENOTCONN
		}
		return sock.Addr{}, nil
	case isConnected:
		return sock.Addr{}, net.ErrWriteToConnected
	case unixName == "":
		return sock.Addr{IP: unmap(ap)}, checkZone(ap.Addr())
	case c.typ != UnixDgram || ap.IsValid():
		return sock.Addr{}, &net.AddrError{Err: "UnixName is only for unixgram, and only without Addr", Addr: unixName}
	}
	return parseUnix(unixName)
}

// SendSegments sends p to the peer as datagrams of size bytes, the last of which may be
// shorter. It returns len(p), or how many bytes the kernel took, which is whole datagrams, and an
// error that says why not more. Where p is empty it sends nothing.
//
// On Linux 4.18 and later one system call takes up to 64 datagrams, or 65,507 bytes, which the
// kernel or the network device separates (UDP_SEGMENT, udp(7)). Where the device or the path
// refuses that (unix.EIO, unix.EMSGSIZE), and on other systems, each datagram takes a call of
// its own, from then on. A datagram that is too long for the network is unix.EMSGSIZE, as with
// Send.
//
// Options.SendTimeout and the write deadline bound the whole call. The flag is DontWait. A size
// that is not positive is unix.EINVAL, a client without a peer unix.ENOTCONN, a stream
// unix.EOPNOTSUPP. SendSegments allocates nothing.
func (c *Client) SendSegments(p []byte, size int, flags Flag) (int, error) {
	return c.sendSegments(p, size, netip.AddrPort{}, flags)
}

// SendSegmentsToAddrPort is SendSegments to an address, for a UDP client that is not connected:
// one that is fails with net.ErrWriteToConnected.
func (c *Client) SendSegmentsToAddrPort(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	if (to == netip.AddrPort{}) {
		return 0, c.sentSome(opSendSegments, nil, 0, &net.AddrError{Err: "no address to send to"})
	}
	return c.sendSegments(p, size, to, flags)
}

func (c *Client) sendSegments(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	n, err := c.sendSegmentsTo(p, size, to, flags)
	if err != nil {
		return n, c.sentSome(opSendSegments, func() net.Addr { return (&Datagram{Addr: to}).netAddr(c.typ) }, n, err)
	}
	return n, c.sentSome(opSendSegments, nil, n, nil)
}

func (c *Client) sendSegmentsTo(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	lock, err := c.beginDatagrams("sendmsg", flags)
	if err != nil {
		return 0, err
	}
	defer c.end()
	defer lock.Unlock()
	if size <= 0 {
		return 0, unix.EINVAL
	}
	addr, err := c.receiver(to, "")
	if err != nil || len(p) == 0 {
		return 0, err
	}
	return lock.SendSegments(p, size, int(flags), addr)
}
