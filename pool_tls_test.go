package client_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// An idleTLS is a connection of a pool that nobody uses, and its peer.
type idleTLS struct {
	pool  *client.Pool
	opts  *client.Options
	s     *tlsServer
	peer  *tls.Conn
	valve *valve
	local string
}

// idles makes an idle connection, after use of it if use is not nil.
func idles(t *testing.T, version uint16, change func(*tls.Config), use func(c *client.Client, peer *tls.Conn)) *idleTLS {
	t.Helper()
	i := &idleTLS{s: listenTLS(t, "tcp", func(c *tls.Config) {
		c.MaxVersion = version
		if change != nil {
			change(c)
		}
	})}
	i.opts = &client.Options{TLS: i.s.trust(t)}
	i.opts.TLS.Config = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	i.pool = newPool(t, client.PoolOptions{})
	peers := make(chan *tls.Conn, 1)
	go func() {
		for {
			conn, err := i.s.Accept()
			if err != nil {
				return
			}
			peer := tls.Server(&valve{Conn: conn}, i.s.config)
			if peer.Handshake() == nil {
				peers <- peer
			}
		}
	}()
	c, err := i.pool.Dial(context.Background(), "tcp", i.s.Addr().String(), i.opts)
	require.NoError(t, err)
	i.peer = <-peers
	i.valve = i.peer.NetConn().(*valve)
	t.Cleanup(func() { _ = i.valve.Close() })
	i.local = local(c)
	if use != nil {
		use(c, i.peer)
	}
	require.NoError(t, c.Close())
	require.Equal(t, 1, i.pool.Stats().Idle, "%+v", i.pool.Stats())
	return i
}

// again dials through the pool.
func (i *idleTLS) again(t *testing.T) *client.Client {
	t.Helper()
	c, err := i.pool.Dial(context.Background(), "tcp", i.s.Addr().String(), i.opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Discard() })
	return c
}

func (i *idleTLS) isKept(t *testing.T) {
	t.Helper()
	for range 3 {
		c := i.again(t)
		require.True(t, c.Reused())
		require.Equal(t, i.local, local(c))
		sent := make(chan error, 1)
		go func() { _, err := io.CopyN(i.peer, i.peer, 4); sent <- err }()
		asks(t, c, "ping")
		require.NoError(t, <-sent)
		require.NoError(t, c.Close())
	}
}

func (i *idleTLS) isDiscarded(t *testing.T, cause client.DiscardCause) {
	t.Helper()
	time.Sleep(10 * time.Millisecond) // on loopback it has arrived; elsewhere nothing could tell
	c := i.again(t)
	require.False(t, c.Reused())
	require.EqualValues(t, 1, i.pool.Stats().Discards[cause], "%+v", i.pool.Stats())
}

func pingPong(t *testing.T) func(c *client.Client, peer *tls.Conn) {
	return func(c *client.Client, peer *tls.Conn) {
		go func() { _, _ = io.CopyN(peer, peer, 4) }()
		asks(t, c, "ping")
	}
}

func TestPoolTLS_ChecksIdleConnections(t *testing.T) {
	inParallelIfShort(t)
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		for name, use := range map[string]func(c *client.Client, peer *tls.Conn){"fresh": nil, "used": pingPong(t)} {
			t.Run(name, func(t *testing.T) {
				start := func() *idleTLS { return idles(t, version, nil, use) }
				t.Run("quiet", func(t *testing.T) { start().isKept(t) })
				t.Run("closed", func(t *testing.T) {
					i := start()
					require.NoError(t, i.peer.Close())
					i.isDiscarded(t, client.DiscardDead)
				})
				t.Run("close_notify", func(t *testing.T) {
					i := start()
					require.NoError(t, i.peer.CloseWrite())
					i.isDiscarded(t, client.DiscardDead)
				})
				t.Run("cut", func(t *testing.T) {
					i := start()
					require.NoError(t, i.valve.Conn.(*net.TCPConn).CloseWrite())
					i.isDiscarded(t, client.DiscardDead)
				})
				t.Run("reset", func(t *testing.T) {
					i := start()
					require.NoError(t, i.valve.Conn.(*net.TCPConn).SetLinger(0))
					require.NoError(t, i.valve.Close())
					i.isDiscarded(t, client.DiscardDead)
				})
				t.Run("late reply", func(t *testing.T) {
					i := start()
					_, err := i.peer.Write([]byte("somebody else's"))
					require.NoError(t, err)
					i.isDiscarded(t, client.DiscardUnclean)
				})
				t.Run("half a record", func(t *testing.T) {
					i := start()
					record := records(t, i.valve, func() error { _, err := i.peer.Write([]byte("somebody else's")); return err })
					_, err := i.valve.Conn.Write(record[:len(record)/2])
					require.NoError(t, err)
					i.isDiscarded(t, client.DiscardUnclean)
				})
				t.Run("a part of a header", func(t *testing.T) {
					i := start()
					_, err := i.valve.Conn.Write([]byte{23, 3})
					require.NoError(t, err)
					i.isDiscarded(t, client.DiscardUnclean)
				})
				t.Run("what is no record", func(t *testing.T) {
					i := start()
					_, err := i.valve.Conn.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n"))
					require.NoError(t, err)
					i.isDiscarded(t, client.DiscardUnclean)
				})
			})
		}
	})
}

