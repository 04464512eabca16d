package quic

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testleak"
	"github.com/blocksock/client/internal/testserver"
	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// The control messages of congestion notification are not the client's.
	for _, name := range []string{"QUIC_GO_DISABLE_ECN", "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"} {
		if err := os.Setenv(name, "true"); err != nil {
			panic(err)
		}
	}
	testleak.Main(m)
}

// A kind is a way to have sockets for quic-go.
type kind struct {
	name   string
	gso    bool
	listen func(testing.TB) net.PacketConn
}

var kinds = []kind{
	{"net, GSO", true, listenNet},
	{"net", false, listenNet},
	{"client, GSO and GRO", true, listenClient(true)},
	{"client, batches", false, listenClient(true)},
	{"client, one at a time", false, listenClient(false)},
}

func listenNet(t testing.TB) net.PacketConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func listenClient(batches bool) func(testing.TB) net.PacketConn {
	return func(t testing.TB) net.PacketConn {
		t.Helper()
		c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0", Timeout: -1, GRO: batches})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		if batches {
			return &batchConn{packetConn: packetConn{c}}
		}
		return packetConn{c}
	}
}

// An echo is a QUIC connection to a server that sends back what it is sent.
type echo struct {
	*quic.Conn
	ends [2]net.PacketConn // client's and server's
}

func newEcho(t testing.TB, of, server kind) *echo {
	t.Helper()
	id, err := testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	e := &echo{ends: [...]net.PacketConn{of.listen(t), server.listen(t)}}
	// Datagrams as long as those of the Internet. A machine with much else to do may be silent for long.
	config := &quic.Config{DisablePathMTUDiscovery: true, MaxIdleTimeout: 5 * time.Minute}
	protocols := []string{"echo"}

	serverEnd := &quic.Transport{Conn: e.ends[1]}
	t.Cleanup(func() { _ = serverEnd.Close() })
	withGSO(t, server.gso, func() {
		ln, err := serverEnd.Listen(&tls.Config{Certificates: []tls.Certificate{id.Certificate}, NextProtos: protocols}, config)
		require.NoError(t, err)
		go serve(ln)
	})
	clientEnd := &quic.Transport{Conn: e.ends[0]}
	t.Cleanup(func() { _ = clientEnd.Close() })
	withGSO(t, of.gso, func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		e.Conn, err = clientEnd.Dial(ctx, e.ends[1].LocalAddr(), &tls.Config{RootCAs: id.Roots, ServerName: "localhost", NextProtos: protocols}, config)
		require.NoError(t, err)
	})
	t.Cleanup(func() { _ = e.CloseWithError(0, "") })
	return e
}

// withGSO runs f, in which quic-go first uses a socket, with or without GSO.
func withGSO(t testing.TB, on bool, f func()) {
	t.Helper()
	const name = "QUIC_GO_DISABLE_GSO"
	require.NoError(t, os.Setenv(name, fmt.Sprint(!on)))
	defer func() { require.NoError(t, os.Unsetenv(name)) }()
	f()
}

func serve(ln *quic.Listener) {
	for {
		conn, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		go func() {
			for {
				stream, err := conn.AcceptStream(context.Background())
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(stream, stream)
					_ = stream.Close()
				}()
			}
		}()
	}
}

// send sends p on a stream of its own and checks that it comes back.
func (e *echo) send(ctx context.Context, p []byte) error {
	stream, err := e.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := stream.Write(p)
		sent <- errors.Join(err, stream.Close())
	}()
	back, err := io.ReadAll(stream)
	if err := errors.Join(<-sent, err); err != nil {
		return err
	}
	if !bytes.Equal(p, back) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(back), len(p))
	}
	return nil
}

// random are bytes that no mistake repeats.
func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p) // it never fails
	return p
}

func TestQUIC_EchoReturnsTheSentBytes(t *testing.T) {
	payload := random(4 << 20)
	for _, of := range kinds {
		for _, server := range kinds {
			t.Run(of.name+" to "+server.name, func(t *testing.T) {
				e := newEcho(t, of, server)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				require.NoError(t, e.send(ctx, payload[:1]))
				require.NoError(t, e.send(ctx, payload))
				for i, k := range []kind{of, server} {
					if c, ok := e.ends[i].(*batchConn); ok {
						require.Equal(t, k.gso, c.trains.Load() > 0, "trains where GSO is on, and only there")
					}
				}
			})
		}
	}
}

// What the echo of 4 MiB costs, with both ends in this process.
func BenchmarkQUICEcho(b *testing.B) {
	payload := random(4 << 20)
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			e := newEcho(b, k, k)
			require.NoError(b, e.send(b.Context(), payload)) // the window opens
			b.SetBytes(2 * int64(len(payload)))
			begin := cpuTime(b)
			for b.Loop() {
				if err := e.send(b.Context(), payload); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
