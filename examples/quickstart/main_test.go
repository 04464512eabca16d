package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testcert"
	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const runProgramEnv = "QUICKSTART_TEST_AS_PROGRAM"

// TestMain runs the program if a test has started this process for that.
func TestMain(m *testing.M) {
	if os.Getenv(runProgramEnv) != "" {
		main()
		os.Exit(0)
	}
	testleak.Main(m)
}

func TestDemo_ShowsEveryNetworkAndFailure(t *testing.T) {
	temp := tempDir(t)
	t.Setenv("TMPDIR", temp)
	var out bytes.Buffer
	require.NoError(t, run(nil, &out))
	lines := strings.Split(out.String(), "\n")

	sent := `"hello, world"`
	for _, network := range []string{"tcp", "tcp6", "udp", "udp6", "unix", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			if strings.HasSuffix(network, "6") && !hasIPv6() {
				requireLine(t, lines, network, "not available here: ")
				return
			}
			requireLine(t, lines, network, "reply", sent, sent, " ms")
		})
	}
	for _, f := range []struct{ network, what, sent, got, is, says string }{
		{"tcp", "incomplete reply", sent, `"hello,"`, "io.ErrUnexpectedEOF", "unexpected EOF"},
		{"udp", "truncated datagram", sent, sent, "*client.TruncatedError, 12 bytes lost", "datagram of 24 bytes truncated to 12"},
		{"tcp", "timeout", sent, `""`, "os.ErrDeadlineExceeded", "i/o timeout"},
		{"tcp", "connection refused", `""`, `""`, "unix.ECONNREFUSED", "connection refused"},
	} {
		t.Run(f.what, func(t *testing.T) {
			i := requireLine(t, lines, f.network, f.what, f.sent, f.got, " ms")
			requireLine(t, lines[i+1:i+2], "", f.is+": ", f.says)
		})
	}

	t.Run("pool", func(t *testing.T) {
		i := requireLine(t, lines, "POOL", "CONNECTION", "RECEIVED")
		requireLine(t, lines[i+1:i+2], "tcp", "new", sent)
		requireLine(t, lines[i+2:i+3], "tcp", "reused (use 2)", sent)
		requireLine(t, lines[i+3:i+4], "", "the server has closed the connection")
		requireLine(t, lines[i+4:i+5], "tcp", "new", sent)
		requireLine(t, lines[i+5:i+6], "", "closed connections detected by the pool: 1")
	})
	t.Run("only ASCII", func(t *testing.T) {
		require.NotRegexp(t, `[^\n\x20-\x7e]`, out.String())
	})
	t.Run("aligned columns", func(t *testing.T) {
		column := strings.Index(lines[0], "ROUND TRIP")
		for _, line := range lines[1:] {
			if strings.HasSuffix(line, " ms") {
				require.Regexp(t, `^ \d+\.\d{3} ms$`, line[column-1:])
			}
		}
	})
	t.Run("no files are left", func(t *testing.T) {
		left, err := os.ReadDir(temp)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

func TestDemo_UnavailableNetworkIsReported(t *testing.T) {
	var out bytes.Buffer
	demoServer(&out, "unix", filepath.Join(tempDir(t), "no such directory", "stream"), echo)
	require.Regexp(t, `^unix +not available here: listen unix .*\n$`, out.String())
}

func TestTalk_PrintsTheReplyOfAStreamServer(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := listen(t, network, func(c net.Conn) {
				ping := make([]byte, len("PING\r\n"))
				if _, err := io.ReadFull(c, ping); err == nil && string(ping) == "PING\r\n" {
					_, _ = io.WriteString(c, "+PONG\r\n")
				}
				_, _ = io.Copy(io.Discard, c) // until the client closes the connection
			})
			out, err := talkTo(network, address, `PING\r\n`)
			require.NoError(t, err)
			require.Regexp(t, `^connected to .*\d+\.\d{3} ms\nsent: 6 bytes\n    "PING\\r\\n"\n`+
				`received after \d+\.\d{3} ms: 7 bytes\n    "\+PONG\\r\\n"\n$`, out)
		})
	}
}

func TestTalk_PrintsTheReplyOfADatagramServer(t *testing.T) {
	for network, address := range map[string]string{
		"udp":      "127.0.0.1:0",
		"unixgram": filepath.Join(tempDir(t), "datagrams"),
	} {
		t.Run(network, func(t *testing.T) {
			at, stop, err := serve(network, address, echo)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, stop()) })
			out, err := talkTo(network, at.String(), `a\tb`)
			require.NoError(t, err)
			require.Regexp(t, `(?m)^received after .* ms: 3 bytes\n    "a\\tb"\n$`, out)
		})
	}
}

