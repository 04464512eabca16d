package quic

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/blocksock/client"
	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A packetConn is an unconnected client as a net.PacketConn, from which quic-go receives one
// datagram at a time, and to which it sends one.
type packetConn struct{ *client.Client }

func (c packetConn) ReadFrom(p []byte) (int, net.Addr, error) { return c.RecvFrom(p, 0) }

func (c packetConn) WriteTo(p []byte, to net.Addr) (int, error) { return c.SendTo(p, to) }

func (c packetConn) SetReadBuffer(bytes int) error { return c.set(unix.SO_RCVBUF, bytes) }

func (c packetConn) SetWriteBuffer(bytes int) error { return c.set(unix.SO_SNDBUF, bytes) }

func (c packetConn) set(option, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, value) })
	if err != nil {
		return err
	}
	return failed
}

// A batchConn is a packetConn from which quic-go receives in batches, and to which it sends
// trains of datagrams.
type batchConn struct {
	packetConn
	room   []client.Datagram
	trains atomic.Int64 // of more than one datagram, sent
}

var _ quic.OOBCapablePacketConn = (*batchConn)(nil)

// ReadBatch is what quic-go looks for before it reads from the descriptor itself. One goroutine
// calls it.
func (c *batchConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for len(c.room) < len(ms) {
		c.room = append(c.room, client.Datagram{})
	}
	for i := range ms {
		c.room[i].Buf = ms[i].Buffers[0]
	}
	n, err := c.RecvBatch(c.room[:len(ms)], client.Flag(flags))
	for i, d := range c.room[:n] {
		ms[i].N, ms[i].NN, ms[i].Addr = d.N, 0, net.UDPAddrFromAddrPort(d.Addr)
	}
	return n, err
}

// ReadMsgUDP is not called where there is a ReadBatch.
func (c *batchConn) ReadMsgUDP([]byte, []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	return 0, 0, 0, nil, fmt.Errorf("ReadMsgUDP: %w", unix.EOPNOTSUPP)
}

// WriteMsgUDP sends what oob says is a train, by UDP_SEGMENT, as one, and refuses other control
// messages.
func (c *batchConn) WriteMsgUDP(p, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	if len(oob) == 0 {
		n, err = c.SendToAddrPort(p, to.AddrPort())
		return n, 0, err
	}
	h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return 0, 0, err
	}
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_SEGMENT || len(rest) > 0 {
		return 0, 0, fmt.Errorf("control message %d of level %d: %w", h.Type, h.Level, unix.EOPNOTSUPP)
	}
	size := int(binary.NativeEndian.Uint16(data))
	if len(p) > size {
		c.trains.Add(1)
	}
	n, err = c.SendSegmentsToAddrPort(p, size, to.AddrPort(), 0)
	return n, len(oob), err
}
