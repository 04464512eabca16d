package client_test

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A leaving cache does not return from a Put: so many of them, when it is told to.
type leavingCache struct {
	tls.ClientSessionCache
	puts  atomic.Int32
	leave func()
}

func (l *leavingCache) Put(name string, session *tls.ClientSessionState) {
	if l.puts.Load() > 0 && l.puts.Add(-1) >= 0 {
		l.leave()
	}
	l.ClientSessionCache.Put(name, session)
}

// A lateTickets is a server's connection on which it does not receive the end of a
// handshake, after which it sends session tickets, before a gate is open.
type lateTickets struct {
	net.Conn
	gate  chan struct{}
	wrote atomic.Bool
}

func (l *lateTickets) Write(p []byte) (int, error) {
	l.wrote.Store(true)
	return l.Conn.Write(p)
}

func (l *lateTickets) Read(p []byte) (int, error) {
	if l.wrote.Load() {
		<-l.gate
	}
	return l.Conn.Read(p)
}

// apart runs f in a goroutine of its own and returns what it panicked with.
func apart(f func()) (panicked any) {
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		f()
	}()
	return <-done
}

// The check and the close of a TLS connection may call the caller's session cache. If
// that panics or ends the goroutine, the connection is closed, its place is free, and
// the other connections are closed too.
func TestPool_SessionCachePanicLeaksNothing(t *testing.T) {
	ways := map[string]func(){"panic": func() { panic("out of order") }, "Goexit": runtime.Goexit}
	for _, test := range []struct {
		name string
		opts client.PoolOptions
		idle int // with a ticket that was not received yet
		puts int32
		call func(p *client.Pool, lent *client.Client, dial func(fresh bool) *client.Client)
		left int // of the idle ones
	}{
		{"Close", client.PoolOptions{}, 0, 1, func(_ *client.Pool, lent *client.Client, _ func(bool) *client.Client) { _ = lent.Close() }, 0},
		{"Discard", client.PoolOptions{}, 0, 1, func(_ *client.Pool, lent *client.Client, _ func(bool) *client.Client) { _ = lent.Discard() }, 0},
		{"Close of what is over", client.PoolOptions{MaxIdle: -1}, 0, 2, func(_ *client.Pool, lent *client.Client, _ func(bool) *client.Client) { _ = lent.Close() }, 0},
		{"Dial", client.PoolOptions{}, 2, 1, func(_ *client.Pool, _ *client.Client, dial func(bool) *client.Client) { _ = dial(false) }, 1},
		{"DialNew, which needs the place", client.PoolOptions{MaxConnsPerKey: 3}, 2, 1, func(_ *client.Pool, _ *client.Client, dial func(bool) *client.Client) { _ = dial(true) }, 1},
		{"CloseIdle", client.PoolOptions{}, 3, 2, func(p *client.Pool, _ *client.Client, _ func(bool) *client.Client) { p.CloseIdle() }, 0},
		{"Close of the pool", client.PoolOptions{}, 3, 2, func(p *client.Pool, _ *client.Client, _ func(bool) *client.Client) { _ = p.Close() }, 0},
	} {
		for way, leave := range ways {
			t.Run(test.name+", "+way, func(t *testing.T) {
				// Else crypto/tls sends them before it has received the end of the handshake.
				s := listenTLS(t, "tcp", func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert })
				peers, gate := make(chan *tls.Conn, 10), make(chan struct{})
				go func() {
					for {
						conn, err := s.Accept()
						if err != nil {
							return
						}
						peer := tls.Server(&lateTickets{Conn: conn, gate: gate}, s.config)
						peers <- peer
						go func() { echo(peer); _ = peer.Close() }()
					}
				}()
				cache := &leavingCache{ClientSessionCache: tls.NewLRUClientSessionCache(1), leave: leave}
				opts := &client.Options{TLS: s.trust(t)}
				opts.TLS.Config = &tls.Config{ClientSessionCache: cache}
				p := newPool(t, test.opts)
				dial := func(fresh bool) *client.Client {
					dial := p.Dial
					if fresh {
						dial = p.DialNew
					}
					c, err := dial(context.Background(), "tcp", s.Addr().String(), opts)
					if err != nil {
						return nil
					}
					return c
				}
				var all []*client.Client
				for range test.idle + 1 {
					all = append(all, dial(true))
				}
				lent := all[test.idle]
				var ended []*tls.Conn
				for _, c := range all[:test.idle] {
					require.NoError(t, c.Close())
				}
				for range all {
					ended = append(ended, <-peers)
				}
				close(gate)
				for _, peer := range ended {
					require.NoError(t, peer.Handshake()) // the tickets are a part of it
				}
				time.Sleep(time.Millisecond) // on loopback they have arrived
				cache.puts.Store(test.puts)
				require.Equal(t, way == "panic", apart(func() { test.call(p, lent, dial) }) != nil)
				cache.puts.Store(0)
				require.Eventually(t, func() bool { return p.Stats().Dialing == 0 }, testTimeout, time.Millisecond)
				stats := p.Stats()
				require.Equal(t, test.left, stats.Idle, "%+v", stats)
				if lent.IsConnected() {
					require.Equal(t, 1, stats.Active)
					require.NoError(t, lent.Discard())
				}
				require.Zero(t, p.Stats().Active)
				p.CloseIdle()
				for _, peer := range ended {
					ends(t, peer.NetConn())
				}
				if c := dial(false); c != nil { // a pool that is not closed goes on
					asks(t, c, "ping")
					require.NoError(t, c.Discard())
				} else {
					require.Equal(t, "Close of the pool", test.name)
				}
			})
		}
	}
}

