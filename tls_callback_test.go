package client_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
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
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A trap is a function of the caller's that does not return, once, when it is set.
type trap struct {
	set   atomic.Bool
	exits bool // by runtime.Goexit, as testing.T.FailNow does
}

const onPurpose = "on purpose"

func (tr *trap) spring() {
	if !tr.set.Swap(false) {
		return
	}
	if tr.exits {
		runtime.Goexit()
	}
	panic(onPurpose)
}

// falls calls f and requires that it ends by the trap. It does so in a goroutine, which
// may end.
func (tr *trap) falls(t testing.TB, f func()) {
	t.Helper()
	tr.set.Store(true)
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
		require.False(t, e.returned, "the function that does not return was not called, or it was kept from its caller")
		if tr.exits {
			require.Nil(t, e.panicked)
		} else {
			require.Equal(t, onPurpose, e.panicked)
		}
	case <-time.After(enough):
		t.Fatal("the call hangs")
	}
}

func eachTrap(t *testing.T, test func(t *testing.T, tr *trap)) {
	for name, exits := range map[string]bool{"panic": false, "Goexit": true} {
		t.Run(name, func(t *testing.T) { test(t, &trap{exits: exits}) })
	}
}

// Parts of a Config that spring a trap.
type (
	trappedCache struct {
		tls.ClientSessionCache
		get, put func()
	}
	trappedReader struct {
		*trap
		io.Reader
	}
	trappedKey struct {
		*trap
		crypto.Signer
	}
	trappedWriter struct{ *trap }
)

func (c trappedCache) Get(name string) (*tls.ClientSessionState, bool) {
	if c.get != nil {
		c.get()
	}
	return c.ClientSessionCache.Get(name)
}

func (c trappedCache) Put(name string, s *tls.ClientSessionState) {
	if c.put != nil {
		c.put()
	}
	c.ClientSessionCache.Put(name, s)
}

func (r trappedReader) Read(p []byte) (int, error) { r.spring(); return r.Reader.Read(p) }

func (k trappedKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.spring()
	return k.Signer.Sign(random, digest, opts)
}

func (w trappedWriter) Write(p []byte) (int, error) { w.spring(); return len(p), nil }

// echoing serves TLS for as many as come, plain first where StartTLS is to make it, and
// tells of each connection that is over.
func echoing(t *testing.T, s *tlsServer) (over <-chan struct{}) {
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
				_, _ = io.Copy(io.Discard, conn) // a handshake that has failed is no end
				_ = conn.Close()
				ended <- struct{}{}
			}()
		}
	}()
	return ended
}

