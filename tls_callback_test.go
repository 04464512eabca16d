package client_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/testcert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A callback does not return when it is armed: it panics or ends its goroutine, once.
type callback struct {
	armed atomic.Bool
	exits bool // runtime.Goexit, as testing.T.FailNow does
}

const onPurpose = "on purpose"

func (cb *callback) run() {
	if !cb.armed.Swap(false) {
		return
	}
	if cb.exits {
		runtime.Goexit()
	}
	panic(onPurpose)
}

// ends waits until the server has seen the end of a connection, whatever it receives
// before.
func (cb *callback) ends(t testing.TB, f func()) {
	t.Helper()
	cb.armed.Store(true)
	type end struct {
		panicked any
		returned bool
	}
	done := make(chan end, 1)
	go func() {
		var e end
		defer func() { e.panicked = recover(); done <- e }()
		f()
		e.returned = true
	}()
	select {
	case e := <-done:
		require.False(t, e.returned, "the callback was not called, or its panic was hidden")
		if cb.exits {
			require.Nil(t, e.panicked)
		} else {
			require.Equal(t, onPurpose, e.panicked)
		}
	case <-time.After(testTimeout):
		t.Fatal("the call hangs")
	}
}

func eachCallback(t *testing.T, test func(t *testing.T, cb *callback)) {
	for name, exits := range map[string]bool{"panic": false, "Goexit": true} {
		t.Run(name, func(t *testing.T) { test(t, &callback{exits: exits}) })
	}
}

// Parts of a Config that run a callback.
type (
	cacheWithCallback struct {
		tls.ClientSessionCache
		get, put func()
	}
	readerWithCallback struct {
		*callback
		io.Reader
	}
	keyWithCallback struct {
		*callback
		crypto.Signer
	}
	writerWithCallback struct{ *callback }
)

func (c cacheWithCallback) Get(name string) (*tls.ClientSessionState, bool) {
	if c.get != nil {
		c.get()
	}
	return c.ClientSessionCache.Get(name)
}

func (c cacheWithCallback) Put(name string, s *tls.ClientSessionState) {
	if c.put != nil {
		c.put()
	}
	c.ClientSessionCache.Put(name, s)
}

func (r readerWithCallback) Read(p []byte) (int, error) { r.run(); return r.Reader.Read(p) }

func (k keyWithCallback) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.run()
	return k.Signer.Sign(random, digest, opts)
}

func (w writerWithCallback) Write(p []byte) (int, error) { w.run(); return len(p), nil }

// serveEcho serves any number of connections, and sends to closed when one has ended.
func serveEcho(t *testing.T, s *tlsServer) (closed <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				peer := tls.Server(conn, s.config)
				_, _ = io.Copy(peer, peer)
				_, _ = io.Copy(io.Discard, conn) // after a failed handshake, too
				_ = conn.Close()
				ended <- struct{}{}
			}()
		}
	}()
	return ended
}

