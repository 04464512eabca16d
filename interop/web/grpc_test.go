package web

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/examples/features/proto/echo"
)

// A call is a scenario's gRPC client, and the server that it is for.
type call struct {
	*echoServer
	*dialer
	pb.EchoClient
	conn *grpc.ClientConn
}

// grpcWays are those in which gRPC gets to its server.
var grpcWays = []struct {
	name, network string
	secure        bool
	options       func(s *echoServer, d *dialer) (wire.DialFunc, credentials.TransportCredentials)
}{
	{
		name: "tcp", network: "tcp",
		options: func(_ *echoServer, d *dialer) (wire.DialFunc, credentials.TransportCredentials) {
			return d.plain(), insecure.NewCredentials()
		},
	},
	{
		name: "unix", network: "unix",
		options: func(_ *echoServer, d *dialer) (wire.DialFunc, credentials.TransportCredentials) {
			return d.plain(), insecure.NewCredentials()
		},
	},
	{
		name: "TLS of gRPC's", network: "tcp", secure: true,
		options: func(s *echoServer, d *dialer) (wire.DialFunc, credentials.TransportCredentials) {
			return d.plain(), credentials.NewTLS(trusting(s.id))
		},
	},
	{
		// To gRPC this is no TLS: credentials of calls that ask for it refuse to go.
		name: "TLS of the dialer's", network: "tcp", secure: true,
		options: func(s *echoServer, d *dialer) (wire.DialFunc, credentials.TransportCredentials) {
			return d.secure(s.id, "h2"), insecure.NewCredentials()
		},
	},
}

// settings are those of a scenario's two ends.
type settings struct {
	server []grpc.ServerOption
	client []grpc.DialOption
}

// overGRPC runs a scenario in each way, on both dialers.
func overGRPC(t *testing.T, with settings, scenario func(t *testing.T, c *call)) {
	t.Helper()
	for _, w := range grpcWays {
		t.Run(w.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, d *dialer) {
				var id *testserver.Identity
				if w.secure {
					var err error
					id, err = testserver.NewIdentity(t.TempDir())
					require.NoError(t, err)
				}
				s := startEcho(t, w.network, id, with.server...)
				dial, creds := w.options(s, d)
				scenario(t, newCall(t, s, d, dial, append(with.client, grpc.WithTransportCredentials(creds))...))
			})
		})
	}
}

// newCall gives a client, which the test's end closes.
func newCall(t *testing.T, s *echoServer, d *dialer, dial wire.DialFunc, opts ...grpc.DialOption) *call {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.address, append([]grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dial(ctx, s.network, address)
		}),
		// The first attempt after a failure comes after a second by default.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close() // the test may have closed it
		require.Eventually(t, func() bool { return d.Open() == 0 }, wire.TestTimeout, time.Millisecond, "connections are left open")
	})
	return &call{echoServer: s, dialer: d, EchoClient: pb.NewEchoClient(conn), conn: conn}
}

// says makes one call, whose answer has to be what was said.
func (c *call) says(ctx context.Context, message string, opts ...grpc.CallOption) error {
	answer, err := c.UnaryEcho(ctx, &pb.EchoRequest{Message: message}, opts...)
	if err == nil && answer.GetMessage() != message {
		err = errors.New("this is not what was said")
	}
	return err
}

// works shows that the client is of use.
func (c *call) works(t *testing.T) {
	t.Helper()
	require.NoError(t, c.says(limited(t), rand.Text(), grpc.WaitForReady(true)))
}

// came waits for a call to be with the server, and gives its context there.
func (s *echoService) came(t *testing.T) context.Context {
	t.Helper()
	select {
	case ctx := <-s.arrived:
		return ctx
	case <-time.After(wire.TestTimeout):
		t.Fatal("the call does not reach the server")
		return nil
	}
}

// randomText gives n characters, which a string of a protocol buffer has to be.
func randomText(n int) string {
	return base64.StdEncoding.EncodeToString(randomBytes(n))[:n]
}

// same compares what is too long to be printed.
func same(t *testing.T, want, got string) {
	t.Helper()
	require.True(t, want == got, "%d characters are not the %d that were sent", len(got), len(want))
}

func TestGRPC_AnswersCalls(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		for _, size := range []int{0, 1, 4 << 10, 100_000, 2 * mebibyte} {
			require.NoError(t, c.says(limited(t), randomText(size)))
		}
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_AnswersManyCalls(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				for range 4 {
					if err := c.says(limited(t), randomText(piece)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_ServerStream(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		want := randomText(2 * mebibyte)
		stream, err := c.ServerStreamingEcho(limited(t), &pb.EchoRequest{Message: want})
		require.NoError(t, err)
		var got strings.Builder
		for {
			answer, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			got.WriteString(answer.GetMessage())
		}
		same(t, want, got.String())
	})
}

func TestGRPC_ClientStream(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		stream, err := c.ClientStreamingEcho(limited(t))
		require.NoError(t, err)
		want := randomText(2 * mebibyte)
		for rest := want; rest != ""; {
			n := min(piece, len(rest))
			require.NoError(t, stream.Send(&pb.EchoRequest{Message: rest[:n]}))
			rest = rest[n:]
		}
		answer, err := stream.CloseAndRecv()
		require.NoError(t, err)
		same(t, want, answer.GetMessage())
	})
}

// window is how much may be under way in each direction, on a stream and on a connection.
const window = 64 << 10

// static has it so from start to end; else it grows with what the connection can carry.
var static = settings{
	server: []grpc.ServerOption{grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window)},
	client: []grpc.DialOption{grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window)},
}

func TestGRPC_FlowControlBlocksAnUnreadStream(t *testing.T) {
	const messages = 3 * mebibyte / piece
	overGRPC(t, static, func(t *testing.T, c *call) {
		stream, err := c.BidirectionalStreamingEcho(limited(t))
		require.NoError(t, err)
		message := randomText(piece)
		var sent atomic.Int64
		done := make(chan error, 1)
		go func() {
			for range messages {
				if err := stream.Send(&pb.EchoRequest{Message: message}); err != nil {
					done <- err
					return
				}
				sent.Add(1)
			}
			done <- stream.CloseSend()
		}()
		for i := range messages {
			answer, err := stream.Recv()
			require.NoError(t, err)
			same(t, message, answer.GetMessage())
			// What is under way is in the windows, and in buffers before and after
			// them.
			const most = 8 * window / piece
			require.LessOrEqual(t, sent.Load(), int64(i+1+most))
		}
		_, err = stream.Recv()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, <-done)
	})
}