func TestTalk_PrintsAReplyInPiecesWhole(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 100))
		for _, piece := range []string{"one\nt", "wo", "\n\x1b[31mthree"} {
			_, _ = io.WriteString(c, piece)
		}
	})
	out, err := talkTo("tcp", address, "x")
	require.NoError(t, err)
	require.Contains(t, out, "ms: 18 bytes\n    \"one\\n\"\n    \"two\\n\"\n    \"\\x1b[31mthree\"\n"+
		"the server closed the connection\n")
}

func TestTalk_PrintsAGreetingForAnEmptyMessage(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = io.WriteString(c, "hello") })
	out, err := talkTo("tcp", address, "")
	require.NoError(t, err)
	require.Contains(t, out, "sent: 0 bytes\n")
	require.Contains(t, out, "5 bytes\n    \"hello\"\n")
}

func TestTalk_ServerThatClosesWithoutAReplyIsNoError(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = c.Read(make([]byte, 100)) })
	out, err := talkTo("tcp", address, "x")
	require.NoError(t, err)
	require.Contains(t, out, "ms: 0 bytes\nthe server closed the connection\n")
}

func TestTalk_ReplyThatFillsTheBufferIsReported(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 100))
		_, _ = c.Write(make([]byte, 100<<10))
		_, _ = io.Copy(io.Discard, c)
	})
	out, err := talkTo("tcp", address, "x")
	require.NoError(t, err)
	require.Contains(t, out, "ms: 65536 bytes\n")
	require.True(t, strings.HasSuffix(out, "the buffer is full; there may be more\n"))
}

func TestTalk_PauseOfAFullBufferDoesNotBoundTheNextReply(t *testing.T) {
	const pause = 100 * time.Millisecond
	address := listen(t, "tcp", func(c net.Conn) {
		for range 2 {
			_, _ = c.Read(make([]byte, 100))
			_, _ = c.Write(make([]byte, 1))
			time.Sleep(pause / 10) // so that the reply arrives in pieces
			_, _ = c.Write(make([]byte, 64<<10-1))
			time.Sleep(5 * pause)
		}
	})
	out, err := talkTo("-repeat", "2", "-pause", pause.String(), "tcp", address, "x")
	require.NoError(t, err)
	require.Contains(t, out, "2 replies: ")
}

func TestTalk_ErrorOfTheServerIsReturned(t *testing.T) {
	_, err := talkTo("tcp", closedPort(t), "x")
	require.ErrorIs(t, err, unix.ECONNREFUSED)

	for _, network := range []string{"smoke", "tlsx"} {
		_, err = talkTo(network, "127.0.0.1:1", "x")
		var unknown net.UnknownNetworkError
		require.ErrorAs(t, err, &unknown)
		require.EqualValues(t, network, unknown)
	}
}

func TestTalk_PrintsBytesThatAreNoTextInHexadecimal(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = io.WriteString(c, "\x00\x01abc\xff and 17 bytes") })
	out, err := talkTo("tcp", address, "")
	require.NoError(t, err)
	require.Contains(t, out, "ms: 19 bytes\n"+
		"    00000000  00 01 61 62 63 ff 20 61  6e 64 20 31 37 20 62 79  |..abc. and 17 by|\n"+
		"    00000010  74 65 73                                          |tes|\n")
	for text, want := range map[string]bool{
		"": true, "plain\r\n\t": true, "\x1b[31mred": true, "\u00e9": true, "\xe9": false, "\x00": false, "\x7f": false,
	} {
		require.Equal(t, want, isText([]byte(text)), "%q", text)
	}
}

func TestTalk_TalksTLS(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	pair := root.Issue(t, "server", nil).Pair()
	serve := func(c net.Conn) {
		secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		_, _ = io.WriteString(secure, "hello")
		_ = secure.Close()
	}
	ca := testcert.TempFile(t, "ca.pem", root.CertPEM())
	out, err := talkTo("-ca", ca, "tls", listen(t, "tcp", serve), "")
	require.NoError(t, err)
	require.Contains(t, out, "5 bytes\n    \"hello\"\nthe server closed the connection\n")

	other := testcert.TempFile(t, "ca.pem", testcert.NewRoot(t, "another").CertPEM())
	_, err = talkTo("-ca", other, "tls4", listen(t, "tcp", serve), "")
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
}

func TestTalk_TalksThroughAProxy(t *testing.T) {
	proxy := listen(t, "tcp", func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello from "+r.Host)
		}
	})
	out, err := talkTo("-proxy", "http://"+proxy, "tcp", "far.test:80", "")
	require.NoError(t, err)
	require.Contains(t, out, "\"hello from far.test:80\"")
}

func TestTalk_RepeatsTheMessage(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = io.Copy(c, c) })
	out, err := talkTo("-repeat", "3", "-pause", "20ms", "tcp", address, "ping")
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(out, "sent: 4 bytes\n"))
	require.Regexp(t, `\n3 replies: the fastest after \d+\.\d{3} ms, the median \d+\.\d{3} ms, the slowest \d+\.\d{3} ms\n$`, out)

	for _, n := range []string{"3", strconv.Itoa(math.MaxInt)} {
		address = listen(t, "tcp", func(c net.Conn) { _, _ = c.Read(make([]byte, 100)) })
		_, err = talkTo("-repeat", n, "tcp", address, "ping")
		require.EqualError(t, err, "only 1 of "+n+" messages were sent")
	}
}