// A callback that panics or ends its goroutine during a Dial, Connect or StartTLS does so to
// the caller, after the connection is closed and all locks are released. crypto/tls calls a
// KeyLogWriter with a mutex locked that all connections share, and package net calls
// Resolver.Dial in goroutines of its own.
func TestTLSCallback_NotReturningFromDialLeavesNothing(t *testing.T) {
	inParallelIfShort(t)
	root := testcert.NewRoot(t, "root")
	mine := root.Issue(t, "me", nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := listenWith(t, "tcp", root.Issue(t, "server", nil), func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth = version, tls.RequireAnyClientCert
		})
		closed := serveEcho(t, s)
		for _, test := range []struct {
			name       string
			set        func(c *tls.Config, o *client.Options, cb *callback)
			noStartTLS bool // StartTLS does not call it
		}{
			{"VerifyConnection", func(c *tls.Config, _ *client.Options, cb *callback) {
				c.VerifyConnection = func(tls.ConnectionState) error { cb.run(); return nil }
			}, false},
			{"VerifyPeerCertificate", func(c *tls.Config, _ *client.Options, cb *callback) {
				c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { cb.run(); return nil }
			}, false},
			{"GetClientCertificate", func(c *tls.Config, _ *client.Options, cb *callback) {
				pair := mine.Pair()
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { cb.run(); return &pair, nil }
			}, false},
			{"the key of a certificate", func(c *tls.Config, _ *client.Options, cb *callback) {
				c.Certificates[0].PrivateKey = keyWithCallback{cb, mine.Key}
			}, false},
			{"KeyLogWriter", func(c *tls.Config, _ *client.Options, cb *callback) { c.KeyLogWriter = writerWithCallback{cb} }, false},
			{"Time", func(c *tls.Config, _ *client.Options, cb *callback) {
				c.Time = func() time.Time { cb.run(); return time.Now() }
			}, false},
			{"Rand", func(c *tls.Config, _ *client.Options, cb *callback) { c.Rand = readerWithCallback{cb, rand.Reader} }, false},
			{"ClientSessionCache.Get", func(c *tls.Config, _ *client.Options, cb *callback) {
				c.ClientSessionCache = cacheWithCallback{ClientSessionCache: tls.NewLRUClientSessionCache(1), get: cb.run}
			}, false},
			{"Control", func(_ *tls.Config, o *client.Options, cb *callback) {
				o.Control = func(string, string, syscall.RawConn) error { cb.run(); return nil }
			}, true},
			{"Resolver.Dial", func(_ *tls.Config, o *client.Options, cb *callback) {
				r := names(t, map[string][]string{"name.test.": {"127.0.0.1"}})
				dial := r.Dial
				r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					cb.run()
					return dial(ctx, network, address)
				}
				o.Resolver = r
			}, true},
		} {
			t.Run(tls.VersionName(version)+" "+test.name, func(t *testing.T) {
				eachCallback(t, func(t *testing.T, cb *callback) {
					opts := &client.Options{TLS: s.trust(t), Timeout: testTimeout}
					opts.TLS.Config = &tls.Config{Certificates: []tls.Certificate{mine.Pair()}}
					test.set(opts.TLS.Config, opts, cb)
					address := s.Addr().String()
					if opts.Resolver != nil {
						address = net.JoinHostPort("name.test", portOf(t, address))
					}
					works := func(c *client.Client, err error) {
						t.Helper()
						require.NoError(t, err)
						require.NoError(t, roundTrip(c, []byte("ping")))
						require.NoError(t, c.Close())
						<-closed
					}
					reaches := test.name != "Control" && test.name != "Resolver.Dial" // the server, for sure

					cb.ends(t, func() { _, _ = client.Dial("tcp", address, opts) })
					if reaches {
						<-closed
					}
					works(client.Dial("tcp", address, opts))

					if test.name == "Control" {
						cb.ends(t, func() { _, _ = client.NewTCP(opts) })
					}
					c, err := client.NewTCP(opts)
					require.NoError(t, err)
					if test.name != "Control" {
						cb.ends(t, func() { _ = c.Connect(context.Background(), address) })
					}
					if test.name == "Control" {
						works(c, c.Connect(context.Background(), address))
						return
					}
					if reaches {
						<-closed
					}
					_, err = c.Recv(make([]byte, 1), 0)
					require.ErrorIs(t, err, net.ErrClosed)
					require.ErrorIs(t, c.Close(), net.ErrClosed) // Connect closed it
					if test.noStartTLS {
						return
					}
					plain := func() *client.Client {
						c, err := client.Dial("tcp", address, &client.Options{Timeout: testTimeout})
						require.NoError(t, err)
						return c
					}
					c = plain()
					cb.ends(t, func() { _ = c.StartTLS(context.Background(), opts.TLS) })
					<-closed
					_, err = c.Send([]byte("secret"), 0)
					require.ErrorIs(t, err, net.ErrClosed)
					require.ErrorIs(t, c.Close(), net.ErrClosed)
					c = plain()
					require.NoError(t, c.StartTLS(context.Background(), opts.TLS))
					works(c, nil)
				})
			})
		}
	}
}

