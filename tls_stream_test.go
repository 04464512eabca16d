package client_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A valve is a connection that can hold back what is written, and records what is read.
type valve struct {
	net.Conn

	mu     sync.Mutex
	closed bool
	held   []byte
	in     bytes.Buffer
}

func (v *valve) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		v.held = append(v.held, p...)
		return len(p), nil
	}
	return v.Conn.Write(p)
}

func (v *valve) Read(p []byte) (int, error) {
	n, err := v.Conn.Read(p)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.in.Write(p[:n])
	return n, err
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

// holds returns what is held back, and empties it.
func (v *valve) holds() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := v.held
	v.held = nil
	return held
}

// valved returns both ends of a TLS connection, whose peer writes through a valve.
func valved(t testing.TB, version uint16, opts client.Options) (*client.Client, *tls.Conn, *valve) {
	t.Helper()
	s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
	opts.TLS = s.trust(t)
	peers := make(chan *tls.Conn, 1)
	go func() {
		defer close(peers)
		conn, err := s.Accept()
		if err != nil {
			return
		}
		peer := tls.Server(&valve{Conn: conn}, s.config)
		if peer.Handshake() == nil {
			peers <- peer
		}
	}()
	c, err := s.dial(&opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	peer := <-peers
	require.NotNil(t, peer)
	v := peer.NetConn().(*valve)
	t.Cleanup(func() { _ = v.Close() })
	return c, peer, v
}

// records returns the records that the peer's TLS makes of the writes of do.
func records(t testing.TB, v *valve, do func() error) []byte {
	t.Helper()
	v.shut()
	require.NoError(t, do())
	return v.holds()
}

// arrived waits until the client's socket is readable.
func arrived(t testing.TB, c *client.Client) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, int(testTimeout/time.Millisecond)); err != unix.EINTR { //nolint:errorlint // a bare errno
				break
			}
		}
		require.NotZero(t, fds[0].Revents)
	}))
}

// Wherever a record is cut, and whichever call receives the part, no byte is lost.
func TestTLSRecv_EndWithinARecordLosesNothing(t *testing.T) {
	inParallelIfShort(t)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		c, peer, v := valved(t, version, client.Options{RecvTimeout: time.Millisecond})
		message := []byte("every byte of it")
		attempts := map[string]func(p []byte) (int, error){
			"Recv":             func(p []byte) (int, error) { return c.Recv(p, 0) },
			"WaitAll":          func(p []byte) (int, error) { return c.Recv(p, client.WaitAll) },
			"DontWait":         func(p []byte) (int, error) { return c.Recv(p, client.DontWait) },
			"Peek":             func(p []byte) (int, error) { return c.Recv(p, client.Peek) },
			"Peek all":         func(p []byte) (int, error) { return c.Recv(p, client.Peek|client.WaitAll) },
			"Peek, no waiting": func(p []byte) (int, error) { return c.Recv(p, client.Peek|client.DontWait) },
			"Read": func(p []byte) (int, error) {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
				defer func() { require.NoError(t, c.SetReadDeadline(time.Time{})) }()
				return c.Read(p)
			},
		}
		for name, attempt := range attempts {
			t.Run(name, func(t *testing.T) {
				whole := records(t, v, func() error { _, err := peer.Write(message); return err })
				for i := range len(whole) - 1 {
					_, err := v.Conn.Write(whole[i : i+1])
					require.NoError(t, err)
					n, err := attempt(make([]byte, len(message)))
					require.Zero(t, n)
					require.True(t, errorIsEither(err, os.ErrDeadlineExceeded, unix.EAGAIN), err)
				}
				_, err := v.Conn.Write(whole[len(whole)-1:])
				require.NoError(t, err)
				got := make([]byte, len(message))
				require.Eventually(t, func() bool {
					n, err := c.Recv(got, client.Peek)
					return err == nil && n == len(message)
				}, testTimeout, time.Millisecond)
				n, err := c.Recv(got, client.WaitAll)
				require.NoError(t, err)
				require.Equal(t, message, got[:n])
			})
		}
	})
}

func errorIsEither(err, a, b error) bool {
	return err != nil && (errors.Is(err, a) || errors.Is(err, b))
}