// Callbacks of a dial and of a client's calls lose no place if they panic.
func TestPool_CallbackPanicFreesItsPlace(t *testing.T) {
	ways := map[string]func(){"panic": func() { panic("out of order") }, "Goexit": runtime.Goexit}
	var leave atomic.Pointer[func()] // taken by the first call
	call := func() {
		if f := leave.Swap(nil); f != nil {
			(*f)()
		}
	}
	length := func(p []byte) (int, error) { call(); return len(p), nil }
	for name, change := range map[string]func(o *client.Options, c *tls.Config){
		"Control": func(o *client.Options, _ *tls.Config) {
			o.Control = func(string, string, syscall.RawConn) error { call(); return nil }
		},
		"VerifyConnection": func(_ *client.Options, c *tls.Config) {
			c.VerifyConnection = func(tls.ConnectionState) error { call(); return nil }
		},
		"GetClientCertificate": func(_ *client.Options, c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { call(); return new(tls.Certificate), nil }
		},
		"LengthFunc": func(o *client.Options, _ *tls.Config) { o.Framing = client.LengthFunc{Func: length} },
	} {
		for way, f := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				s := listenTLS(t, "tcp", func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert })
				plain := countedServer(t, "tcp", func(conn net.Conn) { echo(tls.Server(conn, s.config)) })
				opts := &client.Options{TLS: s.trust(t)}
				opts.TLS.Config = new(tls.Config)
				change(opts, opts.TLS.Config)
				p := newPool(t, client.PoolOptions{MaxConnsPerKey: 1})
				use := func() error {
					c, err := p.Dial(context.Background(), "tcp", plain.Addr().String(), opts)
					if err != nil {
						return err
					}
					defer c.Close()
					if opts.Framing == nil {
						return pings(c)
					}
					if _, err = c.SendPacket([]byte("ping")); err != nil {
						return err
					}
					_, err = c.RecvPacket()
					return err
				}
				leave.Store(&f)
				require.Equal(t, way == "panic", apart(func() { _ = use() }) != nil)
				require.Nil(t, leave.Load(), "it was called")
				stats := p.Stats()
				require.Zero(t, stats.Active+stats.Dialing+stats.Idle, "%+v", stats)
				if name != "Control" { // which comes before the connection
					ends(t, <-plain.new)
				}
				require.NoError(t, use())
			})
		}
	}
}

// A panic in a dial that no caller waits for does not end the process just because a
// caller had a short context. The next caller that needs a dial panics instead.
func TestPool_PanicInDetachedDialReachesNextCaller(t *testing.T) {
	for _, where := range []string{"Control", "Setup"} {
		prepare := func(t *testing.T, opts client.PoolOptions, call func()) func(ctx context.Context) error {
			s := countedEcho(t, "tcp")
			dialOpts := new(client.Options)
			if where == "Control" {
				dialOpts.Control = func(string, string, syscall.RawConn) error { call(); return nil }
			} else {
				opts.Setup = func(context.Context, *client.Client) error { call(); return nil }
			}
			p := newPool(t, opts)
			t.Cleanup(func() {
				require.EqualValues(t, 1, p.Stats().DialErrors)
				require.Eventually(t, func() bool { return p.Stats().Dialing+p.Stats().Active == 0 }, testTimeout, time.Millisecond)
			})
			return func(ctx context.Context) error {
				c, err := p.DialNew(ctx, "tcp", s.Addr().String(), dialOpts)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = c.Discard() })
				if opts.MinIdle > 0 {
					require.Eventually(t, func() bool { return p.Stats().DialErrors > 0 }, testTimeout, time.Millisecond)
				}
				return pings(c)
			}
		}
		for name, most := range map[string]int{"its caller has gone": 0, "its caller has gone, and another waits": 1} {
			t.Run(where+", "+name, func(t *testing.T) {
				begun, hang := make(chan bool, 10), make(chan struct{})
				var calls atomic.Int32
				dial := prepare(t, client.PoolOptions{MaxConnsPerKey: most}, func() {
					if calls.Add(1) == 1 {
						begun <- true
						<-hang
						panic("out of order")
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				go func() { <-begun; cancel() }()
				require.ErrorIs(t, dial(ctx), context.Canceled)
				if most == 0 { // else this caller has no dial of its own
					close(hang)
				} else {
					time.AfterFunc(10*time.Millisecond, func() { close(hang) })
				}
				require.Eventually(t, func() bool {
					return apart(func() { require.NoError(t, dial(t.Context())) }) == "out of order"
				}, testTimeout, time.Millisecond)
				require.NoError(t, dial(t.Context()), "once")
			})
		}
		t.Run(where+", of MinIdle", func(t *testing.T) {
			var calls atomic.Int32
			dial := prepare(t, client.PoolOptions{MinIdle: 1}, func() {
				if calls.Add(1) == 2 {
					panic("out of order")
				}
			})
			require.NoError(t, dial(t.Context()))
			require.Equal(t, "out of order", apart(func() { _ = dial(t.Context()) }))
			require.NoError(t, dial(t.Context()), "once")
		})
	}
}