// Concurrent lookups of one name are one lookup. If its Resolver.Dial does not return, one
// caller gets the panic or Goexit, the others get an error, and none waits forever.
func TestCallback_ResolverDialThatDoesNotReturnEndsTheLookup(t *testing.T) {
	eachCallback(t, func(t *testing.T, cb *callback) {
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			cb.armed.Store(true)
			cb.run()
			return nil, errors.New("another call has disarmed it")
		}}
		var wg sync.WaitGroup
		var heard atomic.Int64
		for range 8 {
			wg.Go(func() {
				returned := make(chan bool, 1)
				go func() {
					ok := false
					defer func() { _ = recover(); returned <- ok }()
					_, err := client.Dial("tcp", "name.test:80", &client.Options{Resolver: r, Timeout: -1})
					ok = err != nil
				}()
				if !<-returned {
					heard.Add(1)
				}
			})
		}
		wg.Wait()
		require.Positive(t, heard.Load())
	})
}

// crypto/tls calls the session cache and Config.Time when it receives the server's tickets,
// in any method that receives, including Select and Close. If one does not return the state
// of crypto/tls is undefined: later calls fail and do not hang, and Close frees the
// descriptor, also the Close that was interrupted.
func TestTLSCallback_StreamFailsAfterNotReturningFromReceive(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(c *tls.Config, cb *callback)
	}{
		{"ClientSessionCache.Put", func(c *tls.Config, cb *callback) {
			c.ClientSessionCache = cacheWithCallback{ClientSessionCache: tls.NewLRUClientSessionCache(1), put: cb.run}
		}},
		{"Time", func(c *tls.Config, cb *callback) {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			c.Time = func() time.Time { cb.run(); return time.Now() }
		}},
	} {
		for how, call := range map[string]func(c *client.Client){
			"Recv":       func(c *client.Client) { _, _ = c.Recv(make([]byte, 4), 0) },
			"Peek":       func(c *client.Client) { _, _ = c.Recv(make([]byte, 4), client.Peek|client.WaitAll) },
			"DontWait":   func(c *client.Client) { _, _ = c.Recv(make([]byte, 4), client.DontWait) },
			"Read":       func(c *client.Client) { _, _ = c.Read(make([]byte, 4)) },
			"RecvPacket": func(c *client.Client) { _, _ = c.RecvPacket() },
			"Select":     func(c *client.Client) { _, _ = client.Select([]*client.Client{c}, nil, nil, -1) },
			"Close":      func(c *client.Client) { _ = c.Close() },
		} {
			t.Run(test.name+" in "+how, func(t *testing.T) {
				eachCallback(t, func(t *testing.T, cb *callback) {
					s := listenTLS(t, "tcp", nil)
					opts := client.Options{TLS: s.trust(t), Timeout: testTimeout, Framing: client.Delimiter{Delim: []byte("\n")}}
					opts.TLS.Config = new(tls.Config)
					test.set(opts.TLS.Config, cb)
					c, peer := s.handshakes(t, opts) // after which the server sends its tickets
					_, err := peer.Write([]byte("one\n"))
					require.NoError(t, err)
					arrived(t, c)
					cb.ends(t, func() { call(c) })
					if how == "Close" {
						require.ErrorIs(t, c.Close(), net.ErrClosed)
						_, err = io.Copy(io.Discard, peer.NetConn())
						require.True(t, err == nil || errorIsEither(err, unix.ECONNRESET, io.EOF), err)
						return
					}
					for range 2 {
						n, err := c.Recv(make([]byte, 4), 0)
						require.ErrorContains(t, err, "a callback of TLSOptions.Config panicked")
						require.Zero(t, n)
						_, err = c.RecvPacket()
						require.ErrorContains(t, err, "a callback of TLSOptions.Config panicked")
						_, err = c.Send([]byte("x"), 0)
						require.ErrorContains(t, err, "a callback of TLSOptions.Config panicked")
						ready, err := client.Select([]*client.Client{c}, nil, nil, -1)
						require.NoError(t, err)
						require.Len(t, ready.Read, 1, "to tell so")
						require.False(t, c.IsConnected())
					}
					require.ErrorContains(t, c.CloseWrite(), "a callback of TLSOptions.Config panicked")
					require.NoError(t, c.Close())
					require.ErrorIs(t, c.Close(), net.ErrClosed)
				})
			})
		}
	}
}

