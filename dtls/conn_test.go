package dtls_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/dtls"
	"github.com/blocksock/client/internal/testcert"
	pion "github.com/pion/dtls/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pionServer is a server of pion's, for what openssl cannot be made to do. It has each
// connection served.
func pionServer(t testing.TB, c *testcert.Cert, serve func(*pion.Conn)) string {
	t.Helper()
	return pionServerAt(t, net.IPv4(127, 0, 0, 1), c, serve)
}

func pionServerAt(t testing.TB, ip net.IP, c *testcert.Cert, serve func(*pion.Conn)) string {
	t.Helper()
	ln, err := pion.ListenWithOptions("udp", &net.UDPAddr{IP: ip},
		pion.WithCertificates(tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // the client's close_notify may be lost
				if c := conn.(*pion.Conn); c.HandshakeContext(ctx) == nil {
					serve(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		done.Wait()
	})
	return ln.Addr().String()
}

// echo sends everything back until the end.
func echo(c *pion.Conn) {
	buf := make([]byte, 1<<14)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// served is a connection to a server of pion's.
func served(t testing.TB, serve func(*pion.Conn)) *dtls.Conn {
	t.Helper()
	root := testcert.NewRoot(t, "root")
	return dial(t, pionServer(t, root.Issue(t, "server", nil), serve), trusting(t, root), nil)
}

func TestRecv_ARecordThatIsTooLongForTheBuffer(t *testing.T) {
	c := served(t, echo)
	sends(t, c, "0123456789")
	p := make([]byte, 4)
	for _, flags := range []client.Flag{client.Peek, 0} { // it is not shortened by a look
		n, err := c.Recv(p, flags)
		require.Equal(t, "0123", string(p[:n]))
		var cut *client.TruncatedError
		require.ErrorAs(t, err, &cut)
		require.Equal(t, client.TruncatedError{Size: 10, Got: 4}, *cut)
		require.ErrorIs(t, err, io.ErrShortBuffer)
	}
	sends(t, c, "next")
	receives(t, c, "next")
	sends(t, c, "read")
	n, err := c.Read(p[:1])
	require.Equal(t, 1, n)
	require.ErrorIs(t, err, io.ErrShortBuffer)
}

func TestRecv_Flags(t *testing.T) {
	c := served(t, echo)
	p := make([]byte, 10)
	n, err := c.Recv(p, client.DontWait)
	require.Zero(t, n)
	require.ErrorIs(t, err, unix.EAGAIN)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)

	sends(t, c, "hello")
	n, err = c.Recv(p, client.Peek)
	require.NoError(t, err)
	require.Equal(t, "hello", string(p[:n]))
	n, err = c.Recv(p, client.Peek|client.DontWait)
	require.NoError(t, err)
	require.Equal(t, "hello", string(p[:n]))
	n, err = c.Recv(p, client.DontWait|client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "hello", string(p[:n]))

	_, err = c.Recv(p, client.OOB)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	require.ErrorContains(t, err, "OOB")
	_, err = c.Recv(p, 1<<20)
	require.ErrorIs(t, err, unix.EINVAL)
}

func TestSend_Flags(t *testing.T) {
	c := served(t, echo)
	n, err := c.Send([]byte("at once"), client.DontWait)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	receives(t, c, "at once")
	for _, flags := range []client.Flag{client.Peek, client.WaitAll, 1 << 20} {
		n, err = c.Send([]byte("x"), flags)
		require.Zero(t, n)
		require.ErrorIs(t, err, unix.EINVAL)
	}
	_, err = c.Send([]byte("x"), client.OOB)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	require.ErrorContains(t, err, "OOB")
}

func TestSend_RecordsOfEverySizeAndNoLonger(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	c := dial(t, server.addr, trusting(t, root), nil)
	for _, size := range []int{1, 1000, 1 << 14} {
		sends(t, c, strings.Repeat("x", size-1)+"\n")
		require.True(t, server.says(strings.Repeat("x", size-1)+"\n"), "%d", size)
	}
	for _, size := range []int{1<<14 + 1, 20000, 70000} {
		n, err := c.Send(make([]byte, size), 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, unix.EMSGSIZE)
		n, err = c.Write(make([]byte, size))
		require.Zero(t, n)
		require.ErrorIs(t, err, unix.EMSGSIZE)
	}
	talks(t, c, server)
}

func TestSend_MTU(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	relay := newRelay(t, pionServer(t, root.Issue(t, "server", nil), echo), nil, nil)
	const mtu = 500
	c := dial(t, relay.addr, trusting(t, root), &dtls.Options{MTU: mtu})
	const overhead = 13 + 8 + 16 // AES-GCM
	sends(t, c, strings.Repeat("x", mtu-overhead))
	receives(t, c, strings.Repeat("x", mtu-overhead))
	longest, _ := relay.toServer.sizes()
	require.Equal(t, mtu, longest)
	n, err := c.Send(make([]byte, mtu-overhead+1), 0)
	require.Zero(t, n)
	require.ErrorIs(t, err, unix.EMSGSIZE)
	require.ErrorContains(t, err, "Options.MTU, 500")
	sends(t, c, "and on")
	receives(t, c, "and on")
}

func TestRecv_EmptyRecord(t *testing.T) {
	c := served(t, echo)
	sends(t, c, "")
	receives(t, c, "")
	sends(t, c, "more")
	receives(t, c, "more")
}

func TestRecv_ARecordThatIsTooLongForThisPackage(t *testing.T) {
	c := served(t, func(s *pion.Conn) {
		for _, size := range []int{8192 - 37, 8192 - 36, 1 << 14} {
			_, _ = s.Write(make([]byte, size))
		}
		echo(s)
	})
	p := make([]byte, 1<<14)
	n, err := c.Recv(p, 0)
	require.NoError(t, err)
	require.Equal(t, 8192-37, n)
	for _, size := range []string{"8193", "16421"} {
		n, err = c.Recv(p, 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, unix.EMSGSIZE)
		require.ErrorContains(t, err, "record of "+size+" bytes was dropped")
	}
	sends(t, c, "and on")
	receives(t, c, "and on")
}

func TestRecv_LimitsAndDeadlines(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	addr := pionServer(t, root.Issue(t, "server", nil), echo)
	opts := trusting(t, root)
	const limit = 50 * time.Millisecond
	opts.RecvTimeout = limit
	c := dial(t, addr, opts, nil)
	p := make([]byte, 10)
	ends := func(recv func() (int, error)) {
		t.Helper()
		begin := time.Now()
		n, err := recv()
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, timedOut(err))
		require.GreaterOrEqual(t, time.Since(begin), limit-time.Millisecond)
		require.Less(t, time.Since(begin), testTimeout/2)
	}
	ends(func() (int, error) { return c.Recv(p, 0) })
	ends(func() (int, error) { return c.Recv(p, client.Peek) })
	require.NoError(t, c.SetReadDeadline(time.Now().Add(limit)))
	ends(func() (int, error) { return c.Read(p) })
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	time.AfterFunc(limit, func() { _ = c.SetReadDeadline(time.Now()) }) // while it waits
	ends(func() (int, error) { return c.Read(p) })
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Hour)))
	time.AfterFunc(limit, func() { _ = c.SetReadDeadline(time.Now()) })
	ends(func() (int, error) { return c.Read(p) })

	// A record that has arrived is still there.
	sends(t, c, "late")
	_, err := c.Read(p)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	n, err := c.Read(p)
	require.NoError(t, err)
	require.Equal(t, "late", string(p[:n]))

	// The limit counts for a call that waits for another one, too.
	go func() { _, _ = c.Read(p) }()
	time.Sleep(limit)
	ends(func() (int, error) { return c.Recv(make([]byte, 10), 0) })
}

