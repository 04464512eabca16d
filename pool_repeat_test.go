package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// pings sends a request and receives an answer of the same length.
func pings(c *client.Client) error {
	if _, err := c.Send([]byte("ping"), 0); err != nil {
		return err
	}
	_, err := c.Recv(make([]byte, 4), client.WaitAll)
	return err
}

// runsOf uses a connection once and then lets Do run fn on it. fn must run the given
// number of times. It returns Do's error.
func runsOf(t *testing.T, s *counted, opts *client.Options, runs int, fn func(c *client.Client) error) error {
	t.Helper()
	p := newPool(t, client.PoolOptions{})
	ctx := t.Context()
	require.NoError(t, p.Do(ctx, s.Addr().Network(), s.Addr().String(), opts, pings))
	got := 0
	err := p.Do(ctx, s.Addr().Network(), s.Addr().String(), opts, func(c *client.Client) error {
		got++
		return fn(c)
	})
	require.Equal(t, runs, got, "%v", err)
	require.Zero(t, p.Stats().Active)
	return err
}

// go-sql-driver/mysql#657: a request that was sent must not be carried out twice. A
// failed dial of another connection says nothing about this one.
func TestPoolDo_JudgesOnlyItsOwnConnection(t *testing.T) {
	elsewhere := func(t *testing.T) error {
		t.Helper()
		_, err := client.Dial("tcp", refused(t, "tcp"), nil)
		require.True(t, client.SafeToRetry(err))
		return err
	}
	for name, tell := range map[string]func(mine, other error) error{
		"the other's error alone": func(_, other error) error { return other },
		"wrapped":                 func(mine, other error) error { return fmt.Errorf("%s; the replica: %w", mine.Error(), other) },
		"joined":                  func(mine, other error) error { return errors.Join(mine, other) },
		"a mark joined with it":   func(mine, other error) error { return errors.Join(mine, client.Retryable(other)) },
	} {
		t.Run(name, func(t *testing.T) {
			err := runsOf(t, staleEcho(t), nil, 1, func(c *client.Client) error {
				return tell(pings(c), elsewhere(t))
			})
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		})
	}
}

// Every call that sends counts, and a part of a request is enough.
func TestPoolDo_KnowsEverySendMethod(t *testing.T) {
	file, err := os.Open(tempFile(t, "request", []byte("ping")))
	require.NoError(t, err)
	defer file.Close()
	for name, send := range map[string]func(c *client.Client) error{
		"Send":  func(c *client.Client) error { _, err := c.Send([]byte("ping"), 0); return err },
		"Write": func(c *client.Client) error { _, err := c.Write([]byte("ping")); return err },
		"SendPacket": func(c *client.Client) error {
			_, err := c.SendPacket([]byte("pi"))
			return err
		},
		"SendFile": func(c *client.Client) error { _, err := c.SendFile(file, 0, 0); return err },
		"ReadFrom": func(c *client.Client) error {
			_, err := c.ReadFrom(io.NewSectionReader(file, 0, 4))
			return err
		},
		"a part": func(c *client.Client) error { _, err := c.Send([]byte("p"), 0); return err },
	} {
		for _, marked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, repeatable %t", name, marked), func(t *testing.T) {
				first := make(chan struct{}, 1)
				first <- struct{}{}
				s := countedServer(t, "tcp", func(conn net.Conn) {
					_, _ = io.CopyN(conn, conn, 4)
					select {
					case <-first:
						_, _ = conn.Read(make([]byte, 4))
					default:
						echo(conn)
					}
				})
				runs := 1
				if marked {
					runs = 2
				}
				err := runsOf(t, s, &client.Options{Framing: client.Delimiter{Delim: []byte("ng")}}, runs, func(c *client.Client) error {
					err := send(c)
					if err == nil {
						_, err = c.Recv(make([]byte, 1), client.WaitAll)
					}
					if marked {
						err = client.Retryable(err)
					}
					return err
				})
				if name != "a part" || !marked { // of which the new connection's server has not enough
					require.Equal(t, marked, err == nil, "%v", err)
				}
			})
		}
	}
}

// A connection that is dead before anything was sent is replaced without a mark,
// whatever fn does with the error.
func TestPoolDo_RetriesUnsentRequests(t *testing.T) {
	for name, tell := range map[string]func(error) error{
		"the call's error": func(err error) error { return err },
		"another error":    func(error) error { return errors.New("the shop is closed") },
		"marked":           client.Retryable,
	} {
		t.Run(name, func(t *testing.T) {
			s := countedEcho(t, "tcp")
			require.NoError(t, runsOf(t, s, nil, 2, func(c *client.Client) error {
				if c.Reused() {
					require.NoError(t, (<-s.new).(*net.TCPConn).CloseWrite())
					_, err := c.Recv(make([]byte, 1), 0)
					require.Equal(t, io.EOF, err)
					return tell(err)
				}
				return pings(c)
			}))
		})
	}
}

