package web

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/examples/features/proto/echo"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// isStatus checks what gRPC calls an error.
func isStatus(t *testing.T, want codes.Code, err error) {
	t.Helper()
	require.Equal(t, want.String(), status.Code(err).String(), "%v", err)
}

// saysNothing makes a call that is not answered; its error comes later.
func (c *call) saysNothing(ctx context.Context) <-chan error {
	result := make(chan error, 1)
	go func() { result <- c.says(ctx, silent, grpc.WaitForReady(true)) }()
	return result
}

func TestGRPC_CancelEndsACall(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		ctx, cancel := context.WithCancel(limited(t))
		result := c.saysNothing(ctx)
		there := c.came(t)
		cancel()
		isStatus(t, codes.Canceled, eventually(t, result))
		isTold(t, there)
		c.works(t)
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_DeadlineEndsACall(t *testing.T) {
	const limit = 150 * time.Millisecond
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		c.works(t)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		result := c.saysNothing(ctx)
		there := c.came(t)
		err := eventually(t, result)
		require.GreaterOrEqual(t, time.Since(began), limit)
		isStatus(t, codes.DeadlineExceeded, err)
		isTold(t, there)
		c.works(t)
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_CancelEndsStreams(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		ctx, cancel := context.WithCancel(limited(t))
		from, err := c.ServerStreamingEcho(ctx, &pb.EchoRequest{Message: silent})
		require.NoError(t, err)
		first, err := from.Recv()
		require.NoError(t, err)
		require.Equal(t, silent, first.GetMessage())
		both, err := c.BidirectionalStreamingEcho(ctx)
		require.NoError(t, err)
		require.NoError(t, both.Send(&pb.EchoRequest{Message: silent}))
		there := []context.Context{c.came(t), c.came(t)}

		result := make(chan error, 2)
		go func() {
			_, err := from.Recv()
			result <- err
		}()
		go func() {
			_, err := both.Recv()
			result <- err
		}()
		cancel()
		for _, ctx := range there {
			isStatus(t, codes.Canceled, eventually(t, result))
			isTold(t, ctx)
		}
		c.works(t)
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_CancelEndsABlockedSend(t *testing.T) {
	overGRPC(t, static, func(t *testing.T, c *call) {
		ctx, cancel := context.WithCancel(limited(t))
		stream, err := c.ClientStreamingEcho(ctx)
		require.NoError(t, err)
		require.NoError(t, stream.Send(&pb.EchoRequest{Message: silent}))
		there := c.came(t)
		message, result := randomText(piece), make(chan error, 1)
		var sent atomic.Int64
		go func() {
			for {
				if err := stream.Send(&pb.EchoRequest{Message: message}); err != nil {
					result <- stream.RecvMsg(new(pb.EchoResponse)) // Send's own is io.EOF
					return
				}
				sent.Add(piece)
			}
		}()
		require.Eventually(t, func() bool { return sent.Load() >= window }, wire.TestTimeout, time.Millisecond)
		cancel()
		isStatus(t, codes.Canceled, eventually(t, result))
		isTold(t, there)
		c.works(t)
		require.Equal(t, 1, c.Dials())
	})
}

func TestGRPC_CloseEndsCalls(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		result := c.saysNothing(limited(t))
		there := c.came(t)
		require.NoError(t, c.conn.Close())
		isStatus(t, codes.Canceled, eventually(t, result))
		isTold(t, there)
	})
}

func TestGRPC_GracefulStopFinishesCalls(t *testing.T) {
	overGRPC(t, settings{}, func(t *testing.T, c *call) {
		result := c.saysNothing(limited(t))
		c.came(t)
		stopped := make(chan struct{})
		old := c.server
		go func() {
			old.GracefulStop()
			close(stopped)
		}()
		// Calls go elsewhere from now on, and there is nothing there.
		require.Eventually(t, func() bool {
			return status.Code(c.says(limited(t), "x")) == codes.Unavailable
		}, wire.TestTimeout, time.Millisecond)
		close(c.release)
		require.NoError(t, eventually(t, result))
		<-stopped
		c.start(t)
		c.works(t)
		require.Equal(t, 2, c.Dials())
	})
}

func TestGRPC_MaxConnectionAgeReplacesConnections(t *testing.T) {
	const age, dials = 200 * time.Millisecond, 4
	young := settings{server: []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: age}),
	}}
	overGRPC(t, young, func(t *testing.T, c *call) {
		began := time.Now()
		require.Eventually(t, func() bool {
			c.works(t)
			return c.Dials() >= dials
		}, wire.TestTimeout, time.Millisecond)
		require.Greater(t, time.Since(began), (dials-1)*age*8/10) // each is a tenth older or younger
		require.Eventually(t, func() bool { return c.Open() <= 2 }, wire.TestTimeout, time.Millisecond)
	})
}

