package client

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// TCPInfo is what the kernel knows of a TCP connection (TCP_INFO, tcp(7)). What an
// older kernel does not tell is zero.
type TCPInfo struct {
	State TCPState

	RTT    time.Duration // round trip, smoothed
	RTTVar time.Duration // its mean deviation
	MinRTT time.Duration // the least seen lately
	RTO    time.Duration // after which what is not acknowledged is sent again

	BytesSent          uint64 // retransmissions included
	BytesRetransmitted uint64
	BytesAcked         uint64 // of those sent, without retransmissions
	BytesReceived      uint64
	BytesUnsent        uint32 // in the send buffer, and never sent so far

	SegmentsSent          uint32
	SegmentsReceived      uint32
	SegmentsRetransmitted uint32 // in all

	Unacked      uint32 // segments on their way
	Lost         uint32 // of them, those that are taken to be lost
	Retransmits  uint8  // of the one that is overdue, so far
	Probes       uint8  // of keepalive or of a closed window, not answered so far
	SendMSS      uint32 // bytes of a segment
	RecvMSS      uint32
	PathMTU      uint32 // bytes
	DeliveryRate uint64 // bytes a second, the last measured
	PacingRate   uint64 // bytes a second
	SendWindow   uint32 // bytes that the peer has room for
	RecvWindow   uint32 // bytes that the peer was told of
	LastSent     time.Duration
	LastReceived time.Duration // how long ago data came
	LastAcked    time.Duration // how long ago an acknowledgement came

	CongestionWindow   uint32 // segments
	SlowStartThreshold uint32 // segments
}

// A TCPState is a state of RFC 9293, 3.3.2, with Linux's numbers.
type TCPState uint8

// The states.
const (
	Established TCPState = 1 + iota
	SynSent
	SynReceived
	FinWait1
	FinWait2
	TimeWait
	Closed
	CloseWait
	LastAck
	Listen
	Closing
)

// String gives the name that the RFC has for it.
func (s TCPState) String() string {
	names := [...]string{
		"", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
		"CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
	}
	if s == 0 || int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// TCPInfo asks the kernel about the connection. It fails with unix.EOPNOTSUPP on
// what is not TCP, and on systems other than Linux.
func (c *Client) TCPInfo() (*TCPInfo, error) {
	if err := c.begin(0, 0, false); err != nil {
		return nil, c.failed(opInfo, nil, err)
	}
	defer c.end()
	if !c.typ.isTCP() {
		return nil, c.failed(opInfo, nil, os.NewSyscallError("getsockopt", unix.EOPNOTSUPP))
	}
	info, err := tcpInfo(c.sock)
	if err != nil {
		return nil, c.failed(opInfo, nil, err)
	}
	return info, nil
}