// A slow server must not receive the request twice, and the caller must not wait twice
// as long.
func TestPoolDo_NoRetryAfterTimeout(t *testing.T) {
	for name, wait := range map[string]func(c *client.Client) error{
		"RecvTimeout": func(c *client.Client) error { _, err := c.Recv(make([]byte, 4), 0); return err },
		"a read deadline": func(c *client.Client) error {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err := c.Read(make([]byte, 4))
			return err
		},
		"DontWait": func(c *client.Client) error { _, err := c.Recv(make([]byte, 4), client.DontWait); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s := countedServer(t, "tcp", func(conn net.Conn) {
				_, _ = io.CopyN(conn, conn, 4)
				_, _ = io.Copy(io.Discard, conn)
			})
			err := runsOf(t, s, &client.Options{Timeout: 50 * time.Millisecond}, 1, func(c *client.Client) error {
				_, err := c.Send([]byte("ping"), 0)
				require.NoError(t, err)
				return client.Retryable(wait(c))
			})
			require.Error(t, err)
			require.Equal(t, 1, s.count())
		})
	}
}

// What fn itself did to the connection is not a failure of the connection.
func TestPoolDo_NoRetryAfterTheCallersOwnActs(t *testing.T) {
	recv := func(c *client.Client) error { _, err := c.Recv(make([]byte, 4), 0); return err }
	for name, fn := range map[string]func(c *client.Client) error{
		"Close":   func(c *client.Client) error { require.NoError(t, c.Close()); return recv(c) },
		"Discard": func(c *client.Client) error { require.NoError(t, c.Discard()); return recv(c) },
		"Close under a receive": func(c *client.Client) error {
			got := make(chan error, 1)
			go func() { got <- recv(c) }()
			inKernel(t)
			require.NoError(t, c.Close())
			return <-got
		},
		"CloseRead": func(c *client.Client) error { require.NoError(t, c.CloseRead()); return recv(c) },
		"SyscallConn": func(c *client.Client) error {
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Write(func(fd uintptr) bool {
				_, err := syscall.Write(int(fd), []byte("ping")) // nobody here knows of it
				require.NoError(t, err)
				require.NoError(t, syscall.Shutdown(int(fd), syscall.SHUT_RD))
				return true
			}))
			return recv(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := countedServer(t, "tcp", func(conn net.Conn) {
				_, _ = io.CopyN(conn, conn, 4)
				_, _ = io.Copy(io.Discard, conn)
			})
			require.Error(t, runsOf(t, s, nil, 1, func(c *client.Client) error { return client.Retryable(fn(c)) }))
		})
	}
}

// It is unknown what a call has sent that is under way when fn returns.
func TestPoolDo_NoRetryDuringACall(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) {
		_, _ = io.CopyN(conn, conn, 4)
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_ = conn.(*net.TCPConn).CloseWrite()
		<-t.Context().Done()
	})
	sent := make(chan error, 1)
	err := runsOf(t, s, &client.Options{Timeout: -1}, 1, func(c *client.Client) error {
		go func() { _, err := c.Send(make([]byte, 64<<20), 0); sent <- err }()
		inKernel(t)
		_, err := c.Recv(make([]byte, 4), 0)
		return err
	})
	require.Equal(t, io.EOF, err)
	require.ErrorIs(t, <-sent, net.ErrClosed)
}

func TestPoolDo_NoRetryAfterContextEnds(t *testing.T) {
	s, p := staleEcho(t), newPool(t, client.PoolOptions{})
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, pings))
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	err := p.Do(ctx, "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		runs++
		err := pings(c)
		cancel()
		return client.Retryable(err)
	})
	require.Equal(t, io.EOF, err)
	require.Equal(t, 1, runs)
}