func TestGRPC_AnswersPingsOfTheServer(t *testing.T) {
	// The server pings after a second, the least that gRPC has, and gives up a
	// connection on which the next second brings nothing.
	pinging := settings{server: []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Second, Timeout: time.Second}),
	}}
	overGRPC(t, pinging, func(t *testing.T, c *call) {
		t.Parallel()
		result := c.saysNothing(limited(t))
		there := c.came(t)
		const pings = 3
		before := c.listener.writes.Load()
		require.Eventually(t, func() bool { return c.listener.writes.Load() >= before+pings }, wire.TestTimeout, time.Millisecond)
		require.NoError(t, there.Err())
		close(c.release)
		require.NoError(t, eventually(t, result))
		require.Equal(t, 1, c.Dials())
	})
}

// otherEcho gives a client of a server in another process.
func otherEcho(t *testing.T, d *dialer, opts ...grpc.DialOption) (*call, *testserver.Server) {
	t.Helper()
	other := startOtherEcho(t)
	s := &echoServer{network: "tcp", address: other.Addr}
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return newCall(t, s, d, d.plain(), opts...), other
}

func TestGRPC_PingsDetectAStoppedServer(t *testing.T) {
	if testing.Short() {
		t.Skip("gRPC pings no earlier than after ten seconds")
	}
	onBoth(t, func(t *testing.T, d *dialer) {
		t.Parallel()
		c, other := otherEcho(t, d, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 100 * time.Millisecond,
		}))
		c.works(t)
		result := c.saysNothing(t.Context())
		require.NoError(t, other.Signal(syscall.SIGSTOP))
		isStatus(t, codes.Unavailable, eventually(t, result))
		require.Eventually(t, func() bool { return c.Open() == 0 }, wire.TestTimeout, time.Millisecond)
		require.NoError(t, other.Signal(syscall.SIGCONT))
		c.works(t)
	})
}

func TestGRPC_KilledServerEndsCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, d *dialer) {
		c, other := otherEcho(t, d)
		stream, err := c.BidirectionalStreamingEcho(limited(t))
		require.NoError(t, err)
		require.NoError(t, stream.Send(&pb.EchoRequest{Message: "x"}))
		_, err = stream.Recv()
		require.NoError(t, err)
		result := make(chan error, 1)
		go func() {
			_, err := stream.Recv()
			result <- err
		}()
		other.Kill()
		isStatus(t, codes.Unavailable, eventually(t, result))
		isStatus(t, codes.Unavailable, c.says(limited(t), "x"))
		waits := c.saysLater(t)
		require.NoError(t, other.Restart())
		require.NoError(t, eventually(t, waits))
		require.Equal(t, 2, c.Dials())
	})
}

// saysLater makes a call that waits until there is a server.
func (c *call) saysLater(t *testing.T) <-chan error {
	ctx, result := limited(t), make(chan error, 1)
	go func() { result <- c.says(ctx, "later", grpc.WaitForReady(true)) }()
	return result
}

func TestGRPC_LoadOutlivesServerRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, d *dialer) {
		c, other := otherEcho(t, d)
		message := randomText(64 << 10)
		load := startLoad(8, func() error { return c.says(limited(t), message) })
		for range 2 {
			load.runs(t)
			other.Kill()
			load.fails(t)
			require.NoError(t, other.Restart())
		}
		load.runs(t)
		for _, err := range load.stop() {
			isStatus(t, codes.Unavailable, err)
		}
		require.GreaterOrEqual(t, c.Dials(), 3) // one may have been accepted and killed at once
	})
}

func TestGRPC_CertificateOfAnotherServerIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, d *dialer) {
		mine, err := testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		other, err := testserver.NewIdentity(t.TempDir())
		require.NoError(t, err)
		s := startEcho(t, "tcp", other)
		c := newCall(t, s, d, d.plain(), grpc.WithTransportCredentials(credentials.NewTLS(trusting(mine))))
		err = c.says(limited(t), "x")
		isStatus(t, codes.Unavailable, err)
		require.ErrorContains(t, err, x509.UnknownAuthorityError{}.Error())
	})
}
