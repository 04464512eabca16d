package client

import (
	"errors"
	"net"
	"os"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// Send sends p, on a datagram client as one datagram. If nothing waits to be sent, it gives p
// to the kernel at once. What the kernel does not take is copied into the queue, from where
// it goes out by itself. The sends of several goroutines go out whole, in the order in which
// they returned.
//
// The error is ErrQueueFull if p does not fit into the queue, with nothing of p sent or
// queued; unix.ENOTCONN before OnConnect; unix.EPIPE after CloseWrite; net.ErrClosed after
// Finish, Detach, or the end; or the kernel's. The latter ends the client of a stream. After
// the end of a stream was received, too, it is net.ErrClosed. A datagram that the kernel refuses
// after it has waited in the queue is dropped.
func (a *AsyncClient) Send(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opSend)
	switch {
	case err != nil:
		return err
	case !a.stream && a.hasRoomLocked(datagramSize(p)):
		return a.sendDatagramLocked(c, opSend, p, nil)
	case !a.stream || !a.hasRoomLocked(len(p)):
		return c.opError(opSend, nil, ErrQueueFull)
	}
	return a.sendLocked(c, opSend, [3][]byte{p})
}

// SendPacket is Send of p with what it lacks to be a packet by Options.Framing; see
// Client.SendPacket.
func (a *AsyncClient) SendPacket(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opSendPacket)
	switch {
	case err != nil:
		return err
	case !c.hasFraming():
		return c.opError(opSendPacket, nil, errNoFraming)
	}
	pieces, total, err := c.frames.Encode(p)
	switch {
	case err != nil:
		return c.opError(opSendPacket, nil, packetErr(err))
	case !a.hasRoomLocked(total):
		c.frames.NotSent()
		return c.opError(opSendPacket, nil, ErrQueueFull)
	}
	return a.sendLocked(c, opSendPacket, pieces)
}

// sendLocked sends the pieces to the peer of a stream, or queues what the kernel does not take.
func (a *AsyncClient) sendLocked(c *Client, op string, pieces [3][]byte) error {
	if err := c.beginSend(0); err != nil {
		return c.opError(op, nil, err)
	}
	defer c.lease.decref()
	for _, p := range pieces {
		if len(p) > 0 && len(a.queue.items) == 0 {
			n, err := c.send(p, DontWait, -1)
			if n > 0 {
				a.touch()
				_ = c.sendResult(op, nil, n, nil)
			}
			switch {
			case err == nil:
			case !errors.Is(err, unix.EAGAIN):
				err = c.sendResult(op, nil, n, err)
				a.loseLocked(err)
				return err
			case n == len(p): // TLS has made a record that is not sent completely
				a.queue.items = append(a.queue.items, &sendItem{})
			}
			p = p[n:]
		}
		if len(p) > 0 {
			a.queue.push(p)
		}
	}
	a.queuedLocked(c)
	return nil
}

// SendTo sends p as one datagram to an address; see Client.SendTo. The host of a HostPort must be
// an IP address here: a *net.AddrError tells of a name. For the rest it is Send.
func (a *AsyncClient) SendTo(p []byte, to net.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opSendTo)
	if err != nil {
		return err
	}
	addr, _, err := c.destination(to, 0)
	if err != nil {
		return c.sendResult(opSendTo, func() net.Addr { return to }, 0, err)
	}
	if err := c.beginSendTo(); err != nil { // as the send itself would, which may come later
		return c.datagramResult(opSendTo, &addr, 0, err)
	}
	c.lease.decref()
	if !a.hasRoomLocked(datagramSize(p)) {
		return c.opError(opSendTo, to, ErrQueueFull)
	}
	return a.sendDatagramLocked(c, opSendTo, p, &addr)
}

// sendDatagramLocked sends to an address, or to the peer if there is none.
func (a *AsyncClient) sendDatagramLocked(c *Client, op string, p []byte, to *sock.Addr) error {
	if len(a.queue.items) == 0 {
		_, err := c.sendDatagram(p, to, 0)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			a.touch()
			return c.datagramResult(op, to, 0, err)
		}
	}
	a.queue.items = append(a.queue.items, &sendItem{kind: itemDatagram, p: append([]byte(nil), p...), to: to})
	a.queue.bytes += datagramSize(p)
	a.queuedLocked(c)
	return nil
}

// datagramSize is what a datagram counts in the queue. An empty one takes memory too.
func datagramSize(p []byte) int { return max(len(p), 1) }

// SendFile sends length bytes of a regular file from offset on; length 0 is up to its end.
// They take their place in the order of the sends and need no room in the queue. The file
// may be closed when SendFile has returned: the client has a descriptor of its own until
// they are sent. It must not become shorter. See Client.SendFile for the errors; one that
// occurs later ends the client.
func (a *AsyncClient) SendFile(f *os.File, offset, length int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.sendableLocked(opSendFile)
	if err != nil {
		return err
	}
	it, err := a.fileItem(f, offset, length)
	if err != nil {
		return c.opError(opSendFile, nil, err)
	}
	a.queue.items = append(a.queue.items, it)
	a.queuedLocked(c)
	return nil
}

func (a *AsyncClient) fileItem(f *os.File, offset, length int64) (*sendItem, error) {
	if !a.stream {
		return nil, os.NewSyscallError("sendfile", unix.EOPNOTSUPP)
	}
	length, err := lengthIn(f, offset, length)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if e := raw.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		err = e
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &sendItem{kind: itemFile, file: os.NewFile(uintptr(fd), f.Name()), offset: offset, length: length}, nil
}

