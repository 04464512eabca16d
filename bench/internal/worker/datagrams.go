package worker

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A datagramPeer sends and receives Batch datagrams of Request bytes at a time. The receiver is
// not connected, like a server's socket.
type datagramPeer struct {
	listen func(*sample.Spec) (address string, receive op, err error)
	dial   func(s *sample.Spec, address string) (send op, err error)
}

var datagramPeers = map[string]datagramPeer{
	"net":                      {listenNet, dialNet},
	"x/net":                    {listenXNet, dialXNet},
	"client":                   {listenClientEach, dialClient(sendEach)},
	"client, batches":          {listenClient(nil), dialClient(sendBatch)},
	"client, segments":         {listenClient(nil), dialClient(sendSegments)},
	"client, batches and GRO":  {listenClient(&client.Options{GRO: true}), dialClient(sendBatch)},
	"client, segments and GRO": {listenClient(&client.Options{GRO: true}), dialClient(sendSegments)},
}

// datagrams sends Batch datagrams and receives them, repeatedly. One goroutine does both: over
// loopback the datagrams have arrived when the send returns, and none is lost.
func datagrams(s *sample.Spec) (*sample.Sample, error) {
	send, receive, err := bothEnds(s, datagramPeers[s.Peer])
	if err != nil {
		return nil, err
	}
	return measure(s, []op{func() error {
		if err := send(); err != nil {
			return err
		}
		return receive()
	}})
}

// sentDatagrams is like datagrams, but measures only the sends, as CPU time of the thread. All
// peers have the same receiver.
func sentDatagrams(s *sample.Spec) (*sample.Sample, error) {
	send, receive, err := bothEnds(s, datagramPeer{listenClient(nil), datagramPeers[s.Peer].dial})
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	h := sample.NewHistogram()
	var result sample.Sample
	begin := time.Now()
	for warm := false; ; {
		cpu, start := threadCPU(), time.Now()
		if err := send(); err != nil {
			return nil, err
		}
		took := time.Since(start)
		used := threadCPU() - cpu
		if err := receive(); err != nil {
			return nil, err
		}
		if !warm {
			if warm = time.Since(begin) >= s.Warmup; warm {
				begin = time.Now()
			}
			continue
		}
		sample.Record(h, took)
		result.Elapsed += took
		result.User += used
		if s.Count > 0 && h.TotalCount() >= int64(s.Count) || s.Count == 0 && time.Since(begin) >= s.Length {
			break
		}
	}
	result.Ops = h.TotalCount() * int64(max(s.Batch, 1))
	return &result, result.SetLatency(h)
}

// threadCPU returns the user and system CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail: every kernel has this clock
	return time.Duration(ts.Nano())
}

func bothEnds(s *sample.Spec, peer datagramPeer) (send, receive op, err error) {
	if peer.dial == nil {
		return nil, nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	address, receive, err := peer.listen(s)
	if err != nil {
		return nil, nil, err
	}
	send, err = peer.dial(s, address)
	return send, receive, err
}

// The sockets stay open until the process exits.

func listenNet(s *sample.Spec) (string, op, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", nil, err
	}
	buf := make([]byte, s.Request)
	return c.LocalAddr().String(), batch(s, func() error {
		_, _, err := c.ReadFromUDPAddrPort(buf)
		return err
	}), nil
}

func dialNet(s *sample.Spec, address string) (op, error) {
	c, err := net.Dial("udp4", address)
	if err != nil {
		return nil, err
	}
	p := make([]byte, s.Request)
	return batch(s, func() error {
		_, err := c.Write(p)
		return err
	}), nil
}

func messages(s *sample.Spec) []ipv4.Message {
	all := make([]ipv4.Message, max(s.Batch, 1))
	for i := range all {
		all[i].Buffers = [][]byte{make([]byte, s.Request)}
	}
	return all
}

func listenXNet(s *sample.Spec) (string, op, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", nil, err
	}
	in, all := ipv4.NewPacketConn(c), messages(s)
	return c.LocalAddr().String(), func() error {
		for n := 0; n < len(all); {
			got, err := in.ReadBatch(all, 0)
			if err != nil {
				return err
			}
			n += got
		}
		return nil
	}, nil
}

func dialXNet(s *sample.Spec, address string) (op, error) {
	c, err := net.Dial("udp4", address)
	if err != nil {
		return nil, err
	}
	out, all := ipv4.NewPacketConn(c.(*net.UDPConn)), messages(s)
	return func() error {
		for n := 0; n < len(all); {
			sent, err := out.WriteBatch(all[n:], 0)
			if err != nil {
				return err
			}
			n += sent
		}
		return nil
	}, nil
}

func datagramsOf(s *sample.Spec) []client.Datagram {
	all := make([]client.Datagram, max(s.Batch, 1))
	for i := range all {
		all[i].Buf = make([]byte, s.Request)
	}
	return all
}

func listenClientEach(s *sample.Spec) (string, op, error) {
	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
	if err != nil {
		return "", nil, err
	}
	buf := make([]byte, s.Request)
	return c.LocalAddr().String(), batch(s, func() error {
		_, _, err := c.RecvFromAddrPort(buf, 0)
		return err
	}), nil
}

func listenClient(opts *client.Options) func(*sample.Spec) (string, op, error) {
	return func(s *sample.Spec) (string, op, error) {
		var o client.Options
		if opts != nil {
			o = *opts
		}
		o.LocalAddr = "127.0.0.1:0"
		c, err := client.NewUDP(&o)
		if err != nil {
			return "", nil, err
		}
		all := datagramsOf(s)
		return c.LocalAddr().String(), func() error {
			for n := 0; n < len(all); {
				got, err := c.RecvBatch(all, 0)
				if err != nil {
					return err
				}
				n += got
			}
			return nil
		}, nil
	}
}

func dialClient(how func(*sample.Spec, *client.Client) op) func(*sample.Spec, string) (op, error) {
	return func(s *sample.Spec, address string) (op, error) {
		c, err := client.Dial("udp4", address, nil)
		if err != nil {
			return nil, err
		}
		return how(s, c), nil
	}
}

func sendEach(s *sample.Spec, c *client.Client) op {
	p := make([]byte, s.Request)
	return batch(s, func() error {
		_, err := c.Send(p, 0)
		return err
	})
}

func sendBatch(s *sample.Spec, c *client.Client) op {
	all := datagramsOf(s)
	return func() error {
		_, err := c.SendBatch(all, 0)
		return err
	}
}

func sendSegments(s *sample.Spec, c *client.Client) op {
	p := make([]byte, max(s.Batch, 1)*s.Request)
	return func() error {
		_, err := c.SendSegments(p, s.Request, 0)
		return err
	}
}