func TestSend_Deadline(t *testing.T) {
	c := served(t, echo)
	require.NoError(t, c.SetWriteDeadline(time.Now()))
	for _, send := range []func() (int, error){
		func() (int, error) { return c.Write([]byte("x")) },
		func() (int, error) { return c.Send([]byte("x"), 0) },
		func() (int, error) { return c.Send([]byte("x"), client.DontWait) },
	} {
		n, err := send()
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.NoError(t, c.SetDeadline(time.Time{}))
	sends(t, c, "again")
	receives(t, c, "again")
}

func TestClose_EndsCallsThatWait(t *testing.T) {
	c := served(t, echo)
	local, remote := c.LocalAddr().String(), c.RemoteAddr().String()
	results := make(chan error, 4)
	for _, call := range []func() error{
		func() error { _, err := c.Recv(make([]byte, 1), 0); return err },
		func() error { _, err := c.Read(make([]byte, 1)); return err },
		func() error { _, err := c.Recv(make([]byte, 1), client.Peek); return err },
	} {
		go func() { results <- call() }()
	}
	time.Sleep(20 * time.Millisecond) // so that they wait
	require.NoError(t, c.Close())
	for range 3 {
		select {
		case err := <-results:
			require.ErrorIs(t, err, net.ErrClosed)
		case <-time.After(testTimeout):
			t.Fatal("a call still waits")
		}
	}
	for _, err := range []error{
		c.Close(), c.SetDeadline(time.Time{}), c.SetWriteDeadline(time.Now()),
		errorOf(c.Recv(nil, 0)), errorOf(c.Send(nil, 0)), errorOf(c.Read(nil)), errorOf(c.Write(nil)),
		errorOf(c.Recv(nil, client.DontWait)),
	} {
		require.ErrorIs(t, err, net.ErrClosed)
		require.Contains(t, err.Error(), "udp "+local+"->"+remote)
	}
	require.Equal(t, local, c.LocalAddr().String())
	require.Equal(t, remote, c.RemoteAddr().String())
}

func errorOf(_ int, err error) error { return err }

func TestClose_IsToldToTheServer(t *testing.T) {
	for name, before := range map[string]func(*dtls.Conn) error{
		"no deadline":     func(*dtls.Conn) error { return nil },
		"deadline passed": func(c *dtls.Conn) error { return c.SetDeadline(time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			c := served(t, func(s *pion.Conn) {
				echo(s)
				_, err := s.Read(make([]byte, 10))
				ended <- err
			})
			// A close_notify right behind the client's Finished fails the handshake of pion's server.
			sends(t, c, "hello")
			receives(t, c, "hello")
			require.NoError(t, before(c))
			require.NoError(t, c.Close())
			select {
			case err := <-ended:
				require.Equal(t, io.EOF, err)
			case <-time.After(testTimeout):
				t.Fatal("the server is not told")
			}
		})
	}
}

func TestRecv_CloseNotifyIsEOF(t *testing.T) {
	c := served(t, func(s *pion.Conn) { _, _ = s.Read(make([]byte, 10)) })
	sends(t, c, "enough")
	for range 3 {
		n, err := c.Recv(make([]byte, 10), 0)
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
		n, err = c.Read(make([]byte, 10))
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
	}
	n, err := c.Send([]byte("x"), 0)
	require.Zero(t, n)
	require.ErrorIs(t, err, unix.EPIPE)
	require.NotErrorIs(t, err, net.ErrClosed)
	require.NoError(t, c.SetDeadline(time.Time{}))
	require.NoError(t, c.Close())
	require.ErrorIs(t, errorOf(c.Recv(nil, 0)), net.ErrClosed)
}

// pion's Read chooses at random between the last record and the end.
func TestRecv_TheLastRecordBeforeCloseNotifyIsNotLost(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	addr := pionServer(t, root.Issue(t, "server", nil), func(s *pion.Conn) {
		for i := range 3 {
			_, _ = fmt.Fprintf(s, "record %d", i)
		}
	})
	opts := trusting(t, root)
	for i := range 100 {
		opts.GRO = i%2 == 1 // the datagrams are coalesced, and separated again
		c := dial(t, addr, opts, nil)
		for i := range 3 {
			receives(t, c, fmt.Sprintf("record %d", i))
		}
		n, err := c.Recv(make([]byte, 10), 0)
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
	}
}

// plaintext is a record that is not protected.
func plaintext(kind byte, sequence uint64, content ...byte) []byte {
	record := binary.BigEndian.AppendUint64([]byte{kind, 0xfe, 0xfd}, sequence)
	return append(binary.BigEndian.AppendUint16(record, uint16(len(content))), content...)
}

// pion answers some with a fatal alert, which it sends to the server: whoever knows the addresses could
// end a connection with one datagram.
func TestRecv_UnprotectedRecordsOfAStrangerChangeNothing(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	relay := newRelay(t, pionServer(t, root.Issue(t, "server", nil), echo), nil, nil)
	c := dial(t, relay.addr, trusting(t, root), nil)
	sends(t, c, "first")
	receives(t, c, "first")
	for i, p := range [][]byte{
		plaintext(applicationData, 100, 'x'), plaintext(21, 101, 2, 80), plaintext(21, 102, 1, 0), plaintext(21, 103, 1),
		plaintext(20, 104, 1), plaintext(22, 105, 0, 0, 0, 0), plaintext(99, 106, 1), plaintext(25, 107, 1), {}, []byte("x"),
		plaintext(applicationData, 1<<48|1, 'x'), // epoch 1, which nobody has encrypted
		plaintext(applicationData, 2<<48|1, 'x'),
	} {
		_, err := relay.front.Load().WriteToUDP(p, relay.client.Load())
		require.NoError(t, err)
		sends(t, c, fmt.Sprint("after ", i))
		receives(t, c, fmt.Sprint("after ", i))
	}
}

func TestRecv_AFatalAlertIsNotTheEnd(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := pionServer(t, root.Issue(t, "server", nil), echo)
	relay := newRelay(t, server, nil, nil)
	c := dial(t, relay.addr, trusting(t, root), nil)
	to, err := net.ResolveUDPAddr("udp", server)
	require.NoError(t, err)
	sends(t, c, "first")
	receives(t, c, "first")
	// A server of pion's takes offence at this, and says so in an alert.
	_, err = relay.back.Load().WriteToUDP(plaintext(applicationData, 100, 'x'), to)
	require.NoError(t, err)
	for range 3 {
		n, err := c.Recv(make([]byte, 10), 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, tls.AlertError(10)) // unexpected_message
		require.NotErrorIs(t, err, io.EOF)
		require.ErrorContains(t, err, "remote error: tls: unexpected message")
	}
	require.ErrorIs(t, errorOf(c.Send([]byte("x"), 0)), unix.EPIPE)
	require.NoError(t, c.Close())
}

func TestConn_RenegotiationIsRefused(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	relay := newRelay(t, server.addr, nil, nil)
	c := dial(t, relay.addr, trusting(t, root), nil)
	talks(t, c, server)
	before, _ := relay.toServer.counts()
	asked, _ := relay.toClient.counts()
	server.send("r") // s_server sends a HelloRequest
	relay.toClient.settles(t, asked+1)
	time.Sleep(100 * time.Millisecond)
	after, _ := relay.toServer.counts()
	require.Equal(t, before, after) // no answer: openssl waits for one, and does nothing else
	_, err := c.Recv(make([]byte, 10), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	sends(t, c, "and on\n")
}

// What goes in and what comes out are counted.
func TestConn_LostDoubledAndReorderedRecords(t *testing.T) {
	const records = 100 // doubled, they fit into a socket buffer of the default size
	for name, test := range map[string]struct {
		fate func() fate
	}{
		"every third lost": {func() fate {
			return func(n int, p []byte) [][]byte {
				if n%3 == 0 {
					return nil
				}
				return [][]byte{p}
			}
		}},
		"doubled": {func() fate { return double }},
		"swapped": {swap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := testcert.NewRoot(t, "root")
			server := sServer(t, root.Issue(t, "server", nil))
			relay := newRelay(t, server.addr, nil, nil)
			c := dial(t, relay.addr, trusting(t, root), nil)
			unique := func(in, out int) int {
				if name == "doubled" {
					return in
				}
				return out
			}

			relay.toServer.set(test.fate())
			for i := range records {
				sends(t, c, fmt.Sprintf("<%04d>\n", i))
				time.Sleep(100 * time.Microsecond) // no buffer is to lose any
			}
			relay.toServer.settles(t, records)
			want := unique(relay.toServer.counts())
			relay.toServer.set(nil)
			sends(t, c, "the last\n")
			require.True(t, server.says("the last\n"))
			require.Equal(t, want, strings.Count(server.output(), ">\n"))

			relay.toClient.set(test.fate())
			received := make(chan map[string]int)
			go func() { // at the same time: the kernel's buffer does not hold so many
				got := make(map[string]int)
				p := make([]byte, 100)
				for {
					n, err := c.Recv(p, 0)
					if err != nil || string(p[:n]) == "the last\n" {
						received <- got
						return
					}
					got[string(p[:n])]++
				}
			}()
			for i := range records {
				server.send(fmt.Sprintf("(%04d)", i))
				relay.toClient.settles(t, i+1)
			}
			want = unique(relay.toClient.counts())
			relay.toClient.set(nil)
			server.send("the last")
			got := <-received
			require.Len(t, got, want)
			for record, times := range got {
				require.Equal(t, 1, times, record)
			}
		})
	}
}

// A record that was delayed by more than the window of 64 (RFC 6347, 4.1.2.6) is lost.
func TestRecv_ReplayWindow(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	relay := newRelay(t, pionServer(t, root.Issue(t, "server", nil), echo), nil, nil)
	c := dial(t, relay.addr, trusting(t, root), nil)
	var recorded [][]byte
	relay.toClient.set(func(_ int, p []byte) [][]byte { recorded = append(recorded, p); return [][]byte{p} })
	for i := range 100 {
		sends(t, c, fmt.Sprint(i))
		receives(t, c, fmt.Sprint(i))
	}
	relay.toClient.set(nil)
	for _, p := range recorded { // all of them again
		_, err := relay.front.Load().WriteToUDP(p, relay.client.Load())
		require.NoError(t, err)
	}
	sends(t, c, "the next")
	receives(t, c, "the next")
}

func TestConn_ConnectionIDSurvivesANewAddressOfTheClient(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	c := root.Issue(t, "server", nil)
	for _, offered := range []bool{true, false} {
		t.Run(fmt.Sprint(offered), func(t *testing.T) {
			socket, err := net.ListenPacket("udp", "127.0.0.1:0")
			require.NoError(t, err)
			relay := newRelay(t, socket.LocalAddr().String(), nil, nil)
			s, err := pion.ServerWithOptions(socket, relay.back.Load().LocalAddr(),
				pion.WithCertificates(tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key}),
				pion.WithConnectionIDGenerator(pion.RandomCIDGenerator(8)))
			require.NoError(t, err)
			done := make(chan struct{})
			go func() { defer close(done); echo(s) }()
			t.Cleanup(func() { _ = s.Close(); <-done })
			conn := dial(t, relay.addr, trusting(t, root), &dtls.Options{ConnectionID: offered})
			sends(t, conn, "before")
			receives(t, conn, "before")
			relay.rebind(t)
			sends(t, conn, "after")
			if offered {
				receives(t, conn, "after")
				sends(t, conn, "and on")
				receives(t, conn, "and on")
				return
			}
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			_, err = conn.Recv(make([]byte, 10), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		})
	}
}

// ICMP messages are not protected, and the server may come back.
func TestConn_AnErrorOfTheSocketDoesNotEndIt(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := pionServer(t, root.Issue(t, "server", nil), echo)
	relay := newRelay(t, server, nil, nil)
	c := dial(t, relay.addr, trusting(t, root), nil)
	front := relay.front.Load().LocalAddr().(*net.UDPAddr)
	relay.closeFront()
	var refused error // of a Send or of a Recv, whoever asks the kernel first
	for begin := time.Now(); refused == nil && time.Since(begin) < testTimeout; time.Sleep(time.Millisecond) {
		if _, refused = c.Send([]byte("nobody"), 0); refused == nil {
			if _, err := c.Recv(make([]byte, 10), client.DontWait); !errors.Is(err, unix.EAGAIN) {
				refused = err
			}
		}
	}
	require.ErrorIs(t, refused, unix.ECONNREFUSED)
	relay.openFront(t, front)
	eventually(t, func() bool {
		if _, err := c.Send([]byte("again"), 0); err != nil {
			return false
		}
		p := make([]byte, 10)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		n, err := c.Recv(p, 0)
		return err == nil && string(p[:n]) == "again"
	}, "the server is back")
}

func TestConn_HasFourGoroutines(t *testing.T) {
	root := testcert.NewRoot(t, "root")
	server := sServer(t, root.Issue(t, "server", nil))
	opts := trusting(t, root)
	before := -1
	eventually(t, func() bool { // those of other tests have ended
		last := before
		before = runtime.NumGoroutine()
		time.Sleep(50 * time.Millisecond)
		return before == last
	}, "no change")
	c := dial(t, server.addr, opts, nil)
	talks(t, c, server)
	eventually(t, func() bool { return runtime.NumGoroutine() == before+4 }, "four more")
	require.NoError(t, c.Close())
	eventually(t, func() bool { return runtime.NumGoroutine() == before }, "none more")
}
