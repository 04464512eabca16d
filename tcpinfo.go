package client

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// TCPInfo is the kernel's information about a TCP connection (TCP_INFO, tcp(7)). A field
// that an older kernel does not provide is zero.
type TCPInfo struct {
	State TCPState

	RTT    time.Duration // smoothed round-trip time
	RTTVar time.Duration // mean deviation of RTT
	MinRTT time.Duration // minimum in a recent period
	RTO    time.Duration // retransmission timeout

	BytesSent          uint64 // including retransmissions
	BytesRetransmitted uint64
	BytesAcked         uint64 // without retransmissions
	BytesReceived      uint64
	BytesUnsent        uint32 // in the send buffer and not sent yet

	SegmentsSent          uint32
	SegmentsReceived      uint32
	SegmentsRetransmitted uint32 // in all

	Unacked      uint32        // segments in flight
	Lost         uint32        // segments in flight that are considered lost
	Retransmits  uint8         // of the oldest unacknowledged segment
	Probes       uint8         // unanswered keepalive or window probes
	SendMSS      uint32        // in bytes
	RecvMSS      uint32        // in bytes
	PathMTU      uint32        // in bytes
	DeliveryRate uint64        // in bytes per second, as last measured
	PacingRate   uint64        // in bytes per second
	SendWindow   uint32        // in bytes, advertised by the peer
	RecvWindow   uint32        // in bytes, advertised to the peer
	LastSent     time.Duration // time since data was last sent
	LastReceived time.Duration // time since data last arrived
	LastAcked    time.Duration // time since the last acknowledgement arrived

	CongestionWindow   uint32 // in segments
	SlowStartThreshold uint32 // in segments
}

// A TCPState is a state of RFC 9293, 3.3.2, with Linux's numbers.
type TCPState uint8

// The states of RFC 9293.
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

// String returns the name of the state in RFC 9293, such as "CLOSE-WAIT".
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

// TCPInfo returns the kernel's information about the connection. It fails with
// unix.EOPNOTSUPP if the client is not TCP, and on systems other than Linux.
func (c *Client) TCPInfo() (*TCPInfo, error) {
	if err := c.begin(0, 0, false); err != nil {
		return nil, c.opError(opInfo, nil, err)
	}
	defer c.lease.decref()
	if !c.typ.isTCP() {
		return nil, c.opError(opInfo, nil, os.NewSyscallError("getsockopt", unix.EOPNOTSUPP))
	}
	info, err := tcpInfo(c.sock)
	if err != nil {
		return nil, c.opError(opInfo, nil, err)
	}
	return info, nil
}