// A cipher in CBC mode calls Config.Rand for each record that is sent.
func TestTLSCallback_StreamFailsAfterRandThatDoesNotReturn(t *testing.T) {
	for how, call := range map[string]func(c *client.Client){
		"Send":       func(c *client.Client) { _, _ = c.Send([]byte("x"), 0) },
		"Write":      func(c *client.Client) { _, _ = c.Write([]byte("x")) },
		"SendPacket": func(c *client.Client) { _, _ = c.SendPacket([]byte("x")) },
		"CloseWrite": func(c *client.Client) { _ = c.CloseWrite() },
		"Close":      func(c *client.Client) { _ = c.Close() },
	} {
		t.Run(how, func(t *testing.T) {
			eachCallback(t, func(t *testing.T, cb *callback) {
				s := listenTLS(t, "tcp", func(c *tls.Config) {
					c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
				})
				opts := client.Options{TLS: s.trust(t), Timeout: testTimeout, Framing: client.Delimiter{Delim: []byte("\n")}}
				opts.TLS.Config = &tls.Config{Rand: readerWithCallback{cb, rand.Reader}, CipherSuites: s.config.CipherSuites}
				c, peer := s.handshakes(t, opts)
				_, err := peer.Write([]byte("one\n"))
				require.NoError(t, err)
				cb.ends(t, func() { call(c) })
				if how != "Close" {
					_, err = c.Send([]byte("x"), 0)
					require.Error(t, err) // after CloseWrite it is EPIPE
					_, err = c.Recv(make([]byte, 4), 0)
					require.ErrorContains(t, err, "a callback of TLSOptions.Config panicked")
					require.NoError(t, c.Close())
				}
				require.ErrorIs(t, c.Close(), net.ErrClosed)
				data, _ := io.ReadAll(peer)
				require.Empty(t, data)
			})
		})
	}
}

// A LengthFunc that does not return leaves the stream as it was: no byte is lost, and no
// later call hangs.
func TestCallback_LengthFuncThatDoesNotReturnLosesNothing(t *testing.T) {
	for how, call := range map[string]func(c *client.Client){
		"RecvPacket": func(c *client.Client) { _, _ = c.RecvPacket() },
		"Packets": func(c *client.Client) {
			for range c.Packets() {
				break
			}
		},
		"SendPacket": func(c *client.Client) { _, _ = c.SendPacket([]byte("four")) },
	} {
		t.Run(how, func(t *testing.T) {
			eachCallback(t, func(t *testing.T, cb *callback) {
				framing := client.LengthFunc{Func: func([]byte) (int, error) { cb.run(); return 4, nil }}
				plain, plainPeer := stream(t, "tcp", &client.Options{Timeout: testTimeout, Framing: framing})
				overTLS, peer := secured(t, client.Options{Timeout: testTimeout, Framing: framing})
				for _, ends := range []struct {
					c    *client.Client
					peer net.Conn
				}{{plain, plainPeer}, {overTLS, peer}} {
					_, err := ends.peer.Write([]byte("one.two.tre."))
					require.NoError(t, err)
					p, err := ends.c.RecvPacket()
					require.NoError(t, err)
					require.Equal(t, "one.", string(p))
					cb.ends(t, func() { call(ends.c) })
					p, err = ends.c.RecvPacket()
					require.NoError(t, err)
					require.Equal(t, "two.", string(p))
					rest := make([]byte, 4)
					_, err = ends.c.Recv(rest, client.WaitAll)
					require.NoError(t, err)
					require.Equal(t, "tre.", string(rest))
					_, err = ends.c.SendPacket([]byte("back"))
					require.NoError(t, err)
					_, err = io.ReadFull(ends.peer, rest)
					require.NoError(t, err)
					require.Equal(t, "back", string(rest))
					require.NoError(t, ends.c.Close())
				}
			})
		})
	}
}

