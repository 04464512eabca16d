package client_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMain is also the main function of helper processes: the test binary starts itself
// again with helperProcess in its environment.
func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(maxThreads)); err == nil {
		client.SetMaxThreads(n) // 0: the whole suite, with calls that park
	}
	part, argument, _ := strings.Cut(os.Getenv(helperProcess), " ")
	switch part {
	case "":
		flag.Parse()
		if parallel := flag.Lookup("test.parallel"); testing.Short() && parallel.Value.String() == parallel.DefValue {
			_ = parallel.Value.Set("8") // they mostly wait
		}
		testleak.Main(m, func() error {
			if n := sock.Finalized.Load(); n != 0 {
				return fmt.Errorf("%d sockets were closed by the garbage collector", n)
			}
			return nil
		})
	case "echo":
		fail(serve(argument, echo))
	case "sink":
		fail(serve(argument, sink))
	case "unixgram":
		fail(sendAndWait(argument))
	case "buffers":
		fail(sendBuffers(argument))
	case "roundtrips":
		fail(roundTrips(argument, 10_000))
	case "checkouts":
		fail(checkouts(argument, 10_000))
	case "nodescriptors":
		fail(noDescriptors(argument))
	case "searchlist":
		fail(dialSearchList(argument))
	case "copy":
		fail(copyFile(argument))
	case "async":
		fail(asyncClients(argument))
	case "waiting":
		fail(waitingClients(argument))
	case "idle":
		fail(idleClients(argument))
	case "deaf":
		fail(closeWithoutSignals(argument))
	}
}

const (
	helperProcess = "CLIENT_TEST_PLAYS"
	maxThreads    = "CLIENT_TEST_MAX_THREADS"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helperCommand returns a command that runs the test binary as a helper process, as an
// argument of the command under, if any.
func helperCommand(t testing.TB, part string, under ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	line := append(under, self)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), helperProcess+"="+part, maxThreads+"=") // empty: the default
	cmd.Stderr = os.Stderr
	return cmd
}

// otherProcess serves a network in a helper process, so that its system calls and
// allocations are not counted with ours. "echo" sends back what it receives, "sink" only
// receives. It returns the address.
func otherProcess(t testing.TB, part, network string) string {
	t.Helper()
	cmd := helperCommand(t, part+" "+network+" "+loopbackOf(t, network))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n') // the process prints it when it listens
	require.NoError(t, err)
	return strings.TrimSpace(address)
}

// serve runs until its standard input ends, which is when the parent process ends.
func serve(argument string, conversation func(net.Conn)) error {
	network, address, _ := strings.Cut(argument, " ")
	ln, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(ln.Addr())
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			conversation(conn)
		}()
	}
}

func echo(conn net.Conn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func sink(conn net.Conn) {
	buf := make([]byte, 1<<18)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// sendAndWait waits for an answer that never comes.
func sendAndWait(path string) error {
	c, err := client.Dial("unixgram", path, &client.Options{Timeout: testTimeout})
	if err != nil {
		return err
	}
	if _, err := c.Send([]byte("x"), 0); err != nil {
		return err
	}
	_, err = c.Recv(make([]byte, 1), 0)
	return err
}

// roundTrips sends 64 bytes and receives them, n times.
func roundTrips(path string, n int) error {
	c, err := client.Dial("unix", path, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 64)
	for range n {
		if err := roundTrip(c, buf); err != nil {
			return err
		}
	}
	return nil
}

// checkouts makes each round trip on a connection from a pool.
func checkouts(path string, n int) error {
	var p client.Pool
	defer p.Close()
	buf := make([]byte, 64)
	for range n {
		c, err := p.Dial(context.Background(), "unix", path, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(roundTrip(c, buf), c.Close()); err != nil {
			return err
		}
	}
	return nil
}

func roundTrip(c *client.Client, buf []byte) error {
	if _, err := c.Send(buf, 0); err != nil {
		return err
	}
	_, err := c.Recv(buf, client.WaitAll)
	return err
}

// copyFile is the helper process of TestCost_CopyOfAFileUsesSendfile.
func copyFile(path string) error {
	f, err := os.Open(os.Args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := client.Dial("unix", path, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(c, f)
	return err
}

// sendBuffers is the helper process of TestCost_SendBuffersIsOneSystemCall.
func sendBuffers(path string) error {
	c, err := client.Dial("unix", path, &client.Options{SendBuffer: 1 << 20})
	if err != nil {
		return err
	}
	defer c.Close()
	few, many := make(net.Buffers, 100), make(net.Buffers, 2*1024+1)
	for i := range few {
		few[i] = make([]byte, i%2) // every other one is empty
	}
	for i := range many {
		many[i] = []byte{1}
	}
	for range 1000 {
		if _, err := c.SendBuffers(few); err != nil {
			return err
		}
	}
	_, err = c.SendBuffers(many)
	return err
}

// closeWithoutSignals closes a client that waits in Recv, in a program that ignores the
// signal that ends the wait.
func closeWithoutSignals(address string) error {
	signal.Ignore(unix.SIGURG)
	for _, end := range []func(c *client.Client) error{
		(*client.Client).Close,
		func(c *client.Client) error { return c.SetReadDeadline(time.Now()) },
	} {
		c, err := client.Dial("unix", address, &client.Options{Timeout: -1})
		if err != nil {
			return err
		}
		result := make(chan error, 1)
		go func() { _, err := c.Recv(make([]byte, 1), 0); result <- err }()
		time.Sleep(20 * time.Millisecond) // Recv has to wait already
		if err := end(c); err != nil {
			return err
		}
		if err := <-result; !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		_ = c.Close()
	}
	return nil
}