// Part of a packet or of a record is part of an answer, even though no call has returned
// a byte of it.
func TestPoolDo_NoRetryAfterPartOfAPacketOrRecord(t *testing.T) {
	t.Run("of a packet", func(t *testing.T) {
		s := countedServer(t, "tcp", func(conn net.Conn) {
			_, _ = io.CopyN(conn, conn, 4)
			_, _ = io.ReadFull(conn, make([]byte, 4))
			_, _ = conn.Write([]byte("po"))
		})
		opts := &client.Options{Framing: client.Delimiter{Delim: []byte("ng")}}
		err := runsOf(t, s, opts, 1, func(c *client.Client) error {
			_, err := c.Send([]byte("ping"), 0)
			require.NoError(t, err)
			_, err = c.RecvPacket()
			return client.Retryable(err)
		})
		require.Equal(t, io.ErrUnexpectedEOF, err)
	})
	t.Run("of a record", func(t *testing.T) {
		s := listenTLS(t, "tcp", nil)
		plain := countedServer(t, "tcp", func(conn net.Conn) {
			v := &valve{Conn: conn}
			peer := tls.Server(v, s.config)
			_, _ = io.CopyN(peer, peer, 4)
			if _, err := io.ReadFull(peer, make([]byte, 4)); err != nil {
				return
			}
			record := records(t, v, func() error { _, err := peer.Write([]byte("pong")); return err })
			_, _ = conn.Write(record[:len(record)/2])
		})
		err := runsOf(t, plain, &client.Options{TLS: s.trust(t)}, 1, func(c *client.Client) error {
			return client.Retryable(pings(c))
		})
		require.Equal(t, io.ErrUnexpectedEOF, err)
	})
}

// With nested calls of Do, only the function of the outer one permits its retry.
func TestPoolDo_RetryableMarkDoesNotLeaveDo(t *testing.T) {
	for name, wrap := range map[string]func(error) error{
		"as it is": func(err error) error { return err },
		"wrapped":  func(err error) error { return fmt.Errorf("get: %w", err) },
		"twice":    client.Retryable,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, client.PoolOptions{})
			closes := countedServer(t, "tcp", func(conn net.Conn) { _, _ = conn.Read(make([]byte, 4)) })
			inner := func() error {
				return p.Do(t.Context(), "tcp", closes.Addr().String(), nil, func(c *client.Client) error {
					return wrap(client.Retryable(pings(c)))
				})
			}
			require.ErrorIs(t, inner(), io.EOF)
			if name == "as it is" {
				require.Equal(t, io.EOF, inner(), "as fn has it")
			}
			err := runsOf(t, staleEcho(t), nil, 1, func(c *client.Client) error {
				require.Error(t, pings(c)) // sent, and not to be repeated
				return inner()
			})
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// The failure of the second run must not look like one before which nothing was sent.
func TestPoolDo_FailedRetryIsNotSafeToRetry(t *testing.T) {
	for name, second := range map[string]func(s *counted){
		"the server is down":    func(s *counted) { _ = s.Close() },
		"nothing could be sent": func(*counted) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := countedServer(t, "tcp", func(conn net.Conn) {
				_, _ = io.CopyN(conn, conn, 4)
				_, _ = io.ReadFull(conn, make([]byte, 4))
			})
			down := name == "the server is down"
			runs := 2
			if down {
				runs = 1
			}
			err := runsOf(t, s, nil, runs, func(c *client.Client) error {
				if !c.Reused() {
					require.NoError(t, c.CloseWrite())
					_, err := c.Send([]byte("ping"), 0)
					require.True(t, client.SafeToRetry(err))
					return err
				}
				second(s)
				return client.Retryable(pings(c))
			})
			require.Error(t, err)
			require.False(t, client.SafeToRetry(err), "%v", err)
			require.False(t, client.SafeToRetry(fmt.Errorf("get: %w", err)))
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, down, errors.Is(err, syscall.ECONNREFUSED), "%v", err)
		})
	}
}

// A connection dialled for MinIdle may be stale, although no client has used it.
func TestPoolDo_RetriesAfterAConnectionOfMinIdle(t *testing.T) {
	s := countedServer(t, "tcp", func(conn net.Conn) {
		p := make([]byte, 4)
		if n, _ := io.ReadFull(conn, p); n == 4 && string(p) == "last" {
			return
		}
		_, _ = conn.Write(p)
		echo(conn)
	})
	p := newPool(t, client.PoolOptions{MinIdle: 1})
	c := s.from(t, p, nil)
	defer func() { _ = c.Discard() }()
	require.Eventually(t, func() bool { return p.Stats().Idle == 1 }, testTimeout, time.Millisecond)
	runs := 0
	require.NoError(t, p.Do(t.Context(), "tcp", s.Addr().String(), nil, func(c *client.Client) error {
		runs++
		require.False(t, c.Reused())
		if runs == 1 {
			_, err := c.Send([]byte("last"), 0)
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 4), client.WaitAll)
			return client.Retryable(err)
		}
		return pings(c)
	}))
	require.Equal(t, 2, runs)
}
