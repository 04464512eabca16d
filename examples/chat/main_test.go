package main

import (
	"bytes"
	"context"
	"io"
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

func TestChat_ReportsWhatIsWrong(t *testing.T) {
	for args, text := range map[string]string{
		"":                         "set -connect or -listen",
		"-connect 127.0.0.1:1":     "refused",
		"-listen 127.0.0.1:0 -tls": "set -cert",
	} {
		err := run(context.Background(), strings.Fields(args), strings.NewReader(""), io.Discard)
		require.ErrorContains(t, err, text)
	}
}