// The count of a WaitAll at its limit includes whole records. What follows is for the next call.
func TestTLSRecv_WaitAllReturnsThePartAtTheLimit(t *testing.T) {
	c, peer := stream(t, "tls", &client.Options{RecvTimeout: 50 * time.Millisecond})
	_, err := peer.Write([]byte("half "))
	require.NoError(t, err)
	got := make([]byte, 14)
	n, err := c.Recv(got, client.WaitAll)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "half ", string(got[:n]))
	_, err = peer.Write([]byte("and half."))
	require.NoError(t, err)
	n, err = c.Recv(got, client.WaitAll)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "and half.", string(got[:n]))
}

// A later peek returns what has arrived since, so that a caller can wait for the end of a line.
func TestTLSRecv_PeekSeesWhatArrivesLater(t *testing.T) {
	c, peer := stream(t, "tls", nil)
	got := make([]byte, 64)
	want := ""
	for _, part := range []string{"one ", "two ", "three\n"} {
		_, err := peer.Write([]byte(part))
		require.NoError(t, err)
		want += part
		require.Eventually(t, func() bool {
			n, err := c.Recv(got, client.Peek)
			return err == nil && string(got[:n]) == want
		}, testTimeout, time.Millisecond)
	}
	n, err := c.Recv(got[:5], 0)
	require.NoError(t, err)
	require.Equal(t, "one t", string(got[:n]))
	n, err = c.Read(got[:3])
	require.NoError(t, err)
	require.Equal(t, "wo ", string(got[:n]))
	n, err = c.Recv(got[:3], client.DontWait|client.Peek)
	require.NoError(t, err)
	require.Equal(t, "thr", string(got[:n]))
	_, err = peer.Write([]byte("more"))
	require.NoError(t, err)
	n, err = c.Recv(got[:10], client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, "three\nmore", string(got[:n]))
}

// An attacker, or a crash, can end the TCP stream; only the peer can end TLS.
func TestTLSRecv_EndWithoutCloseNotifyIsUnexpected(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		test := func(name string, part int, want error, closeRead bool) {
			t.Run(name, func(t *testing.T) {
				c, peer, v := valved(t, version, client.Options{})
				_, err := peer.Write([]byte("all"))
				require.NoError(t, err)
				rest := records(t, v, func() error { _, err := peer.Write([]byte("more")); return err })
				_, err = v.Conn.Write(rest[:part])
				require.NoError(t, err)
				if closeRead {
					arrived(t, c)
					require.NoError(t, c.CloseRead())
				} else {
					require.NoError(t, v.Conn.(*net.TCPConn).CloseWrite())
				}
				got := make([]byte, 10)
				n, err := c.Recv(got, client.WaitAll)
				require.Equal(t, io.ErrUnexpectedEOF, err)
				require.Equal(t, "all", string(got[:n]))
				for range 2 {
					n, err = c.Recv(got, 0)
					require.Equal(t, want, err)
					require.Zero(t, n)
					_, err = c.Recv(got, client.Peek)
					require.Equal(t, want, err)
					_, err = c.Read(got)
					require.Equal(t, want, err)
				}
				require.False(t, c.IsConnected())
			})
		}
		test("between records", 0, io.ErrUnexpectedEOF, false)
		test("in a header", 3, io.ErrUnexpectedEOF, false)
		test("in a record", 10, io.ErrUnexpectedEOF, false)
		test("by CloseRead", 0, io.EOF, true)
		test("by CloseRead in a record", 10, io.EOF, true)
	})
}

func TestTLSRecv_CloseNotifyIsEOFAndSendingGoesOn(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		c, peer, _ := valved(t, version, client.Options{})
		_, err := peer.Write([]byte("bye"))
		require.NoError(t, err)
		require.NoError(t, peer.CloseWrite())
		got := make([]byte, 3)
		_, err = c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "bye", string(got))
		for range 2 {
			_, err = c.Recv(got, 0)
			require.Equal(t, io.EOF, err)
		}
		require.False(t, c.IsConnected())
		_, err = c.Send([]byte("?"), 0)
		require.NoError(t, err)
		_, err = peer.Read(got)
		require.NoError(t, err)
	})
}

// strictEnd makes the end of the socket's stream an error that crypto/tls does not take for
// the end of TLS.
type strictEnd struct{ net.Conn }

func (s strictEnd) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF { //nolint:errorlint // as a net.Conn gives it
		err = io.ErrNoProgress
	}
	return n, err
}