func TestTalk_TimeoutBoundsEachCall(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	start := time.Now()
	out, err := talkTo("-timeout", "50ms", "tcp", address, "ping")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotContains(t, out, "received")
	require.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
	require.Less(t, time.Since(start), client.DefaultTimeout)
}

func TestRun_HelpListsEveryNetworkAndFlag(t *testing.T) {
	out, err := talkTo("-h")
	require.NoError(t, err)
	for _, word := range []string{"tcp tcp4 tcp6", "tls tls4 tls6", "udp udp4 udp6", "unix unixgram",
		"-timeout", "-pause", "-repeat", "-proxy", "-ca"} {
		require.Contains(t, out, word)
	}
}

func TestRun_FlagsThatMeanNothingAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"-unknown"}, {"-timeout", "soon", "tcp", "127.0.0.1:1", "x"}, {"-timeout", "-1s", "tcp", "127.0.0.1:1", "x"},
		{"-pause", "0s", "tcp", "127.0.0.1:1", "x"}, {"-repeat", "0", "tcp", "127.0.0.1:1", "x"},
		{"-ca", "ca.pem", "tcp", "127.0.0.1:1", "x"}, {"-repeat", "3"},
	} {
		_, err := talkTo(args...)
		require.ErrorAs(t, err, new(*usageError), args)
	}
}

func TestUnescape_EscapesAreThoseOfAGoString(t *testing.T) {
	for escaped, want := range map[string]string{
		``:                  "",
		`plain`:             "plain",
		`\r\n\t\a\\`:        "\r\n\t\a\\",
		`\x00\xff\377`:      "\x00\xff\xff",
		`\u00e9\U0001F600`:  "\u00e9\U0001F600",
		`{"k": "it's"}`:     `{"k": "it's"}`,
		`\"\\"`:             `"\"`,
		"raw\r\n\xff\u00e9": "raw\r\n\xff\u00e9",
	} {
		got, err := unescape(escaped)
		require.NoError(t, err, escaped)
		require.Equal(t, want, string(got), escaped)
	}
}

func TestUnescape_MalformedEscapeIsAUsageError(t *testing.T) {
	for _, escaped := range []string{`\`, `a\q`, `\x0`, `\xzz`, `\8`, `\400`, `\ud800`, `\'`} {
		_, err := talkTo("tcp", "127.0.0.1:1", escaped)
		require.ErrorAs(t, err, new(*usageError), escaped)
		require.ErrorContains(t, err, "malformed escape")
	}
}

func TestRun_WrongNumberOfArgumentsIsAUsageError(t *testing.T) {
	for _, n := range []int{1, 2, 4} {
		require.ErrorAs(t, run(make([]string, n), io.Discard), new(*usageError))
	}
}

func TestProgram_ExitStatusTellsUsageErrorsApart(t *testing.T) {
	address := listen(t, "tcp", func(c net.Conn) { _, _ = io.WriteString(c, "hello") })
	for _, c := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"tcp", address, ""}, 0, ""},
		{[]string{"tcp", closedPort(t), "x"}, 1, "connection refused"},
		{[]string{"tcp", address, `\q`}, 2, "quickstart -h lists"},
		{[]string{"-unknown"}, 2, "quickstart -h lists"},
		{[]string{"-h"}, 0, ""},
	} {
		cmd := exec.Command(os.Args[0], c.args...)
		cmd.Env = append(os.Environ(), runProgramEnv+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		require.True(t, err == nil || errors.As(err, &exit), "%v", err)
		require.Equal(t, c.status, cmd.ProcessState.ExitCode())
		require.Contains(t, stderr.String(), c.stderr)
		require.Equal(t, c.stderr == "", stderr.Len() == 0)
	}
}

func talkTo(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(args, &out)
	return out.String(), err
}

// listen serves one connection. The test ends when serve has returned.
func listen(t *testing.T, network string, serve func(net.Conn)) (address string) {
	t.Helper()
	address = "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(tempDir(t), "stream")
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func closedPort(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// tempDir returns a directory with a shorter path than that of t.TempDir: the name of a
// unix socket is limited.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "q")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// requireLine returns the index of the line that begins with a network and contains the
// parts in their order.
func requireLine(t *testing.T, lines []string, network string, parts ...string) int {
	t.Helper()
	for i, line := range lines {
		rest, ok := strings.CutPrefix(line, network+" ")
		for _, part := range parts {
			if ok {
				_, rest, ok = strings.Cut(rest, part)
			}
		}
		if ok {
			return i
		}
	}
	require.Failf(t, "no such line", "%s %q in\n%s", network, parts, strings.Join(lines, "\n"))
	return -1
}
