package client

import (
	"net"
	"net/netip"
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A Datagram is one element of a batch for RecvBatch or SendBatch.
type Datagram struct {
	// Buf is what SendBatch sends, all of it, or the buffer that RecvBatch receives into.
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

// RecvBatch receives queued datagrams, one into each element of ds, and returns their number,
// which is 32 at most. If no datagram is queued, RecvBatch waits for one, as Recv does;
// Options.RecvTimeout and the read deadline bound the call. On Linux the datagrams take one
// system call (recvmmsg(2)). Elsewhere, and where the system refuses recvmmsg, RecvBatch
// receives one datagram.
//
// RecvBatch may return a count and an error: the error arrived after those datagrams. A
// datagram that is longer than its Buf is truncated, and the error is a *TruncatedError about the
// first of those; Size tells of each.
//
// The flags are DontWait and Peek. With Peek, RecvBatch receives only the first datagram.
// WaitAll has no effect. RecvBatch allocates nothing but UnixName. On a stream it fails with
// unix.EOPNOTSUPP.
func (c *Client) RecvBatch(ds []Datagram, flags Flag) (int, error) {
	if err := c.begin(recvFlags, flags, false); err != nil {
		return 0, c.opError(opRecvBatch, nil, err)
	}
	defer c.lease.decref()
	if c.typ.isStream() {
		return 0, c.opError(opRecvBatch, nil, os.NewSyscallError("recvmmsg", unix.EOPNOTSUPP))
	}
	if len(ds) == 0 {
		return 0, nil
	}
	n, err := c.recvBatch(ds, flags)
	c.recordRecv(n, n, err, flags)
	for i := range n {
		if d := &ds[i]; d.Size > d.N && err == nil {
			_, err = c.recvResult(opRecvBatch, d.netAddr(c.typ), d.N, d.Size, nil)
			return n, err
		}
	}
	return c.recvResult(opRecvBatch, nil, n, n, err)
}

func (c *Client) recvBatch(ds []Datagram, flags Flag) (int, error) {
	lock, err := c.sock.LockRecv(int(flags), c.limits().recv)
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

// recvQueued receives queued datagrams. It holds a sock.Batch only during a system call that
// does not wait: a client that waits is to have no such buffer.
func (c *Client) recvQueued(lock *sock.IOLock, ds []Datagram) (int, error) {
	b := sock.NewBatch()
	defer b.Free()
	for i := range ds {
		b.AddBuffer(ds[i].Buf)
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

// SendBatch sends the Buf of each element of ds as one datagram, in order. It returns len(ds), or
// the number n of datagrams that the kernel took and an error about ds[n]. To skip ds[n], call
// SendBatch again with ds[n+1:]. On Linux 32 datagrams take one system call (sendmmsg(2)).
// Elsewhere, and where the system refuses sendmmsg, each datagram takes a call.
//
// When the socket buffer is full, SendBatch waits; Options.SendTimeout and the write deadline
// bound the whole call. The flag is DontWait. SendBatch allocates nothing.
//
// On an unconnected client each element needs an Addr or a UnixName; the error is otherwise
// unix.ENOTCONN. On a connected client both have to be zero; the error is otherwise
// net.ErrWriteToConnected. When the peer's port is closed, a later datagram fails with
// unix.ECONNREFUSED, in the same call or in the next. On a stream SendBatch fails with
// unix.EOPNOTSUPP.
func (c *Client) SendBatch(ds []Datagram, flags Flag) (int, error) {
	n, err := c.sendBatch(ds, flags)
	if err != nil {
		return n, c.sendResult(opSendBatch, func() net.Addr {
			if n < len(ds) {
				return ds[n].netAddr(c.typ)
			}
			return nil
		}, n, err)
	}
	return n, c.sendResult(opSendBatch, nil, n, nil)
}

func (c *Client) sendBatch(ds []Datagram, flags Flag) (int, error) {
	lock, err := c.beginDatagrams("sendmmsg", flags)
	if err != nil {
		return 0, err
	}
	defer c.lease.decref()
	defer lock.Unlock()
	for sent := 0; ; {
		n, err := c.sendSomeOf(&lock, ds[sent:], flags)
		sent += n
		switch {
		case err != nil || sent == len(ds):
			return sent, err
		case lock.Expired(): // the socket buffer never was full
			return sent, os.ErrDeadlineExceeded
		}
	}
}

// beginDatagrams begins a call that sends several datagrams. Without an error the caller has
// to unlock and to call lease.decref.
func (c *Client) beginDatagrams(call string, flags Flag) (sock.IOLock, error) {
	if err := c.begin(sendFlags, flags, false); err != nil {
		return sock.IOLock{}, err
	}
	var lock sock.IOLock
	var err error
	if c.typ.isStream() {
		err = os.NewSyscallError(call, unix.EOPNOTSUPP)
	} else if err = c.ensureNamed(); err == nil {
		c.lease.markSending()
		lock, err = c.sock.LockSend(int(flags), c.limits().send)
	}
	if err != nil {
		c.lease.decref()
	}
	return lock, err
}

// sendSomeOf sends one batch. When the kernel takes only a part of it, sendSomeOf sends the next
// datagram alone, which waits until the socket buffer has room, or returns the error that the
// kernel did not report for the batch.
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

// sendQueued sends one batch without waiting, up to the first datagram whose address is wrong.
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
	switch {
	case ap == netip.AddrPort{} && unixName == "":
		if c.state.Load() != connected && !c.sock.Closed() {
			return sock.Addr{}, unix.ENOTCONN
		}
		return sock.Addr{}, nil
	case c.hasPeer():
		return sock.Addr{}, net.ErrWriteToConnected
	case unixName == "":
		return sock.Addr{IP: unmapped(ap)}, checkZone(ap.Addr())
	case c.typ != UnixDgram || ap.IsValid():
		return sock.Addr{}, &net.AddrError{Err: "a Datagram has Addr on udp, UnixName on unixgram, and not both", Addr: unixName}
	}
	return parseUnix(unixName)
}

// SendSegments sends p to the peer as datagrams of size bytes, the last of which may be
// shorter. It returns len(p), or the number of bytes that the kernel took, in whole datagrams,
// and an error that says why not more. If p is empty, SendSegments sends nothing.
//
// On Linux 4.18 and later one system call sends up to 64 datagrams, of 65,507 bytes together,
// which the kernel or the network device separates (UDP_SEGMENT, udp(7)). After the device or
// the path has refused that (unix.EIO, unix.EMSGSIZE), and on other systems, each datagram takes a
// call. A datagram that is too long for the network fails with unix.EMSGSIZE, as with Send.
//
// When the socket buffer is full, SendSegments waits; Options.SendTimeout and the write deadline
// bound the whole call. The flag is DontWait. SendSegments allocates nothing. It fails with
// unix.EINVAL if size is not positive, unix.ENOTCONN on an unconnected client and
// unix.EOPNOTSUPP on a stream.
func (c *Client) SendSegments(p []byte, size int, flags Flag) (int, error) {
	return c.sendSegments(p, size, netip.AddrPort{}, flags)
}

// SendSegmentsToAddrPort is SendSegments to an address. On a connected client it fails with
// net.ErrWriteToConnected.
func (c *Client) SendSegmentsToAddrPort(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	if (to == netip.AddrPort{}) {
		return 0, c.sendResult(opSendSegments, nil, 0, &net.AddrError{Err: "no address: set to, or use SendSegments on a connected client"})
	}
	return c.sendSegments(p, size, to, flags)
}

func (c *Client) sendSegments(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	n, err := c.sendSegmentsTo(p, size, to, flags)
	if err != nil {
		return n, c.sendResult(opSendSegments, func() net.Addr { return (&Datagram{Addr: to}).netAddr(c.typ) }, n, err)
	}
	return n, c.sendResult(opSendSegments, nil, n, nil)
}

func (c *Client) sendSegmentsTo(p []byte, size int, to netip.AddrPort, flags Flag) (int, error) {
	lock, err := c.beginDatagrams("sendmsg", flags)
	if err != nil {
		return 0, err
	}
	defer c.lease.decref()
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