// A client that has only sent has the server's session tickets unread when it closes. TCP then
// resets the connection, and what was sent last would be lost.
func TestTLSClose_LosesNothingToUnreadTickets(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := listenTLS(t, "tcp", func(c *tls.Config) {
			c.MaxVersion = version
			c.ClientAuth = tls.RequestClientCert // has tickets come by themselves, after the handshake
		})
		conns := make(chan *tls.Conn, 1)
		go func() {
			conn, err := s.Accept()
			if err != nil {
				close(conns)
				return
			}
			peer := tls.Server(strictEnd{conn}, s.config)
			_ = peer.Handshake()
			conns <- peer
		}()
		opts := s.trust(t)
		opts.Config = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		c, err := s.dial(&client.Options{TLS: opts})
		require.NoError(t, err)
		peer := <-conns
		defer peer.Close()
		if version == tls.VersionTLS13 {
			arrived(t, c) // the tickets
		}
		_, err = c.Send(bytes.Repeat([]byte("last words "), 1000), 0)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		got, err := io.ReadAll(peer)
		require.NoError(t, err) // io.EOF, by a close_notify
		require.Len(t, got, 11_000)
		resumed, _ := s.resumes(t, opts)
		require.True(t, resumed, "and the ticket is of use")
	})
}

// The rest of a Send that its limit ended goes out before anything else, also if the next call
// receives.
func TestTLSSend_RestGoesOutWithTheNextCall(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		for name, next := range map[string]func(c *client.Client) error{
			"Recv":       func(c *client.Client) error { _, err := c.Recv(make([]byte, 1), 0); return err },
			"Read":       func(c *client.Client) error { _, err := c.Read(make([]byte, 1)); return err },
			"Send":       func(c *client.Client) error { _, err := c.Send(nil, 0); return err },
			"CloseWrite": func(c *client.Client) error { return c.CloseWrite() },
		} {
			t.Run(name, func(t *testing.T) {
				c, peer, _ := valved(t, version, client.Options{Timeout: testTimeout})
				sent := 0
				for err := error(nil); err == nil; {
					var n int
					n, err = c.Send(bytes.Repeat([]byte("x"), 1<<20), client.DontWait)
					sent += n
				}
				result := make(chan error, 1)
				go func() { result <- next(c) }()
				got, err := io.ReadFull(peer, make([]byte, sent))
				require.NoError(t, err)
				require.Equal(t, sent, got)
				_, err = peer.Write([]byte("!"))
				require.NoError(t, err)
				require.NoError(t, <-result)
				if name != "CloseWrite" {
					require.NoError(t, c.CloseWrite())
				}
				rest, err := io.ReadAll(peer)
				require.NoError(t, err)
				require.Empty(t, rest)
			})
		}
	})
}

func TestTLSCloseWrite_EndsAtItsLimit(t *testing.T) {
	const limit = 50 * time.Millisecond
	c, _ := listenTLS(t, "unix", nil).handshakes(t, client.Options{SendTimeout: limit}) // TCP finds more room later
	_, err := c.Send(make([]byte, 64<<20), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	begin := time.Now()
	require.ErrorIs(t, c.CloseWrite(), os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	begin = time.Now()
	require.NoError(t, c.Close())
	require.Less(t, time.Since(begin), testTimeout/2) // it waits for nobody
}

// The urgent byte belongs to the socket: it would not be encrypted, and would break a record.
func TestTLS_OOBIsNotSupported(t *testing.T) {
	c, _ := stream(t, "tls", nil)
	_, err := c.Send([]byte("!"), client.OOB)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	_, err = c.Recv(make([]byte, 1), client.OOB)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
}

func TestTLSRecv_TamperedRecordEndsTheClient(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		c, peer, v := valved(t, version, client.Options{})
		record := records(t, v, func() error { _, err := peer.Write([]byte("pay me")); return err })
		record[len(record)-1] ^= 1
		_, err := v.Conn.Write(record)
		require.NoError(t, err)
		for range 2 {
			n, err := c.Recv(make([]byte, 10), 0)
			require.Zero(t, n)
			require.ErrorContains(t, err, "bad record MAC")
			require.NotErrorIs(t, err, io.EOF)
		}
		require.False(t, c.IsConnected())
		_, err = peer.Read(make([]byte, 1))
		require.ErrorContains(t, err, "bad record MAC") // the client's alert, which is sent at once
		_, err = c.Send([]byte("x"), 0)
		require.Error(t, err)
	})
}