// Session tickets arrive at any time. They are not an answer, and taking one must not
// lose the bytes after it.
func TestPoolTLS_SessionTicketsDoNotDiscard(t *testing.T) {
	i := idles(t, tls.VersionTLS13, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, nil) // has them come by themselves
	i.isKept(t)
	i.pool.CloseIdle()
	require.True(t, i.again(t).ConnectionState().DidResume, "the ticket was taken")
}

// The rest of a record after an exact receive is not in the kernel's buffer.
func TestPoolTLS_UnreadPartOfARecordDiscards(t *testing.T) {
	eachTLSVersion(t, func(t *testing.T, version uint16) {
		for name, peek := range map[string]bool{"in TLS": false, "peeked at": true} {
			t.Run(name, func(t *testing.T) {
				s := listenTLS(t, "tcp", func(c *tls.Config) { c.MaxVersion = version })
				p := newPool(t, client.PoolOptions{})
				go func() {
					conn, err := s.Accept()
					if err != nil {
						return
					}
					defer conn.Close()
					peer := tls.Server(conn, s.config)
					_, _ = peer.Write([]byte("an answer, and more of it"))
					_, _ = peer.Read(make([]byte, 1))
				}()
				c, err := p.Dial(t.Context(), "tcp", s.Addr().String(), &client.Options{TLS: s.trust(t)})
				require.NoError(t, err)
				if peek {
					_, err = c.Recv(make([]byte, 25), client.Peek|client.WaitAll)
					require.NoError(t, err)
				}
				_, err = c.Recv(make([]byte, 9), client.WaitAll)
				require.NoError(t, err)
				require.NoError(t, c.Close())
				require.EqualValues(t, 1, p.Stats().Discards[client.DiscardUnclean], "%+v", p.Stats())
			})
		}
	})
}

// A caller that wants a plain connection must not get one with TLS.
func TestPoolTLS_StartTLSDiscards(t *testing.T) {
	m := newMailServer(t)
	inside, _ := m.serve()
	p := newPool(t, client.PoolOptions{})
	c, err := p.Dial(t.Context(), "tcp4", m.Addr().String(), nil)
	require.NoError(t, err)
	for _, say := range []string{"", "EHLO me\r\n", "STARTTLS\r\n"} {
		_, err := c.Send([]byte(say), 0)
		require.NoError(t, err)
		readLine(t, c)
	}
	require.NoError(t, c.StartTLS(t.Context(), m.trust(t)))
	require.Equal(t, "250 inside\r\n", readLine(t, c))
	require.NoError(t, c.Close())
	require.EqualValues(t, 1, p.Stats().Discards[client.DiscardFailed])
	require.Empty(t, <-inside)
}

func TestPool_ChecksIdleDatagramClients(t *testing.T) {
	for _, network := range datagramNetworks {
		t.Run(network, func(t *testing.T) {
			peer := packetPeer(t, network)
			p := newPool(t, client.PoolOptions{})
			buf := make([]byte, 100)
			dial := func() *client.Client {
				t.Helper()
				c, err := p.Dial(t.Context(), network, peer.LocalAddr().String(), nil)
				require.NoError(t, err)
				return c
			}
			answered := func(c *client.Client) net.Addr {
				t.Helper()
				_, err := c.Send([]byte("?"), 0)
				require.NoError(t, err)
				_, from, err := peer.ReadFrom(buf)
				require.NoError(t, err)
				_, err = peer.WriteTo([]byte("!"), from)
				require.NoError(t, err)
				_, err = c.Recv(buf, 0)
				require.NoError(t, err)
				return from
			}
			c := dial()
			from := answered(c)
			require.NoError(t, c.Close())
			c = dial()
			require.True(t, c.Reused())
			require.Equal(t, from.String(), answered(c).String())
			require.NoError(t, c.Close())

			for _, late := range []string{"late", ""} { // an empty datagram is one
				_, err := peer.WriteTo([]byte(late), from)
				require.NoError(t, err)
				time.Sleep(time.Millisecond)
				c = dial()
				require.False(t, c.Reused())
				from = answered(c)
				require.NoError(t, c.Close())
			}
			require.EqualValues(t, 2, p.Stats().Discards[client.DiscardUnclean])
		})
	}
}