// A function of the options that panics or ends its goroutine in a dial, a Connect or a
// StartTLS does so to the caller, who then owes nothing: the connection is closed, and
// neither a descriptor nor a lock is left behind. crypto/tls calls a KeyLogWriter with a
// mutex locked that all connections share, and package net a Resolver's Dial in a
// goroutine of its own.
func TestAFunctionThatDoesNotReturnFromADialLeavesNothingBehind(t *testing.T) {
	root := newRoot(t, "root")
	mine := root.issue(t, "me", nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := listenWith(t, "tcp", root.issue(t, "server", nil), func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth = version, tls.RequireAnyClientCert
		})
		over := echoing(t, s)
		for _, test := range []struct {
			name string
			set  func(c *tls.Config, o *client.Options, tr *trap)
			out  bool // of reach for StartTLS
		}{
			{"VerifyConnection", func(c *tls.Config, _ *client.Options, tr *trap) {
				c.VerifyConnection = func(tls.ConnectionState) error { tr.spring(); return nil }
			}, false},
			{"VerifyPeerCertificate", func(c *tls.Config, _ *client.Options, tr *trap) {
				c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { tr.spring(); return nil }
			}, false},
			{"GetClientCertificate", func(c *tls.Config, _ *client.Options, tr *trap) {
				pair := mine.pair()
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { tr.spring(); return &pair, nil }
			}, false},
			{"the key of a certificate", func(c *tls.Config, _ *client.Options, tr *trap) {
				c.Certificates[0].PrivateKey = trappedKey{tr, mine.key}
			}, false},
			{"KeyLogWriter", func(c *tls.Config, _ *client.Options, tr *trap) { c.KeyLogWriter = trappedWriter{tr} }, false},
			{"Time", func(c *tls.Config, _ *client.Options, tr *trap) {
				c.Time = func() time.Time { tr.spring(); return time.Now() }
			}, false},
			{"Rand", func(c *tls.Config, _ *client.Options, tr *trap) { c.Rand = trappedReader{tr, rand.Reader} }, false},
			{"ClientSessionCache.Get", func(c *tls.Config, _ *client.Options, tr *trap) {
				c.ClientSessionCache = trappedCache{ClientSessionCache: tls.NewLRUClientSessionCache(1), get: tr.spring}
			}, false},
			{"Control", func(_ *tls.Config, o *client.Options, tr *trap) {
				o.Control = func(string, string, syscall.RawConn) error { tr.spring(); return nil }
			}, true},
			{"Resolver.Dial", func(_ *tls.Config, o *client.Options, tr *trap) {
				r := names(t, map[string][]string{"name.test.": {"127.0.0.1"}})
				dial := r.Dial
				r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					tr.spring()
					return dial(ctx, network, address)
				}
				o.Resolver = r
			}, true},
		} {
			t.Run(tls.VersionName(version)+" "+test.name, func(t *testing.T) {
				eachTrap(t, func(t *testing.T, tr *trap) {
					opts := &client.Options{TLS: s.trust(t), Timeout: enough}
					opts.TLS.Config = &tls.Config{Certificates: []tls.Certificate{mine.pair()}}
					test.set(opts.TLS.Config, opts, tr)
					address := s.Addr().String()
					if opts.Resolver != nil {
						address = net.JoinHostPort("name.test", portOf(t, address))
					}
					works := func(c *client.Client, err error) {
						t.Helper()
						require.NoError(t, err)
						require.NoError(t, roundTrip(c, []byte("ping")))
						require.NoError(t, c.Close())
						<-over
					}
					reaches := test.name != "Control" && test.name != "Resolver.Dial" // the server

					tr.falls(t, func() { _, _ = client.Dial("tcp", address, opts) })
					if reaches {
						<-over
					}
					works(client.Dial("tcp", address, opts))

					if test.name == "Control" {
						tr.falls(t, func() { _, _ = client.NewTCP(opts) })
					}
					c, err := client.NewTCP(opts)
					require.NoError(t, err)
					if test.name != "Control" {
						tr.falls(t, func() { _ = c.Connect(context.Background(), address) })
					}
					if reaches {
						<-over // Connect has closed it
						_, err = c.Recv(make([]byte, 1), 0)
						require.ErrorIs(t, err, net.ErrClosed)
						require.ErrorIs(t, c.Close(), net.ErrClosed)
					} else { // it is as if Connect had not been called
						require.NoError(t, c.Connect(context.Background(), address))
						works(c, nil)
					}
					if test.out {
						return
					}
					plain := func() *client.Client {
						c, err := client.Dial("tcp", address, &client.Options{Timeout: enough})
						require.NoError(t, err)
						return c
					}
					c = plain()
					tr.falls(t, func() { _ = c.StartTLS(context.Background(), opts.TLS) })
					<-over
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

// Lookups of one name share what one of them asks. Whose Resolver.Dial did not return
// hears of it, the others get an error, and none waits for ever.
func TestAResolverThatDoesNotReturnHoldsUpNobody(t *testing.T) {
	eachTrap(t, func(t *testing.T, tr *trap) {
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			tr.set.Store(true)
			tr.spring()
			return nil, nil
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

// crypto/tls calls a session cache, and a Config's clock, when the server's tickets are
// received: by whatever receives, a Select and a Close included. How far it had come when
// one does not return nobody knows, so nothing is sent or received any more; the next
// call does not hang, and Close frees the descriptor, also the one that was cut short.
func TestAStreamIsOverWhenAFunctionOfItsConfigDoesNotReturn(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(c *tls.Config, tr *trap)
	}{
		{"ClientSessionCache.Put", func(c *tls.Config, tr *trap) {
			c.ClientSessionCache = trappedCache{ClientSessionCache: tls.NewLRUClientSessionCache(1), put: tr.spring}
		}},
		{"Time", func(c *tls.Config, tr *trap) {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			c.Time = func() time.Time { tr.spring(); return time.Now() }
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
				eachTrap(t, func(t *testing.T, tr *trap) {
					s := listenTLS(t, "tcp", nil)
					opts := client.Options{TLS: s.trust(t), Timeout: enough, Framing: client.Delimiter{EOF: []byte("\n")}}
					opts.TLS.Config = new(tls.Config)
					test.set(opts.TLS.Config, tr)
					c, peer := s.handshakes(t, opts) // and the server's tickets are on their way
					_, err := peer.Write([]byte("one\n"))
					require.NoError(t, err)
					arrived(t, c)
					tr.falls(t, func() { call(c) })
					if how == "Close" {
						require.ErrorIs(t, c.Close(), net.ErrClosed)
						_, err = io.Copy(io.Discard, peer.NetConn())
						require.True(t, err == nil || errorIsEither(err, unix.ECONNRESET, io.EOF), err)
						return
					}
					for range 2 {
						n, err := c.Recv(make([]byte, 4), 0)
						require.ErrorContains(t, err, "a function of TLSOptions.Config has panicked")
						require.Zero(t, n)
						_, err = c.RecvPacket()
						require.ErrorContains(t, err, "a function of TLSOptions.Config has panicked")
						_, err = c.Send([]byte("x"), 0)
						require.ErrorContains(t, err, "a function of TLSOptions.Config has panicked")
						ready, err := client.Select([]*client.Client{c}, nil, nil, -1)
						require.NoError(t, err)
						require.Len(t, ready.Read, 1, "to tell so")
						require.False(t, c.IsConnected())
					}
					require.ErrorContains(t, c.CloseWrite(), "a function of TLSOptions.Config has panicked")
					require.NoError(t, c.Close())
					require.ErrorIs(t, c.Close(), net.ErrClosed)
				})
			})
		}
	}
}

// A cipher in CBC mode takes random bytes for each record that is sent.
func TestAStreamIsOverWhenItsRandDoesNotReturn(t *testing.T) {
	for how, call := range map[string]func(c *client.Client){
		"Send":       func(c *client.Client) { _, _ = c.Send([]byte("x"), 0) },
		"Write":      func(c *client.Client) { _, _ = c.Write([]byte("x")) },
		"SendPacket": func(c *client.Client) { _, _ = c.SendPacket([]byte("x")) },
		"CloseWrite": func(c *client.Client) { _ = c.CloseWrite() },
		"Close":      func(c *client.Client) { _ = c.Close() },
	} {
		t.Run(how, func(t *testing.T) {
			eachTrap(t, func(t *testing.T, tr *trap) {
				s := listenTLS(t, "tcp", func(c *tls.Config) {
					c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
				})
				opts := client.Options{TLS: s.trust(t), Timeout: enough, Framing: client.Delimiter{EOF: []byte("\n")}}
				opts.TLS.Config = &tls.Config{Rand: trappedReader{tr, rand.Reader}, CipherSuites: s.config.CipherSuites}
				c, peer := s.handshakes(t, opts)
				_, err := peer.Write([]byte("one\n"))
				require.NoError(t, err)
				tr.falls(t, func() { call(c) })
				if how != "Close" {
					_, err = c.Send([]byte("x"), 0)
					require.Error(t, err) // of CloseWrite it is EPIPE
					_, err = c.Recv(make([]byte, 4), 0)
					require.ErrorContains(t, err, "a function of TLSOptions.Config has panicked")
					require.NoError(t, c.Close())
				}
				require.ErrorIs(t, c.Close(), net.ErrClosed)
				data, _ := io.ReadAll(peer)
				require.Empty(t, data)
			})
		})
	}
}

// A LengthFunc that does not return leaves the stream as it was: what has arrived is there
// for the next call, and nobody waits for a turn that is not given back.
func TestALengthFuncThatDoesNotReturnLosesNothing(t *testing.T) {
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
			eachTrap(t, func(t *testing.T, tr *trap) {
				framing := client.LengthFunc{Func: func([]byte) (int, error) { tr.spring(); return 4, nil }}
				plain, plainPeer := stream(t, "tcp", &client.Options{Timeout: enough, Framing: framing})
				overTLS, peer := secured(t, client.Options{Timeout: enough, Framing: framing})
				for _, ends := range []struct {
					c    *client.Client
					peer net.Conn
				}{{plain, plainPeer}, {overTLS, peer}} {
					_, err := ends.peer.Write([]byte("one.two.tre."))
					require.NoError(t, err)
					p, err := ends.c.RecvPacket()
					require.NoError(t, err)
					require.Equal(t, "one.", string(p))
					tr.falls(t, func() { call(ends.c) })
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

// A Send over TLS that is ended in a record leaves a goroutine behind, which sends the
// rest when there is room, and keeps the socket. It is not to keep the client: one that
// nobody has any more is closed, and the goroutine ends.
func TestATLSClientForgottenAfterATimedOutSendIsClosed(t *testing.T) {
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
		t.Run(how, func(t *testing.T) {
			func() {
				conn, err := dial()
				require.NoError(t, err)
				sender := conn.(interface {
					Send(p []byte, flags client.Flag) (int, error)
				})
				_, err = sender.Send(make([]byte, 8<<20), 0)
				require.True(t, timedOut(err), err)
			}()
			peer := <-stalled
			defer peer.Close()
			require.Eventually(t, func() bool { runtime.GC(); return sock.Forgotten.Load() > 0 }, enough, time.Millisecond)
			sock.Forgotten.Add(-1) // it is meant to be
			_, err := io.Copy(io.Discard, peer)
			require.True(t, err == nil || errorIsEither(err, unix.ECONNRESET, io.EOF), err)
		})
	}

	// Who has it, or may get it from a pool, keeps it.
	t.Run("kept", func(t *testing.T) {
		p := newPool(t, client.PoolOptions{})
		again := listenWith(t, "tcp", s.cert, nil)
		echoing(t, again)
		opts := &client.Options{TLS: again.trust(t), Timeout: enough}
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
		require.Zero(t, sock.Forgotten.Load())
	})
}
