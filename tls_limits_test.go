package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A receive has one limit, however often it has to wait for the rest of a record.
func TestTLSRecv_SlowRecordHasOneLimit(t *testing.T) {
	const limit = 200 * time.Millisecond
	c, peer, v := valved(t, tls.VersionTLS13, client.Options{RecvTimeout: limit})
	record := records(t, v, func() error { _, err := peer.Write(make([]byte, 16<<10)); return err })
	end := make(chan struct{})
	dripped := make(chan int)
	go func() {
		n := 0
		defer func() { dripped <- n }()
		for ; n < len(record)-1; n++ {
			if _, err := v.Conn.Write(record[n : n+1]); err != nil {
				return
			}
			select {
			case <-end:
				return
			case <-time.After(limit / 10): // more often than any wait may last
			}
		}
	}()
	begin := time.Now()
	_, err := c.Recv(make([]byte, 1), 0)
	close(end)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	require.Less(t, time.Since(begin), testTimeout)
	n := <-dripped
	_, err = v.Conn.Write(record[min(n+1, len(record)):])
	require.NoError(t, err)
	_, err = c.Recv(make([]byte, 16<<10), client.WaitAll)
	require.NoError(t, err)
}

// A call that never has to wait has a limit too.
func TestTimeout_EndsCallsWhosePeerNeverPauses(t *testing.T) {
	inParallelIfShort(t)
	const limit = 50 * time.Millisecond
	const much = 1 << 30       // no test is to have that in memory: it is never filled
	room := make([]byte, much) // once: a 32-bit process has no room for several
	check := func(t *testing.T, n int, err error, begin time.Time) {
		t.Helper()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), limit)
		require.Positive(t, n)
		require.Less(t, n, much)
	}
	t.Run("receiving", func(t *testing.T) {
		for name, flags := range map[string]client.Flag{"WaitAll": client.WaitAll, "Peek": client.WaitAll | client.Peek} {
			t.Run(name, func(t *testing.T) {
				size := much
				if flags&client.Peek != 0 {
					size = much / 2 // it is taken as it comes
				}
				c, peer := stream(t, "tls", &client.Options{RecvTimeout: limit})
				done := make(chan struct{})
				go func() {
					defer close(done)
					for p := make([]byte, 1<<20); ; {
						if _, err := peer.Write(p); err != nil {
							return
						}
					}
				}()
				for n := 0; n == 0; { // until the peer has got going
					var err error
					if n, err = c.Recv(make([]byte, 1), client.Peek); n == 0 {
						require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					}
				}
				begin := time.Now()
				n, err := c.Recv(room[:size], flags)
				check(t, n, err, begin)
				require.NoError(t, peer.(*tls.Conn).NetConn().Close())
				<-done
			})
		}
	})
	for _, network := range []string{"tcp", "tls"} {
		t.Run("sending over "+network, func(t *testing.T) {
			c, peer := stream(t, network, &client.Options{SendTimeout: limit})
			done := make(chan struct{})
			go func() { defer close(done); _, _ = io.Copy(io.Discard, peer) }()
			begin := time.Now()
			n, err := c.Send(room, 0)
			check(t, n, err, begin)
			require.NoError(t, c.Close())
			<-done
		})
	}
}

// A handshake ends at its limit also if it never has to wait, because the peer keeps sending.
func TestTLSHandshake_LimitEndsAPeerThatNeverPauses(t *testing.T) {
	const limit = time.Millisecond
	// The longest ServerHello there can be, a byte to each record.
	var hello bytes.Buffer
	for i, header := 0, []byte{2, 0, 0xff, 0xff}; i < 1<<16; i++ {
		b := byte(0)
		if i < len(header) {
			b = header[i]
		}
		hello.Write([]byte{22, 3, 3, 0, 1, b})
	}
	ln := listen(t, "tcp")
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write(hello.Bytes())
		_, _ = io.Copy(io.Discard, conn)
	}()
	c, err := client.Dial("tcp", ln.Addr().String(), &client.Options{TLS: &client.TLSOptions{ServerName: "x"}, Timeout: limit})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Nil(t, c)
	ln.Close()
	<-done
}

func TestTLSHandshake_LaterEndOfTheContextDoesNoHarm(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); peer := tls.Server(conn, s.config); _, _ = io.Copy(peer, peer) }()
		}
	}()
	works := func(c *client.Client) {
		t.Helper()
		_, err := c.Send([]byte("ping"), 0)
		require.NoError(t, err)
		_, err = c.Recv(make([]byte, 4), client.WaitAll)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := client.DialContext(ctx, "tcp", s.Addr().String(), &client.Options{TLS: s.trust(t)})
	require.NoError(t, err)
	cancel()
	works(c)
	ctx, cancel = context.WithCancel(t.Context())
	c, err = client.Dial("tcp", s.Addr().String(), nil)
	require.NoError(t, err)
	require.NoError(t, c.StartTLS(ctx, s.trust(t)))
	cancel()
	works(c)
}