func TestTLSRecv_Reset(t *testing.T) {
	c, peer := stream(t, "tls", nil)
	require.NoError(t, peer.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0))
	require.NoError(t, peer.(*tls.Conn).NetConn().Close())
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, unix.ECONNRESET)
	_, err = c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, unix.EPIPE)
}

func TestTLS_BothDirectionsAtOnce(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		c, peer, _ := valved(t, version, client.Options{})
		data := make([]byte, 8<<20)
		for i := range data {
			data[i] = byte(i * i >> 8)
		}
		want := sha256.Sum256(data)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := peer.Write(data); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if n, err := c.Send(data, 0); n != len(data) || err != nil {
				t.Error(n, err)
			}
		})
		wg.Go(func() {
			got := make([]byte, len(data))
			if _, err := io.ReadFull(peer, got); err != nil || sha256.Sum256(got) != want {
				t.Error("the peer got something else", err)
			}
		})
		got := make([]byte, len(data))
		_, err := c.Recv(got, client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, want, sha256.Sum256(got))
		wg.Wait()
	})
}

// What is sent over TLS is not readable on the way.
func TestTLSSend_NothingIsInClear(t *testing.T) {
	c, peer, v := valved(t, tls.VersionTLS13, client.Options{})
	_, err := c.Send([]byte("the secret"), 0)
	require.NoError(t, err)
	got := make([]byte, 10)
	_, err = io.ReadFull(peer, got)
	require.NoError(t, err)
	require.Equal(t, "the secret", string(got))
	require.NotContains(t, v.in.String(), "secret")
}

// Wherever the stream is cut, and whichever calls receive it, the bytes are the same.
func TestTLSRecv_AnyMixOfCallsGivesTheSameBytes(t *testing.T) {
	inParallelIfShort(t)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		c, peer, v := valved(t, version, client.Options{RecvTimeout: 200 * time.Microsecond})
		want := make([]byte, 300_000)
		for i := range want {
			want[i] = byte(r.Uint32())
		}
		stream := records(t, v, func() error {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+r.IntN(1<<r.IntN(16)))
				if _, err := peer.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return peer.CloseWrite()
		})
		require.NoError(t, v.SetWriteDeadline(time.Time{})) // crypto/tls has set one with its close_notify
		var sender sync.WaitGroup
		defer sender.Wait()
		cuts := rand.New(rand.NewPCG(seed, 1))
		sender.Go(func() {
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), 1+cuts.IntN(1<<cuts.IntN(16)))
				if _, err := v.Conn.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
				time.Sleep(time.Duration(cuts.IntN(300)) * time.Microsecond) // the gaps are the test
			}
		})
		flags := []client.Flag{0, client.WaitAll, client.Peek, client.DontWait, client.Peek | client.WaitAll, client.Peek | client.DontWait, client.WaitAll | client.DontWait}
		var got []byte
		for buf, end := make([]byte, 1<<15), time.Now().Add(testTimeout); ; {
			require.True(t, time.Now().Before(end), "%d bytes of %d", len(got), len(want))
			p := buf[:1+r.IntN(1<<r.IntN(15))]
			var n int
			var err error
			f := flags[r.IntN(len(flags))]
			if r.IntN(8) == 0 {
				f = 0
				require.NoError(t, c.SetReadDeadline(time.Now().Add(200*time.Microsecond)))
				n, err = c.Read(p)
				require.NoError(t, c.SetReadDeadline(time.Time{}))
			} else {
				n, err = c.Recv(p, f)
			}
			require.LessOrEqual(t, len(got)+n, len(want))
			require.Equal(t, want[len(got):len(got)+n], p[:n])
			if f&client.Peek == 0 {
				got = append(got, p[:n]...)
			}
			if err == nil {
				require.Positive(t, n)
				continue
			}
			if len(got) == len(want) && errors.Is(err, io.EOF) {
				break
			}
			require.True(t, errorIsEither(err, os.ErrDeadlineExceeded, unix.EAGAIN) || errors.Is(err, io.ErrUnexpectedEOF) && f&client.WaitAll != 0, err)
		}
		require.True(t, bytes.Equal(want, got))
	})
}