// After a Send over TLS that timed out within a record a goroutine waits to send the rest. It
// uses the socket, but must not keep an unreachable client from being closed.
func TestTLSClient_UnreachableIsClosedAfterTimedOutSend(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	stalled := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			go func() { _ = tls.Server(conn, s.config).Handshake(); stalled <- conn }()
		}
	}()
	opts := &client.Options{TLS: s.trust(t), SendTimeout: 20 * time.Millisecond, SendBuffer: 4 << 10}
	address := s.Addr().String()
	for how, dial := range map[string]func() (net.Conn, error){
		"Dial":   func() (net.Conn, error) { return client.Dial("tcp", address, opts) },
		"Dialer": func() (net.Conn, error) { return (&client.Dialer{Options: opts}).Dial("tcp", address) },
		"Connect": func() (net.Conn, error) {
			c, err := client.NewTCP(opts)
			if err == nil {
				err = c.Connect(context.Background(), address)
			}
			return c, err
		},
		"StartTLS": func() (net.Conn, error) {
			plain := *opts
			plain.TLS = nil
			c, err := client.Dial("tcp", address, &plain)
			if err == nil {
				err = c.StartTLS(context.Background(), opts.TLS)
			}
			return c, err
		},
	} {
		for _, send := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, Send %t", how, send), func(t *testing.T) {
				func() {
					conn, err := dial()
					require.NoError(t, err)
					if send {
						c, ok := client.FromConn(conn)
						require.True(t, ok)
						_, err = c.Send(make([]byte, 8<<20), 0)
						require.True(t, timedOut(err), err)
					}
				}()
				peer := <-stalled
				defer peer.Close()
				require.Eventually(t, func() bool { runtime.GC(); return sock.Finalized.Load() > 0 }, testTimeout, time.Millisecond)
				sock.Finalized.Add(-1) // this one is meant to be
				_, err := io.Copy(io.Discard, peer)
				require.True(t, err == nil || errorIsEither(err, unix.ECONNRESET, io.EOF), err)
			})
		}
	}

	t.Run("a reachable client is not, in a pool or out of it", func(t *testing.T) {
		p := newPool(t, client.PoolOptions{})
		again := listenWith(t, "tcp", s.cert, nil)
		serveEcho(t, again)
		opts := &client.Options{TLS: again.trust(t), Timeout: testTimeout}
		c, err := p.Dial(context.Background(), "tcp", again.Addr().String(), opts)
		require.NoError(t, err)
		require.NoError(t, roundTrip(c, []byte("ping")))
		for range 5 {
			runtime.GC()
		}
		require.NoError(t, roundTrip(c, []byte("ping")))
		require.NoError(t, c.Close())
		for range 5 {
			runtime.GC()
		}
		c, err = p.Dial(context.Background(), "tcp", again.Addr().String(), opts)
		require.NoError(t, err)
		require.True(t, c.Reused())
		require.NoError(t, roundTrip(c, []byte("ping")))
		require.NoError(t, c.Discard())
		require.Zero(t, sock.Finalized.Load())
	})
}

// A RawConn that Options.Control has stored is a reference to the socket, with TLS and
// without.
func TestControl_RawConnKeepsTheSocketOpen(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	serveEcho(t, s)
	for _, trust := range []*client.TLSOptions{nil, s.trust(t)} {
		var raw syscall.RawConn
		opts := &client.Options{TLS: trust, Timeout: testTimeout, Control: func(_, _ string, c syscall.RawConn) error { raw = c; return nil }}
		func() {
			c, err := client.Dial("tcp", s.Addr().String(), opts)
			require.NoError(t, err)
			require.True(t, c.IsConnected())
		}()
		for range 20 {
			runtime.GC()
			time.Sleep(time.Millisecond) // cleanups run in a goroutine
		}
		require.NoError(t, raw.Control(func(uintptr) {}))
		require.Zero(t, sock.Finalized.Load())
		raw, opts = nil, nil
		require.Eventually(t, func() bool { runtime.GC(); return sock.Finalized.Load() > 0 }, testTimeout, time.Millisecond)
		sock.Finalized.Add(-1) // this one is meant to be
	}
}
