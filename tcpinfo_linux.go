package client

import (
	"time"

	"github.com/blocksock/client/internal/sock"
)

func tcpInfo(s *sock.Socket) (*TCPInfo, error) {
	i, err := s.TCPInfo()
	if err != nil {
		return nil, err
	}
	const us, ms = time.Microsecond, time.Millisecond
	return &TCPInfo{
		State: TCPState(i.State),

		RTT: time.Duration(i.Rtt) * us, RTTVar: time.Duration(i.Rttvar) * us,
		MinRTT: time.Duration(i.Min_rtt) * us, RTO: time.Duration(i.Rto) * us,

		BytesSent: i.Bytes_sent, BytesRetransmitted: i.Bytes_retrans, BytesAcked: i.Bytes_acked,
		BytesReceived: i.Bytes_received, BytesUnsent: i.Notsent_bytes,

		SegmentsSent: i.Segs_out, SegmentsReceived: i.Segs_in, SegmentsRetransmitted: i.Total_retrans,

		Unacked: i.Unacked, Lost: i.Lost, Retransmits: i.Retransmits, Probes: i.Probes,
		SendMSS: i.Snd_mss, RecvMSS: i.Rcv_mss, PathMTU: i.Pmtu,
		DeliveryRate: i.Delivery_rate, PacingRate: i.Pacing_rate, SendWindow: i.Snd_wnd, RecvWindow: i.Rcv_wnd,
		LastSent: time.Duration(i.Last_data_sent) * ms, LastReceived: time.Duration(i.Last_data_recv) * ms,
		LastAcked: time.Duration(i.Last_ack_recv) * ms,

		CongestionWindow: i.Snd_cwnd, SlowStartThreshold: i.Snd_ssthresh,
	}, nil
}
