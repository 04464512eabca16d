package dtls_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
)

// An openssl is a process of openssl(1), s_server or s_client: lines of its input go to the peer,
// one record each, and what it receives is in its output.
type openssl struct {
	t     testing.TB
	addr  string
	in    io.WriteCloser
	mu    sync.Mutex
	said  strings.Builder
	more  chan struct{} // closed when there is more
	ended chan struct{}
}

// sServer starts openssl s_server for DTLS 1.2.
func sServer(t testing.TB, c *testcert.Cert, args ...string) *openssl {
	t.Helper()
	args = append([]string{"-dtls1_2"}, args...)
	if c != nil {
		chain, key, _ := c.Files(t)
		args = append(args, "-cert", chain, "-cert_chain", chain, "-key", key)
	} else {
		args = append(args, "-nocert")
	}
	for range 5 { // somebody may take the port between
		addr := freePort(t)
		o := startOpenSSL(t, append([]string{"s_server", "-accept", addr}, args...)...)
		o.addr = addr
		if o.says("\nACCEPT\n") {
			return o
		}
	}
	t.Fatal("openssl s_server does not listen")
	return nil
}

func startOpenSSL(t testing.TB, args ...string) *openssl {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start(), "Debian's package is openssl")
	o := &openssl{t: t, in: in, more: make(chan struct{}), ended: make(chan struct{})}
	go o.read(out)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		<-o.ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("openssl %q said:\n%s", args, o.output())
		}
	})
	return o
}

func (o *openssl) read(out io.Reader) {
	defer close(o.ended)
	r := bufio.NewReader(out)
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Read(buf)
		o.mu.Lock()
		o.said.Write(buf[:n])
		close(o.more)
		o.more = make(chan struct{})
		o.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (o *openssl) output() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said.String()
}

// says waits for a text in the output. It is false if the process ends without it.
func (o *openssl) says(text string) bool {
	o.t.Helper()
	deadline := time.After(testTimeout)
	for {
		o.mu.Lock()
		found, more := strings.Contains(o.said.String(), text), o.more
		o.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-more:
		case <-o.ended:
			return strings.Contains(o.output(), text)
		case <-deadline:
			o.t.Fatalf("openssl does not say %q", text)
		}
	}
}

// send has the peer receive a record.
func (o *openssl) send(line string) {
	o.t.Helper()
	_, err := fmt.Fprintln(o.in, line)
	require.NoError(o.t, err)
}

// freePort returns an address of this machine that nobody has.
func freePort(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer conn.Close()
	return conn.LocalAddr().String()
}
