package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A screen is what a program has printed.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (s *screen) shows(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.String(), text) }, 10*time.Second, time.Millisecond, s.String())
}

func TestChat_LinesGoToEverybodyElse(t *testing.T) {
	for _, flags := range [][]string{nil, {"-tls", "-cert", filepath.Join(t.TempDir(), "room.pem")}} {
		ctx, stop := context.WithCancel(context.Background())
		var server screen
		closed := make(chan error, 1)
		go func() { closed <- run(ctx, append([]string{"-listen", "127.0.0.1:0"}, flags...), nil, &server) }()
		server.shows(t, "\n")
		address := regexp.MustCompile(`\S+\n`).FindString(server.String())
		enter := func(name string) (*io.PipeWriter, *screen, chan error) {
			in, keyboard := io.Pipe()
			s, ended := new(screen), make(chan error, 1)
			args := append([]string{"-connect", strings.TrimSpace(address), "-name", name}, flags...)
			go func() { ended <- run(context.Background(), args, in, s) }()
			s.shows(t, "you are in the room\n")
			return keyboard, s, ended
		}
		ada, adaSees, adaEnds := enter("Ada")
		bob, bobSees, bobEnds := enter("Bob")
		for range 3 { // the server may not know both yet
			_, err := io.WriteString(ada, "hello\n")
			require.NoError(t, err)
			time.Sleep(10 * time.Millisecond)
		}
		bobSees.shows(t, "Ada: hello\n")
		_, err := io.WriteString(bob, "bye\n")
		require.NoError(t, err)
		adaSees.shows(t, "Bob: bye\n")
		require.NotContains(t, adaSees.String(), "Ada:")
		require.NoError(t, bob.Close())
		require.NoError(t, <-bobEnds)
		require.NoError(t, ada.Close())
		require.NoError(t, <-adaEnds)
		stop()
		require.NoError(t, <-closed)
	}
}

// openRoom opens a room and returns its address.
func openRoom(t *testing.T) (address string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var server screen
	closed := make(chan error, 1)
	go func() { closed <- run(ctx, []string{"-listen", "127.0.0.1:0"}, nil, &server) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-closed) })
	server.shows(t, "\n")
	return strings.TrimSpace(regexp.MustCompile(`\S+\n`).FindString(server.String()))
}

func TestChat_ALineThatCannotBeSentIsAnError(t *testing.T) {
	address := openRoom(t)
	for name, c := range map[string]struct{ name, typed, text string }{
		"longer than a line may be": {"Ada", strings.Repeat("x", 2*maxLine) + "\nmore\n", "4096"},
		"too long to read":          {"Ada", strings.Repeat("x", 1<<20) + "\nmore\n", "too long"},
		"name of two lines":         {"Ada\nBob: I", "hello\n", `"\n"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), []string{"-connect", address, "-name", c.name}, strings.NewReader(c.typed), io.Discard)
			require.ErrorContains(t, err, c.text)
		})
	}
}

func TestChat_TheEndOfTheInputIsNotTheRoomsEnd(t *testing.T) {
	var s screen
	require.NoError(t, run(t.Context(), []string{"-connect", openRoom(t)}, strings.NewReader("hello\n"), &s))
	require.Equal(t, "you are in the room\n", s.String())
}

// serveOne accepts one connection.
func serveOne(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var done sync.WaitGroup
	done.Go(func() {
		if conn, err := ln.Accept(); err == nil {
			defer conn.Close()
			serve(conn)
		}
	})
	t.Cleanup(func() { _ = ln.Close(); done.Wait() })
	return ln.Addr().String()
}

func TestChat_MayBeEndedWhileLinesAreTyped(t *testing.T) {
	address := openRoom(t)
	for range 20 {
		ctx, stop := context.WithCancel(t.Context())
		in, keyboard := io.Pipe()
		typed := make(chan struct{})
		go func() {
			defer close(typed)
			for n := 0; ; n++ {
				if _, err := io.WriteString(keyboard, "hello\n"); err != nil {
					return
				}
				if n == 100 {
					stop()
				}
			}
		}()
		require.NoError(t, run(ctx, []string{"-connect", address}, in, io.Discard))
		require.NoError(t, in.Close())
		<-typed
	}
}

func TestChat_EverythingIsSentToASlowServer(t *testing.T) {
	const lines = 10_000
	received := make(chan int64, 1)
	address := serveOne(t, func(conn net.Conn) {
		time.Sleep(300 * time.Millisecond) // so that more waits than a client queues
		n, _ := io.Copy(io.Discard, conn)
		received <- n
	})
	line := strings.Repeat("x", 4000) + "\n"
	require.NoError(t, run(t.Context(), []string{"-connect", address, "-name", "Ada"}, strings.NewReader(strings.Repeat(line, lines)), io.Discard))
	require.EqualValues(t, lines*len("Ada: "+line), <-received)
}

func TestChat_ControlCharactersOfOthersAreReplaced(t *testing.T) {
	address := serveOne(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "a\tb\x1b[31mc\xff\x9bd é\r\n") })
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	var s screen
	require.NoError(t, run(t.Context(), []string{"-connect", address}, in, &s))
	require.Equal(t, "you are in the room\na\tb\uFFFD[31mc\uFFFD\uFFFDd é\uFFFD\nthe room is closed\n", s.String())
}

func TestChat_ReportsWhatIsWrong(t *testing.T) {
	for args, text := range map[string]string{
		"":                         "set -connect or -listen",
		"-connect 127.0.0.1:1":     "refused",
		"-listen 127.0.0.1:0 -tls": "set -cert",
		"127.0.0.1:1":              "unknown argument",
	} {
		err := run(context.Background(), strings.Fields(args), strings.NewReader(""), io.Discard)
		require.ErrorContains(t, err, text)
	}
}