// Queued returns how many bytes wait in the queue. Those of files do not count, nor those
// that the kernel has taken, nor over TLS those of a record that is being sent, 16 KiB at most.
// An empty datagram counts as one.
func (a *AsyncClient) Queued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queue.bytes
}

// sendableLocked returns the client, or why nothing can be sent.
func (a *AsyncClient) sendableLocked(op string) (*Client, error) {
	c := a.client.Load()
	if a.queue.refusal != nil {
		return nil, a.failedLocked(c, op, a.queue.refusal)
	}
	return c, nil
}

// failedLocked gives the error of a call that has sent nothing its form. c may be nil.
func (a *AsyncClient) failedLocked(c *Client, op string, err error) error {
	if c == nil {
		return &net.OpError{Op: op, Err: err}
	}
	return c.opError(op, nil, err)
}

func (a *AsyncClient) hasRoomLocked(n int) bool { return n <= a.cfg.MaxQueue-a.queue.bytes }

// queuedLocked follows a change of the queue: it starts the goroutine that writes, if there is
// something for it, and reports a full queue.
func (a *AsyncClient) queuedLocked(c *Client) {
	q := &a.queue
	if len(q.items) > 0 && !q.writing && !a.ended && a.orders.Load()&(orderHandshake|orderFail) == 0 {
		q.writing = true
		go a.write(c)
	}
	a.levelChangedLocked()
}

// loseLocked ends the client because sending has failed.
func (a *AsyncClient) loseLocked(err error) {
	if a.lost == nil {
		a.lost = err
	}
	a.queue.refusal = net.ErrClosed
	a.orderLocked(orderFail)
}

// write sends the queue until it is empty.
func (a *AsyncClient) write(c *Client) {
	returned := false
	defer func() {
		if returned {
			return
		}
		// A callback of TLSOptions.Config has ended the goroutine.
		a.mu.Lock()
		defer a.mu.Unlock()
		a.loseLocked(c.opError(opSend, nil, errNoReturn))
		a.queue.writing = false
		a.wakeReceiver()
	}()
	for a.writeNext(c) {
	}
	returned = true
}

// writeNext works on the first item. It reports false when the goroutine has to end.
func (a *AsyncClient) writeNext(c *Client) bool {
	it := a.nextItem()
	if it == nil {
		return false
	}

	n, done, err := c.writeItem(it)

	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 {
		a.touch()
	}
	q := &a.queue
	switch {
	case it.kind == itemFile:
		it.offset += n
		it.length -= n
	case it.kind == itemBytes:
		it.p = it.p[n:]
		q.bytes -= int(n)
	case done && it.kind == itemDatagram:
		q.bytes -= datagramSize(it.p)
	}
	if done {
		if it.file != nil {
			_ = it.file.Close()
		}
		q.pop()
		if it.kind == itemFinish {
			a.orderLocked(orderFinish)
		}
	}
	if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
		a.loseLocked(err)
	}
	a.levelChangedLocked()
	return true
}

// nextItem returns the first item, or nil if the goroutine that writes has to end.
func (a *AsyncClient) nextItem() *sendItem {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := &a.queue
	if len(q.items) > 0 && !a.ended && a.orders.Load()&orderFail == 0 {
		it := q.items[0]
		it.busy = true
		switch it.kind {
		case itemTLS:
			a.orderLocked(orderHandshake) // handshake removes the item
		case itemDetach:
			q.pop()
			a.orderLocked(orderDetach)
		default:
			return it
		}
	}
	q.writing = false // with mu held: the next Send starts another goroutine
	a.wakeReceiver()
	return nil
}

// writeSize is how much is sent until the queue is looked at again.
const writeSize = 256 << 10

// writeItem sends a part of an item.
func (c *Client) writeItem(it *sendItem) (n int64, done bool, err error) {
	if it.kind == itemDatagram {
		// The error of an earlier datagram (ICMP) comes with a later one.
		for range maxEarlierErrors {
			if _, err = c.sendDatagram(it.p, it.to, c.limits().send); err == nil || !isPassingDatagramErr(err) {
				break
			}
		}
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) { // a limit or the end; the kernel's errors are about the datagram
			return 0, false, c.datagramResult(opSend, it.to, 0, err)
		}
		return int64(len(it.p)), true, nil
	}
	if it.kind == itemFinish {
		if err := c.endSending(); err != nil {
			return 0, false, c.opError(opClose, nil, err)
		}
		return 0, true, nil
	}
	if err := c.beginSend(0); err != nil {
		return 0, false, c.opError(opSend, nil, err)
	}
	defer c.lease.decref()
	op := opSend
	switch it.kind {
	case itemFile:
		op = opSendFile
		n, err = c.sendRange(it.file, it.offset, min(it.length, writeSize), c.limits().send)
		err = fileErr(it.file, it.offset, it.length, err)
		done = n == it.length && err == nil
	case itemCloseWrite:
		op, done = opClose, true
		err = c.shutdownWrite()
	default:
		var sent int
		sent, err = c.send(it.p[:min(len(it.p), writeSize)], 0, c.limits().send)
		n = int64(sent)
		done = sent == len(it.p) && err == nil
	}
	if err != nil {
		return n, done, c.sendResult(op, nil, int(n), err)
	}
	return n, done, nil
}

// maxEarlierErrors bounds how often a datagram is tried that earlier ones' errors stop.
const maxEarlierErrors = 8
