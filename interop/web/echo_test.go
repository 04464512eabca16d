package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/examples/features/proto/echo"
)

// An echo service returns each message, a long one in pieces, or many as one. It does not answer
// the message silent.
type echoService struct {
	pb.UnimplementedEchoServer
	arrived chan context.Context // receives the context of a call that is not answered
	release chan struct{}        // when closed, such calls are answered
}

const silent = "silent"

func newEchoService() *echoService {
	return &echoService{arrived: make(chan context.Context), release: make(chan struct{})}
}

// wait blocks a call with the message silent. Other calls continue at once.
func (s *echoService) wait(ctx context.Context, message string) error {
	if message != silent {
		return nil
	}
	select {
	case s.arrived <- ctx:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *echoService) UnaryEcho(ctx context.Context, r *pb.EchoRequest) (*pb.EchoResponse, error) {
	if err := s.wait(ctx, r.GetMessage()); err != nil {
		return nil, err
	}
	return &pb.EchoResponse{Message: r.GetMessage()}, nil
}

const piece = 10_000

func (s *echoService) ServerStreamingEcho(r *pb.EchoRequest, to grpc.ServerStreamingServer[pb.EchoResponse]) error {
	for rest := r.GetMessage(); rest != ""; {
		n := min(piece, len(rest))
		if err := to.Send(&pb.EchoResponse{Message: rest[:n]}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return s.wait(to.Context(), r.GetMessage())
}

func (s *echoService) ClientStreamingEcho(from grpc.ClientStreamingServer[pb.EchoRequest, pb.EchoResponse]) error {
	var all strings.Builder
	for {
		r, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return from.SendAndClose(&pb.EchoResponse{Message: all.String()})
		}
		if err == nil {
			err = s.wait(from.Context(), r.GetMessage())
		}
		if err != nil {
			return err
		}
		all.WriteString(r.GetMessage())
	}
}

func (s *echoService) BidirectionalStreamingEcho(with grpc.BidiStreamingServer[pb.EchoRequest, pb.EchoResponse]) error {
	for {
		r, err := with.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.wait(with.Context(), r.GetMessage())
		}
		if err == nil {
			err = with.Send(&pb.EchoResponse{Message: r.GetMessage()})
		}
		if err != nil {
			return err
		}
	}
}

// An echoServer is a gRPC server in this process or in another one.
type echoServer struct {
	*echoService
	network, address string
	id               *testserver.Identity // nil: no TLS
	server           *grpc.Server
	listener         *countingListener
}

// startEcho starts an echoServer until the test ends.
func startEcho(t *testing.T, network string, id *testserver.Identity, opts ...grpc.ServerOption) *echoServer {
	t.Helper()
	s := &echoServer{network: network, id: id}
	s.address = "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "grpc") // a short path, for the limit of socket addresses
		require.NoError(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		s.address = filepath.Join(dir, "s")
	}
	s.start(t, opts...)
	return s
}

// start starts the server, for the first time or again.
func (s *echoServer) start(t *testing.T, opts ...grpc.ServerOption) {
	t.Helper()
	ln, err := net.Listen(s.network, s.address)
	require.NoError(t, err)
	s.address = ln.Addr().String()
	if s.id != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{s.id.Certificate}})))
	}
	s.echoService = newEchoService()
	s.listener = &countingListener{Listener: ln}
	server := grpc.NewServer(opts...)
	s.server = server
	pb.RegisterEchoServer(server, s.echoService)
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
}

// A countingListener counts the bytes and the calls of the server's writes.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{conn, l}, nil
}

type countingConn struct {
	net.Conn
	listener *countingListener
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.listener.writes.Add(1)
	return c.Conn.Write(p)
}

// serveEcho runs in the other process.
func serveEcho(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pb.RegisterEchoServer(server, newEchoService())
	fmt.Println(serving)
	return server.Serve(ln)
}

const serving = "serving"

// startOtherEcho starts an echo service in another process, which the test can kill.
func startOtherEcho(t *testing.T) *testserver.Server {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	env, err := exec.LookPath("env") // env(1) replaces itself by the program
	require.NoError(t, err)
	s, err := testserver.Start(testserver.Spec{
		Path: env,
		Args: func(s *testserver.Server) []string { return []string{helperProcess + "=echo " + s.Addr, self} },
		Ready: func(s *testserver.Server) error {
			if !strings.Contains(s.Output(), serving) {
				return errors.New("the server is not ready")
			}
			return nil
		},
	})
	return testserver.Serve(t, s, err)
}