// The rest of a Send goes out also while the next receive waits, perhaps for its answer.
func TestTLSSend_RestGoesOutByItself(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		c, peer, _ := valved(t, version, client.Options{Timeout: -1})
		answer := make(chan error, 1)
		go func() { _, err := c.Recv(make([]byte, 1), 0); answer <- err }()
		inKernel(t)
		sent := 0
		for err := error(nil); err == nil; {
			var n int
			n, err = c.Send(bytes.Repeat([]byte("x"), 1<<20), client.DontWait)
			sent += n
		}
		_, err := io.ReadFull(peer, make([]byte, sent))
		require.NoError(t, err)
		_, err = peer.Write([]byte("!"))
		require.NoError(t, err)
		require.NoError(t, <-answer)
	})
	t.Run("until Close", func(t *testing.T) { // or TestMain finds a goroutine
		c, _ := stream(t, "tls", nil)
		for err := error(nil); err == nil; {
			_, err = c.Send(make([]byte, 1<<20), client.DontWait)
		}
		require.NoError(t, c.Close())
	})
	t.Run("whatever deadline is over", func(t *testing.T) {
		c, peer := stream(t, "tls", nil)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := c.Write(make([]byte, 64<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = io.ReadFull(peer, make([]byte, n))
		require.NoError(t, err)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		_, err = c.Send([]byte("x"), 0)
		require.NoError(t, err)
		_, err = io.ReadFull(peer, make([]byte, 1))
		require.NoError(t, err)
	})
}

func TestTLSRecv_PeekDoesNotWaitForMore(t *testing.T) {
	c, peer := stream(t, "tls", &client.Options{Timeout: -1})
	_, err := peer.Write([]byte("some"))
	require.NoError(t, err)
	for range 2 {
		n, err := c.Recv(make([]byte, 100), client.Peek)
		require.NoError(t, err)
		require.Equal(t, 4, n)
	}
}

// crypto/tls reads ahead for an alert behind the data that it returns, and waits for all of it.
// In TLS 1.2 the record's header shows that it is an alert.
func TestTLSRecv_DataDoesNotWaitForTheAlertBehindIt(t *testing.T) {
	c, peer, v := valved(t, tls.VersionTLS12, client.Options{Timeout: -1})
	both := records(t, v, func() error {
		if _, err := peer.Write([]byte("data")); err != nil {
			return err
		}
		return peer.CloseWrite()
	})
	require.NoError(t, v.SetWriteDeadline(time.Time{})) // crypto/tls has set one with its close_notify
	_, err := v.Conn.Write(both[:len(both)-5])
	require.NoError(t, err)
	p := make([]byte, 100)
	n, err := c.Recv(p, 0)
	require.NoError(t, err)
	require.Equal(t, "data", string(p[:n]))
	_, err = c.Recv(p, client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	result := make(chan error, 1)
	go func() { _, err := c.Recv(p, 0); result <- err }() // which does wait, and spins on nothing
	inKernel(t)
	_, err = v.Conn.Write(both[len(both)-5:])
	require.NoError(t, err)
	require.Equal(t, io.EOF, <-result)
}

func TestTLSSend_AfterCloseWriteIsABrokenPipe(t *testing.T) {
	c, _ := stream(t, "tls", nil)
	require.NoError(t, c.CloseWrite())
	_, err := c.Send([]byte("x"), 0)
	require.ErrorIs(t, err, unix.EPIPE)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, unix.EPIPE)
}

// A part of a record counts as a part of a request: the peer has received it.
func TestTLSSend_PartOfARecordIsNotSafeToRetry(t *testing.T) {
	small := func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 1) })
	}
	s := listenTLS(t, "unix", nil)
	c, peer := s.handshakes(t, client.Options{Timeout: -1, Control: small})
	result := make(chan error, 1)
	go func() {
		n, err := c.Send(make([]byte, 16<<10), 0)
		if n != 0 {
			err = errors.New("the record has been sent")
		}
		result <- err
	}()
	inKernel(t)
	require.NoError(t, peer.NetConn().Close())
	err := <-result
	require.ErrorIs(t, err, unix.EPIPE)
	require.False(t, client.SafeToRetry(err))
}

func TestTLSHandshake_AlertTellsThePeerWhy(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
		told := make(chan error, 1)
		go func() {
			conn, err := s.Accept()
			if err != nil {
				told <- err
				return
			}
			defer conn.Close()
			peer := tls.Server(conn, s.config)
			if err = peer.Handshake(); err == nil {
				_, err = peer.Read(make([]byte, 1))
			}
			told <- err
		}()
		_, err := s.dial(&client.Options{TLS: &client.TLSOptions{ServerName: "localhost"}})
		require.Truef(t, isUnknownAuthority(err), "%v", err)
		require.ErrorContains(t, <-told, "remote error: tls: bad certificate")
	})
}

// If a callback panics, the handshake closes the descriptor: no other code could.
func TestTLSHandshake_PanicLeavesNothingBehind(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	accept := func() {
		conn, err := s.Accept()
		if err == nil {
			_ = tls.Server(conn, s.config).Handshake()
			conn.Close()
		}
	}
	opts := s.trust(t)
	opts.Config = &tls.Config{VerifyConnection: func(tls.ConnectionState) error { panic("on purpose") }}
	go accept()
	require.PanicsWithValue(t, "on purpose", func() { _, _ = s.dial(&client.Options{TLS: opts}) })

	go accept()
	c, err := s.dial(nil)
	require.NoError(t, err)
	require.PanicsWithValue(t, "on purpose", func() { _ = c.StartTLS(context.Background(), opts) })
	_, err = c.Send([]byte("secret"), 0)
	require.ErrorIs(t, err, net.ErrClosed)
}
